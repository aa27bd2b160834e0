"""What a network says of a row's latent position: a Gaussian, diagonal or full, from the row itself.

Start at `AbstractEncoder`. With lower triangular L = mask * L' + diag(sigma), a draw is w = m + L e, e ~ N(0, I), and
KL(N(m, L L') || N(0, I)) = 1/2 (-sum_k log sigma_k^2 - q + tr(L L') + |m|^2).
"""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jax import Array, lax

from poplin.data.blocks import NO_EXPOSURE
from poplin.models.networks import Network

LOG_2PI = 1.8378770664093453
LOG_SCALES = (
    -12.0,
    6.0,
)  # a row's log standard deviations are held within: exp neither overflows nor vanishes
LARGEST_LOG_RATE = 20.0  # of what is expected of a count before it is seen


class AbstractPosterior(eqx.Module):
    """N(m_i, S_i) of each row; arrays (n, q). `log_scale` sums to half of log det S_i."""

    mean: eqx.AbstractVar[Array]
    log_scale: eqx.AbstractVar[Array]

    @abstractmethod
    def draw(self, noise: Array) -> Array:
        """W = m + S^(1/2) e for e (s, n, q)."""

    @abstractmethod
    def log_density(self, noise: Array) -> Array:
        """Log q(w) at the draw w that the noise e gives, (s, n)."""

    @abstractmethod
    def divergence(self) -> Array:
        """KL(q || N(0, I)) of each row, (n,)."""

    @abstractmethod
    def spread(self, loadings: Array) -> Array:
        """c_j'S_i c_j for loadings C (p, q): the variance of C w, (n, p)."""

    @abstractmethod
    def variance(self) -> Array:
        """The diagonal of S_i, (n, q)."""


class DiagonalPosterior(AbstractPosterior):
    """S_i = diag(e^(2 t_i)); mean and log scale t, (n, q)."""

    mean: Array
    log_scale: Array

    def draw(self, noise):
        return self.mean + jnp.exp(self.log_scale) * noise

    def log_density(self, noise):
        return -jnp.sum(0.5 * (noise**2 + LOG_2PI) + self.log_scale, axis=-1)

    def divergence(self):
        return 0.5 * jnp.sum(self.mean**2 + jnp.exp(2 * self.log_scale) - 2 * self.log_scale - 1, axis=-1)

    def spread(self, loadings):
        return self.variance() @ (loadings**2).T

    def variance(self):
        return jnp.exp(2 * self.log_scale)


class FullPosterior(AbstractPosterior):
    """S_i = L_i L_i': mean (n, q), lower (n, q, q) with e^(t_i) on its diagonal, log scale t (n, q)."""

    mean: Array
    lower: Array
    log_scale: Array

    def draw(self, noise):
        return self.mean + jnp.einsum("nij,snj->sni", self.lower, noise)

    def log_density(self, noise):
        return -jnp.sum(0.5 * (noise**2 + LOG_2PI) + self.log_scale, axis=-1)

    def divergence(self):
        trace = jnp.sum(self.lower**2, axis=(-2, -1))
        q = self.mean.shape[-1]
        return 0.5 * (trace + jnp.sum(self.mean**2, axis=-1) - q) - jnp.sum(self.log_scale, axis=-1)

    def spread(self, loadings):
        return jnp.sum(jnp.einsum("pj,njk->npk", loadings, self.lower) ** 2, axis=-1)

    def variance(self):
        return jnp.sum(self.lower**2, axis=-1)


class Features(eqx.Module):
    """What an encoder sees of measurements: (y - place) / unit; place and unit (p,) are constants."""

    place: Array
    unit: Array

    def __call__(self, y: Array, x: Array, offset: Array) -> Array:
        """The row (n, p), its covariates (n, d) and the mean of its offset, side by side."""
        scaled = (y - lax.stop_gradient(self.place)) / lax.stop_gradient(self.unit)
        return jnp.concatenate([scaled, x, jnp.mean(offset, axis=-1, keepdims=True)], axis=-1)


