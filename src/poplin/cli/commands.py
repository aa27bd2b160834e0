"""The command `poplin`: each command reads its options and hands a job on; nothing numerical is here.

Start at `main`. Exit codes: 0 done; 1 a fault of poplin; 2 bad input or usage, nothing written; 3 finished but not
converged, results written; 130 interrupted, results so far written. Start-up stays light: heavy libraries load when
a fit begins.
"""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from poplin import job as jobs
from poplin import stopping
from poplin._errors import InputError, fault, printable
from poplin._process import claimed
from poplin.cli import joining, sites
from poplin.cli.options import (
    MODEL,
    RESULT,
    Basis,
    CheckpointEvery,
    Cluster,
    Colour,
    CountsFile,
    Covariates,
    Distributed,
    Formula,
    H5adOut,
    JoinTime,
    Layer,
    Likelihood,
    MaxIter,
    Method,
    NoStandardErrors,
    Offset,
    Out,
    Posterior,
    Quiet,
    Rank,
    Resume,
    RowNames,
    Seed,
    Shape,
    Shrinkage,
    Specific,
    StandardErrorTime,
    Transpose,
    Trusted,
    Weights,
    ZeroFormula,
    ZeroProbability,
    complain,
    mention,
    say,
)
from poplin.data.readers import read_basis
from poplin.job import watch
from poplin.report.files import check_file, check_folder

# The command `poplin counts`: events as hospitals have them, to a table of counts for `poplin fit`.
#
# Start at `counts`; `data/events.py` does the work.


WHAT, WHICH = "Columns", "Which events"
Events = Annotated[
    Path,
    typer.Argument(
        metavar="EVENTS", help="csv, tsv, txt (.gz) or parquet; a folder of .parquet; OMOP: its folder."
    ),
]
Row = Annotated[str, typer.Option(metavar="COLUMN", help="Names the row of an event.", rich_help_panel=WHAT)]
Code = Annotated[str, typer.Option(metavar="COLUMN", help="Names its column.", rich_help_panel=WHAT)]
Date = Annotated[
    str, typer.Option(metavar="COLUMN", help="Its day, where days matter.", rich_help_panel=WHAT)
]
DateFormat = Annotated[
    str | None,
    typer.Option(
        metavar="M/D/YY", help="How days are written.", show_default="found out", rich_help_panel=WHAT
    ),
]
Number = Annotated[
    str | None,
    typer.Option(
        "--count", metavar="COLUMN", help="How often it happened.", show_default="once", rich_help_panel=WHAT
    ),
]
Omop = Annotated[
    bool,
    typer.Option(
        "--omop",
        help="EVENTS is a folder of OMOP tables (conditions, drugs, procedures).",
        rich_help_panel=WHAT,
    ),
]
RollUp = Annotated[
    Path | None,
    typer.Option(
        "--map",
        metavar="TABLE",
        help="Its first two columns: a code, what it becomes.",
        rich_help_panel=WHICH,
    ),
]
Since = Annotated[
    str | None, typer.Option(metavar="YYYY-MM-DD", help="The first day that counts.", rich_help_panel=WHICH)
]
Until = Annotated[
    str | None, typer.Option(metavar="YYYY-MM-DD", help="The last day that counts.", rich_help_panel=WHICH)
]
MinRows = Annotated[
    int,
    typer.Option(
        min=0, help="Leave out columns above 0 in fewer rows, for example 50.", rich_help_panel=WHICH
    ),
]
DistinctDays = Annotated[
    bool, typer.Option("--distinct-days", help="Count days with a code, not events.", rich_help_panel=WHICH)
]
Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory of the database at most.", rich_help_panel=RESULT)
]
Table = Annotated[
    Path, typer.Option(metavar="FILE", help="counts.h5ad or counts.npz.", rich_help_panel=RESULT)
]


