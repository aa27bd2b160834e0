"""Probabilistic PCA: x | w ~ N(mu + C w, s2 I), w ~ N(0, I_q), by exact EM or in closed form.

Start at `ExactEM`, the method; `closed_form` is its limit (Tipping & Bishop 1999, eq. 3.7-3.8 and 3.27-3.29) and
`loglik` the likelihood of each row that both maximise. A row's posterior is N(K (x - mu), s2 M), M = (C'C + s2 I)^-1
and K = M C', so rows keep nothing.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Loadings, Scalar
from poplin._numerics import compiled, inverse_and_logdet
from poplin.methods.method import AbstractMethod, Sweep


class Measurements(NamedTuple):
    """Rows of real numbers: y (n, p) and weights (n,)."""

    y: Array
    weights: Array


class Gaussian(NamedTuple):
    """The parameters: mu (p,), loadings C (p, q), noise variance s2."""

    mean: Array
    loadings: Loadings
    noise: Scalar


class Sums(NamedTuple):
    """What is summed over rows, weights included: with x = y - mu and E w the posterior mean of a row."""

    weight: Scalar
    cross: Array  # x E[w]', (p, q)
    gram: Array  # E[w w'], (q, q)
    square: Scalar  # |x|^2
    loglik: Scalar


class State(NamedTuple):
    """Shared state: parameters, their log-likelihood one step ago, the last relative change, steps taken."""

    model: Gaussian
    objective: Scalar
    change: Scalar
    iteration: Scalar


class ExactEM(AbstractMethod):
    """EM with the exact posterior: no step lowers the likelihood. Cost of a step: 2 n p q products.

    The latent covariance is free within a step, w ~ N(0, R), and is taken into C afterwards (parameter expansion;
    Liu, Rubin & Wu 1998): where s2 is small, plain EM needs some lambda / s2 times as many steps.
    """

    tol: Scalar  # relative change of C and of s2 in a step below which it stops

    def start(self, first, block):
        return State(first, jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf), jnp.asarray(0)), ()

    def sweeps(self):
        return (Sweep(self._local, self._update),)

    def done(self, state):
        return state.change <= self.tol

    def failed(self, state):
        return (state.iteration > 0) & ~jnp.isfinite(state.objective)

    def _local(self, state, rows, block):
        return rows, measure(state.model, block)

    def _update(self, state, total):
        model, objective = state.model, total.loglik
        expanded = jnp.linalg.solve(total.gram, total.cross.T).T
        left = total.square - jnp.sum(expanded * total.cross)
        loadings = expanded @ jnp.linalg.cholesky(total.gram / total.weight)
        noise = jnp.maximum(left / (total.weight * loadings.shape[0]), jnp.finfo(left.dtype).tiny)
        moved = jnp.linalg.norm(loadings - model.loadings) / jnp.linalg.norm(loadings)
        change = jnp.maximum(moved, jnp.abs(jnp.log(noise / model.noise)))
        return State(Gaussian(model.mean, loadings, noise), objective, change, state.iteration + 1)


def measure(model: Gaussian, block: Measurements) -> Sums:
    """The statistic of a block of rows: sums that only the parameters' update needs, and the log-likelihood."""
    x = block.y - model.mean
    inverse, logdet = _posterior(model)
    mean = x @ model.loadings @ inverse
    weighted = mean * block.weights[:, None]
    weight = jnp.sum(block.weights)
    gram = weighted.T @ mean + weight * model.noise * inverse
    value = _row_values(model, x, mean, logdet)
    return Sums(
        weight, x.T @ weighted, gram, block.weights @ jnp.sum(x**2, axis=1), jnp.dot(block.weights, value)
    )


def _posterior(model: Gaussian) -> tuple[Array, Scalar]:
    """M = (C'C + s2 I)^-1 and -log det M."""
    q = model.loadings.shape[1]
    return inverse_and_logdet(model.loadings.T @ model.loadings + model.noise * jnp.eye(q))


def _row_values(model: Gaussian, x: Array, mean: Array, logdet: Scalar) -> Array:
    """Log N(x; 0, C C' + s2 I) by Woodbury's identity, x' (C C' + s2 I)^-1 x = (|x|^2 - x'C E[w]) / s2."""
    p, q = model.loadings.shape
    distance = (jnp.sum(x**2, axis=1) - jnp.sum((x @ model.loadings) * mean, axis=1)) / model.noise
    constant = p * jnp.log(2 * jnp.pi) + logdet + (p - q) * jnp.log(model.noise)
    return -0.5 * (constant + distance)


@compiled()
def loglik(model: Gaussian, y: Array) -> tuple[Array, Array]:
    """Log p(y_i) of each row in nats, (n,), and the posterior means E[w_i], (n, q)."""
    x = y - model.mean
    inverse, logdet = _posterior(model)
    mean = x @ model.loadings @ inverse
    return _row_values(model, x, mean, logdet), mean


def principal(y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (p,), eigenvalues (p,) descending and axes (p, p or less) of the covariance with divisor sum(weights).

    Each axis's entry of largest size is positive. Cost: n p min(n, p).
    """
    total = weights.sum()
    mean = weights @ y / total
    centred = (y - mean) * np.sqrt(weights / total)[:, None]
    if len(y) > y.shape[1]:
        values, axes = np.linalg.eigh(centred.T @ centred)
        values, axes = values[::-1], axes[:, ::-1]
    else:
        _, singular, rows = np.linalg.svd(centred, full_matrices=False)
        values, axes = singular**2, rows.T
    largest = axes[np.argmax(np.abs(axes), axis=0), np.arange(axes.shape[1])]
    eigenvalues = np.zeros(y.shape[1])
    eigenvalues[: len(values)] = np.maximum(values, 0.0)
    return mean, eigenvalues, axes * np.where(largest < 0, -1.0, 1.0)


def closed_form(mean: np.ndarray, eigenvalues: np.ndarray, axes: np.ndarray, q: int) -> Gaussian:
    """The maximum of the likelihood: s2 the mean of the p - q last eigenvalues, C = U (lambda - s2)^(1/2)."""
    noise = np.mean(eigenvalues[q:])
    loadings = axes[:, :q] * np.sqrt(np.maximum(eigenvalues[:q] - noise, 0.0))
    return Gaussian(mean, loadings, noise)  # type: ignore[arg-type]
