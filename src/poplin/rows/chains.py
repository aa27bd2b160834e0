"""One Markov chain per row, all rows at once: Hamiltonian moves that leave p(w_i | y_i; B, C) invariant.

Start at `move`. Chains live in the whitened latent w (Z = XB + C w). A move works in the coordinates v of
`Frame`, in which a row with average rates has a spherical posterior; what is left of a row's own shape goes
into its diagonal mass and its step size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.random import threefry_2x32

from poplin._axes import Coefficients, Counts, Latent, Loadings, Rows, Scalar
from poplin.data.blocks import Block
from poplin.models.likelihoods import row_sums
from poplin.rows.gaussian import GaussianRows

VARYING = 0.3  # share by which a move's step size is longer or shorter than the row's own
TARGET = 0.8  # acceptance that the step sizes are steered to


class Frame(NamedTuple):
    """Coordinates of a move: Z - XB = v loadings', prior precision diag(stiffness), v = w to_frame.

    With D the mean rates and C'DC = U diag(lambda) U': loadings = C U (1 + lambda)^(-1/2), stiffness = 1 /
    (1 + lambda).
    """

    loadings: Loadings
    stiffness: Array
    to_frame: Array
    from_frame: Array


class Chains(NamedTuple):
    """What a row keeps: w (n, q), its running mean rates (n, p), log step size and acceptance (n,)."""

    position: Latent
    mean_rate: Counts
    log_step: Rows
    acceptance: Rows


def frame(loadings: Loadings, mean_rate: Array) -> Frame:
    """The frame for columns with these mean rates; O(p q^2 + q^3), once an iteration."""
    curvature, axes = jnp.linalg.eigh(loadings.T @ (mean_rate[:, None] * loadings))
    spread = jnp.sqrt(1 + jnp.maximum(curvature, 0))
    return Frame(loadings @ (axes / spread), spread**-2, axes * spread, (axes / spread).T)


def row_noise(key: Array, index: Array, size: int, dtype) -> tuple[Array, Array, Array]:
    """Standard normals (size, n) and two uniforms (n,) each: words of Threefry, counted by (row's number, place).

    A row's numbers depend on the key and on its global number alone, and no key per row has to be made. They have
    single precision whatever `dtype`: a move needs no finer ones.
    """
    uniform = row_words(key, index, size + 2, jnp.float32)
    normal = jnp.float32(2**0.5) * jax.lax.erf_inv(2 * uniform[:size] - 1)
    return normal.astype(dtype), uniform[size].astype(dtype), uniform[size + 1].astype(dtype)


def row_words(key: Array, index: Array, size: int, dtype) -> Array:
    """Uniforms inside (0, 1), (size, n) or one more: see `row_noise`."""
    pairs = -(-size // 2)
    shape = pairs, len(index)
    rows = jnp.broadcast_to(index.astype(jnp.uint32), shape)
    places = jnp.broadcast_to(jnp.arange(pairs, dtype=jnp.uint32)[:, None], shape)
    words = threefry_2x32(jax.random.key_data(key), jnp.concatenate([rows.ravel(), places.ravel()]))
    words = words.reshape(2 * pairs, len(index))
    return (((words >> 8).astype(jnp.float32) + 0.5) * jnp.float32(2**-24)).astype(dtype)


def move(
    key: Array, chains: Chains, block: Block, *, coef: Array, frame: Frame, steps: int, adapt: Array
) -> tuple[Chains, Counts]:
    """One Hamiltonian trajectory per row, accepted or refused; also the rates at the new positions (n, p).

    `adapt` in [0, 1] is how far step sizes and mean rates still learn (it must vanish for exactness). Cost:
    (steps + 1) (n p exponentials and 2 n p q). Source: Neal (2011), MCMC using Hamiltonian dynamics.
    """
    across = frame.loadings.T
    base = block.offset + block.x @ coef
    start = chains.position @ frame.to_frame
    noise, uniform, other = row_noise(key, block.index, start.shape[1], start.dtype)
    noise, stiffness = noise.T, frame.stiffness
    # of varying length: a trajectory of half a period would return each v to -v, of a whole one to where it was
    length = jnp.exp(chains.log_step) * (1 + VARYING * (2 * other - 1))
    step = length[:, None] / jnp.sqrt(stiffness + chains.mean_rate @ frame.loadings**2)

    def gradient(rate, v):
        return (block.y - rate) @ frame.loadings - stiffness * v

    begun_at = base + start @ across
    first_rate = block.law.rate(begun_at, block.y)

    def leap(_, at):
        v = at[0] + step * at[1]
        rate = block.law.rate(base + v @ across, block.y)
        return v, at[1] + step * gradient(rate, v), rate

    # a loop, not steps written out: compiled once
    begun = start, noise + 0.5 * step * gradient(first_rate, start), first_rate
    v, momentum, rate = jax.lax.fori_loop(0, steps, leap, begun)
    momentum = momentum - 0.5 * step * gradient(rate, v)
    gain = row_sums(block.law.gain((v - start) @ across, begun_at, first_rate, rate, block.y))
    gain -= 0.5 * jnp.sum(stiffness * (v - start) * (v + start) + momentum**2 - noise**2, axis=1)
    probability = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0)), 0.0)
    taken = uniform < probability
    moved = Chains(
        position=jnp.where(taken[:, None], v, start) @ frame.from_frame,
        mean_rate=chains.mean_rate,
        log_step=jnp.clip(chains.log_step + 0.2 * adapt * (probability - TARGET), -8.0, 0.7),
        acceptance=chains.acceptance + 0.1 * (probability - chains.acceptance),
    )
    rate = jnp.where(taken[:, None], rate, first_rate)
    return moved, rate


# A point near each row's most likely position, at the cost of a few moves of its chain: where chains may begin.
#
# Start at `modes`. `gaussian.fit_rows` finds the rows' best Gaussians, at n q^3 and n q^2 numbers; here a diagonal in
# the coordinates of the chains' `Frame` takes the place of the matrices.


STEPS = 12
FARTHEST = 2.0  # most change of a coordinate in one step


def modes(block: Block, coef: Coefficients, frame: Frame, *, steps: int = STEPS) -> Latent:
    """Positions w (n, q) where p(w_i | y_i; B, C) is nearly as large as it gets.

    Newton's steps with the Hessian's diagonal: v <- v + t g / h, g = (y - rate) L - k v, h = k + max(rate, y) (L * L),
    L and k the frame's loadings and stiffness; a row's t is halved where log p would fall, and doubled up to 1 where it
    rose. No row's log p falls. Cost: `steps` times n p exponentials and 3 n p q.
    """
    across, stiffness, law = frame.loadings, frame.stiffness, block.law
    base = block.offset + block.x @ coef

    def height(v):
        predictor = base + v @ across.T
        counts = block.y * (predictor - base) + law.remainder(predictor, block.y)
        value = jnp.sum(counts, axis=1) - 0.5 * jnp.sum(stiffness * v**2, axis=1)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf), law.rate(predictor, block.y)

    def step(_, place):
        v, value, rate, length = place
        gradient = (block.y - rate) @ across - stiffness * v
        curvature = stiffness + told_at_least(law.curvature(rate, block.y), block) @ across**2
        trial = v + length[:, None] * jnp.clip(gradient / curvature, -FARTHEST, FARTHEST)
        higher, faster = height(trial)
        up = higher > value
        length = jnp.where(up, jnp.minimum(1.0, 2 * length), 0.5 * length)
        taken = up[:, None]
        return (
            jnp.where(taken, trial, v),
            jnp.where(up, higher, value),
            jnp.where(taken, faster, rate),
            length,
        )

    start = jnp.zeros((len(block.y), across.shape[1]), block.y.dtype)
    first = (start, *height(start), jnp.ones(len(start), start.dtype))
    return lax.fori_loop(0, steps, step, first)[0] @ frame.from_frame


# What one draw says of a row's mean and second moment, with most of its noise taken out: control variates.
#
# Start at `controlled`. Along a draw v of the row's posterior, the gradient g(v) of its log density has expectation
# zero, and E[g v'] = -I (Stein's identity). So for any diagonal c and any point m that do not depend on the draw,
# with a = g / c,
#
# v + a and v v' + (v a' + a v') / 2 + (m a' + a m') / 2 + diag(1 / c)
#
# have the expectations of v and of v v'. If the posterior is Gaussian with precision diag(c) and mean m, they have no
# variance at all; here they have a tenth of the plain draw's or less. Sources: Assaraf & Caffarel (1999), Zero-
# variance principle; Mira, Solgi & Imparato (2013), Zero variance MCMC for Bayesian estimators.
#
# The same c tells how much the counts say at all: `Shares`, from the sums `Known`.


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


def nearer(centre: Latent, mean_rate: Counts, block: Block, *, coef: Coefficients, frame: Frame) -> Latent:
    """Points (n, q) one of Newton's steps nearer to the means of the rows' best Gaussians under the present model.

    Centres that are only carried along miss as a model moves: where an axis loses its variance they stay in Z, and
    grow in w. Cost: n p exponentials and 5 n p q.
    """
    v, squares = centre @ frame.to_frame, frame.loadings**2
    variance = 1 / (frame.stiffness + told_at_least(mean_rate, block) @ squares)
    predictor = block.offset + block.x @ coef + v @ frame.loadings.T
    cells = block.law.expected(predictor, variance @ squares.T, block.y)
    curvature = frame.stiffness + jnp.maximum(told_at_least(mean_rate, block), cells.weight) @ squares
    step = ((block.y - cells.rate) @ frame.loadings - frame.stiffness * v) / curvature
    return (v + jnp.clip(step, -FARTHEST, FARTHEST)) @ frame.from_frame


def told_at_least(curvature: Counts, block: Block) -> Counts:
    """What cells say of their log rates, and at least what they say where the rate is the count itself."""
    return jnp.maximum(curvature, block.law.curvature(block.y, block.y))


def _steps(chains: Chains, rate: Counts, block: Block, frame: Frame) -> tuple[Latent, Latent]:
    """A = g / c and 1 / c of every row, in the frame's coordinates (n, q)."""
    slope = (block.y - rate) @ frame.loadings - frame.stiffness * (chains.position @ frame.to_frame)
    # a precision that is too small would overshoot: where much was counted, rates are about the counts
    spread = 1 / (frame.stiffness + told_at_least(chains.mean_rate, block) @ frame.loadings**2)
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


# No-U-turn moves of every row's latent position, by BlackJAX, which is loaded when the first one is compiled.
#
# Start at `nuts_move`. Chains move in e, w = m_i + L_i e, with (m_i, L_i) a Gaussian near the row's posterior, so
# that one step size of order one suits every row.


DOUBLINGS = 6  # of a trajectory at most: 63 steps
NUTS_TARGET = 0.8  # acceptance that the step sizes are steered to


class NutsChains(NamedTuple):
    """What a row keeps: e (n, q), log step size and acceptance (n,), and its Gaussian: mean (n, q), root (n, q, q)."""

    position: Latent
    log_step: Rows
    acceptance: Rows
    mean: Latent
    lower: Array


def begin(rows: GaussianRows) -> NutsChains:
    """Chains at the means of the rows' Gaussians."""
    n, q = rows.mean.shape
    still = jnp.full(n, jnp.log(0.8) - 0.25 * jnp.log(q)), jnp.full(n, NUTS_TARGET)
    return NutsChains(jnp.zeros_like(rows.mean), *still, rows.mean, jnp.linalg.cholesky(rows.covariance))


def latent(chains: NutsChains) -> Latent:
    """W where the chains are, (n, q)."""
    return chains.mean + jnp.einsum("nkl,nl->nk", chains.lower, chains.position)


def carried(chains: NutsChains, w: Latent) -> NutsChains:
    """The chains at other positions w."""
    apart = (w - chains.mean)[:, :, None]
    return chains._replace(
        position=jax.scipy.linalg.solve_triangular(chains.lower, apart, lower=True)[:, :, 0]
    )


def nuts_move(
    key: Array, chains: NutsChains, block: Block, coef: Coefficients, loadings: Loadings, *, adapt: Array
) -> tuple[NutsChains, Counts]:
    """One NUTS transition per row that leaves p(w_i | y_i; B, C) invariant; also the rates there (n, p).

    `adapt` in [0, 1] is how far step sizes still learn (it must vanish for exactness). Cost: up to 63 leapfrog steps of
    every row, as many as the row that needs most. Source: Hoffman & Gelman (2014).
    """
    from blackjax.mcmc import nuts

    kernel = nuts.build_kernel()
    base = block.offset + block.x @ coef
    unit = jnp.ones(loadings.shape[1])

    def one(index, position, log_step, mean, lower, y, base, law):
        def log_density(e):
            w = mean + lower @ e
            predictor = base + loadings @ w
            return y @ predictor + jnp.sum(law.remainder(predictor, y)) - 0.5 * w @ w

        state, info = kernel(
            jax.random.fold_in(key, index),
            nuts.init(position, log_density),
            log_density,
            jnp.exp(log_step),  # type: ignore[arg-type]
            unit,
            DOUBLINGS,
        )
        return state.position, info.acceptance_rate

    position, acceptance = jax.vmap(one)(
        block.index, chains.position, chains.log_step, chains.mean, chains.lower, block.y, base, block.law
    )
    moved = chains._replace(
        position=position,
        log_step=jnp.clip(chains.log_step + 0.2 * adapt * (acceptance - NUTS_TARGET), -8.0, 1.0),
        acceptance=chains.acceptance + 0.1 * (acceptance - chains.acceptance),
    )
    return moved, block.law.rate(base + latent(moved) @ loadings.T, block.y)