def counts(
    events: Events,
    *,
    row: Row = "patient",
    code: Code = "code",
    date: Date = "date",
    date_format: DateFormat = None,
    number: Number = None,
    omop: Omop = False,
    roll_up: RollUp = None,
    since: Since = None,
    until: Until = None,
    min_rows: MinRows = 0,
    distinct_days: DistinctDays = False,
    memory: Memory = "4GB",
    out: Table,
    quiet: Quiet = False,
) -> None:
    """Count a long table of events (patient, code, date): rows by codes, of any size, for poplin fit."""
    from poplin.data import events as counting
    from poplin.report import files

    files.check_target(out)
    since_day, until_day = _day(since, "--since"), _day(until, "--until")
    rules = counting.Rules(since_day, until_day, roll_up, min_rows, distinct_days)
    columns = None if omop else counting.Columns(row, code, date, number)
    tell = (lambda words: None) if quiet else lambda words: mention(f"{words} ...")
    scratch = out.absolute().parent
    found = counting.count_events(
        events, columns, rules, date_format=date_format, memory=memory, scratch=scratch, tell=tell
    )
    files.write_counted(found, out, shlex.join(["poplin", *sys.argv[1:]]))
    if not quiet:
        say("\n".join(printable(line) for line in found.report))
        say(f"\nWritten: {out}")
        offset = "--offset log_total " if found.totals.all() else ""
        say(f"Next: poplin fit {shlex.quote(str(out))} {offset}--out DIR")


def _day(text: str | None, option: str) -> datetime.date | None:
    try:
        return None if text is None else datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} is '{text}'; wanted is a day such as 2024-03-31.") from None


