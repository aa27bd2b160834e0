"""`python -m benchmarks.kernels`: how near one iteration comes to what the machine can do, n = 50 000, p = 200, q = 20.

The machine's limits are measured first, with nothing else in the program: exponentials of an n x p table, products of
large matrices, and reading and writing an n x p table in place. Then one whole iteration (every sweep and update) of
`ml` and `variational`, rank q and a free Sigma, in the fits' own loop. XLA counts its operations before it fuses them,
and the bytes that its fused loops read and write after, whether they come from memory or a cache. Each count at the
machine's limit is a time: given are the largest's share of the time measured, and that of all three. Writes
`kernels.md`. Start at `main`.
"""

from __future__ import annotations

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import poplin
import poplin.fit
from benchmarks.measure import REPOSITORY, facts
from benchmarks.scaling import Law, draw
from poplin._numerics import double_precision, settings
from poplin.fitting import streamed

REPEATS = 15
PASSES, STEPS = 20, 5  # of a table in place; iterations that are timed together
KINDS = {"single": jnp.float32, "double": jnp.float64}


class Limits(NamedTuple):
    """Seconds an exponential, a product's floating-point operation, and a byte that is read or written."""

    exponential: float
    operation: float
    byte: float


def seconds(call: Callable[[], Any]) -> float:
    """Median time of a call, the first left out; the fastest tenth and the slowest differ by what else is running."""
    jax.block_until_ready(call())
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - begun)
    return float(np.median(found))


def limits(n: int, p: int, kind: Any) -> Limits:
    """The machine's, each by a program that does nothing else."""
    table = jnp.asarray(np.random.default_rng(0).normal(size=(n, p)), kind)
    square = jnp.asarray(np.random.default_rng(1).normal(size=(2000, 2000)), kind)
    exponentials, products = (
        jax.jit(f, compiler_options=settings("usual"))
        for f in (lambda a: jnp.sum(jnp.exp(a)), lambda a: a @ a)
    )
    # adding up the exponentials costs nothing beside them
    return Limits(
        seconds(lambda: exponentials(table)) / (n * p),
        seconds(lambda: products(square)) / (2 * 2000**3),
        _passing(table),
    )


def _passing(table: Any) -> float:
    """Seconds a byte of reading a table and writing it in place: memory not touched yet costs several times as much."""
    step = jax.jit(
        lambda a: jax.lax.fori_loop(0, PASSES, lambda _, b: 1.0001 * b + 1, a),
        compiler_options=settings("usual"),
        donate_argnums=0,
    )
    at = [jnp.array(table)]

    def call() -> Any:
        at[0] = step(at[0])
        return at[0]

    return seconds(call) / (2 * PASSES * table.nbytes)


def last_step(fit: Callable[[], Any]) -> tuple[Any, ...]:
    """What the loop was last given by a fit that sees all rows each time: method, state, rows, block."""
    given: list[tuple[Any, ...]] = []
    advance, parted = poplin.fit._advance, streamed.PARTED

    def watched(method: Any, state: Any, rows: Any, block: Any, budget: Any) -> Any:
        given[:] = [(method, *jax.tree.map(jnp.copy, (state, rows)), block)]
        return advance(method, state, rows, block, budget)

    watched.ahead = advance.ahead  # type: ignore[attr-defined]
    poplin.fit._advance = watched  # type: ignore[assignment]
    streamed.PARTED = streamed.LARGE
    try:
        fit()
    finally:
        poplin.fit._advance, streamed.PARTED = advance, parted
    return given[0]


def iteration(method: Any, state: Any, rows: Any, block: Any) -> Any:
    """Every sweep once, as the loop does."""
    for local, update in method.sweeps():
        rows, total = local(state, rows, block)
        state = update(state, total)
    return state, rows


