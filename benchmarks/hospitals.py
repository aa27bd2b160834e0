"""`python -m benchmarks.hospitals`: the journey of several hospitals on the command line, at size, with its time.

Each step is a process of its own in the folder of the party that runs it; what leaves a hospital is copied from there.
300 codes, 15 axes, five hospitals of 20 000 patients, an age and months of observation, unless told otherwise. One line
a step in `hospitals.csv`, the page is `hospitals.md`. Finished steps are kept, with their folders, so that a journey
that was cut off goes on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy.linalg import subspace_angles

from benchmarks import records, report
from benchmarks.measure import REPOSITORY, facts
from poplin.estimators.common_basis import load_point

COLUMNS = (
    "step", "who", "wall_s", "cpu_s", "peak_mib", "sent_kb", "axes", "frobenius", "said",
    "commit", "date", "cpu", "cores", "python",
)  # fmt: skip
LEVELS = -4.5, 1.0  # mean and standard deviation of the codes' log rates a month
SCALES = 6.0, 0.6  # of the first axis and of the last, before each hospital's own factors
FACTORS = 2.0  # a hospital's variances are up to so many times as large or small
Line = dict[str, Any]


class Study:
    """The parties' folders, and the truth that the tables were drawn from."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.folder, self.rank = chosen.out / "hospitals", chosen.rank
        self.codes = [f"K{j + 1}" for j in range(chosen.codes)]
        self.names = [f"h{k + 1}" for k in range(chosen.hospitals)]
        random = np.random.default_rng(chosen.seed)
        self.basis = np.linalg.qr(random.standard_normal((chosen.codes, chosen.rank)))[0]
        # the codes' own variances: a code is no more varied because there are fewer axes
        size = np.geomspace(*SCALES, chosen.rank) * chosen.codes / chosen.rank / 4
        factors = random.uniform(-1, 1, (chosen.hospitals, chosen.rank))
        self.scales = size * np.exp(np.log(FACTORS) * factors)
        self.levels = random.normal(*LEVELS, (chosen.hospitals, chosen.codes))
        self.ages = random.normal(0, 0.01, (chosen.hospitals, chosen.codes))

    def covariance(self, k: int) -> NDArray[np.float64]:
        """Sigma of a hospital, (p, p)."""
        return self.basis * self.scales[k] @ self.basis.T

    def draw(self, k: int, rows: int, seed: int) -> None:
        """counts.parquet and facts.parquet of a hospital."""
        random, folder = np.random.default_rng([seed, k]), self.folder / self.names[k]
        folder.mkdir(parents=True)
        months, age = random.integers(6, 60, rows), random.normal(50, 15, rows).round(1)
        latent = random.standard_normal((rows, self.rank)) * np.sqrt(self.scales[k]) @ self.basis.T
        eta = self.levels[k] + (age - 50)[:, None] * self.ages[k] + np.log(months)[:, None] + latent
        names = pandas.Index([f"patient {i}" for i in range(rows)], name="patient")
        counts = random.poisson(np.exp(np.minimum(eta, 12.0))).astype(np.int32)
        pandas.DataFrame(counts, index=names, columns=pandas.Index(self.codes)).to_parquet(
            folder / "counts.parquet"
        )
        pandas.DataFrame({"age": age - 50, "months": months}, index=names).to_parquet(
            folder / "facts.parquet"
        )


def main(arguments: list[str] | None = None) -> None:
    """Walk the journey from where it stands, then write the page."""
    chosen = parse(arguments)
    study, path = Study(chosen), chosen.out / "hospitals.csv"
    lines = [] if chosen.anew else records.read(path)
    if not lines:
        shutil.rmtree(study.folder, ignore_errors=True)
        for k in range(chosen.hospitals):
            study.draw(k, chosen.rows, chosen.seed)
        (study.folder / "coordinator").mkdir()
        (study.folder / "coordinator" / "codes.csv").write_text("code\n" + "\n".join(study.codes) + "\n")
    for step, who, words, sent in steps(study):
        if (step, who) in {(line["step"], line["who"]) for line in lines}:
            continue
        line = {"step": step, "who": who} | run(study.folder / who, words)
        for file, to in sent:
            found = study.folder / who / file
            for party in to:
                shutil.copy(found, study.folder / party)
            line["sent_kb"] = round(found.stat().st_size / 1000, 1)
        if step.startswith("pool"):
            line |= errors(study, study.folder / who / words[-1] / "joint.json")
        lines.append(line | facts())
        print({name: lines[-1].get(name) for name in COLUMNS[:9]}, flush=True)
        records.write(path, lines, COLUMNS)
    (chosen.out / "hospitals.md").write_text(markdown(lines, chosen))
    print(f"written: {path}, {chosen.out / 'hospitals.md'}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hospitals", description=__doc__)
    parser.add_argument("--codes", type=int, default=300)
    parser.add_argument("--rank", type=int, default=15)
    parser.add_argument("--hospitals", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000, help="patients of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anew", action="store_true", help="forget what is there")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    return parser.parse_args(arguments)


