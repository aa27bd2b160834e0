"""Directions of standard errors by reflections: every product is that of the p x p array, and none is made.

Start at `test_products_are_those_of_the_square`. The slow twins write R out. Parts of the columns are in
`test_pieces.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.inference.coordinates import Coordinates, bound_coordinates, coordinates
from poplin.laws import Expected
from poplin.models.loadings import BorrowedBasis, FreeLoadings, outward
from poplin.updates.structure import Full, Model, Spherical
from tests import twins
from tests.programs import at_once
from tests.tolerances import close

SIZES = [(1, 1), (5, 1), (5, 4), (5, 5), (12, 3), (60, 1), (60, 7), (60, 59), (60, 60)]


def square(loadings: np.ndarray, root: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """R (p, p): C, and what a complete QR decomposition of s C leaves over."""
    q = loadings.shape[1]
    left_over = np.linalg.qr(root[:, None] * loadings, mode="complete")[0][:, q:]
    return np.concatenate([loadings @ turn, left_over / root[:, None]], axis=1)


def given(p: int, q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loadings, roots of mean rates from 0.1 to 10, and a rotation."""
    random = np.random.default_rng([p, q])
    loadings, root = random.normal(size=(p, q)), np.exp(random.uniform(-2.3, 2.3, p))
    return loadings, root, np.linalg.qr(random.normal(size=(q, q)))[0]


@pytest.mark.parametrize(("p", "q"), SIZES)
def test_products_are_those_of_the_square(p: int, q: int) -> None:
    parts, x = given(p, q), np.random.default_rng(1).normal(size=(2, 3, p))
    with double_precision():
        made = outward(*parts)
        told = at_once(lambda r, a: (r.gradients(a), r.by_column(a), r.moves(a), r.numbers(a)), made, x)
    whole = square(*parts)
    inverse = np.linalg.inv(whole)
    for actual, factor in zip(told, (whole, inverse, whole.T, inverse.T), strict=True):
        assert close(actual, x @ factor)


def test_a_latent_that_does_nothing_moves_nothing() -> None:
    """C of a lower rank than it has columns: R is singular, and what it can do it does by the numbers that it tells."""
    (loadings, root, _), x = given(12, 3), np.random.default_rng(1).normal(size=(2, 12))
    loadings[:, 2] = 0
    with double_precision():
        made = outward(loadings, root, np.eye(3))
        moved, again = at_once(lambda r, a: (r.moves(a), r.moves(r.numbers(r.moves(a)))), made, x)
    assert close(moved, x @ square(loadings, root, np.eye(3)).T) and close(again, moved)


class Case:
    """A fitted model by hand, rows at positions with a covariance, and what is free."""

    def __init__(self, kind: str, p: int, q: int) -> None:
        random, d = np.random.default_rng([p, q, 7]), 2
        loadings = np.linalg.qr(random.normal(size=(p, q)))[0] * np.linspace(0.1, 2, q)
        self.model = Model(jnp.asarray(random.normal(size=(d, p))), jnp.asarray(loadings))
        rate, free = jnp.asarray(np.exp(random.normal(size=p))), FreeLoadings()
        self.here = {
            "rank": lambda: coordinates(None, free, self.model, rate),
            "full": lambda: coordinates(Full(jnp.asarray(0.0)), None, self.model, rate),
            "spherical": lambda: coordinates(Spherical(), None, self.model, rate),
            "basis": lambda: coordinates(None, BorrowedBasis(jnp.asarray(loadings)), self.model, rate),
            "bound": lambda: bound_coordinates(None, free, self.model, diagonal=True),
        }[kind]()
        n = 3
        y, x = random.poisson(2.0, (n, p)).astype(float), random.normal(size=(n, d))
        self.block = as_block(y, x, np.zeros((n, p)), np.ones(n))
        self.w, half = random.normal(size=(n, q)), 0.3 * random.normal(size=(n, q, q))
        self.covariance = half @ np.swapaxes(half, 1, 2)
        self.rate = np.exp(random.normal(size=(n, p)))
        self.axes = random.normal(size=(p, 2))
        self.numbers = random.normal(size=(2, self.here.size()))