class Rates(eqx.Module):
    """What an encoder sees of counts: (log(1 + y e^(t - o)) - place) / unit, o the mean offset, t a typical one.

    Rows that differ by their exposure alone look alike but for noise, and their exposure is told beside.
    """

    place: Array
    unit: Array
    typical: Array

    def __call__(self, y: Array, x: Array, offset: Array) -> Array:
        """The row (n, p), its covariates (n, d) and the mean of its offset less t, side by side."""
        depth = jnp.mean(offset, axis=-1, keepdims=True) - lax.stop_gradient(self.typical)
        seen = jnp.log1p(y * jnp.exp(-jnp.clip(depth, -LARGEST_LOG_RATE, LARGEST_LOG_RATE)))
        scaled = (seen - lax.stop_gradient(self.place)) / lax.stop_gradient(self.unit)
        return jnp.concatenate([scaled, x, depth], axis=-1)


class Excess(eqx.Module):
    """What an encoder sees of a Poisson-lognormal row, given its covariates x and offset o; missing counts are neutral.

    The row tells of its latent position by C'y alone. So beside (log(1 + y) - place) / unit there are

        asinh(P'(y - r) / (1 + h)),   log(1 + h),   h = (P * P)'r,   r = exp(level + o + x'B),

    a Newton step of the row's position from the mean, each direction by itself, and what it rests on. `place`, `unit`,
    `level` (p,) and B (d, p) are constants; P (p, q) begins as C.
    """

    place: Array
    unit: Array
    level: Array
    coef: Array
    directions: Array

    def __call__(self, y: Array, x: Array, offset: Array) -> Array:
        """The p scaled counts, q excesses, q logs of h, the covariates and the mean offset of rows, side by side."""
        seen = offset > NO_EXPOSURE / 2
        still = lax.stop_gradient
        scaled = jnp.where(seen, (jnp.log1p(y) - still(self.place)) / still(self.unit), 0)
        rate = jnp.exp(jnp.minimum(offset + still(self.level) + x @ still(self.coef), LARGEST_LOG_RATE))
        weight = rate @ self.directions**2
        excess = jnp.arcsinh((y - rate) @ self.directions / (1 + weight))
        depth = jnp.sum(jnp.where(seen, offset, 0), axis=-1, keepdims=True)
        depth = depth / jnp.maximum(jnp.sum(seen, axis=-1, keepdims=True), 1)
        return jnp.concatenate([scaled, excess, jnp.log1p(weight), x, depth], axis=-1)


class Skip(eqx.Module):
    """A network and an affine way around it: x -> f(x) + x W."""

    network: Network
    around: Array

    def __call__(self, rows: Array) -> Array:
        """What comes out for rows (..., k)."""
        return self.network(rows) + rows @ self.around


class AbstractEncoder(eqx.Module):
    """q(w_i | y_i, x_i, o_i) by a network."""

    @abstractmethod
    def __call__(self, y: Array, x: Array, offset: Array) -> AbstractPosterior:
        """The Gaussians of rows y (n, p) with covariates x (n, d) and offsets (n, 1 or p)."""


class DiagonalEncoder(AbstractEncoder):
    """Network outputs (m, t), 2 q numbers."""

    features: Features | Rates | Excess
    network: Network | Skip

    def __call__(self, y, x, offset):
        mean, log_scale = jnp.split(self.network(self.features(y, x, offset)), 2, axis=-1)
        return DiagonalPosterior(mean, jnp.clip(log_scale, *LOG_SCALES))


class FullEncoder(AbstractEncoder):
    """Network outputs (m, t, L'), 2 q + q^2 numbers, of which those of L' above its diagonal are not used."""

    features: Features | Rates | Excess
    network: Network | Skip
    rank: int = eqx.field(static=True)

    def __call__(self, y, x, offset):
        q = self.rank
        out = self.network(self.features(y, x, offset))
        log_scale = jnp.clip(out[..., q : 2 * q], *LOG_SCALES)
        below = jnp.tril(out[..., 2 * q :].reshape(*out.shape[:-1], q, q), -1)
        lower = below + jnp.exp(log_scale)[..., None] * jnp.eye(q, dtype=out.dtype)
        return FullPosterior(out[..., :q], lower, log_scale)


class PointEncoder(AbstractEncoder):
    """An autoencoder's: a position without any spread, q numbers."""

    features: Features | Rates
    network: Network

    def __call__(self, y, x, offset):
        mean = self.network(self.features(y, x, offset))
        return DiagonalPosterior(mean, jnp.full_like(mean, -jnp.inf))
