"""Stochastic gradients: a step of the loop is a minibatch, an epoch's end looks at rows that were left out.

Start at `Gradient`. Its first sweep sums the gradient over the rows of a minibatch (they lie on the device: nothing
crosses to the host in an epoch), its second the objective of the left-out rows, once an epoch. The model kept is the
one that was best there.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from scipy.special import gammaln

from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.methods.method import AbstractMethod, Sweep
from poplin.models.likelihoods import AbstractLikelihood
from poplin.models.networks import AbstractDecoder, AbstractPrior
from poplin.rows.encoders import AbstractEncoder

# What a model with an encoder is trained for: the bound, the importance-weighted bound, reconstruction.
#
# Start at `AbstractObjective`: every objective is a mean over rows of one number a row, in nats, higher is better, so
# that its gradient is a sum over rows. `log_ratios` serves the objectives and the likelihood after the fit.


FEWEST_DEGREES = 5  # of freedom of the proposal; otherwise as many as latent dimensions


class Amortised(NamedTuple):
    """A model (prior, decoder, likelihood) whose rows are found by an encoder."""

    encoder: AbstractEncoder
    decoder: AbstractDecoder
    likelihood: AbstractLikelihood
    prior: AbstractPrior


class Terms(NamedTuple):
    """Per row (n,): the objective, E_q log p(y | w), and KL(q || p); the bound is the second minus the third."""

    objective: Array
    reconstruction: Array
    divergence: Array


class AbstractObjective(eqx.Module):
    """A number a row; `temper` in [0, 1] is the weight that the KL term has so far."""

    @abstractmethod
    def terms(self, model: Any, key: Array, block: Block, temper: Array) -> Terms:
        """The objective of each row of a block and its two parts."""


def noise(key: Array, draws: int, posterior: Any) -> Array:
    """Standard normal numbers (draws, n, q) for a posterior's rows."""
    return jax.random.normal(key, (draws, *posterior.mean.shape), posterior.mean.dtype)


class Bound(AbstractObjective):
    """E_q log p(y | w) - beta KL(q || p), the expectation by reparameterised draws (Kingma & Welling 2014)."""

    beta: Array
    draws: int = eqx.field(static=True)

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        unit = noise(key, self.draws, posterior)
        latent = posterior.draw(unit)
        out = model.decoder(latent, block.x)
        value = jnp.mean(model.likelihood.kernel(out, block.y, block.offset), axis=0) - block.log_factorial
        divergence = model.prior.divergence(posterior, latent, posterior.log_density(unit))
        return Terms(value - temper * self.beta * divergence, value, divergence)


class ExactBound(AbstractObjective):
    """The bound without draws: linear decoder, standard normal prior, Gaussian or Poisson likelihood.

    C w + a is Gaussian under q, with mean a + C m and variances c_j'S c_j, and the likelihood knows its `expected`
    kernel under such a law. For Poisson rates this is the bound of a Poisson-lognormal model, and no network decodes.
    """

    beta: Array

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        out = model.decoder(posterior.mean, block.x)
        variance = posterior.spread(model.decoder.loadings())
        value = model.likelihood.expected(out, variance, block.y, block.offset) - block.log_factorial
        divergence = posterior.divergence()
        return Terms(value - temper * self.beta * divergence, value, divergence)


class ImportanceBound(AbstractObjective):
    """E log mean_s p(y, w_s) / q(w_s) over s draws (Burda, Grosse & Salakhutdinov 2016); beta and temper play no part.

    The divergence reported is the reconstruction minus the objective, so that their difference is the objective.
    """

    draws: int = eqx.field(static=True)

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        unit = noise(key, self.draws, posterior)
        ratios, kernel = _ratios(model, posterior, unit, posterior.log_density(unit), block)
        value = jax.nn.logsumexp(ratios, axis=0) - jnp.log(self.draws) - block.log_factorial
        share = jax.nn.softmax(ratios, axis=0)
        reconstruction = jnp.sum(share * kernel, axis=0) - block.log_factorial
        return Terms(value, reconstruction, reconstruction - value)


