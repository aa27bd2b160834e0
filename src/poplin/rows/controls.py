"""What one draw says of a row's mean and second moment, with most of its noise taken out: control variates.

Start at `controlled`. Along a draw v of the row's posterior, the gradient g(v) of its log density has expectation
zero, and E[g v'] = -I (Stein's identity). So for any diagonal c and any point m that do not depend on the draw, with
a = g / c,

    v + a    and    v v' + (v a' + a v') / 2 + (m a' + a m') / 2 + diag(1 / c)

have the expectations of v and of v v'. If the posterior is Gaussian with precision diag(c) and mean m, they have no
variance at all; here they have a tenth of the plain draw's or less. Sources: Assaraf & Caffarel (1999),
Zero-variance principle; Mira, Solgi & Imparato (2013), Zero variance MCMC for Bayesian estimators.

The same c tells how much the counts say at all: `Shares`, from the sums `Known`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Latent, Scalar
from poplin.data.blocks import Block
from poplin.rows.chains import Chains, Frame


class Known(NamedTuple):
    """Sums behind `Shares`: of 1 - pi_ik (q,), x_il^2 (1 - pi_ik) (d, q), (1 - pi_ik) (1 - pi_il) (q, q), x_il^2 (d,).

    Weights and their squares, too.
    """

    level: Array
    covariates: Array
    second: Array
    exposure: Array
    rows: Scalar
    squares: Scalar


class Shares(NamedTuple):
    """Of what complete data would say of mean and covariance of w, the share that counts say, along `axes` (q, q).

    Row i leaves the share pi_ik = stiffness_k / c_ik of the prior variance of axis k. In a Gaussian model counts have
    the share 1 - pi_ik of the information about the mean along axis k, (1 - pi_ik) (1 - pi_il) of that about the
    covariance of axes k and l, and EM closes these shares of what is left at a step. `level` (q,), `second` (q, q):
    means over rows; `covariates` (d, q): the level's, by the rows that tell of each covariate. draws: how many
    independent ones the sums are worth.
    """

    axes: Array
    level: Array
    covariates: Array
    second: Array
    draws: Array


class Means(NamedTuple):
    """Sums over rows: X'E[W | Y] (d, q) and sum_i weight_i E[w_i w_i' | y_i] (q, q), each estimated from one draw.

    gradient: E[(X, W)'(Y - rate) | Y] (d + q, p), or None where it was not asked for.
    """

    cross: Array
    second: Array
    known: Known
    gradient: Array | None = None


def controlled(chains: Chains, centre: Latent, rate: Counts, block: Block, frame: Frame) -> Means:
    """The sums from draws w (`chains.position`) with rates `rate` (n, p).

    `centre` (n, q): near the rows' posterior means; c is taken from the chains' mean rates and the counts.
    Neither may follow the present draw. Works in the coordinates of `frame`, in which c is closest to diagonal.
    Cost n p q + n q^2.
    """
    return _moments(chains, centre, *_steps(chains, rate, block, frame), block, frame)


def controlled_columns(chains: Chains, centre: Latent, rate: Counts, block: Block, frame: Frame) -> Means:
    """`controlled`, and the gradient of every column's regression on (x, w); cost 4 n p q + n q^2.

    A rate is nonlinear in w: about a draw it changes by rate Z's change, here with the chains' mean rate R in the place
    of its own. With A the rows' steps a, M the centres, T = R * (A C'), the sum over rows of (X, W)'(Y - rate) has
    (-X'T, A'(Y - R) - M'T) added, which has expectation zero.
    """
    step, spread = _steps(chains, rate, block, frame)
    means = _moments(chains, centre, step, spread, block, frame)
    weights, mean_rate = block.weights[:, None], chains.mean_rate
    tilt = weights * mean_rate * (step @ frame.loadings.T)
    surprise = weights * (block.y - rate)
    for_x = block.x.T @ (surprise - tilt)
    for_w = chains.position.T @ surprise - centre.T @ tilt
    for_w += frame.from_frame.T @ (step.T @ (weights * (block.y - mean_rate)))
    return means._replace(gradient=jnp.concatenate([for_x, for_w]))


def _steps(chains: Chains, rate: Counts, block: Block, frame: Frame) -> tuple[Latent, Latent]:
    """A = g / c and 1 / c of every row, in the frame's coordinates (n, q)."""
    slope = (block.y - rate) @ frame.loadings - frame.stiffness * (chains.position @ frame.to_frame)
    # a precision that is too small would overshoot: where much was counted, rates are about the counts
    spread = 1 / (frame.stiffness + jnp.maximum(chains.mean_rate, block.y) @ frame.loadings**2)
    return slope * spread, spread


def _moments(
    chains: Chains, centre: Latent, step: Latent, spread: Latent, block: Block, frame: Frame
) -> Means:
    w, step = chains.position, step @ frame.from_frame
    weighted = block.weights[:, None] * w
    half = (weighted + block.weights[:, None] * centre).T @ step
    second = w.T @ weighted + 0.5 * (half + half.T)
    second += frame.from_frame.T @ ((block.weights @ spread)[:, None] * frame.from_frame)
    cross = block.x.T @ (weighted + block.weights[:, None] * step)
    return Means(cross, second, _known(spread, block, frame))


def _known(spread: Latent, block: Block, frame: Frame) -> Known:
    """Of rows whose posterior variances are `spread` (n, q) in the frame's coordinates."""
    weights, known = block.weights, 1 - spread * frame.stiffness
    second = (weights[:, None] * known).T @ known
    squares = weights[:, None] * block.x**2
    return Known(
        weights @ known,
        squares.T @ known,
        second,
        jnp.sum(squares, axis=0),
        jnp.sum(weights),
        jnp.sum(weights**2),
    )


def shares(known: Known, frame: Frame) -> Shares:
    """What these sums, taken in this frame, say of each of its axes."""
    axes = frame.to_frame * jnp.sqrt(frame.stiffness)
    draws = known.rows**2 / known.squares
    by = known.covariates / jnp.maximum(known.exposure, 1e-300)[:, None]
    return Shares(axes, known.level / known.rows, by, known.second / known.rows, draws)


def everything(d: int, q: int) -> Shares:
    """Counts that say all that complete data would."""
    return Shares(jnp.eye(q), jnp.ones(q), jnp.ones((d, q)), jnp.ones((q, q)), jnp.ones(()))