def steps(study: Study) -> list[tuple[str, str, tuple[str, ...], list[tuple[str, list[str]]]]]:
    """What is done, by whom, the words of its command, and the files that leave, with where to."""
    names, at = study.names, "coordinator"
    model = ("--rank", str(study.rank), "--formula", "~ age", "--offset", "log(months)")
    told: list[tuple[str, str, tuple[str, ...], list[tuple[str, list[str]]]]] = [
        ("plan", at, ("plan", "--codes", "codes.csv", *model, "--out", "plan.json"), [("plan.json", names)])
    ]
    for name in names:
        given = ("site", "counts.parquet", "--plan", "plan.json", "--name", name)
        words = (*given, "--covariates", "facts.parquet", "--out", name)
        told.append(("site, round 1", name, words, [(f"{name}/{name}.site.json", [at])]))
    pool = ("pool", *(f"{name}.site.json" for name in names), "--plan", "plan.json", "--out", "joint")
    told.append(("pool, round 1", at, pool, [("joint/joint.json", names)]))
    for name in names:
        words = ("site", "--refine", "joint.json", "--keep", f"{name}/keep", "--out", f"{name}2")
        told.append(("site, round 2", name, words, [(f"{name}2/{name}.round2.json", [at])]))
    pool = ("pool", *(f"{name}.round2.json" for name in names), "--from", "joint", "--out", "joint2")
    told.append(("pool, round 2", at, pool, [("joint2/joint.json", names[:1])]))
    given = ("embed", "counts.parquet", "--joint", "joint.json", "--site", names[0])
    words = (*given, "--covariates", "facts.parquet", "--keep", f"{names[0]}/keep", "--out", "embedding.csv")
    told.append(("embed", names[0], words, []))
    return told


def run(folder: Path, words: tuple[str, ...]) -> Line:
    """A command in its folder: time, peak memory, the last line that it said; RuntimeError if it failed."""
    began = time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        command = [sys.executable, "-m", "poplin", *words]
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    spoken = (folder / "said.txt").read_text().splitlines()
    if process.returncode:
        raise RuntimeError(f"poplin {' '.join(words)} failed:\n" + "\n".join(spoken[-20:]))
    last = next((line.strip() for line in reversed(spoken) if line.strip()), "")
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "said": last,
    }


def errors(study: Study, joint: Path) -> Line:
    """The widest angle between V's span and the truth's, degrees; Sigma's relative errors by hospital."""
    found = []
    for k, name in enumerate(study.names):
        loadings, truth = load_point(joint, name).loadings, study.covariance(k)
        found.append(np.linalg.norm(loadings @ loadings.T - truth) / np.linalg.norm(truth))
    angle = np.rad2deg(np.max(subspace_angles(load_point(joint, study.names[0]).loadings, study.basis)))
    return {"axes": round(float(angle), 2), "frobenius": " ".join(f"{error:.4f}" for error in found)}


def markdown(lines: list[Line], chosen: argparse.Namespace) -> str:
    """The page: a line a step, and the sums."""
    last = lines[-1]
    where = "; ".join(f"{name} {last.get(name)}" for name in ("date", "cpu", "cores", "python", "commit"))
    rows = [
        (
            *(line[name] for name in ("step", "who", "wall_s", "cpu_s", "peak_mib")),
            *("" if line.get(name) is None else line[name] for name in ("sent_kb", "axes", "frobenius")),
        )
        for line in lines
    ]
    minutes = sum(line["wall_s"] for line in lines) / 60
    header = ("step", "who", "s", "CPU s", "peak MiB", "file that leaves, kB", "widest angle, degrees",
              "Sigma_k, relative Frobenius")  # fmt: skip
    return (
        "\n\n".join(
            [
                "# The journey of several hospitals, at size",
                f"Made by `python -m benchmarks.hospitals`: {chosen.codes} codes, {chosen.rank} axes, "
                f"{chosen.hospitals} hospitals of {chosen.rows} patients; all steps, one after the other, took "
                f"{minutes:.1f} minutes.",
                where,
                report.table(header, rows),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
