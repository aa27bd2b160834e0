"""A fit from files to files: what the commands have in common once their options are read.

Start at `carry_out`, which fits, writes and tells how it ended; `prepare` opens the files that it needs.
Nothing but checkpoints is written before the fit has ended, so a bad input leaves no trace. When it has, all results
are written at once without standard errors, and completed when these are there: whatever becomes of them, the fit is
kept.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from poplin import stopping
from poplin._errors import ConvergenceWarning, DataWarning, InputError, LikelihoodWarning
from poplin._process import claimed, whole
from poplin.data.framed import turned
from poplin.data.located import ANNOTATED, FRAMES, MATRICES, kind_of
from poplin.data.offsets import doubtful_names, is_name
from poplin.data.readers import read_counts, read_table
from poplin.data.sides import Grouping, aligned, grouping, joined
from poplin.data.tables import CountTable, listed, row_defaults
from poplin.data.terms import columns_in, parse
from poplin.inference import summary
from poplin.inference.summary import measure
from poplin.report import files, html, views

# What the screen shows while a fit is at work: a live line on a terminal, else a plain one now and then.
#
# Start at `watch`. The estimator tells where it is between compiled chunks; rates and the time that is left are
# worked out here. The time left of a fit is an upper bound: one that converges ends earlier. That of standard errors
# is an estimate.


PLAIN_EVERY = 5.0  # seconds between lines when the screen is a file or a pipe
WIDE = 110  # characters from which there is room for a bar


class Pace(NamedTuple):
    """How fast a phase goes: iterations a second, and seconds left at most (None before that can be said)."""

    rate: float | None
    left: float | None


class Pacer:
    """Measures the pace of the present phase, from its first report on (the time before is compiling)."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._phase, self._first, self._since = "", 0, 0.0

    def __call__(self, progress: Any) -> Pace:
        """The pace after this report."""
        now = self._clock()
        if progress.phase != self._phase:
            self._phase, self._first, self._since = progress.phase, progress.iteration, now
        done, spent = progress.iteration - self._first, now - self._since
        if done <= 0 or spent <= 0:
            return Pace(None, None)
        rate = done / spent
        return Pace(rate, max(progress.max_iter - progress.iteration, 0) / rate)


@contextlib.contextmanager
def watch(*, quiet: bool = False, screen: TextIO | None = None) -> Iterator[Callable[[Any], None] | None]:
    """A callback for the estimator that shows how far it is; None when nothing is to be shown.

    On a terminal it is one live line, removed at the end; elsewhere a plain line every five seconds.
    """
    screen = screen or sys.stderr
    if quiet or screen is None:  # there is no screen under some services
        yield None
    elif screen.isatty() and sys.stdout.isatty():
        yield from _live(screen)
    else:
        yield _plain(screen)


