"""Fits made on one device, on several, and by several processes: what they are, and a program that makes them.

Start at `FITS`. `python -m tests.devices FILE NAME ...` writes the estimates of the fits of these names; with the
variables of `poplin.cli.joining` it is one of several processes. Fits of which there is a checkpoint also go on
from it, into gone_on.npz. `started` and `ended` run it, with a limit of time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import poplin
from poplin._numerics import hurried
from poplin.inference import summary
from tests.instances import TABLES, autoregressive, orthonormal, simulated

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600.0  # seconds after which a program that hangs is killed; each needs a twentieth of it
SAME = {"bound": 1e-6, "ml, begun": 1e-5}  # how far apart fits may be, by how they are called
ESTIMATES = ("coef_", "covariance_", "latent_mean_")
STOP, EVERY = 12, 5  # iterations until a fit is stopped, and between two checkpoints
FEW = {"shrinkage": 0, "max_iter": 5}


class Case(NamedTuple):
    """A table, as `PLN.fit` takes it, and the settings of a fit."""

    table: dict[str, Any]
    settings: dict[str, Any]


def some(name: str, rows: int = 37) -> dict[str, Any]:
    """Rows of an instance: no number of devices divides 37."""
    return TABLES[name].rows(slice(rows)).arguments()


def many(columns: int) -> dict[str, Any]:
    """1001 rows, so that each has one chain only: with 50 columns in single precision.

    Sigma is far from singular. Near it the short variational fit that chains begin from follows another path, and ends
    elsewhere, where sums are taken in another order, on one device too.
    """
    return simulated(5, np.linalg.cholesky(0.6 * autoregressive(columns, 0.6)), n=1001).arguments()


def tight(**settings: Any) -> dict[str, Any]:
    """The bound, until its gradient is as good as zero: at an expected gain of 1e-16 of the bound, sums are rounded."""
    return {"method": "variational", "tol": 1e-15} | settings


FITS: dict[str, Case] = {
    "bound": Case(some("weighted"), tight()),
    "bound, rank, two starts": Case(some("missing"), tight(rank=2, n_init=2)),
    "bound, basis": Case(some("weighted"), tight(basis=orthonormal(4, 2))),
    "bound, full Gaussians": Case(some("missing"), tight(posterior="full", tol=1e-11)),
    "bound, fewer rows than devices": Case(some("plain", 5), tight(covariance="spherical")),
    "ml, begun": Case(some("missing"), FEW),
    "ml, begun, rank": Case(some("weighted"), FEW | {"rank": 2}),
    "ml, begun, one chain in single precision": Case(many(50), FEW),
    "ml": Case(some("weighted"), {}),
}


def fitted(name: str, **more: Any) -> poplin.PLN:
    """A fit without its warnings of convergence."""
    case = FITS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return poplin.PLN(**case.settings, **more).fit(**case.table)


def estimates(name: str, **more: Any) -> dict[str, np.ndarray]:
    """What is compared."""
    fit = fitted(name, **more)
    return {f"{name}: {part}": getattr(fit, part) for part in ESTIMATES}


@cache
def alone(name: str) -> dict[str, np.ndarray]:
    """What is compared, of the fit that this process makes on its one device."""
    return estimates(name)


def stopped(name: str, path: Path) -> None:
    """Begin a fit, and stop it in its main phase; its checkpoint stays."""

    def tell(progress: Any) -> None:
        if progress.phase in ("ml", "variational") and progress.iteration >= STOP:
            raise KeyboardInterrupt

    assert fitted(name, checkpoint=path, checkpoint_every=EVERY, callback=tell).interrupted_


def gap(name: str, one: dict[str, np.ndarray], other: Any) -> float:
    """How far the estimates of a fit are apart, at most, in parts of the largest of them."""
    parts = [f"{name}: {part}" for part in ESTIMATES]
    return max(float(np.max(np.abs(one[k] - other[k])) / max(1.0, np.max(np.abs(one[k])))) for k in parts)


def within_monte_carlo_error(estimated: Any) -> bool:
    """Whether estimates of "ml" are as near to those of one device as two fits of the same likelihood are."""
    fit = fitted("ml")
    told = summary.coef_interval(fit)
    assert told is not None
    variance = np.diag(fit.covariance_)
    of_covariance = np.sqrt((np.outer(variance, variance) + fit.covariance_**2) / len(FITS["ml"].table["Y"]))
    # each of two fits stops when its own error is a fifth of a standard error; four times their difference's
    most = 4 * np.sqrt(2) * 0.2
    of_coef = np.abs(estimated["ml: coef_"] - fit.coef_) <= most * told.se
    return bool(
        np.all(of_coef)
        and np.all(np.abs(estimated["ml: covariance_"] - fit.covariance_) <= most * of_covariance)
    )


def check(name: str, one: dict[str, np.ndarray], other: Any) -> None:
    """What is asked of the estimates of a fit, beside those of one device."""
    if name == "ml":
        assert within_monte_carlo_error(other)
    else:
        found = gap(name, one, other)
        assert found <= next(SAME[kind] for kind in SAME if name.startswith(kind)), f"{name}: {found}"


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def program(*names: str) -> list[str]:
    """The program that makes these fits, writing to out.npz."""
    return ["-m", "tests.devices", "out.npz", *names]


def by_name(number: int, processes: int, port: int) -> dict[str, str]:
    """The variables that say to a process who takes part."""
    told = {"JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(number)}
    return told | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}


def by_slurm(number: int, processes: int, port: int) -> dict[str, str]:
    """What srun says to a process."""
    told = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(processes)}
    told |= {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
    return told | {
        "JAX_COORDINATOR_PORT": str(port)
    }  # else it follows from the job's number, and may be taken


def started(
    words: list[str],
    folder: Path,
    *,
    processes: int = 1,
    devices: int = 1,
    tell: Callable[[int, int, int], dict[str, str]] = by_name,
) -> list[Any]:
    """Begin `python ...` in so many processes that know of each other, with so many devices each."""
    port, begun = free_port(), []
    for number in range(processes):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        told = {"XLA_FLAGS": flags}
        told |= tell(number, processes, port) if processes > 1 else {}
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = os.environ | told | {"PYTHONPATH": paths}
        with open(folder / f"heard{number}.txt", "w") as heard:
            how = {"cwd": folder, "env": environment, "stdout": heard, "stderr": heard}
            begun.append(subprocess.Popen([sys.executable, *words], **how))  # type: ignore[call-overload]
    return begun


def ended(begun: list[Any], *, within: float = PATIENCE) -> list[int]:
    """Wait for all; those that take longer are killed, and told by the exit code -9."""
    for child in begun:
        try:
            child.wait(within)
        except subprocess.TimeoutExpired:
            child.kill()
    return [child.wait() for child in begun]


def heard(folder: Path, number: int) -> str:
    """What a process said, on one line."""
    return " ".join((folder / f"heard{number}.txt").read_text().split())


def main() -> None:
    """Make the fits; the first process writes. Those with a checkpoint are made by going on too, and leave another."""
    import jax

    from poplin.cli import joining

    if joining.MANY in os.environ:
        joining.join()
    made, gone_on, folder = {}, {}, Path(sys.argv[1]).absolute().parent
    with hurried(tells_all=False):  # as the tests do, beside whose numbers these are held
        for name in sys.argv[2:]:
            made |= estimates(name)
            if (folder / f"{name}.npz").exists():
                gone_on |= estimates(name, **going_on(folder, name))
                stopped(name, folder / f"{name}, again.npz")
    if jax.process_index() == 0:
        np.savez(sys.argv[1], devices=jax.device_count(), processes=jax.process_count(), **made)
        np.savez(folder / "gone_on.npz", **gone_on)
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def going_on(folder: Path, name: str) -> dict[str, Any]:
    """The settings that go on from a checkpoint."""
    return {"checkpoint": folder / f"{name}.npz", "checkpoint_every": 10_000}


if __name__ == "__main__":
    main()
