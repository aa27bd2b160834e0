"""What the commands of several hospitals leave behind: tables, and pages of what leaves a site and of the joint fit.

Start at `write_site` and `write_joint`; `positions` places rows under a joint model. The page of a site is made from
the bytes of the file that leaves, so that it shows what is in it, and nothing that is thought to be. Names that come
from files are escaped.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin._numerics import double_precision
from poplin.data.counts import Coding, as_new_rows
from poplin.data.tables import CountTable, listed
from poplin.fitting.driver import Result
from poplin.models.loadings import principal_axes
from poplin.report import figures, files, html
from poplin.sites.plan import SitePlan, behind, numbers, opened, write_json
from poplin.sites.summaries import SiteSummary
from poplin.store import written_together

if TYPE_CHECKING:
    import pandas

    from poplin.estimators.common_basis import CommonBasis, SitePoint
    from poplin.estimators.pln import PLN

SHOWN, SHOWN_CODES, SHOWN_TESTS = 8, 8, 12  # numbers of a field; codes of an axis; lines of a test
KEPT = "site.json"
MEANING = {
    "format": "Says that poplin wrote this file.",
    "version": "Of the format.",
    "kind": "Of the file: the summary of one site.",
    "name": "The site's name, as it was given.",
    "plan": "Fingerprint of plan.json: files of other plans are refused.",
    "codes": "The codes that the file tells of, in the order of the numbers below. Others have no number in it.",
    "covariates": "Names of the columns that the plan's formula makes of the covariates, and no value of any patient.",
    "rows": "How many patients the numbers are sums over.",
    "coef": "Estimated effect of each covariate on the log rate of each code: lines are covariates, columns codes.",
    "loadings": "Estimated axes: how far the log rate of each code moves along each of them. Lines are codes.",
    "root": "For each code, the square root of its mean expected count under the estimates.",
    "score": "Slope of the site's log-likelihood at the estimates, a sum over all patients, one number for each free "
    "number of the model; zeros in the first round.",
    "information": "Curvature of the log-likelihood there: how sure the estimates are, and how their errors go "
    "together. It is computed from counts that are drawn from the estimated model at the patients' covariates, not "
    "from their own counts.",
    "score_noise": "How far the score is off by Monte-Carlo error.",
    "loglik": "Log-likelihood of all patients together under the estimates, one number.",
    "loglik_se": "Its Monte-Carlo error.",
    "round": "1: at the site's own estimates; 2 and above: under a joint model.",
}
COMMON = {
    "axes": "all sites have the same axes, each its own variances along them",
    "subspace": "all sites vary within the same span, each along its own axes in it",
    "proportional": "all sites have the same axes and variances, but for one factor of each site",
    "equal": "all sites have the same covariance",
}


SECOND = (
    "{file} is there and says something else. What two files of a site differ by can tell of the few patients that "
    "were added or left out. If it was not sent, or this is meant, give --again; else choose another --out."
)


class Home(NamedTuple):
    """What stays at a site beside the fit: its name, the plan, and what of the table is not told.

    withheld: codes that the file may not tell of, and why; absent: codes of the plan that the table lacks; foreign:
    columns that the plan does not have; widest: the largest share that one patient has of a code's counts, with the
    code.
    """

    name: str
    plan: SitePlan
    withheld: dict[str, str]
    absent: tuple[str, ...]
    foreign: tuple[str, ...]
    widest: tuple[float, str]

    def save(self, path: Path) -> None:
        """Write it, to stay where it is."""
        write_json(path, "kept", self._asdict() | {"plan": dataclasses.asdict(self.plan)})

    @classmethod
    def load(cls, folder: Path) -> Home:
        """Read it from the folder that stayed at the site; `InputError` where that is none."""
        with opened(folder / KEPT, "kept", "Fit the site again.") as found:
            found |= {"plan": SitePlan(**found["plan"])}
            found |= {name: tuple(found[name]) for name in ("absent", "foreign", "widest")}
            return cls(**found)


def widest_share(fit: PLN) -> tuple[float, str]:
    """The largest share that one patient has of the counts of a code, and which."""
    share = behind(fit.counts_.y)[1]
    j = int(np.argmax(share))
    return float(share[j]), fit.counts_.column_names[j]


def write_site(
    summary: SiteSummary, fit: PLN, home: Home, out: Path, stem: str, *, again: bool = False
) -> list[Path]:
    """Write what leaves (`stem`.json), the page that shows it, and what stays (keep/); estimates of a later round too.

    All appear together, or none does. Returns the paths. A file of that name that says something else may have been
    sent: what two of them differ by can tell of the few patients who were added or left out, so it is replaced only
    `again`; `InputError` else.
    """
    names = [f"{stem}.json", f"{stem}.html"]
    with written_together(out) as draft:
        summary.save(draft / names[0])
        text = (draft / names[0]).read_text(encoding="utf-8")
        if not again and (out / names[0]).exists() and (out / names[0]).read_text(encoding="utf-8") != text:
            raise InputError(SECOND.format(file=out / names[0]))
        (draft / names[1]).write_text(leaving_page(text, names[0], home), encoding="utf-8", newline="")
        if summary.round > 1:
            names += files.write_estimates(fit, draft)
        kept = write_kept(fit, home, out)
    return [*(out / name for name in names), *kept]


def write_kept(fit: PLN, home: Home, out: Path) -> list[Path]:
    """Write what stays at a site: the folder keep/ with its fit and what is not told."""
    kept = out / "keep"
    kept.mkdir(parents=True, exist_ok=True)
    with written_together(kept) as stays:
        fit.save(stays / "model.npz")
        home.save(stays / KEPT)
    return [kept / "model.npz", kept / KEPT]


class Field(NamedTuple):
    """A line of what leaves: its name, what it means, its size, and its numbers or the first of them."""

    name: str
    meaning: str
    size: str
    content: str


def leaving_page(text: str, file: str, home: Home) -> str:
    """What leaves a site, line by line, from the text of the file that does."""
    found = json.loads(text)
    told = {name: _numbers(value) for name, value in found.items()}
    drawn = told["information"]
    return html.rendered(
        "site.html.j2",
        file=file,
        home=home,
        bytes=len(text.encode()),
        rows=found["rows"],
        later=found["round"] > 1,
        fields=[_field(name, value, found) for name, value in found.items()],
        counted=sum(told.values()) - drawn,
        drawn=drawn,
        codes=len(found["codes"]),
        percent=f"{100 * home.widest[0]:.2g} %",
    )


def _numbers(value: Any) -> int:
    """How many numbers a value of JSON holds."""
    if isinstance(value, list):
        return sum(map(_numbers, value))
    return int(isinstance(value, int | float) and not isinstance(value, bool))


def _field(name: str, value: Any, found: dict[str, Any]) -> Field:
    size = {
        "coef": f"{len(found['covariates'])} covariates × {len(found['codes'])} codes",
        "loadings": f"{len(found['codes'])} codes × {len(found['loadings'][0])} axes",
        "information": f"{len(value)} numbers, the upper half of {len(found['score'])} × {len(found['score'])}"
        if isinstance(value, list)
        else "",
    }
    if not isinstance(value, list):
        return Field(name, MEANING[name], "one word" if isinstance(value, str) else "one number", str(value))
    flat = np.array(value, dtype=object).ravel().tolist()
    kind = "names" if isinstance(flat[0], str) else "numbers"
    more = f" and {len(flat) - SHOWN:,} more" if len(flat) > SHOWN else ""
    return Field(
        name,
        MEANING[name],
        size.get(name, f"{len(flat)} {kind}"),
        ", ".join(map(str, flat[:SHOWN])) + more,
    )


class Asked(NamedTuple):
    """A table, or why there is none."""

    table: pandas.DataFrame | None
    words: str = ""


def _asked(ask: Callable[[], pandas.DataFrame]) -> Asked:
    try:
        return Asked(ask())
    except InputError as error:
        return Asked(None, str(error))


class Tables(NamedTuple):
    """What a joint fit tells, as tables under their files' names, and the ladder of models."""

    files: dict[str, Asked]
    ladder: Asked

    def of(self, name: str) -> pandas.DataFrame | None:
        """A table by its file's name; None where there is none."""
        return self.files[name].table