def _live(screen: TextIO) -> Iterator[Callable[[Any], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=screen)
    bar = [BarColumn(bar_width=20)] if console.width >= WIDE else []
    words = [TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[words]")]
    columns = (SpinnerColumn(), words[0], *bar, words[1], TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("starting (compiling the first time)", total=None, words="")
        pace = Pacer()

        def tell(progress: Any) -> None:
            total, done = progress.max_iter, progress.iteration
            words = _words(progress, pace(progress))
            shown.update(task, description=progress.phase, total=total, completed=done, words=words)

        yield tell


def _plain(screen: TextIO) -> Callable[[Any], None]:
    pace = Pacer()
    told = time.perf_counter()

    def tell(progress: Any) -> None:
        nonlocal told
        words = _words(progress, pace(progress))
        if time.perf_counter() - told >= PLAIN_EVERY:
            told = time.perf_counter()
            screen.write(f"{progress.phase}: {words}, {progress.seconds:.0f} s so far\n")
            screen.flush()

    return tell


def _words(progress: Any, pace: Pace) -> str:
    unit = getattr(progress, "unit", "iteration")
    if unit == "percent":  # of work that has to be done whole
        done = f"{progress.iteration} %"
        return done if not pace.left else f"{done}, about {_duration(pace.left)} left"
    words = f"{unit} {progress.iteration}/{progress.max_iter}"
    if math.isfinite(progress.objective):  # it is not before the first one has been averaged
        words += f", {measure(progress.phase)} {progress.objective:.2f}"
    if pace.rate is not None and pace.left is not None:
        words += f", {pace.rate:.3g}/s, at most {_duration(pace.left)} left"
    return words


def _duration(seconds: float) -> str:
    minutes = round(seconds) // 60
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )


DONE, NOT_CONVERGED, INTERRUPTED = 0, 3, 130
TO_COME = (
    "Standard errors and intervals were still to come when this was written: this page and coef.csv are replaced when "
    "they are there."
)
FAILED = "Standard errors could not be computed ({error}). All else of the fit is written and stands."
NO_PAGE = "The report could not be made ({error}). All else of the fit is written and stands."
NONE_YET = "None of this fit's files is there; {before}."
PLAIN = "All files of the fit are there, without standard errors; poplin.load(...).confint() computes them."
AGAIN = "Make room there, or choose another folder, and give the same command again."
GO_ON = "Make room there: the checkpoint stays, and the same command with --resume goes on from it."
NOTHING = "interrupted before there was anything to keep; nothing is written."
STAYS = "The checkpoint stays: the same command with --resume goes on from it."
WITHOUT = "interrupted after the fit: its results are written, without standard errors."
CHECKPOINT = "checkpoint.npz"


class Job(NamedTuple):
    """Everything a fit from the command line needs: the table, the estimator's settings, where results go.

    `data` is the table for a formula; `offset` and `weights` are columns of it, or None (`offset` may also be a table
    with a column for each of the counts, or the name of one that is computed from them, such as "tss"); `colour` is
    what the points of the report show, `covariates` what it tells of a row; `h5ad` the AnnData to copy and the name of
    the copy; by `cluster`, groups of rows, intervals are made. Of several processes that make a fit together, one
    `writes`. `standard_errors` as in `PLN.fit`.
    """

    table: CountTable
    settings: dict[str, Any]
    out: Path
    source: str
    command: str = ""
    data: Any = None
    offset: Any = None
    weights: Any = None
    colour: views.Colour | None = None
    covariates: Any = None
    h5ad: tuple[Path, Path] | None = None
    quiet: bool = False
    writes: bool = True
    standard_errors: bool | float = True
    cluster: Grouping | None = None


class Inputs(NamedTuple):
    """What the options say of the data: files, and columns of the covariates."""

    counts: Path
    covariates: Path | None = None
    row_names: str | None = None
    formula: str | None = None
    offset: str | None = None
    weights: str | None = None
    colour: str | None = None
    h5ad_out: Path | None = None
    layer: str | None = None
    cluster: str | None = None
    transpose: bool = False
    zero_formula: str | None = None

    def formulas(self) -> dict[str, str | None]:
        """The formulas as settings of the estimator."""
        return {"formula": self.formula, "zero_formula": self.zero_formula}


def prepare(given: Inputs, settings: dict[str, Any], out: Path) -> Job:
    """Open the files and find the columns; raises `InputError` before anything long begins."""
    _check_options(given)
    files.check_folder(out)
    table, data = _sides(given)
    formulas = {name: words for name, words in given.formulas().items() if words is not None}
    if formulas and data is None:
        words = next(iter(formulas.values()))
        raise InputError(
            f"The formula {words!r} needs covariates, and {given.counts.name} brings none. Give them with --covariates."
        )
    table = table._replace(notes=(*table.notes, *_doubts(data, given.offset)))
    job = Job(table, settings | given.formulas(), out, given.counts.name)
    return job._replace(
        data=data if formulas else None,
        offset=_offset(data, given.offset),
        weights=_column(data, given.weights, "--weights"),
        cluster=_cluster(table, data, given.cluster),
        colour=_colour(table, data, given),
        covariates=None
        if data is None
        else aligned(data, "covariates", table.row_names, table.values.shape[0], [], table.column_names),
        h5ad=None if given.h5ad_out is None else (given.counts, given.h5ad_out),
    )


def _sides(given: Inputs) -> tuple[CountTable, Any]:
    """The counts as they are to be read, and the covariates of their rows."""
    table, data = _read(given)
    if given.transpose:
        table = turned(table)
        data = table.covariates if given.covariates is None else data
    return (table, data) if given.covariates is None else joined(table, data)


def embed(given: Inputs, model: Path, out: Path) -> int:
    """Write the positions of rows under a saved fit to `out`, a table; returns how many rows there are.

    Raises `InputError` for a file that is no fit of `PLN`, and for columns or covariates that are not the fit's.
    """
    import poplin

    files.check_file(out)
    fit = poplin.load(model)
    if not isinstance(fit, poplin.PLN):
        raise InputError(
            f"{model} is a fit of {type(fit).__name__}; poplin embed takes those of PLN (model.npz of poplin fit). "
            "In Python: poplin.load(...).transform(...)."
        )
    table, data = _sides(given)
    formula = fit.formula if fit.formula is not None else fit.zero_formula
    if formula is not None and data is None:
        raise InputError(
            f"The fit has the formula {formula!r}, and {given.counts.name} brings no covariates. Give them with "
            "--covariates."
        )
    mean = fit.transform(table, data=None if formula is None else data, offset=_offset(data, given.offset))
    files.write_embedding(fit, mean, table.row_names or row_defaults(len(mean)), out)
    return len(mean)


def checkpoint(out: Path, every: int | None, *, resume: bool) -> dict[str, Any]:
    """The estimator's settings for a checkpoint in `out`; none where none is asked for.

    Raises `InputError` where there is one already and nobody said that it should be used.
    """
    if every is None and not resume:
        return {}
    path = out / CHECKPOINT
    if path.exists() and not resume:
        raise InputError(
            f"{path} is there from a fit that did not come to its end. Go on with it by --resume, or remove it to "
            "begin anew."
        )
    return {"checkpoint": path, "checkpoint_every": every}


def carry_out(job: Job, say: Callable[[str], None], complain: Callable[[str], None]) -> int:
    """Fit, write, tell; returns the exit code (0 done, 3 not converged, 130 interrupted).

    `say` takes what is told to the reader (nothing if the job is quiet), `complain` what must not be missed.
    """
    from poplin._numerics import hurried

    files.check_folder(job.out)
    mine = claimed(job.out) if job.writes else contextlib.nullcontext()
    with mine, hurried():  # this process fits one table
        return _carry_out(job, say, complain)


def _carry_out(job: Job, say: Callable[[str], None], complain: Callable[[str], None]) -> int:
    import poplin

    with warnings.catch_warnings():
        # The summary says both, once; here they would be said twice, with a line of our code.
        warnings.showwarning = lambda message, *_, **__: complain(str(message))
        warnings.simplefilter("ignore", DataWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        face = poplin.PLN  # loaded first: two threads that load SciPy at once can meet in a circle
        html.load_meanwhile()
        written: list[Path] = []
        with stopping.patiently():
            try:
                fit = _fitted(face, job)
            except KeyboardInterrupt:  # the estimator keeps what there is; here there was nothing yet
                complain(NOTHING if _kept(job) is None else f"{NOTHING} {STAYS}")
                return INTERRUPTED
            try:
                with whole():  # Ctrl-C waits until the results are there
                    fit = _clustered(fit, job, complain)
                    written = _written(fit, job, complain) if job.writes else []
                ready = not job.writes or _completed(fit, job, complain)
            except KeyboardInterrupt:
                if job.writes and not written:
                    raise
                ready = False
    if not job.quiet:
        say(summary.summary(fit))
        names = [path.name for path in written]
        came = [name for name in files.FURTHER if name not in names and (job.out / name).is_file()]
        names[1:1] = came  # with the standard errors
        say(f"\nWritten to {job.out}: {', '.join(names)}")
        if job.h5ad is not None:
            say(f"A copy of {job.h5ad[0]} with the embedding: {job.h5ad[1]}")
        if written[-1].name == files.PAGE:
            say(f"The report: {written[-1]}")
    if not ready:
        complain(WITHOUT)
        return INTERRUPTED
    return _ending(fit, job, complain)


def _fitted(face: Any, job: Job) -> Any:
    with watch(quiet=job.quiet) as callback:
        model = face(**job.settings, callback=callback)
        sides = {"data": job.data, "offset": job.offset, "weights": job.weights}
        return model.fit(job.table, **sides, standard_errors=job.standard_errors)


def carry_out_comparison(
    job: Job, methods: str, say: Callable[[str], None], complain: Callable[[str], None]
) -> int:
    """Fit by several methods (names with commas between) and write their table and figure; the exit code."""
    import poplin
    from poplin.report import files

    names = _names(methods)
    sides = {"data": job.data, "offset": job.offset, "weights": job.weights}
    with claimed(job.out):
        try:
            with watch(quiet=job.quiet) as callback, warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: complain(str(message))
                warnings.simplefilter("ignore", DataWarning)  # below the table
                warnings.simplefilter("always", LikelihoodWarning)
                table, fits = poplin.compare(job.table, names, **sides, **job.settings, callback=callback)
        except KeyboardInterrupt:
            complain(NOTHING)
            return INTERRUPTED
        notes = tuple(dict.fromkeys(note for fit in fits.values() for note in fit.counts_.notes))
        paths = files.write_comparison(table, job.out, notes)
    if not job.quiet:
        say(files.markdown(table, notes))
        say(f"Written to {job.out}: {', '.join(path.name for path in paths)}")
    return DONE if all(fit.converged_ for fit in fits.values()) else NOT_CONVERGED


def carry_out_choice(
    job: Job,
    likelihoods: str,
    method: str | None,
    say: Callable[[str], None],
    complain: Callable[[str], None],
) -> int:
    """Fit under several laws of the counts (names with commas between) and write how they stand; the exit code."""
    import numpy as np

    import poplin

    laws, names = _names(likelihoods), _names(method or "ml")
    if not laws:
        raise InputError("--likelihoods is empty; wanted are laws, such as poisson,negative-binomial.")
    if len(names) != 1:
        raise InputError(f"--methods {method}: laws are compared by one method. Name one, for example ml.")
    settings = dict(job.settings)
    rank, covariance = settings.pop("rank"), settings.pop("covariance")
    if rank == "auto":
        raise InputError(
            "--rank auto is chosen under one law. Give --rank a number, or --likelihood one law."
        )
    shape = {"ranks": [rank]} if rank is not None else {"ranks": (), "covariances": [covariance]}
    sides = {"data": job.data, "offset": job.offset}
    how = {"criterion": ("heldout", "bic"), "likelihoods": laws, "method": names[0]} | shape
    if settings["zero_probability"] == "row":
        how["criterion"] = ("bic",)  # it says nothing of rows that are left out
    with claimed(job.out):
        try:
            with watch(quiet=job.quiet) as callback, warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: complain(str(message))
                warnings.simplefilter("ignore", DataWarning)
                warnings.simplefilter("ignore", ConvergenceWarning)  # a column of the table
                warnings.simplefilter("always", LikelihoodWarning)
                found = poplin.select(job.table, **sides, **how, **settings, callback=callback)
        except KeyboardInterrupt:
            complain(NOTHING)
            return INTERRUPTED
        paths = files.write_choice(found, job.out, found.fit.counts_.notes)
    if not job.quiet:
        say(files.choice_markdown(found, found.fit.counts_.notes))
        say(f"Written to {job.out}: {', '.join(path.name for path in paths)}")
    return DONE if bool(np.all(found.table["converged"])) else NOT_CONVERGED


def _names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _clustered(fit: Any, job: Job, complain: Callable[[str], None]) -> Any:
    """The fit with its intervals by clusters; where there can be none, it is not lost for that."""
    if job.cluster is None:
        return fit
    try:
        return fit.clustered(job.cluster)
    except InputError as error:
        complain(f"{error.at_command_line} What is written is without it.")
        return fit


def _written(fit: Any, job: Job, complain: Callable[[str], None]) -> list[Path]:
    """The results of the fit; standard errors are still to come, if they are to come at all."""
    words = files.spreadsheet_words(fit)
    if words is not None:
        complain(words)
    if _to_come(fit, job):
        fit.go_without(TO_COME)
    return _write(job, fit, lambda page: _results(fit, job, page=page), NONE_YET, complain)


def _completed(fit: Any, job: Job, complain: Callable[[str], None]) -> bool:
    """Standard errors, and the files that have them, if they are to come; whether nobody interrupted that."""
    if not _to_come(fit, job):
        return True
    fit.go_without(None)
    ready = _asked_for(fit, job, complain)
    with whole():
        again = lambda page: files.complete(fit, job.out, _origin(job), page=page)
        _write(job, fit, again, PLAIN, complain)
    return ready


def _asked_for(fit: Any, job: Job, complain: Callable[[str], None]) -> bool:
    """Have standard errors computed, unless they fail; whether they were not interrupted."""
    from poplin.estimators.standard_errors import STOPPED  # it brings JAX

    try:
        with watch(quiet=job.quiet) as callback:
            fit.set_params(callback=callback)
            summary.coef_interval(fit)
            return STOPPED not in fit.coef_notes()
    except Exception as error:  # whatever it is: the fit is done, and is not lost by what comes after it
        why = FAILED.format(error=f"{type(error).__name__}: {error}")
        fit.go_without(why)
        complain(why)
    return True


def _origin(job: Job) -> html.Origin:
    return html.Origin(job.source, job.command, job.colour, job.covariates)


def _results(fit: Any, job: Job, *, page: bool) -> list[Path]:
    written = files.write_results(fit, job.out, _origin(job), page=page)
    if job.h5ad is not None:
        files.write_h5ad(fit, *job.h5ad)
    return written


def _to_come(fit: Any, job: Job) -> bool:
    """Whether standard errors are to come after the fit."""
    wanted = job.standard_errors is not False and not getattr(fit, "interrupted_", False)
    return wanted and hasattr(fit, "go_without")


def _write(
    job: Job, fit: Any, write: Callable[[bool], list[Path]], there: str, complain: Callable[[str], None]
) -> list[Path]:
    """Results as `write` writes them; the checkpoint goes then, unless the fit can still go on from it.

    `there` says which files there are where it cannot. Where the report fails, all else is written.
    """
    kept = _kept(job)
    try:
        try:
            written = write(True)
        except Exception as error:  # whatever it is: the fit is done, and is not lost by its page
            if isinstance(error, OSError) or isinstance(error.__cause__, OSError):
                raise
            complain(NO_PAGE.format(error=f"{type(error).__name__}: {error}"))
            written = write(False)
    except (OSError, InputError) as error:
        why = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(why, OSError):
            raise
        mend = AGAIN if kept is None else GO_ON
        raise InputError(
            f"The results cannot be written to {job.out}: {why.strerror or why}. "
            f"{there.format(before=_before(job.out))} {mend}"
        ) from error
    if kept is not None and not getattr(fit, "interrupted_", False):
        kept.unlink(missing_ok=True)
    return written


def _before(out: Path) -> str:
    """What lies in the folder, of whichever fit."""
    names = (
        sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) if out.is_dir() else []
    )
    return f"what was there before stays as it was ({', '.join(names)})" if names else "the folder is empty"


def _kept(job: Job) -> Path | None:
    """The checkpoint of this fit, where there is one on the disk."""
    path = job.settings.get("checkpoint")
    return path if path is not None and path.exists() else None


def _ending(fit: Any, job: Job, complain: Callable[[str], None]) -> int:
    if getattr(fit, "interrupted_", False):
        more = "" if _kept(job) is None else " The same command with --resume does."
        complain(summary.verdict(fit) + more)
        return INTERRUPTED
    if not fit.converged_:
        complain(summary.verdict(fit))
        return NOT_CONVERGED
    return DONE


def _check_options(given: Inputs) -> None:
    """What can be said of the options before any file is read."""
    uses = (*given.formulas().values(), given.offset, given.weights, given.colour, given.cluster)
    if given.covariates is not None and not any(uses):
        raise InputError(
            "--covariates is given but not used. Say which to use, for example --formula '~ tree' "
            "(or --offset, --weights, --cluster, --colour)."
        )
    if given.h5ad_out is not None:
        if kind_of(given.counts) not in ANNOTATED:
            raise InputError(
                f"--h5ad-out copies an AnnData file, and {given.counts.name} is none (.h5ad, .zarr)."
            )
        if given.transpose:
            raise InputError(
                "--h5ad-out copies an AnnData as it lies, and --transpose turns it. Leave one out."
            )
        files.check_file(given.h5ad_out, "--h5ad-out")


def _read(given: Inputs) -> tuple[CountTable, Any]:
    """The counts, and the covariates as a DataFrame: from their own file, else those that travel with counts.

    `row_names` names a column in either file, or in both.
    """
    counts, covariates, name = given.counts, given.covariates, given.row_names
    if covariates is None:
        table = read_counts(counts, row_names=name, layer=given.layer)
        return table, table.covariates
    theirs = ours = name
    if name not in (None, "none"):
        theirs = name if name in _columns(covariates) else None
        ours = name if theirs is None or name in _columns(counts) else None
    return read_counts(counts, row_names=ours, layer=given.layer), read_table(covariates, row_names=theirs)


def _offset(data: Any, asked: str | None) -> Any:
    """A column of the covariates, a table in a file, the log(...) of either, or the name of one that is computed."""
    covariates = () if data is None else data.columns
    if asked is None or (is_name(asked) and asked not in covariates):
        return asked
    inner = None if asked in covariates else re.fullmatch(r"log\((.+)\)", asked)
    name = asked if inner is None else inner[1].strip()
    is_file = name not in covariates and kind_of(Path(name)) in FRAMES
    found = read_table(name) if is_file else _column(data, name, "--offset")
    return found if inner is None else _logged(found)


def _doubts(data: Any, asked: str | None) -> list[str]:
    """What is odd about a column that is named as offset."""
    found = () if asked is None or data is None or asked not in data.columns else doubtful_names([asked])
    return [
        f"--offset {name} is an exposure by its name, and no logarithm was taken. Offsets are on the log scale: write "
        f"--offset 'log({name})', unless these are logarithms already."
        for name in found
    ]


def _logged(numbers: Any) -> Any:
    """Logarithms; of what has none (0, text) the check of offsets says where it is."""
    import numpy as np

    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(numbers)
    except (TypeError, AttributeError):  # text
        return numbers


def _column(data: Any, name: str | None, option: str) -> Any:
    """A column of the covariates, as a Series, so that its rows are matched by name."""
    if name is None:
        return None
    if data is None:
        raise InputError(
            f"{option} {name} is a column of the covariates, and there are none. Give --covariates."
        )
    if name not in data.columns:
        held = listed(data.columns, 12)
        raise InputError(f"{option} {name}: the covariates have no such column; they have {held}.")
    return data[name]


def _cluster(table: CountTable, data: Any, name: str | None) -> Grouping | None:
    """The groups of rows by a column of the covariates."""
    if name is None:
        return None
    frame = _column(data, name, "--cluster").to_frame()
    n = table.values.shape[0]
    matched = aligned(frame, "The table of covariates", table.row_names, n, [], table.column_names)
    return grouping(matched, None, table.row_names or row_defaults(n))


def _colour(table: CountTable, data: Any, given: Inputs) -> views.Colour | None:
    """What the points of the report show: the column asked for, else the first one that the formula uses."""
    name = given.colour
    if name is None and data is not None and given.formula is not None:
        columns = tuple(str(column) for column in data.columns)
        used = columns_in(parse(given.formula, columns)[0], (), columns)
        name = used[0] if used else None
    if name is None:
        return None
    frame = _column(data, name, "--colour").to_frame()
    n = table.values.shape[0]
    matched = aligned(frame, "The table of covariates", table.row_names, n, [], table.column_names)
    return views.Colour(name, matched.iloc[:, 0].to_numpy())


def _columns(path: Path) -> list[str]:
    """The names at the head of a table, whatever it holds; nothing for files that have no such head."""
    if kind_of(path) in MATRICES:
        return []
    return [str(name) for name in read_table(path, row_names="none").columns]
