"""`python -m benchmarks.neural`: training cells per second of a Poisson VAE, compile time told apart.

One table (n x p drawn from a Poisson-lognormal law), one architecture, one batch size and one number of threads; where
scvi-tools is installed, its SCVI of the same sizes in a process of its own, on the same threads. Rates are counted
between the first report of the loop and the last, so compiling is not in them. Writes `neural.csv`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.measure import REPOSITORY, THREAD_VARIABLES, facts

# fmt: off
COLUMNS = (
    "contender", "likelihood", "posterior", "rows", "columns", "hidden", "latent", "batch", "threads", "epochs",
    "cells_per_s", "compile_s", "wall_s", "product_share", "commit", "date", "cpu", "cores", "python", "versions",
)
# fmt: on
SETTINGS = {"rows": 10_000, "columns": 100, "hidden": 128, "latent": 10, "batch": 128, "epochs": 30}


def main(arguments: list[str] | None = None) -> None:
    """Run the contenders, each in a process with the asked number of threads, and write the lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neural", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--likelihood", default="poisson")
    parser.add_argument("--posterior", default="diagonal")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    for name, value in SETTINGS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args(arguments)
    task = {k: v for k, v in vars(chosen).items() if k not in ("out", "child")}
    if chosen.child is not None:
        print(json.dumps(CONTENDERS[chosen.child](task)))
        return
    lines = []
    for name, package in (("poplin", "poplin"), ("scvi-tools", "scvi")):
        if importlib.util.find_spec(package) is None:
            print(f"{name} is not installed: left out")
            continue
        line = {"contender": name} | task | _in_child(name, task) | facts()
        lines.append(line)
        share = f", {line['product_share']:.0%} of the matrix-product rate" if "product_share" in line else ""
        print(
            f"{name}: {line['cells_per_s']:,.0f} cells/s, first report after {line['compile_s']:.1f} s{share}"
        )
    records.write(chosen.out.resolve() / "neural.csv", lines, COLUMNS)


def _in_child(name: str, task: dict[str, Any]) -> dict[str, Any]:
    threads = str(task["threads"])
    command = [sys.executable, "-m", "benchmarks.neural", "--child", name]
    command += [part for k, v in task.items() for part in (f"--{k}", str(v))]
    cores = sorted(os.sched_getaffinity(0))[: task["threads"]]
    command = ["taskset", "-c", ",".join(map(str, cores)), *command]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | dict.fromkeys(THREAD_VARIABLES, threads),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(task: dict[str, Any]) -> np.ndarray:
    """Counts with three strong latent directions, mean about 3."""
    random = np.random.default_rng(0)
    loadings = 0.5 * random.normal(size=(3, task["columns"]))
    return random.poisson(np.exp(0.8 + random.normal(size=(task["rows"], 3)) @ loadings)).astype(float)


def poplin_rate(task: dict[str, Any]) -> dict[str, Any]:
    """Cells per second of `poplin.VAE` between the first and the last report, and its share of the product rate."""
    import poplin

    seen: list[tuple[int, float]] = []
    began = time.perf_counter()
    fit = poplin.VAE(
        task["latent"],
        posterior=task["posterior"],
        likelihood=task["likelihood"],
        hidden=(task["hidden"],),
        batch_size=task["batch"],
        max_epochs=task["epochs"],
        kl_warmup=5,
        validation_fraction=0.0,
        patience=None,
        callback=lambda progress: seen.append((progress.iteration, time.perf_counter())),
    ).fit(table(task))
    batches = -(-task["rows"] // task["batch"])
    rate = (seen[-1][0] - seen[0][0]) / (seen[-1][1] - seen[0][1]) / batches * task["rows"]
    return {
        "cells_per_s": rate,
        "compile_s": seen[0][1] - began,
        "wall_s": fit.seconds_,
        "product_share": rate / product_rate(task),
    }


def product_rate(task: dict[str, Any]) -> float:
    """Cells per second if only the matrix products of a step were done: forward, and two for every gradient."""
    import jax
    import jax.numpy as jnp

    p, h, q, b = (task[name] for name in ("columns", "hidden", "latent", "batch"))
    sizes = [(p, h), (h, 2 * q), (q, h), (h, p)]
    arrays = [(jnp.ones((b, i)), jnp.ones((i, o)), jnp.ones((b, o))) for i, o in sizes]

    @jax.jit
    def many(arrays: Any) -> Any:
        def step(_: Any, arrays: Any) -> Any:
            return [(x + 1e-30 * (g @ w.T), w + 1e-30 * (x.T @ g), g + 1e-30 * (x @ w)) for x, w, g in arrays]

        return jax.lax.fori_loop(0, 300, step, arrays)

    jax.block_until_ready(many(arrays))
    began = time.perf_counter()
    jax.block_until_ready(many(arrays))
    return 300 * b / (time.perf_counter() - began)


def scvi_rate(task: dict[str, Any]) -> dict[str, Any]:
    """Cells per second of scvi-tools' SCVI, epochs after the first."""
    import anndata
    import scvi
    import torch

    torch.set_num_threads(task["threads"])
    data = anndata.AnnData(table(task).astype(np.float32))
    scvi.model.SCVI.setup_anndata(data)
    likelihood = {"negative-binomial": "nb"}.get(task["likelihood"], task["likelihood"])
    model = scvi.model.SCVI(
        data, n_hidden=task["hidden"], n_latent=task["latent"], n_layers=1, gene_likelihood=likelihood
    )
    settings = {
        "batch_size": task["batch"],
        "train_size": 1.0,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    began = time.perf_counter()
    model.train(max_epochs=1, **settings)
    first = time.perf_counter()
    model.train(max_epochs=5, **settings)
    last = time.perf_counter()
    return {
        "cells_per_s": 5 * task["rows"] / (last - first),
        "compile_s": first - began,
        "wall_s": last - began,
    }


CONTENDERS = {"poplin": poplin_rate, "scvi-tools": scvi_rate}

if __name__ == "__main__":
    main()
