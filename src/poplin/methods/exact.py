"""Maximum likelihood by numerical integration: the log-likelihood itself as an objective of the L-BFGS loop.

Start at `Likelihood`: rows keep nothing, the sums are the log-likelihood and its gradient in (B, C). It is climbed by
`variational.QuasiNewton`, whose stopping rule is the expected gain of a step: the norm of the gradient in the metric
of the curvature.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Scalar
from poplin.data.blocks import Block
from poplin.laws import AbstractLaw, with_parameters
from poplin.methods.bounds import AbstractBound, parted, under
from poplin.models.loadings import AbstractLoadings
from poplin.rows.nodes import AbstractRule
from poplin.starts import First, with_law
from poplin.updates.direct import LEAST_SD
from poplin.updates.own import own_penalty, own_scores, penalised
from poplin.updates.structure import Model


class Likelihood(AbstractBound):
    """sum_i w_i log p(y_i; B, C) - penalty, by the nodes of `rule`.

    penalty = tr(B' level B) / 2 + weak |C|^2 / 2 + least sum_j 0.01^2 / Sigma_jj
              + kappa [log det R + tr(R^-1) - p] / 2,
    R the correlations of Sigma = C C': the weak priors that "ml" has (`LowRank`, `Direct`), and its shrinkage (`Full`);
    kappa is zero unless a free Sigma is shrunk. The parameters of `law`, the last shared unknowns, have "ml"'s
    weak prior as well; None: the rows' own law as it is. Cost: see the rule.
    """

    loadings: AbstractLoadings
    rule: AbstractRule
    weak: Scalar = eqx.field(converter=jnp.asarray)
    least: Scalar = eqx.field(converter=jnp.asarray)
    kappa: Scalar = eqx.field(converter=jnp.asarray)
    level: Array
    law: AbstractLaw | None = None

    def measure(self, shared, unknown, block):
        free, own = parted(self.law, shared)
        block = under(self.law, own, block)
        coef, loadings = self.loadings.expand(free)
        rows = jnp.sum(block.weights)
        # the penalty travels as a weighted mean over rows, so that blocks can be added
        penalty = rows * (self.penalty(loadings) + 0.5 * jnp.sum(coef * (self.level @ coef)))
        loglik, scores, slopes = self.rule.loglik_and_scores(block, coef, loadings)
        if self.law is None:
            return (), (block.weights @ loglik, penalty, rows, (*scores, ()))
        law = with_parameters(self.law, own)
        scores = (*scores, tuple(jax.tree.leaves(own_scores(law, slopes, block))))
        return (), (block.weights @ loglik, penalty + rows * own_penalty(law), rows, scores)

    def value(self, total):
        value, penalty, rows, scores = total
        return value - penalty / rows, scores

    def slope(self, shared, profile, unknown, kept, block):
        return (), ()

    def shared_slope(self, shared, profile, total):
        for_coef, for_loadings, for_law = profile
        shared, own = parted(self.law, shared)
        coef, loadings = self.loadings.expand(shared)
        for_coef = for_coef - self.level @ coef
        for_loadings = for_loadings - jax.grad(self.penalty)(loadings)
        if self.law is not None:
            law, score = (with_parameters(self.law, a) for a in (own, for_law))
            for_law = tuple(jax.tree.leaves(penalised(law, score)))
        return *self.loadings.pull_back(shared, for_coef, for_loadings), *for_law

    def penalty(self, loadings: Array) -> Scalar:
        """Minus the log prior of C, in nats."""
        weak = 0.5 * self.weak * jnp.sum(loadings**2)
        least = jax.lax.cond(self.least > 0, lambda c: self._least(c), lambda _: jnp.zeros(()), loadings)
        shrink = jax.lax.cond(self.kappa > 0, lambda c: self._shrinkage(c), lambda _: jnp.zeros(()), loadings)
        return weak + least + shrink

    def _least(self, loadings: Array) -> Scalar:
        return self.least * jnp.sum(LEAST_SD**2 / jnp.sum(loadings**2, axis=1))

    def _shrinkage(self, loadings: Array) -> Scalar:
        unit = loadings / jnp.linalg.norm(loadings, axis=1)[:, None]
        correlation = unit @ unit.T
        lower = jnp.linalg.cholesky(correlation)
        inverse = jax.scipy.linalg.cho_solve((lower, True), jnp.eye(len(lower)))
        logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))
        return 0.5 * self.kappa * (logdet + jnp.trace(inverse) - len(lower))


def first_values(free: AbstractLoadings, block: Block, model: Model, law: AbstractLaw) -> First:
    """Where the climb begins, and the square roots of the curvatures that scale it.

    A count of rate a tells of the mean of eta, where that has the variance v, a / (1 + a v): this much a row for B_j
    along x_i^2, and for C_j or its log scale.
    """
    variance = jnp.sum(model.loadings**2, axis=1)
    rate = jnp.maximum(block.y, 0.25)
    weighted = block.weights[:, None] * rate / (1 + rate * variance)
    for_coef = 1 + (block.x**2).T @ weighted
    for_loadings = jnp.broadcast_to(1 + jnp.sum(weighted, axis=0)[:, None], model.loadings.shape)
    scales = tuple(jnp.sqrt(c) for c in free.curvature(for_coef, for_loadings))
    first = First(free.collapse(model.coef, model.loadings), scales, (), ())  # type: ignore[arg-type]
    return with_law(first, law, block)
