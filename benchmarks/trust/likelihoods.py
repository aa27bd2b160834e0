"""Log-likelihoods of rows against quadrature, in few and in many dimensions; start at `line`.

Two kinds of Sigma make log p(y) exact however many columns there are: independent ones (a sum of integrals of one
dimension), and one common factor beside them (the same, integrated over the factor). The loadings are rotated, which
changes nothing but what the estimator sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

TITLE = "Log-likelihoods in many dimensions"
QUESTION = (
    "How far is a row's log-likelihood from quadrature, does its standard error say so, and what does it cost? Before: "
    "the same rows with a Student density around each row's Gaussian alone, which was all there was."
)
INDEPENDENT, FACTOR, RANK_ONE = "independent", "common factor", "rank 1"
# kind, columns, mean of Z, its standard deviation, rows
DESIGNS = (
    (INDEPENDENT, 10, 0.0, 1.0, 400),
    (INDEPENDENT, 20, 3.0, 1.0, 400),
    (RANK_ONE, 100, 0.0, 1.0, 400),
    (INDEPENDENT, 30, -1.0, 1.5, 300),
    (FACTOR, 30, 0.0, 1.0, 300),
    (INDEPENDENT, 60, -1.0, 3.0, 300),
    (FACTOR, 60, -1.0, 3.0, 200),
    (INDEPENDENT, 250, -2.0, 3.0, 60),
    (FACTOR, 250, -2.0, 3.0, 40),
    (INDEPENDENT, 500, 0.0, 1.0, 24),
    (INDEPENDENT, 500, -2.0, 3.0, 24),
)
SEEDS = 2
SHARE = 0.5  # of a variance that is the common factor's
REPEATS = 3  # of which the shortest is told
NODES, REACH = 400, 8.0  # of the integral over the common factor


def tasks() -> list[dict[str, Any]]:
    """Designs by seeds."""
    return [
        {"kind": kind, "p": p, "level": level, "sd": sd, "n": n, "seed": seed}
        for seed in range(SEEDS)
        for kind, p, level, sd, n in DESIGNS
    ]


def line(task: dict[str, Any]) -> dict[str, Any]:
    """Errors, stated errors and seconds of the estimator, and of what it was before."""
    import jax
    import jax.numpy as jnp

    from poplin._numerics import double_precision
    from poplin.data.blocks import as_block
    from poplin.inference.likelihood import row_loglik

    random = np.random.default_rng([task["seed"], task["p"]])
    loadings = _loadings(task)
    n, q = task["n"], loadings.shape[1]
    latent = random.normal(size=(n, q)) @ loadings.T
    y = random.poisson(np.exp(np.minimum(task["level"] + latent, 18.0))).astype(float)
    rotation = np.linalg.qr(random.normal(size=(q, q)))[0]
    with double_precision():
        block = as_block(y, np.ones((n, 1)), np.zeros_like(y), np.ones(n), prior=False)
        coef = jnp.full((1, task["p"]), task["level"])
        exact = _exact(task, y)
        turned = jnp.asarray(loadings @ rotation)

        def ask(seed: int) -> Any:
            return row_loglik(jax.random.key(seed), block, coef, turned)

        def ask_before(seed: int) -> Any:
            with _as_before():
                return ask(seed)

        (now, seconds), (before, seconds_before) = _timed([ask, ask_before], task["seed"])
    told = _told(now, exact, ~now.unsure) | {"unsure": int(now.unsure.sum()), "seconds": seconds}
    return told | {f"{k}_before": v for k, v in (_told(before, exact) | {"seconds": seconds_before}).items()}


def _loadings(task: dict[str, Any]) -> np.ndarray:
    p, sd = task["p"], task["sd"]
    if task["kind"] == INDEPENDENT:
        return sd * np.eye(p)
    if task["kind"] == RANK_ONE:
        return sd * np.ones((p, 1))
    return np.linalg.cholesky(sd**2 * ((1 - SHARE) * np.eye(p) + SHARE))


def _exact(task: dict[str, Any], y: np.ndarray) -> np.ndarray:
    """Quadrature, (n,); of a common factor by the trapezoid rule over it, on the row's own range."""
    import jax.numpy as jnp
    from scipy.special import logsumexp
    from scipy.stats import norm, poisson

    from poplin.data.blocks import as_block
    from poplin.inference.likelihood import independent_loglik

    n, p = y.shape
    alone = np.full(p, task["sd"] * (1.0 if task["kind"] == INDEPENDENT else np.sqrt(1 - SHARE)))

    def given(rows: np.ndarray, offset: np.ndarray) -> np.ndarray:
        block = as_block(rows, np.ones((len(rows), 1)), offset, np.ones(len(rows)), prior=False)
        return independent_loglik(block, jnp.full((1, p), task["level"]), jnp.asarray(alone))

    if task["kind"] == INDEPENDENT:
        return given(y, np.zeros_like(y))
    by_factor = task["sd"] * (1.0 if task["kind"] == RANK_ONE else np.sqrt(SHARE))

    def at(row: np.ndarray, factor: np.ndarray) -> np.ndarray:
        offset = np.repeat(by_factor * factor[:, None], p, axis=1)
        if task["kind"] == RANK_ONE:
            rate = np.exp(np.minimum(task["level"] + offset, 50.0))
            return poisson.logpmf(row, rate).sum(axis=1) + norm.logpdf(factor)
        return given(np.repeat(row[None], len(factor), axis=0), offset) + norm.logpdf(factor)

    found = np.empty(n)
    for i, row in enumerate(y):
        factor = np.linspace(-REACH, REACH, NODES)
        coarse = at(row, factor)
        likely = factor[coarse > coarse.max() - 60]  # so fine a grid that each is many nodes wide
        step = factor[1] - factor[0]
        factor = np.linspace(likely[0] - step, likely[-1] + step, NODES)
        found[i] = logsumexp(at(row, factor)) + np.log(factor[1] - factor[0])
    return found


