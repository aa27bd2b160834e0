"""The commands of a joint model of several hospitals: plan, site, pool, and what `poplin embed` does under one.

Start at `plan`, which the coordinator gives to every site; `site` makes the one file that leaves, `pool` puts these
together. `report/sites.py` writes what they leave behind, `estimators/common_basis.py` finds the joint model.
"""

from __future__ import annotations

import contextlib
import csv
import operator
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from poplin import job as jobs
from poplin import stopping
from poplin._errors import ConvergenceWarning, DataWarning, InputError, said
from poplin._process import claimed
from poplin.cli.options import (
    DATA,
    MODEL,
    RESULT,
    Covariates,
    Layer,
    MaxIter,
    Out,
    Quiet,
    RowNames,
    Seed,
    Transpose,
    complain,
    mention,
    say,
)
from poplin.data.tables import CountTable, listed
from poplin.report.files import check_file, check_folder

if TYPE_CHECKING:
    from poplin.estimators.pln import PLN
    from poplin.report.sites import Home
    from poplin.sites.plan import SitePlan
    from poplin.sites.summaries import SiteSummary

JOINT, SUMMARIES, FIT = "joint.json", "summaries", "model.npz"
TOL = 0.1  # of a site's own fit: what others build on it takes its slope there for zero
NAME = re.compile(r"\w[\w.-]{0,99}")  # of a site, which is part of files' names
FIRST_OR_LATER = (
    "poplin site takes either a table, for the first round: COUNTS --plan plan.json --name SITE; or what was kept, for "
    "a later one: --refine joint.json --keep SITE/keep. {found}"
)

NOTHING_LEAVES = (
    "Nothing is written that leaves, since a summary takes the estimates for those of largest likelihood; the fit is "
    "in {keep}. Fit again with --max-iter, larger, or another --seed."
)

Codes = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="A code a line, the first column of a csv; a head that says code is none.",
        rich_help_panel=DATA,
    ),
]
PlanRank = Annotated[int, typer.Option(metavar="K", help="How many common axes.", rich_help_panel=MODEL)]
PlanFormula = Annotated[
    str | None,
    typer.Option(help='Over the covariates of every site, such as "~ age + sex".', rich_help_panel=MODEL),
]
PlanOffset = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Added to the log rate: a covariate, or log(COLUMN).", rich_help_panel=MODEL
    ),
]
PatientsANumber = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="A code is also left out that fewer patients have than N for each of its coefficients and loadings.",
        rich_help_panel=MODEL,
    ),
]
MostShare = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="S",
        help="And one of which a single patient has more than this share of the counts.",
        rich_help_panel=MODEL,
    ),
]
MinPatients = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="A code that fewer patients of a site have leaves that site with no number.",
        rich_help_panel=MODEL,
    ),
]
Shared = Annotated[
    Literal["axes", "subspace", "proportional", "equal"],
    typer.Option(help="What the sites' covariances have in common.", rich_help_panel=MODEL),
]
Remainder = Annotated[
    int,
    typer.Option(min=0, metavar="R", help="Axes of each site's own beside these.", rich_help_panel=MODEL),
]
Share = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="Covariates, as the formula names them, whose effects are the same at all sites.",
        show_default="none",
        rich_help_panel=MODEL,
    ),
]
PlanOut = Annotated[Path, typer.Option(metavar="FILE", help="plan.json.", rich_help_panel=RESULT)]


def plan(
    *,
    codes: Codes,
    rank: PlanRank,
    formula: PlanFormula = None,
    offset: PlanOffset = None,
    min_patients: MinPatients = 11,
    patients_a_number: PatientsANumber = 3,
    most_share: MostShare = 0.5,
    common: Shared = "axes",
    remainder: Remainder = 0,
    share: Share = "",
    out: PlanOut,
    quiet: Quiet = False,
) -> None:
    """Write what all sites of a study agree on before anybody fits: codes, axes, covariates, how few are too few."""
    from poplin.sites.plan import SitePlan

    check_file(out)
    shared = tuple(word.strip() for word in share.split(",") if word.strip())
    try:
        model = (rank, formula, offset, min_patients, common, remainder, shared)
        made = SitePlan(_codes(codes), *model, patients_a_number, most_share)
    except InputError as error:
        raise InputError(f"{codes}: {error}") from error
    made.save(out)
    if not quiet:
        say(f"Written: {out}, {len(made.codes)} codes, {rank} common axes, plan {made.fingerprint}.")
        say(f"Next, at every site: poplin site COUNTS --plan {shlex.quote(out.name)} --name SITE --out SITE")