class Reconstruction(AbstractObjective):
    """Log p(y | f(g(y))): an autoencoder's, at the encoder's position, with no prior."""

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        out = model.decoder(posterior.mean, block.x)
        value = model.likelihood.kernel(out, block.y, block.offset) - block.log_factorial
        return Terms(value, value, jnp.zeros_like(value))


class Binarised(AbstractObjective):
    """An objective of rows of zeros and ones, drawn anew with the probabilities that the rows hold."""

    objective: AbstractObjective

    def terms(self, model, key, block, temper):
        for_y, key = jax.random.split(key)
        # 16 bits a pixel: half the random numbers, and a probability is off by 2^-17 at most
        drawn = (jax.random.bits(for_y, block.y.shape, jnp.uint16) + 0.5) / 65536 < block.y
        return self.objective.terms(model, key, block._replace(y=drawn.astype(block.y.dtype)), temper)


def _ratios(model: Any, posterior: Any, unit: Array, log_density: Array, block: Block) -> tuple[Array, Array]:
    """Log p(y, w) - log density of w without the part that no draw changes, and log p(y | w), both (s, n)."""
    latent = posterior.draw(unit)
    kernel = model.likelihood.kernel(model.decoder(latent, block.x), block.y, block.offset)
    return kernel + model.prior.log_prob(latent) - log_density, kernel


def log_ratios(model: Any, key: Array, block: Block, draws: int, *, student: bool) -> Array:
    """Log p(y_i, w_s) - log t(w_s) for draws from around the encoder's Gaussian, (s, n), every constant included.

    t is that Gaussian, or the Student density of max(q, 5) degrees of freedom with its place and shape, under which the
    ratios are bounded wherever the likelihood is: the prior's tails are lighter.
    """
    posterior = model.encoder(block.y, block.x, block.offset)
    for_normal, for_radius = jax.random.split(key)
    unit = noise(for_normal, draws, posterior)
    log_density = posterior.log_density(unit)
    if student:
        q = unit.shape[-1]
        nu = max(q, FEWEST_DEGREES)
        squares = jax.random.normal(for_radius, (*unit.shape[:-1], nu), unit.dtype) ** 2
        unit = unit * jnp.sqrt(nu / jnp.sum(squares, axis=-1, keepdims=True))
        constant = gammaln((nu + q) / 2) - gammaln(nu / 2) - 0.5 * q * np.log(nu * np.pi)
        tails = constant - 0.5 * (nu + q) * jnp.log1p(jnp.sum(unit**2, axis=-1) / nu)
        log_density = tails - jnp.sum(posterior.log_scale, axis=-1)
    return _ratios(model, posterior, unit, log_density, block)[0] - block.log_factorial


@compiled()
def row_values(model: Any, block: Block) -> Array:
    """Log p(y | f(m)) of each row at its encoder's position m, (n,)."""
    return Reconstruction().terms(model, jnp.zeros(2, jnp.uint32), block, jnp.ones(())).reconstruction


@compiled()
def positions(model: Any, block: Block) -> tuple[Array, Array]:
    """Means and variances of the rows' latent positions, both (n, q)."""
    posterior = model.encoder(block.y, block.x, block.offset)
    return posterior.mean, posterior.variance()


COLUMNS = ("kl_weight", "objective", "reconstruction", "divergence")
HELD_COLUMNS = ("held_out_objective", "held_out_reconstruction", "held_out_divergence")
MARGIN = 1e-4  # nats a row: less than this is no improvement


class Split(NamedTuple):
    """The rows that train and the rows that are left out (None: no rows are)."""

    train: Block
    held: Block | None


class Start(NamedTuple):
    """First values: the model and the random key of the fit."""

    model: Any
    key: Array


class State(NamedTuple):
    """Shared state; `history` has a line an epoch, `sums` add up the present epoch's objective, parts and weights."""

    model: Any
    moments: Any
    kept: Any
    key: Array
    order: Array
    sums: Array
    history: Array
    best: Array
    best_epoch: Array
    objective: Array
    iteration: Array