@contextmanager
def _as_before() -> Iterator[None]:
    """No row is drawn column by column."""
    from poplin.inference import likelihood

    kept = likelihood.LARGEST_SKEWNESS, likelihood.ENOUGH
    likelihood.LARGEST_SKEWNESS, likelihood.ENOUGH = np.inf, 0.0
    try:
        yield
    finally:
        likelihood.LARGEST_SKEWNESS, likelihood.ENOUGH = kept


def _timed(asks: list[Callable[[int], Any]], seed: int) -> list[tuple[Any, float]]:
    """What each says, and the shortest of some times, taken in turns, compilation left out."""
    found = [ask(seed) for ask in asks]
    shortest = [np.inf] * len(asks)
    for _ in range(REPEATS):
        for k, ask in enumerate(asks):
            began = time.perf_counter()
            ask(seed)
            shortest[k] = min(shortest[k], time.perf_counter() - began)
    return list(zip(found, shortest, strict=True))


def _told(found: Any, exact: np.ndarray, sure: np.ndarray | None = None) -> dict[str, Any]:
    off = found.value - exact
    sure = np.ones(len(exact), bool) if sure is None else sure
    return {
        "mean": float(off.mean()),
        "largest": float(np.abs(off).max()),
        "beyond": int(np.sum(np.abs(off[sure]) > 3 * found.standard_error[sure])),
        "se": float(np.median(found.standard_error)),
        "sum": float(off.sum()),
        "sum_se": float(np.linalg.norm(found.standard_error)),
    }


def words(lines: pd.DataFrame) -> str:
    """One line a design, seeds together."""
    head = (
        "| design | rows | mean error | largest | stated (median) | beyond 3 stated | unsure | ms a row "
        "| before: mean error | largest | stated | beyond 3 | ms a row | time, now / before |\n"
        + "|---" * 14
        + "|\n"
    )
    body = ""
    for (kind, p, level, sd), some in lines.groupby(["kind", "p", "level", "sd"], sort=False):
        rows = int(some["n"].sum())
        ratio = some["seconds"] / some["seconds_before"]
        body += f"| {kind}, {p:.0f} columns, mean {level:g}, sd {sd:g} | {rows} "
        for end in ("", "_before"):
            beyond = some["beyond" + end].sum() / rows
            body += (
                f"| {np.average(some['mean' + end], weights=some['n']):+.4f} | {some['largest' + end].max():.3f} "
                f"| {some['se' + end].mean():.4f} | {beyond:.1%} "
            )
            body += f"| {some['unsure'].sum():.0f} " if not end else ""
            body += f"| {1e3 * (some['seconds' + end] / some['n']).min():.2f} "
        body += f"| {ratio.min():.2f} to {ratio.max():.2f} |\n"
    return (
        head
        + body
        + "\nErrors are nats a row, the estimate less quadrature. Of errors that are as stated, 0.3 % are "
        "beyond three. Loadings are rotated at random; half of each variance is the common factor's.\n"
    )
