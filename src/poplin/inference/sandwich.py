"""Standard errors of variational fits: the sandwich of the bound with the rows' own Gaussians profiled out.

Start at `profiled`. The bound J(theta) = sum_i max over psi_i of J_i(theta, psi_i) is maximised, so by the envelope

    score_i = dJ_i / dtheta at the row's best psi_i,
    -J'' = sum_i [ -d2J_i/dtheta2 - G_i P_i^-1 G_i' ],   G_i = dscore_i / dpsi_i,   P_i = -d2J_i/dpsi_i2,

and the maximiser has the covariance I^-1 (sum_i score_i score_i') I^-1 about the value that it tends to. That value is
not the truth: the bound's bias is not in these errors. Source: Westling & McCormick (2019), Beyond prediction: a
framework for inference with variational approximations.
"""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Coefficients
from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.inference.coordinates import Coordinates, OwnHessian, no_own_hessian
from poplin.inference.information import Information
from poplin.inference.intervals import Root, coef_deviations
from poplin.laws import features_of
from poplin.methods.exact import Likelihood
from poplin.methods.moments import pair_scores
from poplin.models.covariance import Covariance as Sigma
from poplin.models.loadings import Outward
from poplin.rows.nodes import ColumnNodes, JointNodes

BATCH = 32  # rows at a time


class AbstractFamily(eqx.Module):
    """The rows' Gaussians of w: `unknown` numbers psi_i and what mean and covariance they stand for."""

    unknown: eqx.AbstractVar[Array]

    @abstractmethod
    def moments(self, unknown: Array) -> tuple[Array, Array]:
        """Mean (q,) and covariance (q, q) of one row's w."""


class DiagonalFamily(AbstractFamily):
    """Diagonal in W^-1 w, psi = (mean, log standard deviation) there: W = I, or C^-1 for a Gaussian of Z - XB."""

    unknown: Array
    into: Array

    def moments(self, unknown):
        mean, log_sd = jnp.split(unknown, 2)
        return self.into @ mean, (self.into * jnp.exp(2 * log_sd)) @ self.into.T


class FullFamily(AbstractFamily):
    """Any covariance: psi = (mean, lower triangle of S)."""

    unknown: Array
    size: int = eqx.field(static=True)

    def moments(self, unknown):
        mean, entries = unknown[: self.size], unknown[self.size :]
        half = jnp.zeros((self.size, self.size)).at[jnp.tril_indices(self.size)].set(entries)
        return mean, half + half.T - jnp.diag(jnp.diagonal(half))


def full_family(mean: Array, covariance: Array) -> FullFamily:
    """The family of full Gaussians, at these moments."""
    q = mean.shape[1]
    entries = covariance[(slice(None), *jnp.tril_indices(q))]
    return FullFamily(jnp.concatenate([mean, entries], axis=1), q)


def _seen(here: Coordinates, mean: Array, covariance: Array, row: Block) -> tuple[Array, Array]:
    """Mean and variance of the log rates of one row, (p,)."""
    loadings = here.model.loadings
    predictor = row.offset + row.x @ here.model.coef + loadings @ mean
    return predictor, jnp.sum((loadings @ covariance) * loadings, axis=1)


def _bound(here: Coordinates, family: AbstractFamily, unknown: Array, row: Block) -> Array:
    """J_i of one row, without what does not depend on psi."""
    mean, covariance = family.moments(unknown)
    predictor, spread = _seen(here, mean, covariance, row)
    remainder = row.law.expected(predictor, spread, row.y).remainder
    entropy = 0.5 * jnp.linalg.slogdet(covariance)[1]
    return jnp.sum(row.y * predictor + remainder) - 0.5 * (mean @ mean + jnp.trace(covariance)) + entropy


def _score(here: Coordinates, family: AbstractFamily, unknown: Array, row: Block) -> Array:
    mean, covariance = family.moments(unknown)
    at = (*_seen(here, mean, covariance, row), row.y)
    told, slopes = row.law.expected(*at), row.law.expected_scores(*at)
    mean, covariance, told, slopes, row = jax.tree.map(
        lambda a: a[None], (mean, covariance, told, slopes, row)
    )
    return here.with_own(here.expected_scores(mean, covariance, told, row), slopes, row)[0]