def on_other_rows(state: State, key: Array) -> State:
    """Where training goes on with as many other rows: the optimiser as it stands, the first epoch of theirs."""
    for_order, key = jax.random.split(key)
    return state._replace(
        kept=state.model,
        key=key,
        order=jax.random.permutation(for_order, len(state.order)),
        sums=jnp.zeros_like(state.sums),
        history=jnp.full_like(state.history, jnp.nan),
        best=jnp.full_like(state.best, -jnp.inf),
        best_epoch=jnp.zeros_like(state.best_epoch),
        iteration=jnp.zeros_like(state.iteration),
    )


class Gradient(AbstractMethod):
    """Adam (Kingma & Ba 2015) on minibatches; `rates` are the learning rates of the epochs, (epochs,)."""

    objective: AbstractObjective
    bounds: (
        Array  # where minibatches begin among the shuffled rows, (batches + 1,): sizes differ by one at most
    )
    rates: Array
    warmup: Array  # epochs until the KL term has its whole weight
    patience: Array  # epochs without a better held-out objective after which it stops; infinite: never
    size: int = eqx.field(static=True)  # rows of the largest minibatch

    def start(self, first: Start | State, block: Any):
        if isinstance(first, State):  # training goes on
            return first, ()
        rows = len(block.train.index)
        for_order, key = jax.random.split(first.key)
        none = jnp.zeros(4 + len(HELD_COLUMNS))
        return State(
            model=first.model,
            moments=self._adam().init(first.model),
            kept=first.model,
            key=key,
            order=jax.random.permutation(for_order, rows),
            sums=jnp.zeros(4),
            history=jnp.full((len(self.rates), len(none)), jnp.nan),
            best=jnp.asarray(-jnp.inf),
            best_epoch=jnp.asarray(0),
            objective=jnp.asarray(jnp.nan),
            iteration=jnp.asarray(0),
        ), ()

    def sweeps(self):
        return Sweep(self._batch, self._move), Sweep(self._look, self._close)

    def done(self, state):
        epoch = state.iteration // self._batches
        return (epoch - state.best_epoch >= self.patience) & (epoch > self.warmup)

    def failed(self, state):
        return (state.iteration > 0) & ~jnp.isfinite(state.objective)

    @property
    def _batches(self) -> int:
        return len(self.bounds) - 1

    def _adam(self) -> optax.GradientTransformation:
        return optax.scale_by_adam()

    def _temper(self, iteration: Array) -> Array:
        """The weight of the KL term: rises in a straight line over the first epochs, and is then 1."""
        return jnp.minimum(1.0, (iteration + 1) / jnp.maximum(self.warmup * self._batches, 1.0))

    def _batch(self, state, rows, block):
        """The gradient of the weighted sum of the objective over a minibatch, that sum, its parts and its weight."""
        train = block.train
        number = state.iteration % self._batches
        place = self.bounds[number] + jnp.arange(self.size)
        inside = place < self.bounds[number + 1]
        index = state.order[jnp.minimum(place, len(train.index) - 1)]
        batch = jax.tree.map(lambda a: a[index], train)
        weights = jnp.where(inside, batch.weights, 0)
        key = jax.random.fold_in(state.key, state.iteration)

        def loss(model):
            terms = self.objective.terms(model, key, batch, self._temper(state.iteration))
            sums = jnp.stack([weights @ part for part in terms] + [jnp.sum(weights)])
            return -sums[0], sums

        gradient, sums = jax.grad(loss, has_aux=True)(state.model)
        return rows, (gradient, sums)

    def _move(self, state, total):
        gradient, sums = total
        gradient = jax.tree.map(lambda g: g / jnp.maximum(sums[3], 1e-30), gradient)
        steps, moments = self._adam().update(gradient, state.moments)
        rate = self.rates[state.iteration // self._batches]
        model = jax.tree.map(lambda a, b: a - rate * b, state.model, steps)
        sums = state.sums + sums
        return state._replace(model=model, moments=moments, sums=sums, objective=sums[0] / sums[3])

    def _look(self, state, rows, block):
        """At an epoch's end: the objective and its parts summed over the left-out rows, and their weight."""
        if block.held is None:
            return rows, jnp.full(4, jnp.nan)

        def look():
            terms = self.objective.terms(state.model, state.key, block.held, jnp.asarray(1.0))
            weights = block.held.weights
            return jnp.stack([weights @ part for part in terms] + [jnp.sum(weights)])

        return rows, lax.cond(self._ends(state), look, lambda: jnp.full(4, jnp.nan))

    def _ends(self, state: State) -> Array:
        return state.iteration % self._batches == self._batches - 1

    def _close(self, state, total):
        """At an epoch's end: write its line, keep the model if it is the best so far, shuffle."""
        closed = lax.cond(self._ends(state), lambda: self._closed(state, total), lambda: state)
        return closed._replace(iteration=state.iteration + 1)

    def _closed(self, state: State, total: Array) -> State:
        epoch = state.iteration // self._batches
        weight = self._temper(state.iteration)
        line = jnp.concatenate([weight[None], state.sums[:3] / state.sums[3], total[:3] / total[3]])
        held = total[0] / total[3]
        # a model that was trained with a smaller KL weight is not kept for its held-out objective
        better = jnp.isnan(held) | (held > state.best + MARGIN) | (weight < 1)
        better &= jnp.isfinite(state.sums[0])
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.model, state.kept)
        return state._replace(
            kept=kept,
            best=jnp.where(better & (weight >= 1), held, state.best),
            best_epoch=jnp.where(better, epoch + 1, state.best_epoch),
            history=state.history.at[epoch].set(line),
            sums=jnp.zeros_like(state.sums),
            order=jax.random.permutation(jax.random.fold_in(state.key, -1 - epoch), len(state.order)),
        )


