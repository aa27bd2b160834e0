"""Programs: compiled once a shape, ahead of time where shapes are known, part of another program where nested.

Start at `test_ahead_is_found_by_the_call`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.compilation_cache import get_file_cache

import poplin
from poplin._numerics import Compiled, compiled, double_precision, meanwhile
from tests.instances import MODELS, TABLES, fit


def counted() -> tuple[Compiled, list[tuple[int, ...]]]:
    """A function that writes down each shape it is traced with."""
    seen = []

    @compiled(static_argnames="power")
    def cube(a, *, power):
        seen.append(a.shape)
        return jnp.sum(a**power)

    return cube, seen


def test_ahead_is_found_by_the_call():
    cube, seen = counted()
    meanwhile(lambda: cube.ahead(jax.ShapeDtypeStruct((3,), jnp.float32), power=3)).result()
    assert float(cube(jnp.full(3, 2.0, jnp.float32), power=3)) == 24.0
    assert seen == [(3,)], "traced again: the call did not find what was compiled ahead"
    assert cube.shapes(jax.ShapeDtypeStruct((3,), jnp.float32), power=2).shape == ()


def test_inside_another_program_it_is_part_of_that():
    cube, _ = counted()
    assert float(jax.jit(lambda a: cube(a, power=2) + 1)(jnp.ones(2))) == 3.0
    assert cube.programs() == 0


def test_another_thread_works_in_the_callers_precision():
    kinds = []
    for double in (False, True):
        with jax.enable_x64(double):
            meanwhile(lambda: kinds.append(jnp.asarray(np.ones(1)).dtype)).result()
    assert kinds == [jnp.float32, jnp.float64]


KEPT = "import jax, poplin._numerics; jax.jit(lambda a: a * 3 + 1)(2.0)"


def test_half_of_a_kept_program_is_replaced(tmp_path: Path):
    """What a killed process left is told once; the next process finds it whole."""
    caches = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    ended = lambda *words: subprocess.run(
        [sys.executable, *words, "-c", KEPT], env=os.environ | caches, capture_output=True, check=True
    )
    ended()
    kept = list(tmp_path.glob("*-cache"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:40])
    assert b"persistent compilation cache" in ended().stderr
    ended("-W", "error")
    assert set(tmp_path.iterdir()) == set(kept)


def test_a_program_is_not_kept_by_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = get_file_cache(str(tmp_path))
    assert found is not None
    write = type(tmp_path).write_bytes

    def torn(path: Path, data: bytes) -> int:
        write(path, data[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tmp_path), "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        found[0].put("program", b"whole")
    assert found[0].get("program") is None
    monkeypatch.undo()
    found[0].put("program", b"whole")
    assert found[0].get("program") == b"whole"


def test_no_product_inside_a_fit_is_rounded_first():
    """Accelerators round single-precision factors to ten bits unless the program says not to."""
    factors = jnp.ones((2, 2), jnp.float32)
    texts = []

    def look() -> None:
        texts.append(jax.jit(lambda a: a @ a).lower(factors).as_text())

    look()
    with double_precision():
        look()
        meanwhile(look).result()
    assert ["precision = [HIGHEST, HIGHEST]" in text for text in texts] == [False, True, True]


@pytest.fixture
def programs() -> Iterator[list[str]]:
    """Names of the programs that XLA compiles while the test runs."""
    names: list[str] = []

    def listen(event: str, _seconds: float, **told: Any) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(told.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("model", ["full", "diagonal", "rank", "basis"])
def test_chains_run_what_was_compiled_ahead(model, programs):
    """The chains' program is asked for twice, ahead and by the call, and compiled once (and one for the bound)."""
    settings = MODELS[model] | {"method": "ml", "max_iter": 20, "tol": 10.0}
    table = TABLES["plain"].rows(slice(0, 31))
    with pytest.warns(poplin.ConvergenceWarning):
        fit(table, **settings)
    chains = 2 + (model == "rank")  # the bound, turning its axes, the chains
    assert programs.count("jit(_advance)") == chains