def tables(fit: CommonBasis) -> Tables:
    """All tables of a joint fit; tests that it cannot be asked for have words in their place."""
    import pandas

    index = pandas.Index(fit.codes_, name="code")
    axes = pandas.Index([f"axis{j + 1}" for j in range(fit.basis_.shape[1])], name="axis")
    sites = pandas.Index(fit.sites_, name="site")
    scales = _asked(lambda: fit.confint("scales").rename(lambda name: name.replace(" ", ""), level="axis"))
    if scales.table is None:
        plain = pandas.DataFrame(fit.scales_, index=sites, columns=axes)
        scales = Asked(plain.stack().to_frame("estimate"), scales.words)
    return Tables(
        {
            "basis.csv": Asked(pandas.DataFrame(fit.basis_, index=index, columns=axes)),
            "scales.csv": scales,
            "coef.csv": _asked(lambda: fit.confint("coef")),
            "sites.csv": _asked(fit.test_sites),
            "codes.csv": _asked(fit.test_codes),
        },
        _asked(fit.likelihood_ratio),
    )


def write_joint(fit: CommonBasis, out: Path, command: str) -> list[Path]:
    """Write joint.json, its tables, report.html, and the summaries that it was found from (summaries/).

    All appear together, or none does. Returns the paths, the page last.
    """
    found = tables(fit)
    sent = out / "summaries"
    sent.mkdir(parents=True, exist_ok=True)
    written = ["joint.json"]
    with written_together(out) as draft, written_together(sent) as copies:
        for summary in fit.joint_.summaries:
            summary.save(copies / f"{summary.name}.json")
        fit.save(draft / "joint.json")
        for name, asked in found.files.items():
            if asked.table is None:
                (out / name).unlink(missing_ok=True)  # of an earlier pool
            else:
                asked.table.to_csv(draft / name, columns=_columns(asked.table))
                written.append(name)
        (draft / files.PAGE).write_text(joint_page(fit, found, command), encoding="utf-8", newline="")
    return [out / name for name in (*written, files.PAGE)]


