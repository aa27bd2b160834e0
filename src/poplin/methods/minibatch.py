"""Maximum likelihood when an iteration visits some of the rows: the same chains, the same M-step, sums scaled up.

Start at `Minibatch`. A row that was not visited for a while has not heard how the parameters moved. What it missed is
the product of the transports since then: the shared state keeps the product of all of them, the rows' state that at
their last visit. Rows keep no rates, n x p numbers: those at `centre` are computed when they are needed.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Latent, Rows, Scalar
from poplin.methods import ml
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows.chains import Chains
from poplin.updates.structure import Model, Transport


class Visited(NamedTuple):
    """What rows keep: position and centre of w (n, q), log step size and acceptance (n,); how far they were moved."""

    position: Latent
    centre: Latent
    log_step: Rows
    acceptance: Rows
    carried: Transport


class First(NamedTuple):
    """Where some rows begin: a model, what they keep, the columns' mean rates, a random key."""

    model: Model
    rows: Visited
    mean_rate: Array
    key: Array
    slow: Array | None = None


class State(NamedTuple):
    """The state of maximum likelihood, and the product of all transports so far."""

    inner: ml.State
    carried: Transport

    @property
    def objective(self) -> Scalar:
        """Acceptance of the moves."""
        return self.inner.objective

    @property
    def iteration(self) -> Array:
        """Iterations so far."""
        return self.inner.iteration


def at(centre: Latent, covariates: int) -> Visited:
    """Rows that begin at their centres (n, q)."""
    (n, q), kind = centre.shape, centre.dtype
    still = jnp.full(n, jnp.log(0.5), kind), jnp.full(n, 0.8, kind)
    return Visited(centre, centre, *still, Transport(jnp.eye(q), jnp.zeros((covariates, q))))


def since(now: Transport, then: Transport) -> Transport:
    """What takes w from where it was `then` to where it is `now`: turn = A^-1 A', shift = b' - b turn."""
    turn = jnp.linalg.solve(then.turn, now.turn)
    return Transport(turn, now.shift - then.shift @ turn)


def followed_by(first: Transport, second: Transport) -> Transport:
    """One transport after the other, as one."""
    return Transport(first.turn @ second.turn, first.shift @ second.turn + second.shift)


class Minibatch(AbstractMethod):
    """Stochastic-approximation EM whose iterations see some of the rows.

    `whole`: sum of the weights of all rows, to which the sums are scaled. `inner.pace`: iterations that visit every row
    once. Rates n p of the visited rows are computed once more than in `ml.MaximumLikelihood`; none are kept.
    """

    inner: ml.MaximumLikelihood
    whole: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first, block):
        state, rows = self.inner.start(first, block)
        return State(state, rows.carried), rows

    def sweeps(self):
        return (Sweep(self.move, self.follow),)

    def move(self, state, rows, block):
        """Rows are told how the parameters moved since their last visit, then every chain moves once."""
        kind, missed = rows.centre.dtype, since(state.carried, rows.carried)
        model, turn, shift = (
            jax.tree.map(lambda a: a.astype(kind), part) for part in (state.inner.model, *missed)
        )
        centre = rows.centre @ turn + block.x @ shift
        rate = jnp.exp(block.offset + block.x @ model.coef + centre @ model.loadings.T)
        chains = Chains(rows.position, rate, rows.log_step, rows.acceptance)
        inner = state.inner._replace(transport=missed)
        moved, total = self.inner.move(inner, ml.Rows(chains, rows.centre), block)
        chains = moved.chains
        kept = Visited(chains.position, moved.centre, chains.log_step, chains.acceptance, state.carried)
        return kept, jax.tree.map(lambda a: a.astype(jnp.float64), total)

    def follow(self, state, total):
        """The model follows the draw of the rows that were visited, as if all had been."""
        inner = self.inner.follow(state.inner, scaled(total, self.whole / total.draw.rows))
        return State(inner, followed_by(state.carried, inner.transport))

    def done(self, state):
        return self.inner.done(state.inner)

    def failed(self, state):
        return self.inner.failed(state.inner)

    def estimate(self, state: State) -> Model:
        """The averaged model."""
        return self.inner.estimate(state.inner)


def scaled(total: ml.Total, ratio: Any) -> ml.Total:
    """Sums over some rows as if they were over `ratio` times as many, worth as many draws as before."""
    more = jax.tree.map(lambda a: ratio * a, total)
    if more.means is None:
        return more
    known = more.means.known
    return more._replace(means=more.means._replace(known=known._replace(squares=ratio * known.squares)))