def told(here: Coordinates, block: Any, *arrays: Any) -> tuple[Any, ...]:
    """Everything that is asked of coordinates."""
    w, covariance, rate, axes, numbers = arrays
    features = here.features(w, block)
    hessian = jnp.einsum("nj,nk,nl->jkl", rate, features, features)
    return (
        here.scores(w, rate, block),
        here.expected_scores(w, covariance, Expected(-rate, rate, rate), block),
        here.complete(jnp.asarray(3.0), block.x.T @ block.x, hessian),
        *here.tangents(numbers),
        here.coef_tangents(numbers),
        here.axis_tangents(numbers, axes),
    )


def by_the_square(case: Case) -> tuple[np.ndarray, ...]:
    """The same pair by pair, with R written out."""
    here, block, d, (p, q) = case.here, case.block, 2, case.model.loadings.shape
    loadings, r = np.asarray(here.model.loadings), np.asarray(here.outward.moves(jnp.eye(p))).T
    held, tie = (
        np.asarray(here.held),
        np.eye(len(here.pairs[0])) if here.tie is None else np.asarray(here.tie),
    )
    x, features = np.asarray(block.x), np.concatenate([np.asarray(block.x), case.w], axis=1)
    excess, pairs = np.asarray(block.y) - case.rate, list(zip(*map(np.asarray, here.pairs), strict=True))
    scores, expected = np.zeros((2, len(x), len(pairs)))
    complete = np.zeros((len(pairs), len(pairs)))
    for s, (a, b) in enumerate(pairs):
        own = a - d == b and held[b]
        by_counts = excess @ r[:, b]
        scores[:, s] = features[:, a] * (case.w[:, b] if held[b] else by_counts) - own
        expected[:, s] = scores[:, s]
        if a >= d and held[b]:
            expected[:, s] += case.covariance[:, a - d, b]
        elif a >= d:
            lean = np.einsum("nj,jl,j->nl", case.rate, loadings, r[:, b])
            expected[:, s] -= np.einsum("nl,nl->n", case.covariance[:, a - d], lean)
        for t, (e, f) in enumerate(pairs):
            if held[b] != held[f]:
                continue
            seen = np.einsum("nj,n,n->j", case.rate, features[:, a], features[:, e])
            complete[s, t] = np.sum(r[:, b] * r[:, f] * seen)
            if held[b]:
                prior = x[:, a] @ x[:, e] if max(a, e) < d else 3.0 * (a == e)
                complete[s, t] = (b == f) * prior * (1 + (own and e - d == f))
    moved = np.zeros((2, d + q, p))
    for (a, b), number in zip(pairs, tie @ case.numbers.T, strict=True):
        moved[:, a] += number[:, None] * r[:, b]
    sigma = loadings @ moved[:, d:] + np.swapaxes(loadings @ moved[:, d:], 1, 2)
    along = np.einsum("jk,mjl,lk->mk", case.axes, sigma, case.axes)
    return scores @ tie, expected @ tie, tie.T @ complete @ tie, moved[:, :d], sigma, moved[:, :d], along


KINDS = [
    ("rank", 5, 1),
    ("rank", 7, 3),
    ("bound", 6, 2),
    ("basis", 6, 2),
    ("full", 4, 4),
    ("spherical", 4, 4),
]


@pytest.mark.parametrize(("kind", "p", "q"), KINDS)
def test_what_coordinates_tell_is_told_by_the_square(kind: str, p: int, q: int) -> None:
    with double_precision():
        case = Case(kind, p, q)
        if kind == "rank":
            assert q == 1 or len(set(np.asarray(case.here.held[:q]).tolist())) == 2  # latents of both kinds
        actual = at_once(
            told, case.here, case.block, case.w, case.covariance, case.rate, case.axes, case.numbers
        )
        expected = by_the_square(case)
    for one, other in zip(actual, expected, strict=True):
        assert close(one, other)