# Improved deep embedded clustering: an autoencoder whose positions are drawn towards the centres of clusters.
#
# Start at `Clustering`. The target P of every row needs the columns' sums of all rows' shares Q; rows keep their own
# Q and label, and only those sums and the number of changed labels cross (Guo, Gao, Liu & Yin 2017, IJCAI).


LEAST = 1e-12  # a share below it counts as it in logs


class Centred(NamedTuple):
    """What is trained: the autoencoder and the centres of clusters, (k, q)."""

    networks: Any
    centres: Array


class ClusteringStart(NamedTuple):
    """First values: the model, a group of each row (n,), and the random key of the fit."""

    model: Centred
    groups: Array
    key: Array


class Rows(NamedTuple):
    """What rows keep since the last look at all of them: shares Q (n, k) and labels (n,)."""

    shares: Array
    labels: Array


class ClusteringState(NamedTuple):
    """Shared state: model, Adam's moments, order of rows, column sums f of Q, share of labels that changed last."""

    model: Centred
    moments: Any
    key: Array
    order: Array
    frequencies: Array
    changed: Array
    objective: Array
    iteration: Array


def shares(latent: Array, centres: Array) -> Array:
    """Q: q_ik = (1 + |w_i - m_k|^2)^-1, normalised over k, (n, k)."""
    distance = jnp.sum((latent[:, None, :] - centres) ** 2, axis=-1)
    weight = 1 / (1 + distance)
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def target(shares: Array, frequencies: Array) -> Array:
    """P: p_ik = (q_ik^2 / f_k), normalised over k; f_k is the sum of q_ik over all rows."""
    weight = shares**2 / frequencies
    return weight / jnp.sum(weight, axis=1, keepdims=True)


