"""The commands of several hospitals: three parties that share nothing but files, and what these files tell.

Start at `journey`, which the coordinator and two hospitals go through, each in a folder and processes of its own.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest

import poplin
import poplin.cli
from poplin.estimators.common_basis import load_point
from poplin.report.sites import MEANING, Home, common_axes

CODES = [f"C{j}" for j in range(7)] + ["few"]
ROWS, RANK, FEW = 150, 2, 10
WHO, ODD_COUNT, ODD_AGE = "patient-7f3a9", 313, 91.73846
FORMULA, OFFSET = "~ age", "log(months)"


def write_hospital(folder: Path, seed: int) -> pandas.DataFrame:
    """counts.csv and facts.csv of a hospital: `few` patients have one code, one has a count that nobody else has."""
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(len(CODES), RANK)))[0]
    months, age = random.integers(6, 36, ROWS), random.normal(50, 10, ROWS).round(5)
    latent = random.normal(size=(ROWS, RANK)) * np.array([1.5, 0.8]) @ axes.T
    rate = np.exp(latent + 0.02 * (age - 50)[:, None] - 2 + np.log(months)[:, None])
    counts = random.poisson(rate)
    counts[:, -1] = np.arange(ROWS) < FEW
    counts[3, 0], age[3] = ODD_COUNT, ODD_AGE
    names = [f"patient-{random.integers(16**5, 16**6):x}" for _ in range(ROWS)]
    names[3] = WHO
    table = pandas.DataFrame(counts, index=pandas.Index(names), columns=pandas.Index(CODES))
    table["<script>other"] = random.poisson(1.0, ROWS)
    table.to_csv(folder / "counts.csv")
    pandas.DataFrame({"age": age, "months": months}, index=pandas.Index(names)).to_csv(folder / "facts.csv")
    return table


def command(folder: Path, *words: str) -> str:
    """Run `poplin ...` in a process whose folder it is; what it said."""
    asked = [sys.executable, "-m", "poplin", *words]
    ended = subprocess.run(asked, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


class Journey(NamedTuple):
    """The folders of the three parties, the files that left the hospitals, and the table of the first."""

    coordinator: Path
    hospitals: dict[str, Path]
    left: list[Path]
    table: pandas.DataFrame


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """Plan, fits, pool, refits, pool."""
    root = tmp_path_factory.mktemp("journey")
    folders = {name: root / name for name in ("coordinator", "mgh", "bwh")}
    for folder in folders.values():
        folder.mkdir()
    coordinator = folders.pop("coordinator")
    tables = {name: write_hospital(folder, seed) for seed, (name, folder) in enumerate(folders.items(), 5)}
    (coordinator / "codes.csv").write_text("code\n" + "\n".join(CODES) + "\n")
    words = ("--rank", str(RANK), "--formula", FORMULA, "--offset", OFFSET, "--out", "plan.json")
    command(coordinator, "plan", "--codes", "codes.csv", *words)
    left = []

    def sent(name: str, file: Path) -> None:
        left.append(file)
        shutil.copy(file, coordinator / file.name)

    for name, folder in folders.items():
        shutil.copy(coordinator / "plan.json", folder)
        given = ("counts.csv", "--plan", "plan.json", "--name", name, "--covariates", "facts.csv")
        command(folder, "site", *given, "--out", name)
        sent(name, folder / name / f"{name}.site.json")
    files = [f"{name}.site.json" for name in folders]
    command(coordinator, "pool", *files, "--plan", "plan.json", "--out", "joint")
    for name, folder in folders.items():
        shutil.copy(coordinator / "joint" / "joint.json", folder)
        command(folder, "site", "--refine", "joint.json", "--keep", f"{name}/keep", "--out", f"{name}2")
        sent(name, folder / f"{name}2" / f"{name}.round2.json")
    files = [f"{name}.round2.json" for name in folders]
    command(coordinator, "pool", *files, "--from", "joint", "--out", "joint2")
    return Journey(coordinator, folders, left, tables["mgh"])


def test_all_files_are_there_and_tell_of_the_same(journey: Journey) -> None:
    for name, folder in journey.hospitals.items():
        first, later = ({path.name for path in (folder / f"{name}{n}").iterdir()} for n in ("", "2"))
        assert first == {f"{name}.site.json", f"{name}.site.html", "keep"}
        assert later == {f"{name}.round2.json", f"{name}.round2.html", "keep", "coef.csv", "scales.csv"}
    pooled = {"joint.json", "basis.csv", "scales.csv", "coef.csv", "sites.csv", "codes.csv", "report.html"}
    for name, rounds in (("joint", 1), ("joint2", 2)):
        there = journey.coordinator / name
        assert {path.name for path in there.iterdir()} == {*pooled, "summaries"}
        assert json.loads((there / "joint.json").read_text())["rounds"] == rounds
        basis = pandas.read_csv(there / "basis.csv", index_col="code")
        np.testing.assert_allclose(basis, common_axes(there / "joint.json"), rtol=1e-12)
        assert list(pandas.read_csv(there / "sites.csv")["site"]) == ["bwh", "mgh"]
        page = (there / "report.html").read_text()
        assert ("First round" in page) == (rounds == 1) and "mgh" in page


def test_the_commands_are_the_python_interface(journey: Journey) -> None:
    """Pooled in one process from the same files, and gone on, V is that of the commands."""
    first, later = (
        [poplin.SiteSummary.load(path) for path in journey.left if word in path.name]
        for word in ("site", "round2")
    )
    fit = poplin.CommonBasis(RANK).fit(first)
    np.testing.assert_allclose(
        fit.basis_, common_axes(journey.coordinator / "joint" / "joint.json"), rtol=1e-9
    )
    fit.update(later)
    np.testing.assert_allclose(
        fit.basis_, common_axes(journey.coordinator / "joint2" / "joint.json"), rtol=1e-9
    )


def test_nothing_of_a_patient_leaves(journey: Journey) -> None:
    """A name, a count, a covariate and a row that are known to be in the table are in no file that leaves."""
    pages = [path.with_suffix(".html") for path in journey.left]
    row = [str(value) for value in journey.table.loc[WHO, CODES]]
    for path in (*journey.left, *pages):
        text = path.read_text()
        assert "patient-" not in text and str(ODD_AGE) not in text
        assert not re.search(rf"(?<![\d.]){ODD_COUNT}(\.0)?(?![\d.])", text), path.name
        assert not any(mark.join(row[:5]) in text for mark in (",", ", ", " "))
        told = json.loads(path.with_suffix(".json").read_text())
        assert not {"y", "counts", "row_names", "x"} & set(told)


def test_a_code_of_few_patients_leaves_no_number(journey: Journey) -> None:
    for path in journey.left:
        assert '"few"' not in path.read_text()
        assert poplin.SiteSummary.load(path).codes == tuple(CODES[:-1])
        page = path.with_suffix(".html").read_text()
        assert re.search(r"<dt>withheld</dt><dd>1, [^:]*: few \(fewer than 11 patients have it\)\.", page)


def test_the_page_shows_every_field_of_the_file(journey: Journey) -> None:
    for path in journey.left:
        page = path.with_suffix(".html").read_text()
        fields = list(json.loads(path.read_text()))
        assert set(fields) == set(MEANING)
        assert re.findall(r"<tr><td><code>(\w+)</code>", page) == fields
        assert "<script>other" not in page and "&lt;script&gt;other" in page


def test_rows_are_placed_along_the_common_axes(journey: Journey) -> None:
    """Positions are V'(Z - XB) of a fit that stands at the joint point of the site."""
    home = journey.hospitals["mgh"]
    joint = journey.coordinator / "joint2" / "joint.json"
    shutil.copy(joint, home / "joint2.json")
    given = ("counts.csv", "--covariates", "facts.csv", "--joint", "joint2.json", "--site", "mgh")
    command(home, "embed", *given, "--keep", "mgh/keep", "--out", "embedding.csv")
    found = pandas.read_csv(home / "embedding.csv", index_col="row")
    assert list(found.index) == list(journey.table.index) and list(found.columns) == ["axis1", "axis2"]
    fit = load_point(joint, "mgh")._replace(axes=None).refitted(poplin.load(home / "mgh/keep/model.npz"))
    assert fit.loadings_ is not None
    facts = pandas.read_csv(home / "facts.csv", index_col=0)
    mean = fit.transform(journey.table[CODES[:-1]], data=facts, offset=np.log(facts["months"]))
    wanted = mean @ fit.loadings_.T @ common_axes(joint).to_numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def a_summary(name: str, plan: poplin.SitePlan, **others: Any) -> poplin.SiteSummary:
    """A summary that nobody's rows are behind."""
    random = np.random.default_rng(len(name))
    p = len(plan.codes)
    size = p + p * plan.rank - plan.rank * (plan.rank - 1) // 2
    axes = np.linalg.qr(np.random.default_rng(2).normal(size=(p, plan.rank)))[0]
    loadings = axes * np.array([2.0, 1.0])[: plan.rank] + 0.05 * random.normal(size=(p, plan.rank))
    point = {"coef": random.normal(size=(1, p)), "loadings": loadings, "root": np.ones(p)}
    quadratic = {"score": np.zeros(size), "information": 400.0 * np.eye(size), "score_noise": 0.0}
    words = {"plan": plan.fingerprint, "codes": plan.codes, "covariates": ("Intercept",), "rows": 300}
    rest = {"loglik": -900.0, "loglik_se": 0.01, "round": 1}
    return poplin.SiteSummary(name=name, **(words | point | quadratic | rest | others))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files of a study, and with some that are wrong."""
    folder = tmp_path_factory.mktemp("study")
    plan = poplin.SitePlan(tuple("abcdef"), 2)
    plan.save(folder / "plan.json")
    other = dataclasses.replace(plan, rank=1)
    other.save(folder / "other.json")
    summaries = [a_summary(name, plan) for name in ("mgh", "bwh")]
    for one in summaries:
        one.save(folder / f"{one.name}.site.json")
    a_summary("mgh", plan, round=2).save(folder / "mgh.round2.json")
    a_summary("bwh", other).save(folder / "foreign.json")
    a_summary("../bwh", plan).save(folder / "climbs.json")
    whole = (folder / "bwh.site.json").read_text()
    (folder / "cut.json").write_text(whole[: len(whole) // 2])
    (folder / "changed.json").write_text(whole.replace('"rows":300', '"rows":"many"'))
    (folder / "joint" / "summaries").mkdir(parents=True)
    poplin.CommonBasis(2).fit(summaries).save(folder / "joint" / "joint.json")
    for one in summaries:
        one.save(folder / "joint" / "summaries" / f"{one.name}.json")
    told = json.loads((folder / "joint" / "joint.json").read_text())
    for point in told["points"]:
        point["covariates"], point["coef"] = ["Intercept", "age"], point["coef"] * 2
    (folder / "coded.json").write_text(json.dumps(told))
    (folder / "keep").mkdir()
    Home("ucla", other, {}, (), (), (0.1, "a")).save(folder / "keep" / "site.json")
    counts = np.random.default_rng(0).poisson(2.0, (40, 6))
    names = [f"row{i}" for i in range(40)]
    pandas.DataFrame(counts, index=pandas.Index(names), columns=pandas.Index(list("abcdef"))).to_csv(
        folder / "counts.csv"
    )
    pandas.DataFrame(counts, index=pandas.Index(names), columns=pandas.Index(list("uvwxyz"))).to_csv(
        folder / "renamed.csv"
    )
    pandas.DataFrame({"ward": ["x"] * 37 + ["y"] * 3}, index=pandas.Index(names)).to_csv(folder / "facts.csv")
    dataclasses.replace(plan, formula="~ ward").save(folder / "wards.json")
    (folder / "codes.csv").write_text("a\nb\nc\n")
    return folder


FIRST = ("site", "counts.csv", "--plan", "plan.json", "--name", "mgh")
POOL = ("pool", "mgh.site.json")
EMBED = ("embed", "counts.csv", "--joint")
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "as many axes as codes": (
        ("plan", "--codes", "codes.csv", "--rank", "3"),
        "codes.csv: rank + remainder is 3",
    ),
    "no file of codes": (("plan", "--codes", "none.csv", "--rank", "3"), "none.csv cannot be read"),
    "no plan": (("site", "counts.csv", "--name", "mgh"), "--plan is missing"),
    "no file of a plan": ((*FIRST[:2], "--plan", "none.json", "--name", "mgh"), "none.json cannot be read"),
    "both rounds": ((*FIRST, "--refine", "joint/joint.json"), "Given are both COUNTS and --refine"),
    "a later round of nothing": (("site", "--refine", "joint/joint.json"), "--keep is missing"),
    "a name that leads elsewhere": ((*FIRST[:4], "--name", "../mgh"), "the site is called '../mgh'"),
    "covariates of no use": ((*FIRST, "--covariates", "facts.csv"), "plan.json has neither a formula"),
    "codes of other names": (("site", "renamed.csv", *FIRST[2:]), "renamed.csv has 0 of the plan's 6 codes"),
    "no covariates": (
        ("site", "counts.csv", "--plan", "wards.json", "--name", "mgh"),
        "counts.csv brings none",
    ),
    "a ward of three": (
        ("site", "counts.csv", "--plan", "wards.json", "--name", "mgh", "--covariates", "facts.csv"),
        "Only 3 patients differ from all others in the covariate 'ward[T.y]'",
    ),
    "what was kept is of another plan": (
        ("site", "--refine", "joint/joint.json", "--keep", "keep"),
        "joint.json follows another plan",
    ),
    "nothing was kept": (
        ("site", "--refine", "joint/joint.json", "--keep", "none"),
        "site.json cannot be read",
    ),
    "a damaged file": ((*POOL, "cut.json", "--plan", "plan.json"), "cut.json is not whole"),
    "a changed file": ((*POOL, "changed.json", "--plan", "plan.json"), "changed.json is damaged"),
    "another plan": ((*POOL, "foreign.json", "--plan", "plan.json"), "foreign.json follows another plan"),
    "a site twice": ((*POOL, "mgh.site.json", "--plan", "plan.json"), "are both of the site 'mgh'"),
    "one site": ((*POOL, "--plan", "plan.json"), "mgh.site.json alone is one site"),
    "a site that leads elsewhere": (
        (*POOL, "climbs.json", "--plan", "plan.json"),
        "climbs.json: the site is",
    ),
    "neither plan nor pool before": ((*POOL, "bwh.site.json"), "Neither is given"),
    "a later round at first": (
        ("pool", "bwh.site.json", "mgh.round2.json", "--plan", "plan.json"),
        "later round",
    ),
    "the first round later": (
        (*POOL, "bwh.site.json", "--from", "joint"),
        "mgh.site.json is of the first round",
    ),
    "a pool that is not there": ((*POOL, "bwh.site.json", "--from", "none"), "joint.json cannot be read"),
    "free codes without a site": (
        (*POOL, "bwh.site.json", "--plan", "plan.json", "--free", "a,b"),
        "--free 'a,b' is not a site and its codes",
    ),
    "free codes of another site": (
        (*POOL, "bwh.site.json", "--plan", "plan.json", "--free", "ucla=a"),
        "free names the site 'ucla'",
    ),
    "a free code that is none": (
        (*POOL, "bwh.site.json", "--plan", "plan.json", "--free", "mgh=z"),
        "free names 'z' at 'mgh'",
    ),
    "neither model nor joint": (("embed", "counts.csv"), "Neither is given"),
    "an unknown site": ((*EMBED, "joint/joint.json", "--site", "ucla"), "joint.json has no site 'ucla'"),
    "no site": ((*EMBED, "joint/joint.json"), "Say whose rows these are: --site"),
    "a formula alone": ((*EMBED, "coded.json", "--site", "mgh"), "Give its folder: --keep DIR"),
    "another site's home": (
        (*EMBED, "joint/joint.json", "--site", "mgh", "--keep", "keep"),
        "of the site 'ucla'",
    ),
}


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    """Run `poplin ...` in a folder; gives the exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["poplin", *words])
    with pytest.raises(SystemExit) as ended:
        poplin.cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def ask(study: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `poplin ...` in the folder of the study."""
    return lambda *words: call(monkeypatch, study, *words)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_input_is_told_and_leaves_nothing(
    ask: Callable[..., int], study: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    words, said = BAD[kind]
    before = set(study.rglob("*"))
    assert ask(*words, "--out", "new") == 2
    told = capsys.readouterr()
    assert said in " ".join(told.err.split()) and "Traceback" not in told.err
    assert told.out == "" and set(study.rglob("*")) == before


def test_without_a_formula_the_joint_model_is_enough(ask: Callable[..., int], study: Path) -> None:
    """Positions are those of a fit of the rows that stands at the joint point."""
    given = ("joint/joint.json", "--site", "mgh", "--out", "embedding.csv", "--quiet")
    assert ask(*EMBED, *given) == 0
    found = pandas.read_csv(study / "embedding.csv", index_col="row")
    (study / "embedding.csv").unlink()
    table = pandas.read_csv(study / "counts.csv", index_col=0)
    fit = poplin.PLN(rank=2, method="variational", posterior="full").fit(table)
    there = load_point(study / "joint" / "joint.json", "mgh")._replace(axes=None).refitted(fit)
    assert there.loadings_ is not None
    basis = common_axes(study / "joint" / "joint.json").loc[list(table.columns)].to_numpy()
    np.testing.assert_allclose(found, there.transform(table) @ there.loadings_.T @ basis, atol=1e-6)


def test_a_second_file_that_differs_is_written_only_again(
    journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same table and seed give the same file; without a patient it is another, which may replace it `--again`."""
    folder = tmp_path / "mgh"
    shutil.copytree(journey.hospitals["mgh"], folder)
    sent = folder / "mgh" / "mgh.site.json"
    words = ("--plan", "plan.json", "--name", "mgh", "--covariates", "facts.csv", "--out", "mgh")
    before = {path: path.read_bytes() for path in (folder / "mgh").rglob("*") if path.is_file()}
    assert call(monkeypatch, folder, "site", "counts.csv", *words) == 0
    assert sent.read_bytes() == before[sent]
    table = pandas.read_csv(folder / "counts.csv", index_col=0)
    table.iloc[:-1].to_csv(folder / "fewer.csv")
    kept = {path: path.read_bytes() for path in before}
    capsys.readouterr()
    assert call(monkeypatch, folder, "site", "fewer.csv", *words) == 2
    assert "says something else" in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in (folder / "mgh").rglob("*") if path.is_file()} == kept
    assert call(monkeypatch, folder, "site", "fewer.csv", *words, "--again") == 0
    assert sent.read_bytes() != before[sent]


def test_a_fit_that_did_not_converge_stays(
    journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mgh"
    shutil.copytree(journey.hospitals["mgh"], folder)
    words = ("--plan", "plan.json", "--name", "mgh", "--covariates", "facts.csv", "--max-iter", "20")
    assert call(monkeypatch, folder, "site", "counts.csv", *words, "--out", "short") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "Nothing is written that leaves" in told and "--max-iter" in told
    assert {path.name for path in (folder / "short").iterdir()} == {"keep"}
    assert not poplin.load(folder / "short" / "keep" / "model.npz").converged_