def test_tangents_along_axes_are_derivatives_of_eigenvalues() -> None:
    with double_precision():
        case = Case("rank", 7, 3)
        loadings = np.asarray(case.here.model.loadings)
        axes = np.linalg.eigh(loadings @ loadings.T)[1][:, :-4:-1]
        sigma, slopes = at_once(
            lambda here, a, v: (here.tangents(a)[1][0], here.axis_tangents(a, v)[0]),
            case.here,
            case.numbers,
            axes,
        )
    moved = lambda t, k: np.linalg.eigvalsh(loadings @ loadings.T + t * np.asarray(sigma))[-1 - k]
    expected = [twins.slope_along(lambda t, k=k: moved(t, k)) for k in range(3)]
    assert np.allclose(slopes, expected, atol=1e-8)


def shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Of all arrays that a program makes, and the programs inside it."""
    for line in jaxpr.eqns:
        yield from (variable.aval.shape for variable in line.outvars)
        for inner in jax.tree.leaves(list(line.params.values()), is_leaf=lambda a: hasattr(a, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from shapes(inner.jaxpr)


def test_no_program_has_a_square() -> None:
    """Of 4000 columns, at rank 2: no array of what is told of a low rank has two sides of that length."""
    p, q = 4000, 2
    with double_precision():
        case = Case("rank", p, q)
        outer = jnp.zeros((3, 2 + q, p))

        def program(here: Coordinates, outer: Any, *arrays: Any) -> Any:
            w, covariance, rate, axes, numbers = arrays
            return (
                here.factors(w, rate, case.block),
                here.expected_scores(w, covariance, Expected(-rate, rate, rate), case.block),
                here.part_scores(*here.by_column(outer), jnp.arange(20)),
                here.coef_tangents(numbers),
                here.axis_tangents(numbers, axes),
                here.outward.numbers(rate),
            )

        arrays = case.w, case.covariance, case.rate, case.axes, case.numbers
        made = list(shapes(jax.make_jaxpr(program)(case.here, outer, *arrays).jaxpr))
    assert len(made) > 50 and all(sum(size >= p for size in shape) < 2 for shape in made)


MEASURED = """
import resource, sys, warnings
from pathlib import Path
import numpy as np
import poplin
from poplin.data.counts import as_counts
from poplin.fitting import directions
from poplin.fitting.driver import Result
from poplin.inference import information
from poplin.report import files

directions.SIMULATED_ROWS, directions.SIMULATED_ROWS_EACH, information.NUMBERS = 100, 1, 2_000_000
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
p, random = int(sys.argv[1]), np.random.default_rng(0)
coef, loadings = random.normal(1, 0.5, (1, p)), random.normal(0, 0.5, (p, 1))
counts = random.poisson(np.exp(coef + random.normal(size=(20, 1)) @ loadings.T)).astype(float)
trace = {"phase": np.array(["ml"]), "iteration": np.ones(1), "objective": np.ones(1), "seconds": np.ones(1)}
fit = poplin.PLN(rank=1)
fit._take(
    Result(coef, loadings, False, "full", 0.0, 0.0, None, None, True, False, trace, ()), as_counts(counts)
)
fit.seconds_ = 1000.0
before, told = peak(), fit.standard_errors()
assert told.covariance is None and told.variances.shape == told.coef[0].shape == (p,)
assert np.isfinite([told.variances, told.coef[0]]).mean() > 0.9
for which in ("covariance", "correlation"):
    assert len(fit.confint(which, entries=[(0, 1), (5, p - 1)])) == 2
assert len(fit.confint()) == p and fit.summary()
files.write_results(fit, Path(sys.argv[2]))
assert "covariance_" not in vars(fit)
print(peak() - before)
"""


def test_nothing_that_a_fit_of_rank_one_shows_takes_a_square(tmp_path: Any) -> None:
    """Standard errors, intervals, summary and report of 9000 columns take less than one would, programs included."""
    p = 9000
    run = [sys.executable, "-c", MEASURED, str(p), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < p**2 * 8 / 2**20