def _columns(table: pandas.DataFrame) -> list[str]:
    """Without a method that is the same everywhere, and tests of variances, which nobody asks whether they are 0."""
    return [name for name in table.columns if name != "method" and np.any(table[name].notna())]


class Axis(NamedTuple):
    """An axis of V: its number, how far it may be off (degrees), its largest codes, and the chart of its scales."""

    number: int
    error: float | None
    codes: list[tuple[str, float]]
    chart: figures.Chart


def joint_page(fit: CommonBasis, found: Tables, command: str) -> str:
    """The report of a joint fit: what was pooled, how far it is, axes, scales, and which sites and codes do not fit."""
    tests, codes = found.of("sites.csv"), found.of("codes.csv")
    odd = None if codes is None else codes[codes["step"] > 0].reset_index()
    return html.rendered(
        "joint.html.j2",
        command=command,
        fit=fit,
        common=COMMON[fit.common],
        later=fit.rounds_ > 1,
        next=fit.rounds_ + 1,
        sites=[
            (one.name, one.rows, len(one.codes), _lacking(one, fit.codes_)) for one in fit.joint_.summaries
        ],
        patients=sum(one.rows for one in fit.joint_.summaries),
        axes=_axes(fit, found),
        tests=None if tests is None else _lines(tests),
        odd=None if odd is None else odd.to_dict("records"),
        free="" if odd is None else _free(odd),
        ladder=None if found.ladder.table is None else _lines(found.ladder.table),
        rungs=COMMON | {"unrelated": "each site has a covariance of its own, of this rank"},
        words={"sites": found.files["sites.csv"].words, "codes": found.files["codes.csv"].words}
        | {"ladder": found.ladder.words, "scales": found.files["scales.csv"].words},
        p=lambda value: "" if value != value else "< 1e-15" if value < 1e-15 else f"{value:.2g}",
        versions=html.versions(),
    )


def _free(odd: pandas.DataFrame) -> str:
    """The words of a command by which these codes go their own way."""
    words = [f"{site}={','.join(map(str, those['code']))}" for site, those in odd.groupby("site", sort=False)]
    return shlex.join(part for word in words for part in ("--free", word))


def _lines(table: pandas.DataFrame) -> list[dict[str, Any]]:
    return table.reset_index().to_dict("records")


def _lacking(site: SiteSummary, codes: Sequence[str]) -> list[str]:
    there = set(site.codes)
    return [code for code in codes if code not in there]


def _axes(fit: CommonBasis, found: Tables) -> list[Axis]:
    errors = None if fit.common == "subspace" else fit.angle_errors()
    scales = found.of("scales.csv")
    assert scales is not None
    axes = []
    for j in range(fit.basis_.shape[1]):
        entries = fit.basis_[:, j]
        largest = np.argsort(-np.abs(entries), kind="stable")[:SHOWN_CODES]
        here = scales.xs(f"axis{j + 1}", level="axis").loc[list(fit.sites_)]
        axes.append(
            Axis(
                j + 1,
                None if errors is None else float(errors[j]),
                [(fit.codes_[i], float(entries[i])) for i in largest],
                scale_chart(fit.sites_, here, f"variance along axis {j + 1}"),
            )
        )
    return axes