app = typer.Typer(
    help="Fit Poisson-lognormal models to tables of counts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("counts")(counts)
app.command("plan")(sites.plan)
app.command("site")(sites.site)
app.command("pool")(sites.pool)


def main() -> None:
    """Run the command line; ends the process with its exit code.

    A bad input is a message, no traceback, and so is a fault of poplin, unless POPLIN_TRACEBACK is set.
    """
    _keep_compiled_programs()
    try:
        app(prog_name="poplin")
    except InputError as error:
        complain(error.at_command_line)
        sys.exit(2)
    except Exception as error:
        if stopping.asked() or os.environ.get("POPLIN_TRACEBACK"):
            raise
        complain(fault(error))
        sys.exit(1)


def _keep_compiled_programs() -> None:
    """Let JAX keep what it compiles between runs: a table of a shape seen before then starts at once.

    Only in this process, which is the command's own, and only where the user has not said otherwise.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "poplin"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@app.command()
def fit(
    counts: CountsFile,
    *,
    covariates: Covariates = None,
    formula: Formula = None,
    offset: Offset = None,
    weights: Weights = None,
    cluster: Cluster = None,
    row_names: RowNames = None,
    transpose: Transpose = False,
    layer: Layer = None,
    rank: Rank = None,
    basis: Basis = None,
    specific: Specific = None,
    covariance: Shape = "full",
    likelihood: Likelihood = "poisson",
    zero_probability: ZeroProbability = "column",
    zero_formula: ZeroFormula = None,
    method: Method = "ml",
    posterior: Posterior = "diagonal",
    shrinkage: Shrinkage = "auto",
    seed: Seed = 0,
    max_iter: MaxIter = None,
    out: Out,
    h5ad_out: H5adOut = None,
    colour: Colour = None,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = False,
    distributed: Distributed = False,
    join_time: JoinTime = joining.PATIENCE,
    i_know_this_network: Trusted = False,
    no_se: NoStandardErrors = False,
    se_time: StandardErrorTime = None,
    quiet: Quiet = False,
) -> None:
    """Fit a table of counts: effects, residual covariance, a position for each row."""
    given = (counts, covariates, row_names, formula, offset, weights, colour, h5ad_out)
    inputs = jobs.Inputs(*given, layer, cluster, transpose, zero_formula)
    settings = {
        **{"likelihood": likelihood, "zero_probability": zero_probability},
        **{"covariance": covariance, "method": method, "posterior": posterior, "random_state": seed},
        **{"rank": _rank(rank), "shrinkage": _shrinkage(shrinkage), "max_iter": max_iter},
        "basis": None if basis is None else read_basis(basis),
        **({} if specific is None else {"specific": specific}),
    }
    settings |= jobs.checkpoint(out, checkpoint_every, resume=resume)
    errors = _standard_errors(se_time, none=no_se)
    job = jobs.prepare(inputs, settings, out)._replace(
        command=_command(), quiet=quiet, standard_errors=errors
    )
    if distributed:
        how = joining.How(join_time, i_know_this_network)
        raise typer.Exit(joining.carry_out(job, say, complain, how))
    raise typer.Exit(jobs.carry_out(job, say, complain))


@app.command()
def embed(
    counts: CountsFile,
    *,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="model.npz of poplin fit.", rich_help_panel=MODEL)
    ] = None,
    joint: sites.JointFile = None,
    site: sites.OfSite = None,
    keep: sites.Kept = None,
    covariates: Covariates = None,
    offset: Offset = None,
    row_names: RowNames = None,
    transpose: Transpose = False,
    layer: Layer = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE.csv", help="Table of positions.", rich_help_panel=RESULT)
    ],
    quiet: Quiet = False,
) -> None:
    """Positions of new rows under a fit that was saved, as embedding.csv has those of its own; nothing is fitted.

    Under a joint model of several sites they are along its common axes, in units of the log rate.
    """
    if (model is None) == (joint is None):
        given = "Neither is" if model is None else "Both are"
        raise InputError(
            f"poplin embed takes either --model model.npz or --joint joint.json --site SITE. {given} given."
        )
    if joint is None and (site is not None or keep is not None):
        raise InputError(
            "--site and --keep are of a joint model. Give --joint joint.json, or leave them out."
        )
    inputs = jobs.Inputs(counts, covariates, row_names, offset=offset, layer=layer, transpose=transpose)
    if model is not None:
        rows = jobs.embed(inputs, model, out)
    else:
        rows = sites.embed_jointly(inputs, joint or Path(), site, keep, out)
    if not quiet:
        say(f"Written: {out}, the positions of {rows} rows.")


@app.command()
def compare(
    counts: CountsFile,
    *,
    methods: Annotated[
        str | None,
        typer.Option(
            help="With commas between: ml, variational, variational-full, exact, mcmc, ...",
            show_default="variational,ml",
        ),
    ] = None,
    likelihoods: Annotated[
        str | None,
        typer.Option(
            help="Laws of the counts instead, with commas between: poisson,zero-inflated-poisson,...; by one method "
            "(--methods, else ml), held-out likelihood and BIC."
        ),
    ] = None,
    covariates: Covariates = None,
    formula: Formula = None,
    offset: Offset = None,
    row_names: RowNames = None,
    transpose: Transpose = False,
    layer: Layer = None,
    rank: Rank = None,
    specific: Specific = None,
    covariance: Shape = "full",
    likelihood: Likelihood = "poisson",
    zero_probability: ZeroProbability = "column",
    zero_formula: ZeroFormula = None,
    seed: Seed = 0,
    out: Out,
    quiet: Quiet = False,
) -> None:
    """Fit a table of counts by several methods or under several laws: compare.csv, compare.md, compare.png."""
    inputs = jobs.Inputs(
        *(counts, covariates, row_names, formula, offset),
        **{"layer": layer, "transpose": transpose, "zero_formula": zero_formula},
    )
    settings = {"rank": _rank(rank), "covariance": covariance, "random_state": seed}
    settings |= {} if specific is None else {"specific": specific}
    settings["zero_probability"] = zero_probability
    if likelihoods is None:
        settings["likelihood"] = likelihood
    elif likelihood != "poisson":
        raise InputError("--likelihood and --likelihoods are given: name all laws in --likelihoods.")
    job = jobs.prepare(inputs, settings, out)._replace(quiet=quiet)
    if likelihoods is not None:
        raise typer.Exit(jobs.carry_out_choice(job, likelihoods, methods, say, complain))
    raise typer.Exit(
        jobs.carry_out_comparison(job, "variational,ml" if methods is None else methods, say, complain)
    )


@app.command()
def demo(out: Out = Path("poplin-demo"), quiet: Quiet = False) -> None:
    """Fit a real table that comes with scikit-learn: the ink in 1797 handwritten digits."""
    from poplin.datasets.catalogue import digits
    from poplin.report.views import Colour as Colouring

    check_folder(out)
    table, shown = digits()
    if not quiet:
        say(f"Handwritten digits: {len(table.values)} images, ink counted (0 to 16) in 8 x 8 pixels.")
    job = jobs.Job(table, {"random_state": 0}, out, "Handwritten digits", _command(), quiet=quiet)
    raise typer.Exit(jobs.carry_out(job._replace(colour=Colouring("digit", shown)), say, complain))


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="File for the counts and the truth.")],
    rows: Annotated[int, typer.Option(min=1)] = 1000,
    columns: Annotated[int, typer.Option(min=1)] = 20,
    covariance: Annotated[
        Literal["ar1", "spherical", "diagonal"], typer.Option(help="Shape of Sigma.")
    ] = "ar1",
    correlation: Annotated[float, typer.Option(help="Of neighbours under ar1.")] = 0.8,
    rank: Annotated[
        int | None, typer.Option(metavar="K", help="A random Sigma of this rank instead.")
    ] = None,
    mean: Annotated[float, typer.Option(help="Mean of every column on the log scale.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same table.")] = 0,
) -> None:
    """Draw a table of counts whose truth is known, for poplin fit."""
    from poplin.studies import simulate as studies

    if out.suffix != ".npz":
        raise InputError(f"--out {out}: wanted is a name that ends in .npz.")
    check_file(out)
    table = studies.simulate(
        rows, columns, covariance=covariance, rank=rank, correlation=correlation, mean=mean, seed=seed
    )
    studies.write(table, out)
    say(f"Written: {out}, {rows} x {columns} counts and the truth.")
    say(f"Next: poplin fit {shlex.quote(str(out))} --out DIR")


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="Which study; without a name they are listed.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the results.", show_default="studies-out/NAME"),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="The small setting: a minute or so.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes, one thread each.", show_default="all cores")
    ] = None,
    replicates: Annotated[
        int | None,
        typer.Option(min=1, help="Tables drawn for a cell.", show_default="as the study says"),
    ] = None,
    methods: Annotated[str, typer.Option(help="Only these, with commas between.", show_default="all")] = "",
    quiet: Quiet = False,
) -> None:
    """Run a simulation study by name; the same command goes on where an interrupted one ended."""
    from poplin.studies import runner

    if name is None:
        say(runner.listing())
        raise typer.Exit
    wanted = tuple(word.strip() for word in methods.split(",") if word.strip())
    plan = runner.Plan(name, small, wanted, replicates)
    folder = out or Path("studies-out") / (f"{name}-small" if small else name)
    with claimed(check_folder(folder)), watch(quiet=quiet) as tell, stopping.patiently():
        ended = runner.carry_out_plan(plan, folder, jobs=jobs, tell=tell, command=_command())
    say("\n".join(ended.written if not quiet else []), end=not quiet)
    if ended.trouble:
        complain(ended.trouble)
    raise typer.Exit(ended.code)


@app.callback(invoke_without_command=True)
def _face(
    version: Annotated[bool, typer.Option("--version", help="Say the version and end.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        say(f"poplin {installed('poplin')}")
        raise typer.Exit


def _rank(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    if not text.isdigit():
        raise InputError(f"--rank is '{text}'; wanted is a whole number, for example --rank 10.")
    return int(text)


def _shrinkage(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--shrinkage is '{text}'; wanted is auto or a number from 0 to 1.") from None


def _standard_errors(seconds: float | None, *, none: bool) -> bool | float:
    if none and seconds is not None:
        raise InputError("--no-se and --se-time are given: no standard errors take no time. Leave one out.")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InputError(f"--se-time is {seconds:g}; wanted is a number of seconds above 0.")
    return not none if seconds is None else seconds


def _command() -> str:
    return shlex.join(["poplin", *sys.argv[1:]])