class Clustering(AbstractMethod):
    """Maximises, by Adam, the mean over rows of (2 / p) log p(y | f(w)) - gamma KL(P_i || Q_i), P held for a while.

    For a Gaussian of scale 1 the first term is minus the mean squared error and a constant. From step `held` on P is
    renewed every `interval` steps from all rows, and before it is the start's groups; it stops when fewer than `tol` of
    the rows changed their label since the last time.
    """

    gamma: Array
    tol: Array
    rate: Array
    bounds: Array  # where minibatches begin among the shuffled rows
    held: Array  # steps for which P is the start's groups
    size: int = eqx.field(static=True)  # rows of the largest minibatch
    interval: int = eqx.field(static=True)

    def start(self, first: ClusteringStart, block: Block):
        for_order, key = jax.random.split(first.key)
        n, k = len(block.index), first.model.centres.shape[0]
        state = ClusteringState(
            model=first.model,
            moments=optax.scale_by_adam().init(first.model),
            key=key,
            order=jax.random.permutation(for_order, n),
            frequencies=jnp.ones(k),
            changed=jnp.asarray(1.0),
            objective=jnp.asarray(jnp.nan),
            iteration=jnp.asarray(0),
        )
        return state, Rows(jax.nn.one_hot(first.groups, k), jnp.full(n, -1))

    def sweeps(self):
        return Sweep(self._look, self._renew), Sweep(self._batch, self._move)

    def done(self, state):
        return state.changed < self.tol

    def failed(self, state):
        return (state.iteration > 0) & ~jnp.isfinite(state.objective)

    def _due(self, state: ClusteringState) -> Array:
        return (state.iteration >= self.held) & ((state.iteration - self.held) % self.interval == 0)

    def _look(self, state, rows, block):
        """Every `interval` steps: shares and labels of all rows, their column sums and how many labels changed."""

        def look():
            posterior = state.model.networks.encoder(block.y, block.x, block.offset)
            now = shares(posterior.mean, state.model.centres)
            labels = jnp.argmax(now, axis=1)
            changed = block.weights @ (labels != rows.labels)
            return Rows(now, labels), (block.weights @ now, changed, jnp.sum(block.weights))

        kept = jnp.zeros(len(state.frequencies)), jnp.asarray(0.0), jnp.asarray(1.0)
        return lax.cond(self._due(state), look, lambda: (rows, kept))

    def _renew(self, state, total):
        frequencies, changed, weight = total
        due = self._due(state)
        return state._replace(
            frequencies=jnp.where(due, frequencies, state.frequencies),
            changed=jnp.where(due, changed / weight, state.changed),
        )

    def _batch(self, state, rows, block):
        """The gradient of the weighted sum of the objective over a minibatch, that sum and its weight."""
        number = state.iteration % (len(self.bounds) - 1)
        place = self.bounds[number] + jnp.arange(self.size)
        index = state.order[jnp.minimum(place, len(block.index) - 1)]
        batch = jax.tree.map(lambda a: a[index], block)
        weights = jnp.where(place < self.bounds[number + 1], batch.weights, 0)
        aim = target(rows.shares[index], state.frequencies)

        def loss(model: Centred):
            posterior = model.networks.encoder(batch.y, batch.x, batch.offset)
            now = shares(posterior.mean, model.centres)
            pull = jnp.sum(
                aim * (jnp.log(jnp.maximum(aim, LEAST)) - jnp.log(jnp.maximum(now, LEAST))), axis=1
            )
            built = Reconstruction().terms(model.networks, state.key, batch, jnp.ones(())).objective
            value = weights @ (2 / batch.y.shape[1] * built - self.gamma * pull)
            return -value, (value, jnp.sum(weights))

        return rows, jax.grad(loss, has_aux=True)(state.model)

    def _move(self, state, total):
        gradient, (value, weight) = total
        gradient = jax.tree.map(lambda g: g / jnp.maximum(weight, LEAST), gradient)
        steps, moments = optax.scale_by_adam().update(gradient, state.moments)
        model = jax.tree.map(lambda a, b: a - self.rate * b, state.model, steps)
        ends = (state.iteration + 1) % (len(self.bounds) - 1) == 0
        anew = jax.random.fold_in(state.key, state.iteration)
        order = lax.cond(ends, lambda: jax.random.permutation(anew, len(state.order)), lambda: state.order)
        objective = value / jnp.maximum(weight, LEAST)
        iteration = state.iteration + 1
        return state._replace(
            model=model, moments=moments, order=order, objective=objective, iteration=iteration
        )
