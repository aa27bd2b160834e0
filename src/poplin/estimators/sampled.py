"""Monte-Carlo EM as phases of ever more draws, and how well its chains mixed.

Start at `fit`. Every phase begins where the one before ended, with chains whose Gaussians are fitted anew.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.estimators import phases
from poplin.estimators.phases import Fitted, Recipe
from poplin.estimators.pilot import PILOT_ROWS, asked_for
from poplin.estimators.recipes import count
from poplin.estimators.tasks import Ended, Task
from poplin.fit import run
from poplin.methods import mcmc
from poplin.methods.options import MCMC
from poplin.rows import nuts
from poplin.rows.gaussian import fit_rows
from poplin.updates.covariance import Full
from poplin.updates.structure import Model

LOOKS, SETTLING, LOOKED = 4, 50, 200  # chains of a row, moves that do not count, and moves that do
NUMBERS = 20_000_000  # most numbers of the draws that are looked at


def fit(options: MCMC, task: Task) -> Ended:
    """Phases with twice as many draws each, until the averaged iterates no longer move."""
    draws = count(options.draws, "draws", least=1)
    most = count(options.most_draws, "most_draws", least=draws)
    done, kappa = [task.begin()], task.kappa()
    if isinstance(task.recipe.shape, Full) and task.weight is None and not done[-1].outcome.interrupted:
        done.append(_phase(task, done, draws, PILOT_ROWS))
        kappa = asked_for(task.recipe, task.block, done[-1].model)
    before = len(done)
    limit = before + -(-task.main.max_iter // mcmc.STEPS)
    used = [draws]
    while len(done) < limit and not done[-1].outcome.interrupted:
        done.append(_phase(task, done, used[-1], kappa))
        if done[-1].outcome.converged or not np.all(np.isfinite(np.asarray(done[-1].model.loadings))):
            break
        used.append(min(2 * used[-1], most))
    extras: dict[str, Any] = {"draws_": np.array(used[: len(done) - before])}
    if not done[-1].outcome.interrupted:
        extras |= mixing(task.block, done[-1].model, jax.random.fold_in(task.key, 1_000))
    return Ended(done, kappa, extras)


def _phase(task: Task, done: list[Fitted], draws: int, kappa: float) -> Fitted:
    recipe: Recipe = phases.with_shrinkage(task.recipe, kappa)
    model, settings = done[-1].model, task.main
    method = mcmc.MonteCarloEM(recipe.structure(weak=True), draws, settings.tol)
    chains = _begin(task.block, model)
    outcome = run(
        method,
        mcmc.First(model, chains, jax.random.fold_in(task.key, len(done))),
        task.block,
        phase="mcmc",
        max_iter=mcmc.STEPS,
        began=settings.began,
        callback=settings.callback,
    )
    return Fitted(_estimate(method, outcome.state), None, outcome)


@compiled()
def _begin(block: Block, model: Model) -> nuts.Chains:
    return nuts.begin(fit_rows(block, *model))


@compiled()
def _estimate(method: mcmc.MonteCarloEM, state: mcmc.State) -> Model:
    return method.estimate(state)


def mixing(block: Block, model: Model, key: Array) -> dict[str, np.ndarray]:
    """R-hat and effective draws of each row (n,), the worst of its dimensions, of 4 chains with 200 draws each.

    They begin at draws from the row's Gaussian, twice as wide. Of very many rows some are looked at, the others NaN.
    """
    from blackjax.diagnostics import effective_sample_size, potential_scale_reduction

    n, q = len(block.index), model.loadings.shape[1]
    looked = np.unique(np.linspace(0, n - 1, min(n, max(1, NUMBERS // (LOOKS * LOOKED * q)))).astype(int))
    part = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[looked]), block)
    draws = np.asarray(_looked_at(part, model, key))
    with np.errstate(all="ignore"):
        rhat, size = (
            np.asarray(measure(draws)).reshape(len(looked), q)  # it drops axes of length one
            for measure in (potential_scale_reduction, effective_sample_size)
        )
    found = {"rhat_": np.full(n, np.nan), "chain_effective_draws_": np.full(n, np.nan)}
    found["rhat_"][looked], found["chain_effective_draws_"][looked] = rhat.max(axis=1), size.min(axis=1)
    return found


@compiled()
def _looked_at(block: Block, model: Model, key: Array) -> Array:
    """Draws of w, (chains, draws, n, q)."""
    first = nuts.begin(fit_rows(block, *model))

    def chain(number):
        own = jax.random.fold_in(key, number)
        wide = first._replace(position=2 * jax.random.normal(own, first.position.shape))

        def step(chains, s):
            adapt = 1.0 * (s < SETTLING)
            chains, _ = nuts.move(jax.random.fold_in(own, s), chains, block, *model, adapt=adapt)
            return chains, nuts.latent(chains)

        return jax.lax.scan(step, wide, jnp.arange(SETTLING + LOOKED))[1][SETTLING:]

    return jax.lax.map(chain, jnp.arange(LOOKS))