def _curvature(here: Coordinates, family: AbstractFamily, unknown: Array, row: Block) -> Array:
    """E[rate_j f f'] of one row's columns, (p, k, k): the rates lean toward m + S c_j."""
    mean, covariance = family.moments(unknown)
    rate = row.law.expected(*_seen(here, mean, covariance, row), row.y).rate
    leaning = mean + here.model.loadings @ covariance
    features = jnp.concatenate([jnp.broadcast_to(row.x, (len(rate), len(row.x))), leaning], axis=1)
    d = len(row.x)
    square = features[:, :, None] * features[:, None, :]
    return rate[:, None, None] * square.at[:, d:, d:].add(covariance)


def _hessians(
    here: Coordinates, family: AbstractFamily, unknown: Array, row: Block
) -> tuple[Array, OwnHessian | None]:
    """Minus second derivatives of J_i in (B_j, C_j) and the law's parameters, the row's Gaussian being as it is."""
    if row.law.exponential():
        return _curvature(here, family, unknown, row), None
    (mean, covariance), d = family.moments(unknown), len(row.x)
    k = d + len(mean)
    cells, rebuild = jax.tree.flatten(row.law)

    def counts(numbers: Array, y: Array, offset: Array) -> Array:
        coef, loading, own = numbers[:d], numbers[d:k], list(numbers[k:])
        predictor, spread = offset + row.x @ coef + loading @ mean, loading @ covariance @ loading
        return y * predictor + jax.tree.unflatten(rebuild, own).expected(predictor, spread, y).remainder

    numbers = jnp.concatenate([here.model.coef, here.model.loadings.T, *(a[None] for a in cells)]).T
    second = -jax.vmap(jax.hessian(counts))(numbers, row.y, row.offset)
    whole = jax.tree.map(lambda a: a[None], row)
    features = [a[0] for a in jax.tree.leaves(features_of(here.own, whole.zero_features, whole.y))]
    if not features:
        return second[:, :k, :k], None
    beside = tuple(second[:, :k, k + a, None] * u for a, u in enumerate(features))
    among = tuple(
        tuple(second[:, k + a, k + b, None, None] * jnp.outer(u, v) for b, v in enumerate(features))
        for a, u in enumerate(features)
    )
    return second[:, :k, :k], OwnHessian(beside, among)


@jax.jit
def profiled_scores(here: Coordinates, family: AbstractFamily, block: Block) -> Array:
    """The rows' scores of the profiled bound (n, K), without their weights."""
    return jax.lax.map(
        lambda row: _score(here, family, row[1], row[0]), (block, family.unknown), batch_size=BATCH
    )


@jax.jit
def profiled(here: Coordinates, family: AbstractFamily, block: Block) -> Information:
    """The profiled bound's negative Hessian (`observed`) and the sum of its scores' products, in `Coordinates`.

    With r numbers psi a row (2 q, or q (q + 3) / 2 for full Gaussians): n (r^3 + r^2 K + r K^2).
    """
    d, (p, q) = block.x.shape[1], here.model.loadings.shape
    size, k = here.size(), d + q

    def of_row(row_and_unknown):
        row, unknown = row_and_unknown
        lower = jnp.linalg.cholesky(-jax.hessian(_bound, 2)(here, family, unknown, row))
        slope = jax.jacfwd(_score, 2)(here, family, unknown, row)
        missing = jax.scipy.linalg.solve_triangular(lower, slope.T, lower=True)
        return missing, _score(here, family, unknown, row), _hessians(here, family, unknown, row)

    def add(total, batch):
        row, _ = batch
        missing, score, curvature = jax.vmap(of_row)(batch)
        root = jnp.sqrt(row.weights)[:, None]
        wide = (missing * root[:, :, None]).reshape(-1, size)
        curvature = jax.tree.map(lambda a: jnp.tensordot(row.weights, a, 1), curvature)
        found = wide.T @ wide, curvature, (score * root).T @ (score * root)
        return jax.tree.map(jnp.add, total, (*found, row.weights @ score)), None

    zeros = (
        jnp.zeros((size, size)),
        (jnp.zeros((p, k, k)), no_own_hessian(here)),
        jnp.zeros((size, size)),
        jnp.zeros(size),
    )
    batches = jax.tree.map(_batched, (block, family.unknown))
    n = len(block.weights)
    there = (jnp.arange(batches[0].weights.size) < n).reshape(batches[0].weights.shape)
    batches = (batches[0]._replace(weights=batches[0].weights * there), batches[1])
    (missing, hessian, products, score), _ = jax.lax.scan(add, zeros, batches)
    rows, gram = jnp.sum(block.weights), block.x.T @ (block.weights[:, None] * block.x)
    observed = here.complete(rows, gram, *hessian) - missing
    nothing = jnp.zeros_like(observed)
    return Information(products, nothing, products, score, rows, jnp.sum(block.weights**2), observed, nothing)