def _codes(path: Path) -> tuple[str, ...]:
    """The first column, without a head that says so."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            lines = csv.reader(handle, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            names = [line[0].strip() for line in lines if line and line[0].strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read: {said(error)}. Wanted is a text file, a code a line."
        ) from error
    return tuple(names[1:] if names and names[0].lower() == "code" else names)


MaybeCounts = Annotated[
    Path | None,
    typer.Argument(metavar="COUNTS", help="Patients by codes, of the first round; files as for poplin fit."),
]
PlanFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="plan.json of the coordinator.", rich_help_panel=MODEL)
]
SiteName = Annotated[
    str | None,
    typer.Option(metavar="SITE", help="What the site is called, in files too.", rich_help_panel=MODEL),
]
Refine = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A later round: joint.json of poplin pool. The site's own scales and coefficients are fitted given its "
        "axes.",
        rich_help_panel=MODEL,
    ),
]
Again = Annotated[
    bool,
    typer.Option(
        "--again",
        help="Replace a file that leaves by one that says something else: two tell more of the patients than one.",
        rich_help_panel=RESULT,
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The folder keep that an earlier round left at the site.", rich_help_panel=MODEL
    ),
]


def site(
    counts: MaybeCounts = None,
    *,
    plan: PlanFile = None,
    name: SiteName = None,
    refine: Refine = None,
    keep: Keep = None,
    covariates: Covariates = None,
    row_names: RowNames = None,
    transpose: Transpose = False,
    layer: Layer = None,
    seed: Seed = 0,
    max_iter: MaxIter = None,
    again: Again = False,
    out: Out,
    quiet: Quiet = False,
) -> None:
    """Fit one site of several: SITE.site.json is all that leaves, SITE.site.html shows it, keep/ stays."""
    first = {"COUNTS": counts, "--plan": plan, "--name": name}
    later = {"--refine": refine, "--keep": keep}
    _check_way(first, later, {"--covariates": covariates, "--row-names": row_names, "--layer": layer})
    check_folder(out)
    if counts is not None and plan is not None and name is not None:
        inputs = jobs.Inputs(counts, covariates, row_names, layer=layer, transpose=transpose)
        work = _first(inputs, plan, name, {"random_state": seed, "max_iter": max_iter}, out)
    else:
        assert refine is not None and keep is not None
        work = _later(refine, keep, {} if max_iter is None else {"max_iter": max_iter})
    raise typer.Exit(_carried_out(work, out, again=again, quiet=quiet))


def _check_way(first: dict[str, Any], later: dict[str, Any], of_tables: dict[str, Any]) -> None:
    """Either all of the first round, or all of a later one."""
    begun, goes_on = ([name for name, value in part.items() if value is not None] for part in (first, later))
    if goes_on:
        begun += [name for name, value in of_tables.items() if value is not None]
    if begun and goes_on:
        raise InputError(FIRST_OR_LATER.format(found=f"Given are both {begun[0]} and {goes_on[0]}."))
    wanted = later if goes_on else first
    lacking = [name for name, value in wanted.items() if value is None]
    if lacking:
        raise InputError(FIRST_OR_LATER.format(found=f"{', '.join(lacking)} is missing."))


class Work(NamedTuple):
    """What a site does in a round: how it fits, told of its progress, what stays at home, and its files' stem."""

    fit: Callable[[Any], PLN]
    home: Home
    stem: str
    round: int


def _first(inputs: jobs.Inputs, plan_file: Path, name: str, how: dict[str, Any], out: Path) -> Work:
    """A fit of the plan's codes under the site's own axes."""
    import poplin

    made = poplin.SitePlan.load(plan_file)
    _check_name(name, "--name")
    if inputs.covariates is not None and made.formula is None and made.offset is None:
        raise InputError(f"{plan_file} has neither a formula nor an offset. Leave out --covariates.")
    inputs = inputs._replace(formula=made.formula, offset=made.offset)
    settings = {"rank": made.rank + made.remainder, "shrinkage": 0, "tol": TOL} | how
    job = jobs.prepare(inputs, settings, out)
    table, home = _told(job.table, made, name, inputs.counts, _covariates(job, made))

    def fit(tell: Any) -> PLN:
        model = poplin.PLN(**job.settings, callback=tell)
        return model.fit(table, data=job.data, offset=job.offset, standard_errors=False)

    return Work(fit, home, f"{name}.site", 1)