def scale_chart(sites: Sequence[str], scales: pandas.DataFrame, title: str) -> figures.Chart:
    """Variances along an axis, a line a site, with intervals where there are any, on a logarithmic scale."""
    middle = scales["estimate"].to_numpy(float)
    ends = [scales[name].to_numpy(float) for name in ("lower", "upper") if name in scales]
    every = np.log10(np.maximum(np.concatenate([middle, *ends]), 1e-300))
    ticks, at = figures.scale(every[np.isfinite(every) & (every > -290)], figures.WIDE_LEFT, figures.RIGHT)
    ticks = [figures.Tick(tick.at, f"{10 ** float(tick.text):.2g}") for tick in ticks]
    step = (figures.FLOOR - figures.PAD) / len(sites)
    y = figures.PAD + step * (np.arange(len(sites)) + 0.5)
    place = lambda values: np.clip(at(np.log10(np.maximum(values, 1e-300))), figures.WIDE_LEFT, figures.RIGHT)
    shapes = []
    if ends:
        pairs = zip(place(ends[0]), place(ends[1]), y, strict=True)
        shapes += [figures.line_shape("range", a, c, b, c) for a, b, c in pairs]
    shapes += [figures.dot_shape("mark", a, c) for a, c in zip(place(middle), y, strict=True)]
    labels = [figures.label_at(c, name) for c, name in zip(y, sites, strict=True)]
    return figures.Chart(
        title, title, "", figures.apart(ticks), labels, [], "", [], "", tuple(shapes), figures.WIDE_LEFT
    )


def common_axes(joint: Path) -> pandas.DataFrame:
    """V of a joint model that was saved, under its codes; `InputError` for a file that is damaged."""
    with opened(joint, "joint", "Ask for it again.") as found:
        return _on_axes(numbers(found["here"][0], (len(found["codes"]), None)), found["codes"], "code")


def positions(
    joint: Path, site: str, table: CountTable, *, fit: PLN | None, offset: Any = None, data: Any = None
) -> pandas.DataFrame:
    """Positions of rows along the common axes at the joint point of a site, (n, q + r); nothing is fitted.

    `fit` is what stayed at the site, whose formula codes the rows; None: an intercept alone. With u the mean of a row's
    latent position, Z - XB = C_k u; its part in the span of V is V times the position: in units of the log rate, and
    along the same axes for all sites. Where the site has axes of its own, own1, ... are u along these, of variance 1.

    Raises `InputError` where there is no such site, or rows or fit are not like its own.
    """
    from poplin.estimators.common_basis import load_point
    from poplin.estimators.placed_rows import latent

    point, basis = load_point(joint, site), common_axes(joint)
    counts = as_new_rows(_coding(point, fit, joint), table, offset=offset, data=data)
    with double_precision():
        mean = latent(_standing(point), counts)[0]
    q = basis.shape[1]
    axes, sizes, _ = principal_axes(point.loadings)  # in which w is told
    mean = mean @ np.linalg.lstsq(point.loadings, axes * np.sqrt(sizes), rcond=None)[0].T
    turn = np.linalg.lstsq(basis.loc[list(point.codes)].to_numpy(), point.loadings[:, :q], rcond=None)[0]
    return _on_axes(np.hstack([mean[:, :q] @ turn.T, mean[:, q:]]), counts.row_names, "row", q)


def _coding(point: SitePoint, fit: PLN | None, joint: Path) -> Coding:
    """How rows of a site are coded."""
    coding = Coding(point.codes, ("Intercept",)) if fit is None else fit.coding_
    if fit is None and point.covariates != coding.covariate_names:
        raise InputError(
            f"{joint}: {point.site!r} has the covariates {listed(point.covariates)}, and how they are coded is in the "
            "fit that stayed at the site. Give its folder: --keep DIR."
        )
    if (coding.column_names, coding.covariate_names) != (point.codes, point.covariates):
        raise InputError(
            f"{joint} has other codes or covariates of {point.site!r} than the fit that was kept. Give the folder keep "
            "of the rounds that it was pooled from."
        )
    return coding


def _standing(point: SitePoint) -> Result:
    """A fit that stands at a point."""
    at = {"coef": point.coef, "loadings": point.loadings, "direct": False, "posterior": "full"}
    none = {"rows": None, "objective": None, "shrinkage": 0.0, "weight": 0.0, "trace": {}, "messages": ()}
    return Result(**at, **none, converged=True, interrupted=False)


def _on_axes(values: np.ndarray, names: Sequence[str], kind: str, common: int = 10**9) -> pandas.DataFrame:
    """A table under names, its columns axis1, ..., and own1, ... after the first `common`."""
    import pandas

    columns = [f"axis{j + 1}" if j < common else f"own{j + 1 - common}" for j in range(values.shape[1])]
    index = pandas.Index(list(names), name=kind)
    return pandas.DataFrame(values, index=index, columns=pandas.Index(columns))