def _batched(a: Array) -> Array:
    """Rows in batches, the last filled with row 0."""
    n = len(a)
    count = -(-n // BATCH)
    index = jnp.arange(count * BATCH)
    return a[jnp.where(index < n, index, 0)].reshape(count, BATCH, *a.shape[1:])


# The sandwich over groups of rows that depend on each other, or over single rows, right in small samples as well.
#
# Start at `sandwich`. With S_g the sum of the scores of group g, the estimates move by J^-1 S_g, and their covariance
# is sum_g (J^-1 S_g)(J^-1 S_g)'. As the fit has made the sums smaller than the truth's, each is first multiplied by
# (I - J^-1 J_g)^-1/2, J_g what the group adds to the information: under a working model this makes the sum unbiased
# (CR2; of single rows HC2). Intervals are of Student's t, with Satterthwaite's degrees of freedom under the same
# model: the sum's mean squared, twice, over its variance.
#
# The working model is that of Z seen through counts: row i says omega_ij = 1 / (Sigma_jj + 1 / rate_ij) of column j.
# So for the coefficients of a column J_g = sum over rows of omega x x'. Numbers of Sigma, whose scores are products
# of two normal deviations, are multiplied by one factor a group; their products' fourth cumulants count in the
# degrees of freedom.
#
# Sources: Bell & McCaffrey (2002), Bias reduction in standard errors for linear regression with multi-stage samples;
# Pustejovsky & Tipton (2018), Small-sample methods for cluster-robust variance estimation.


DETERMINED = (
    1e-6  # share of its information that a coefficient keeps without a group, below which it keeps none
)
KEPT = 0.9  # share of a coefficient's working variance that groups have to show
SQUARE, PRODUCT = (
    12.0,
    6.0,
)  # fourth cumulant of a squared normal and of a product of two, over their variance squared


class Working(NamedTuple):
    """The working model: x (n, d), what each count says omega (n, p), its row's weight (n,) and group (n,).

    `copies` (groups,): how many independent groups each one stands for: the weight of a row that is a group for
    itself, 1 of a cluster, in whose sum the weights are.
    """

    x: np.ndarray
    omega: np.ndarray
    weight: np.ndarray
    group: np.ndarray
    copies: np.ndarray


class Degrees(NamedTuple):
    """Degrees of freedom of B (d, p), of eigenvalues and scales (), and, when asked for, of Sigma's entries.

    `normal` (p,) is the relative variance of the sum over groups of a column's squared sums, `rows` (p,) by how much
    the cumulants of single rows count in it.
    """

    coef: np.ndarray
    axes: np.ndarray
    sigma: Sigma
    normal: np.ndarray
    rows: np.ndarray

    def covariance(self, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Of the entries (j, k) of Sigma."""
        r = np.clip(np.nan_to_num(self.sigma.unit().entries(j, k)), -1, 1)
        return self._pairs(6 * (1 + 6 * r**2 + r**4) / (1 + r**2) ** 2, j, k)

    def correlation(self, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Of the correlations (j, k)."""
        return self._pairs(PRODUCT, j, k)

    def _pairs(self, cumulant: np.ndarray | float, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        normal, rows = (0.5 * (a[j] + a[k]) for a in (self.normal, self.rows))
        with np.errstate(divide="ignore"):
            return 2 / (normal + cumulant * rows)


class Sandwich(NamedTuple):
    """Root of the estimates' covariance, and the degrees of freedom of its diagonal."""

    root: Root
    degrees: Degrees


class Leverage(NamedTuple):
    """Of one column: M_g (G, d, d), by which influences on its coefficients are multiplied; degrees of freedom (d,).

    These are NaN where the coefficient hangs on a single group.
    """

    factor: np.ndarray
    df: np.ndarray


def working(
    x: np.ndarray, rate: np.ndarray, variance: np.ndarray, weight: np.ndarray, group: np.ndarray | None
) -> Working:
    """The working model from rates (n, p) where Z is at its mean, 0 where a count is missing; no group: single rows."""
    omega = rate / (1 + variance * rate)
    if group is None:
        return Working(x, omega, weight, np.arange(len(x)), weight)
    return Working(x, omega, weight, group, np.ones(int(group.max()) + 1))


def sandwich(here: Coordinates, bread: Root, sums: np.ndarray, model: Working, sigma: Sigma) -> Sandwich:
    """The sandwich from the groups' sums of scores (2, G, K), of two independent sets of draws whose noise cancels.

    `bread` is a root of J^-1. Sums of groups that stand for c copies are those of a copy times the root of c. Cost:
    G K^2 + min(G, K)^2 K, p G d^3 for clusters.
    """
    d, p = here.model.coef.shape
    one, other = (part @ bread.spread @ bread.spread.T for part in sums)
    groups, degrees = len(model.copies), np.empty((d, p))
    share = shares(model)
    by_group = _summed(share, model.group, groups) / np.maximum(model.copies, 1e-300)[:, None]
    alike = 1 / np.sqrt(np.maximum(1 - by_group.mean(axis=1), DETERMINED))
    change = np.zeros((2, groups, d, p))
    moved = np.stack([coef_deviations(here, part.T) for part in (one, other)])
    for j in range(p):
        told = leverage(model, j)
        degrees[:, j] = told.df
        change[..., j] = np.einsum("gkl,sgl->sgk", told.factor, moved[..., j])
    back = np.asarray(_numbers(here.outward, change))
    both = []
    for numbers, coef in zip((one, other), back, strict=True):
        numbers = numbers * alike[:, None]
        numbers[:, : d * p] = coef.reshape(groups, d * p)  # those of B come first
        both.append(numbers)
    root = bread._replace(spread=_root_of_products(both[0], both[1]))
    return Sandwich(root, _degrees(degrees, model, share, by_group, sigma))


_numbers = compiled()(Outward.numbers)


def _summed(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums over the rows of each group."""
    total = np.zeros((groups, *values.shape[1:]))
    np.add.at(total, group, values)
    return total


def leverage(model: Working, j: int) -> Leverage:
    """What column j's influences are multiplied by, M_g = (I - J^-1 J_g)^-1/2, and its degrees of freedom.

    With J = L L' and E_g = L^-1 J_g L^-T: M_g = L^-T N_g L', N_g = (I - E_g)^-1/2. An influence b'N_g (S_g - E_g S) has
    covariances b'N_g (delta E_g - E_g E_h) N_h b under the working model; a direction that only one group tells has
    none.
    """
    groups = len(model.copies)
    each = (model.omega[:, j] * model.weight)[:, None, None] * model.x[:, :, None] * model.x[:, None, :]
    information = _summed(each, model.group, groups) / np.maximum(model.copies, 1e-300)[:, None, None]
    whole = np.einsum("g,gkl->kl", model.copies, information)
    values, vectors = np.linalg.eigh(whole)
    known = values > 1e-12 * values[-1]
    white = np.where(known, vectors / np.sqrt(np.where(known, values, 1.0)), 0.0).T  # L^-1 (d, d)
    inside = white @ information @ white.T
    shares_, axes = np.linalg.eigh(inside)
    left = 1 - shares_
    power = np.where(left > DETERMINED, 1 / np.sqrt(np.maximum(left, DETERMINED)), 0.0)
    root = np.einsum("gkl,gl,gml->gkm", axes, power, axes)  # N_g
    back = np.where(known, vectors * np.sqrt(np.where(known, values, 1.0)), 0.0)  # L
    factor = np.einsum("lk,glm,nm->gkn", white, root, back)
    moved = np.einsum("gkl,gln,dn->gkd", inside, root, white.T)  # U_g = E_g N_g b of each coefficient
    alone = np.einsum("dk,gkl,gld->gd", white.T, root, moved)
    return Leverage(factor, _satterthwaite(model.copies, alone, moved, np.sum(white**2, axis=0)))


def _satterthwaite(
    copies: np.ndarray, alone: np.ndarray, moved: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """tr(P)^2 / tr(P^2) of P = diag(alone) - U U' (G, G) for each coefficient; U_g = `moved` (G, d, d)."""
    length = np.sum(moved**2, axis=1)
    trace = copies @ (alone - length)
    gram = np.einsum("g,gkd,gld->dkl", copies, moved, moved)
    square = copies @ alone**2 - 2 * copies @ (alone * length) + np.sum(gram**2, axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(trace > KEPT * variance, trace**2 / square, np.nan)


def shares(model: Working) -> np.ndarray:
    """What part of the information about its variance each row holds, (n, p)."""
    held = model.weight[:, None] * model.omega**2
    return held / np.maximum(held.sum(axis=0), 1e-300)


def _degrees(
    coef: np.ndarray, model: Working, share: np.ndarray, by_group: np.ndarray, sigma: Sigma
) -> Degrees:
    """With those of `coef`: `normal` is 2 h / (1 - h), h = sum_g h_g^2 of the groups' shares, the mean taken off."""
    squares = np.minimum(np.sum(model.copies[:, None] * by_group**2, axis=0), 0.999)
    rows = np.sum(share**2 / np.maximum(model.weight, 1e-300)[:, None], axis=0)
    normal = 2 * squares / (1 - squares)
    with np.errstate(divide="ignore"):
        axes = np.asarray(2 / (normal.mean() + SQUARE * rows.mean()))
    return Degrees(coef, axes, sigma, normal, rows)


def _root_of_products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A root of sum_g (a_g b_g' + b_g a_g') / 2 without its negative part, noise, (K, at most 2 G)."""
    half, gap = 0.5 * (one + other), 0.5 * (one - other)
    both = np.concatenate([half, gap])
    sign = np.concatenate([np.ones(len(half)), -np.ones(len(gap))])
    scale = np.sqrt(np.maximum(np.mean(both**2, axis=0), 1e-300))
    unit = both / scale
    if len(unit) < unit.shape[1]:
        frame, inside = np.linalg.qr(unit.T)
    else:
        frame, inside = np.eye(unit.shape[1]), unit.T
    values, vectors = np.linalg.eigh((inside * sign) @ inside.T)
    return scale[:, None] * (frame @ (vectors * np.sqrt(np.maximum(values, 0))))


# The Godambe sandwich of the pairwise composite likelihood: what each row adds to the estimates of B and Sigma.
#
# Start at `deviations`. Margins (B_j, log s_j) solve sum_i w_i u_ij = 0, each pair's Fisher z then sum_i w_i t_ijk =
# 0 at these margins. So a row moves them by
#
# dtheta_j = H_j^-1 u_ij, dz_jk = (t_ijk + D_j dtheta_j + D_k dtheta_k) / J,
#
# H_j and J the negative derivatives of the sums in their own numbers, D those of the pair's sum in the margins, and
# the estimates have the covariance sum_i w_i d_i d_i'. Sources: Godambe (1960); Joe (2005), on estimation in two
# stages.


MOVE = 1e-4  # of central differences, in B, log scales and z
PAIRS = 64  # pairs between two looks at Ctrl-C


class Margins(NamedTuple):
    """B (d, p) and standard deviations (p,)."""

    coef: Coefficients
    scale: Array


@compiled()
def margin_moves(target: Likelihood, block: Block, margins: Margins) -> Array:
    """What one more row like each moves (B_j, log s_j) by, (n, p, d + 1); `target` is what the margins maximise."""
    assert isinstance(target.rule, ColumnNodes)
    coef, log_scale = margins.coef, jnp.log(margins.scale)
    d = len(coef)
    found = target.rule.integrals(block, coef, jnp.diag(margins.scale))
    by_row = jnp.concatenate(
        [
            block.x[:, None, :] * found.surprise[:, :, None],
            (found.tilted * margins.scale)[:, :, None],
        ],
        axis=2,
    )

    def slope(move: Array) -> Array:
        shared = coef + move[:d, None], log_scale + move[d]
        _, scores = target.value(target.measure(shared, (), block)[1])
        for_coef, for_scale = target.shared_slope(shared, scores, ())
        return jnp.concatenate([for_coef, for_scale[None]]).T

    lines = lax.map(lambda e: (slope(-MOVE * e) - slope(MOVE * e)) / (2 * MOVE), jnp.eye(d + 1))
    curvature = jnp.moveaxis(lines, 0, 1)
    return jnp.einsum("pkl,npl->npk", jnp.linalg.inv(curvature), by_row)


@compiled()
def pair_moves(
    rule: JointNodes, block: Block, margins: Margins, moves: Array, pairs: tuple[Array, Array]
) -> Array:
    """What one more row like each would move the z of these pairs by, (m, n); `pairs` are (m, 2) columns and z (m,).

    Cost of a pair: 4 (d + 1) + 3 times its scores.
    """
    d = len(margins.coef)

    def one_pair(pair_and_z):
        pair, z = pair_and_z
        alone = block._replace(
            y=block.y[:, pair], offset=block.offset[:, pair], log_factorial=jnp.zeros_like(block.weights)
        )
        coef, log_scale = margins.coef[:, pair], jnp.log(margins.scale[pair])

        def scores(move: Array) -> Array:
            each = move[:-1].reshape(2, d + 1)
            return pair_scores(
                rule, alone, coef + each[:, :d].T, jnp.exp(log_scale + each[:, d]), z + move[-1]
            )

        def slope(e: Array) -> Array:
            return block.weights @ (scores(MOVE * e) - scores(-MOVE * e)) / (2 * MOVE)

        slopes = lax.map(slope, jnp.eye(2 * (d + 1) + 1))
        by_margins = moves[:, pair].reshape(len(block.weights), -1) @ slopes[:-1]
        return (scores(jnp.zeros_like(slopes)) + by_margins) / -slopes[-1]

    return lax.map(one_pair, pairs)


class Moves(NamedTuple):
    """Each row's change of B (n, d p) and of Sigma's upper triangle, diagonal included (n, p (p + 1) / 2)."""

    coef: np.ndarray
    covariance: np.ndarray


def deviations(
    target: Likelihood, rule: JointNodes | None, block: Block, margins: Margins, covariance: np.ndarray
) -> Moves:
    """The rows' changes, times the roots of their weights; without a `rule` for pairs, of variances alone.

    Off-diagonal changes are then zero. dSigma_jk = Sigma_jk (a_j + a_k) + s_j s_k (1 - r^2) dz, a = dlog s.
    """
    moves = np.asarray(margin_moves(target, block, margins))
    n, p, k = moves.shape
    by_scale, scale = moves[:, :, -1], np.asarray(margins.scale)
    root = np.sqrt(np.asarray(block.weights))[:, None]
    upper = np.triu_indices(p)
    changed = covariance[upper] * (by_scale[:, upper[0]] + by_scale[:, upper[1]])
    if rule is not None and p > 1:
        correlation = covariance / scale / scale[:, None]
        apart = np.flatnonzero(upper[0] != upper[1])
        pairs = np.stack(upper, axis=1)[apart]
        z = np.arctanh(np.clip(correlation[upper][apart], -0.9999, 0.9999))
        size = min(PAIRS, len(pairs))
        for first in range(0, len(pairs), size):
            part = np.minimum(np.arange(first, first + size), len(pairs) - 1)
            told = pair_moves(
                rule, block, margins, jnp.asarray(moves), (jnp.asarray(pairs[part]), jnp.asarray(z[part]))
            )
            factor = scale[pairs[part, 0]] * scale[pairs[part, 1]] / np.cosh(z[part]) ** 2
            count = min(size, len(pairs) - first)
            changed[:, apart[part[:count]]] += (np.asarray(told).T * factor)[:, :count]
    coef = np.swapaxes(moves[:, :, :-1], 1, 2).reshape(n, (k - 1) * p)
    return Moves(root * coef, root * changed)