def _told(
    table: CountTable, plan: SitePlan, name: str, source: Path, covariates: int
) -> tuple[CountTable, Home]:
    """The columns that the file may tell of, in the order of the plan, and those that are left out."""
    from poplin.report.sites import Home

    names = table.column_names
    if names is None:
        raise InputError(f"{source} names no columns; the plan's codes are found by name. Name them.")
    withheld = plan.withheld(table.values, names, covariates=covariates)
    left, known = set(plan.codes) - set(withheld), set(plan.codes)
    kept = [code for code in plan.codes if code in left and code in set(names)]
    absent = tuple(code for code in plan.codes if code not in set(names))
    if len(kept) <= plan.rank + plan.remainder:
        raise InputError(
            f"{source} has {len(kept)} of the plan's {len(plan.codes)} codes in patients enough, and "
            f"{plan.rank + plan.remainder} axes need more codes than axes. Look whether its columns are named as "
            f"in the plan: it has {listed(names, 3)}, the plan {listed(plan.codes, 3)}."
        )
    foreign = tuple(code for code in names if code not in known)
    return _columns(table, kept), Home(name, plan, withheld, absent, foreign, (0.0, ""))


def _columns(table: CountTable, names: Sequence[str]) -> CountTable:
    """A table's columns of these names, in their order."""
    import numpy as np

    from poplin.data.held import in_columns

    assert table.column_names is not None
    place = {name: j for j, name in enumerate(table.column_names)}
    order = np.array([place[name] for name in names])
    return table._replace(values=in_columns(table.values, order), column_names=tuple(names))


def _covariates(job: jobs.Job, plan: SitePlan) -> int:
    """How many coefficients a code has; of a covariate that sets few patients apart they would tell of these."""
    from poplin.data.counts import as_counts
    from poplin.sites.summaries import check_covariates

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        counts = as_counts(job.table, offset=job.offset, data=job.data, formula=plan.formula)
    check_covariates(counts.x, counts.covariate_names, plan)
    return len(counts.covariate_names)


def _later(joint: Path, keep: Path, how: dict[str, Any]) -> Work:
    """A fit given the axes of a joint model."""
    from poplin.estimators.common_basis import load_point
    from poplin.report.sites import Home

    home = Home.load(keep)
    number = _check_joint(joint, home.plan)
    point = load_point(joint, home.name)
    first = _kept_fit(keep)

    def fit(tell: Any) -> PLN:
        return point.refitted(first.set_params(callback=tell, **how))

    return Work(fit, home, f"{home.name}.round{number + 1}", number + 1)


def _kept_fit(keep: Path) -> PLN:
    import poplin

    found = poplin.load(keep / FIT)
    if not isinstance(found, poplin.PLN):
        raise InputError(f"{keep / FIT} is no fit of poplin site. Fit the site again.")
    return found


def _check_joint(joint: Path, plan: SitePlan) -> int:
    """Rounds of a joint model that follows the plan."""
    from poplin.sites.plan import opened

    with opened(joint, "joint", "Ask for it again.") as found:
        if found["plan"] != plan.fingerprint:
            raise InputError(
                f"{joint} follows another plan than what was kept here. Ask for the joint.json of this study, or fit "
                "the first round again by its plan.json."
            )
        return operator.index(found["rounds"])


def _check_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"{where}: the site is called {name!r}; wanted are letters, digits, '.', '-', '_'.")


