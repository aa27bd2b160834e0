"""`python -m benchmarks.accelerator`: the same fits on the processor and on an accelerator, estimates and seconds.

Each device has a process of its own (`JAX_PLATFORMS=cpu`, then whatever JAX finds first), and a file of what it found,
which is read where it is there: the two need not run at once. Every fit is run twice and the second is timed, so that
compiling is left out. The estimates' distances are relative to the largest entry:
`variational` stops by its gradient's norm and has one answer; the chains of `ml` take the same steps only until a
rounding turns an acceptance, so they are compared after five iterations as well as at the stop, where they differ by
Monte-Carlo error. Writes `accelerator.csv`. Start at `FITS`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.measure import REPOSITORY, facts
from benchmarks.scaling import Law, draw

EPOCHS = 10
COLUMNS = (
    *("fit", "rows", "columns", "iterations", "processor_s", "accelerator_s", "processor_first_s"),
    *("accelerator_first_s", "processor_ms", "accelerator_ms", "distance", "accelerator", "jax"),
    *("commit", "date", "cpu", "cores", "python"),
)


def counted(**how: Any) -> Callable[[np.ndarray], dict[str, Any]]:
    """A fit of a Poisson-lognormal model: what it estimates."""

    def fit(counts: np.ndarray) -> dict[str, Any]:
        import poplin

        found = poplin.PLN(**how).fit(counts)
        return {"iterations": int(found.n_iter_), "coef": found.coef_, "covariance": found.covariance_}

    return fit


def trained(**how: Any) -> Callable[[np.ndarray], dict[str, Any]]:
    """Training of a network for some epochs: the bound it reaches."""

    def fit(counts: np.ndarray) -> dict[str, Any]:
        import poplin

        found = poplin.VAE(10, max_epochs=EPOCHS, patience=None, **how).fit(counts)
        steps = EPOCHS * -(-len(counts) // found.batch_size)
        return {"iterations": steps, "bound": found.history_["bound"].to_numpy()[-1:]}

    return fit


FITS = {
    "variational, free Sigma": counted(method="variational", shrinkage=0),
    "variational, rank 20": counted(method="variational", rank=20),
    "ml, free Sigma, 5 iterations": counted(method="ml", shrinkage=0, max_iter=5),
    "ml, free Sigma": counted(method="ml", shrinkage=0),
    "ml, rank 20": counted(method="ml", rank=20),
    "VAE, 2 x 128": trained(likelihood="negative-binomial", hidden=(128, 128)),
}


def main(arguments: list[str] | None = None) -> None:
    """Both devices, one line a fit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--fits", default=";".join(FITS), help="divided by semicolons")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--child", type=Path, help="fit on JAX's first device, and write to this file")
    chosen = parser.parse_args(arguments)
    if chosen.child:
        child(chosen)
        return
    chosen.out.mkdir(parents=True, exist_ok=True)
    processor, accelerator = (on(platform, chosen) for platform in ("cpu", None))
    lines = []
    for name in processor["fits"]:
        lines.append(line(name, processor["fits"][name], accelerator["fits"][name]))
        lines[-1] |= {"rows": chosen.rows, "columns": chosen.columns, "accelerator": accelerator["device"]}
        lines[-1] |= {"jax": accelerator["jax"]} | accelerator["facts"]
        print(*(lines[-1][key] for key in COLUMNS[:11]), sep=" | ")
    records.write(chosen.out / "accelerator.csv", lines, COLUMNS)


def on(platform: str | None, chosen: argparse.Namespace) -> dict[str, Any]:
    """What the fits took and found on this platform; None: JAX's first."""
    environment = dict(os.environ)
    environment.pop("JAX_PLATFORMS", None)
    if platform:
        environment["JAX_PLATFORMS"] = platform
    kept = chosen.out / f"accelerator-{platform or 'first'}.json"
    how = ["--rows", str(chosen.rows), "--columns", str(chosen.columns), "--fits", chosen.fits]
    command = [sys.executable, "-m", "benchmarks.accelerator", *how, "--child", str(kept)]
    if not kept.exists():
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    return json.loads(kept.read_text())


def child(chosen: argparse.Namespace) -> None:
    """Every fit twice: seconds of both, what the second found."""
    import jax

    counts = draw(Law(chosen.rows, chosen.columns, 20)).counts
    told: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "facts": facts()}
    told["fits"] = {}
    for name in chosen.fits.split(";"):
        seconds, found = [], {}
        for _ in range(2):
            begun = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = FITS[name](counts)
            seconds.append(time.perf_counter() - begun)
        print(told["device"], name, *(f"{one:.2f} s" for one in seconds), found["iterations"], flush=True)
        found = {key: np.asarray(value).tolist() for key, value in found.items()}
        told["fits"][name] = found | {"seconds": seconds}
        chosen.child.write_text(json.dumps(told))


def line(name: str, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Seconds side by side, and how far apart the estimates are."""
    apart = [
        np.max(np.abs(np.subtract(one[key], other[key]))) / np.max(np.abs(one[key]))
        for key in ("coef", "covariance", "bound")
        if key in one
    ]
    told: dict[str, Any] = {"fit": name, "iterations": f"{one['iterations']}, {other['iterations']}"}
    for device, found in (("processor", one), ("accelerator", other)):
        first, second = found["seconds"]
        told |= {f"{device}_first_s": round(first, 2), f"{device}_s": round(second, 2)}
        told[f"{device}_ms"] = round(1000 * second / found["iterations"], 3)
    return told | {"distance": float(f"{max(apart):.2g}")}


if __name__ == "__main__":
    main()
