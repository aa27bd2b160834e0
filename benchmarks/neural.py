"""`python -m benchmarks.neural`: training cells per second of an autoencoder, and time to the same held-out bound.

A setting is a table, an architecture and a batch size: `speed` (10000 x 100 counts from a Poisson-lognormal law),
`pbmc3k` (2638 x 2000 counts) and `mnist` (images, two tanh layers of 200, binarised anew). Every contender runs in a
process of its own with the same number of threads on the same cores; scvi-tools (SCVI, same sizes, counts only) in the
interpreter that --peer-python names, which needs neither poplin nor JAX. Rates are counted between the first report and
the last, so compiling is not in them. `products` runs the matrix products of a step and nothing else: its rate is the
most that any of them can reach. Writes `neural.csv`, a line a contender; times mean something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.measure import REPOSITORY, THREAD_VARIABLES, facts
from benchmarks.neural_contenders import CONTENDERS, SETTINGS

# fmt: off
COLUMNS = (
    "setting", "contender", "likelihood", "posterior", "rows", "columns", "hidden", "latent", "batch", "threads",
    "epochs", "cells_per_s", "gflops", "product_share", "compile_s", "forward_us", "gradient_us", "step_us",
    "best_bound", "target_bound", "seconds_to_target", "commit", "date", "cpu", "cores", "python", "versions",
)
# fmt: on


def main(arguments: list[str] | None = None) -> None:
    """Run the contenders and write their lines in place of older ones of the same setting and threads."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neural", description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, default="speed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--posterior", default="diagonal")
    parser.add_argument("--peer-python", default=None, help="an interpreter that has scvi-tools")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child is not None:
        task = json.loads(chosen.child)
        print(json.dumps(CONTENDERS[task["contender"]](task)))
        return
    task = SETTINGS[chosen.setting] | {"setting": chosen.setting, "threads": chosen.threads}
    task |= {"posterior": chosen.posterior} | ({} if chosen.epochs is None else {"epochs": chosen.epochs})
    pythons = {"products": sys.executable, "poplin": sys.executable}
    if chosen.peer_python is not None and task["likelihood"] != "bernoulli":
        pythons["scvi-tools"] = chosen.peer_python
    lines = [_in_child(python, task | {"contender": name}) for name, python in pythons.items()]
    _compare(lines)
    path = chosen.out.resolve() / "neural.csv"
    same = {(line["setting"], line["contender"], str(line["threads"])) for line in lines}
    older = [line for line in records.read(path) if _key(line) not in same]
    records.write(path, [*older, *lines], COLUMNS)


def _key(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["setting"], line["contender"], str(line["threads"])


def _in_child(python: str, task: dict[str, Any]) -> dict[str, Any]:
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: task["threads"]]))
    command = ["taskset", "-c", cores, python, "-m", "benchmarks.neural", "--child", json.dumps(task)]
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(task["threads"]))
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{task['contender']} failed:\n{done.stderr[-2000:]}")
    hidden = " ".join(map(str, task["hidden"]))
    return task | {"hidden": hidden} | json.loads(done.stdout.splitlines()[-1]) | facts()


def _compare(lines: list[dict[str, Any]]) -> None:
    """Add the share of the products' rate, and the time to the lowest of the contenders' best bounds; tell them."""
    products = lines[0]["cells_per_s"]
    curves = {line["contender"]: np.array(line["curve"]) for line in lines if "curve" in line}
    target = min(curve[:, 1].max() for curve in curves.values())
    for line in lines:
        line["product_share"] = line["cells_per_s"] / products
        told = f"{line['contender']}: {line['cells_per_s']:,.0f} cells/s, {line['product_share']:.0%} of the products"
        if line["contender"] in curves:
            curve = curves[line["contender"]]
            reached = curve[np.argmax(curve[:, 1] >= target), 0]
            line |= {"best_bound": curve[:, 1].max(), "target_bound": target, "seconds_to_target": reached}
            told += f"; held-out bound {target:.2f} after {reached:.1f} s, compiling {line['compile_s']:.1f} s beside"
        print(told)


if __name__ == "__main__":
    main()