def _carried_out(work: Work, out: Path, *, again: bool, quiet: bool) -> int:
    """Fit, write, tell; the exit code. Of a fit that did not converge nothing is written that leaves."""
    from poplin._numerics import hurried
    from poplin.inference import summary
    from poplin.report import sites

    with claimed(out), hurried(), _plain_warnings(), stopping.patiently():
        try:
            with jobs.watch(quiet=quiet) as tell:
                fit = work.fit(tell)
            if fit.interrupted_:
                raise KeyboardInterrupt
            home = work.home._replace(widest=sites.widest_share(fit))
            if not fit.converged_:
                with _mended(out):
                    sites.write_kept(fit, home, out)
                complain(f"{summary.verdict(fit)} {NOTHING_LEAVES.format(keep=out / 'keep')}")
                return jobs.NOT_CONVERGED
            if not quiet:
                mention("What leaves the site is computed ...")
            told = fit.site_summary(work.home.plan, name=work.home.name, round=work.round)
        except KeyboardInterrupt:
            complain(jobs.NOTHING)
            return jobs.INTERRUPTED
        with _mended(out):
            paths = sites.write_site(told, fit, home, out, work.stem, again=again)
    if not quiet:
        say("\n".join(_left_out(home)))
        say("\n".join(fit.counts_.notes), end=bool(fit.counts_.notes))
        say(f"Stays here: {out / 'keep'}. Look at {paths[1]}, which shows what leaves, line by line.")
        say(f"Send: {paths[0]}, sums and estimates of {told.rows} patients and {len(told.codes)} codes.")
    return jobs.DONE