def looped(method: Any, state: Any, rows: Any, block: Any) -> float:
    """Median seconds of an iteration in the fits' own loop, which hands the rows' memory on from one to the next."""
    method = eqx.tree_at(lambda m: m.tol, method, jnp.zeros_like(method.tol))
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        state, rows, _, taken, *_ = poplin.fit._advance(method, state, rows, block, jnp.asarray(STEPS))
        jax.block_until_ready((state, rows))
        found.append((time.perf_counter() - begun) / int(taken))
    return float(np.median(found[1:]))


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Inside, loops of a known length are traced step by step: XLA counts the operations of a loop's body once."""
    loop = jax.lax.fori_loop

    def steps(lower: Any, upper: Any, body: Any, start: Any, **how: Any) -> Any:
        if not (isinstance(lower, int) and isinstance(upper, int)):
            return loop(lower, upper, body, start, **how)
        for k in range(lower, upper):
            start = body(k, start)
        return start

    jax.lax.fori_loop = steps
    try:
        yield
    finally:
        jax.lax.fori_loop = loop


def measured(law: Law, method: str, counts: np.ndarray) -> dict[str, Any]:
    """Time of an iteration and XLA's count of its operations."""
    form = {"rank": law.rank} if law.rank else {"shrinkage": 0}
    model = poplin.PLN(method=method, max_iter=40, **form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = last_step(lambda: model.fit(counts))
    single = given[2].centre.dtype == jnp.float32 if method == "ml" else False
    with double_precision():
        with written_out():
            steps = jax.jit(lambda *args: iteration(*args), compiler_options=settings("usual")).lower(*given)
            counted, fused = steps.cost_analysis(), steps.compile().cost_analysis()
        return {
            "kind": "single" if single else "double",
            "seconds": looped(*given),
            "exponentials": counted.get("transcendentals", float("nan")),
            "operations": counted["flops"],
            "bytes": fused["bytes accessed"],
        }


def line(law: Law, method: str, found: dict[str, Any], limit: Limits) -> list[str]:
    """A line of the table; of all exponentials and operations the n p ones decide."""
    entries, model = law.rows * law.columns, f"rank {law.rank}" if law.rank else "free Sigma"
    at_limit = {
        "exponentials": found["exponentials"] * limit.exponential,
        "products": found["operations"] * limit.operation,
        "memory": found["bytes"] * limit.byte,
    }
    dominant = max(at_limit, key=lambda name: at_limit[name])
    numbers = (
        f"{1000 * found['seconds']:.0f}",
        f"{found['exponentials'] / entries:.2f}",
        f"{found['operations'] / entries:.0f}",
        f"{found['bytes'] / entries:.0f}",
        *(f"{1000 * value:.0f}" for value in at_limit.values()),
        f"{dominant}, {at_limit[dominant] / found['seconds']:.0%}",
        f"{sum(at_limit.values()) / found['seconds']:.0%}",
    )
    return [method, model, found["kind"], *numbers]


HEADER = ("method", "model", "precision", "ms", "exponentials / n p", "operations / n p", "bytes / n p")
HEADER = (*HEADER, "ms at the limit: exponentials", "products", "memory", "dominant, its share", "all three")


def main(arguments: list[str] | None = None) -> None:
    """Limits, four iterations, the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    chosen = parser.parse_args(arguments)
    law = Law(chosen.rows, chosen.columns, chosen.rank)
    with double_precision():
        limit = {name: limits(law.rows, law.columns, kind) for name, kind in KINDS.items()}
    rows = []
    for form in (law, law._replace(rank=0)):
        counts = draw(form).counts
        for method in ("ml", "variational"):
            found = measured(form, method, counts)
            rows.append(line(form, method, found, limit[found["kind"]]))
            print(*rows[-1], sep=" | ", flush=True)
    told = [
        f"- {name}: {1e9 * one.exponential:.2f} ns an exponential, {1e-9 / one.operation:.0f} GFLOP/s in products of "
        f"2000 x 2000, {1e-9 / one.byte:.1f} GB/s"
        for name, one in limit.items()
    ]
    table = [list(HEADER), ["---"] * len(HEADER), *rows]
    where = ", ".join(f"{name} {value}" for name, value in facts().items())
    page = [where, "", *told, "", *("| " + " | ".join(row) + " |" for row in table)]
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "kernels.md").write_text("\n".join(page) + "\n")
    print(*told, sep="\n")


if __name__ == "__main__":
    main()