def _left_out(home: Home) -> Iterator[str]:
    """What the file does not tell of."""
    for code, why in home.withheld.items():
        yield f"Left out: {code}, as {why}."
    for words, names in (
        ("In the plan and not in the table", home.absent),
        ("In the table and not in the plan, left out", home.foreign),
    ):
        if names:
            yield f"{words}: {len(names)} {'code' if len(names) == 1 else 'codes'}, {listed(names)}."


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Inside, warnings are lines; what is said below anyway is not said twice."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: complain(str(message))
        warnings.simplefilter("ignore", DataWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@contextlib.contextmanager
def _mended(out: Path) -> Iterator[None]:
    """Inside, a file that cannot be written is a bad input."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The results cannot be written to {out}: {error.strerror or error}. Make room there, or choose another "
            "folder."
        ) from error


SummaryFiles = Annotated[
    list[Path], typer.Argument(metavar="SITE.json", help="What the sites sent, one file of each.")
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="DIR",
        help="A later round: the folder of the pool before, whose joint.json the sites were given.",
        rich_help_panel=MODEL,
    ),
]


Free = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SITE=A,B",
        help="Codes that mean something else at a site (codes.csv names them): there they go their own way, in this "
        "round and all later ones. Once for each site.",
        rich_help_panel=MODEL,
    ),
]


def pool(
    summaries: SummaryFiles,
    *,
    plan: PlanFile = None,
    begun: From = None,
    free: Free = None,
    out: Out,
    quiet: Quiet = False,
) -> None:
    """Put together what several sites sent: their common axes, and who and what does not fit in."""
    check_folder(out)
    if (plan is None) == (begun is None):
        given = "Neither is" if plan is None else "Both are"
        raise InputError(
            f"poplin pool takes either --plan plan.json, for the first round, or --from DIR, for a later one. {given} "
            "given."
        )
    if len(summaries) < 2:
        raise InputError(f"{summaries[0]} alone is one site; wanted are the files of two or more.")
    if begun is not None and begun.absolute() == out.absolute():
        raise InputError(f"--out {out} is the folder of --from. Choose another, to keep the round before.")
    from poplin._numerics import hurried
    from poplin.report import sites

    with _plain_warnings(), hurried(tells_all=False):
        chosen = _free(free or [])
        if plan is not None:
            found = _begun(summaries, plan, chosen)
        else:
            found = _gone_on(summaries, begun or Path(), chosen)
        with claimed(out), _mended(out):
            paths = sites.write_joint(found, out, shlex.join(["poplin", *sys.argv[1:]]))
    if not quiet:
        patients = sum(one.rows for one in found.joint_.summaries)
        say(
            f"{len(found.sites_)} sites, {patients} patients, {len(found.codes_)} codes; round {found.rounds_}."
        )
        say(_how_far(found))
        say(f"Written to {out}: {', '.join(path.name for path in paths)}")
        say(f"The report: {paths[-1]}")


def _how_far(found: Any) -> str:
    """Whether another round is worth it."""
    if found.rounds_ == 1:
        return f"Next, at every site: poplin site --refine {JOINT} --keep SITE/keep --out SITE2"
    gained = f"This step gained {found.gain_:.2g} nats, of which {found.noise_:.2g} would be noise."
    more = "A further round would gain next to nothing." if found.converged_ else "Another round is worth it."
    return f"{gained} {more}"


def _free(words: Sequence[str]) -> dict[str, list[str]]:
    """Codes by site, of words such as mgh=C01,C06."""
    found: dict[str, list[str]] = {}
    for word in words:
        site, split, codes = word.partition("=")
        named = [code.strip() for code in codes.split(",") if code.strip()]
        if not split or not named:
            raise InputError(f"--free {word!r} is not a site and its codes. Write --free SITE=A,B.")
        found.setdefault(site.strip(), []).extend(named)
    return found


def _begun(files: Sequence[Path], plan_file: Path, free: Mapping[str, list[str]]) -> Any:
    """The joint model of the first round."""
    import poplin

    made = poplin.SitePlan.load(plan_file)
    told = _summaries(files, made.fingerprint, plan_file)
    for path, one in zip(files, told, strict=True):
        if one.round > 1:
            raise InputError(
                f"{path} is of a later round: say by --from DIR which pool it follows, or give the SITE.site.json of "
                "the first round."
            )
    settings = {"common": made.common, "remainder": made.remainder, "share": made.share, "free": free}
    return poplin.CommonBasis(made.rank, **settings).fit(told)


def _gone_on(files: Sequence[Path], folder: Path, free: Mapping[str, list[str]]) -> Any:
    """The joint model one step on."""
    import poplin
    from poplin.sites.plan import opened

    joint = folder / JOINT
    with opened(joint, "joint", "Pool again.") as found:
        names = [str(point["site"]) for point in found["points"]]
    for name in names:
        _check_name(name, str(joint))
    before = [poplin.SiteSummary.load(folder / SUMMARIES / f"{name}.json") for name in names]
    told = _summaries(files, found.get("plan"), joint)
    for path, one in zip(files, told, strict=True):
        if one.round < 2:
            raise InputError(
                f"{path} is of the first round. With --from, give what poplin site --refine {JOINT} wrote."
            )
    made = poplin.CommonBasis.load(joint, before)
    already = made.free or {}
    both = {name: [*already.get(name, ()), *free.get(name, ())] for name in {**already, **free}}
    return made.set_params(free=both).update(told)


def _summaries(files: Sequence[Path], fingerprint: Any, source: Path) -> list[SiteSummary]:
    """What sites sent, of one plan, one file each."""
    import poplin

    found: dict[str, Path] = {}
    told = []
    for path in files:
        one = poplin.SiteSummary.load(path)
        _check_name(one.name, str(path))
        if one.plan != fingerprint:
            raise InputError(
                f"{path} follows another plan ({one.plan}) than {source} ({fingerprint}). Ask {one.name} for a file "
                "by this plan."
            )
        if one.name in found:
            raise InputError(
                f"{found[one.name]} and {path} are both of the site '{one.name}'. Give one of each site."
            )
        found[one.name] = path
        told.append(one)
    return told


JointFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="joint.json of poplin pool, instead of --model.", rich_help_panel=MODEL
    ),
]
OfSite = Annotated[
    str | None,
    typer.Option(metavar="SITE", help="With --joint: whose patients these are.", rich_help_panel=MODEL),
]
Kept = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="With --joint: the folder keep of the site, which knows the plan's formula and offset.",
        rich_help_panel=MODEL,
    ),
]


def embed_jointly(
    inputs: jobs.Inputs, joint: Path, site_name: str | None, keep: Path | None, out: Path
) -> int:
    """Write positions of a site's rows along the common axes; returns how many rows there are."""
    from poplin._numerics import hurried
    from poplin.estimators.common_basis import load_point
    from poplin.report.sites import Home, positions
    from poplin.store import written_whole

    check_file(out)
    if site_name is None:
        raise InputError(f"--joint {joint} is of several sites. Say whose rows these are: --site SITE.")
    point, fit = load_point(joint, site_name), None
    if keep is not None:
        home = Home.load(keep)
        if home.name != site_name:
            raise InputError(f"--keep {keep} is of the site '{home.name}', and --site is '{site_name}'.")
        _check_joint(joint, home.plan)
        fit = _kept_fit(keep)
        inputs = inputs._replace(formula=home.plan.formula, offset=inputs.offset or home.plan.offset)
    job = jobs.prepare(inputs, {}, out.absolute().parent)
    names = job.table.column_names or ()
    table = _columns(job.table, [code for code in point.codes if code in set(names)]) if names else job.table
    with hurried(tells_all=False):
        found = positions(joint, site_name, table, fit=fit, offset=job.offset, data=job.data)
    with _mended(out), written_whole(out) as handle:
        found.to_csv(handle, lineterminator="\n")
    return len(found)
