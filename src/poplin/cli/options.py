"""The options that commands share: their types, their help, the panel that shows them.

Start at `CountsFile`; `commands.py` uses them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from poplin._errors import printable

DATA, MODEL, RESULT = "Data", "Model", "Results"
CountsFile = Annotated[
    Path,
    typer.Argument(
        metavar="COUNTS",
        help="Rows by columns: csv, tsv, txt (.gz), xlsx, parquet, h5ad, zarr, biom, 10x, rds, rda, npz or mtx; of "
        "several tables, FILE:NAME.",
    ),
]
Covariates = Annotated[
    Path | None,
    typer.Option(metavar="TABLE", help="One line a row, matched by row name.", rich_help_panel=DATA),
]
Formula = Annotated[
    str | None,
    typer.Option(
        help='For example "~ tree + offset(log(reads))", over the covariates.', rich_help_panel=DATA
    ),
]
Offset = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|TABLE|NAME",
        help="Added to the log rate: a covariate, or a table with a column for each of the counts (log(...) of "
        "either, too), or computed: tss, rle, css, gmpr, tmm, wrench.",
        rich_help_panel=DATA,
    ),
]
Weights = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Covariate that weighs the rows.", rich_help_panel=DATA)
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Covariate whose rows may depend on each other (donor, plate): intervals and tests by these groups.",
        rich_help_panel=DATA,
    ),
]
RowNames = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column that names the rows, or none.", rich_help_panel=DATA),
]
Transpose = Annotated[
    bool,
    typer.Option(
        "--transpose", help="COUNTS has its samples in columns: turn it round.", rich_help_panel=DATA
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Layer of an AnnData with the raw counts.",
        show_default="its X",
        rich_help_panel=DATA,
    ),
]
Rank = Annotated[
    str | None,
    typer.Option(
        metavar="K|auto", help="Latent dimensions of a low-rank Sigma; auto: chosen.", rich_help_panel=MODEL
    ),
]
Basis = Annotated[
    Path | None,
    typer.Option(
        metavar="V.csv",
        help="Orthonormal axes from elsewhere; only scales are fitted.",
        rich_help_panel=MODEL,
    ),
]
Specific = Annotated[
    Literal["none", "column"] | None,
    typer.Option(
        help="Of a rank or a basis: a variance of each column's own beside it.",
        show_default="none",
        rich_help_panel=MODEL,
    ),
]
Shape = Annotated[
    Literal["full", "diagonal", "spherical"],
    typer.Option(help="The shape of the residual covariance Sigma.", rich_help_panel=MODEL),
]
Likelihood = Annotated[
    Literal[
        "poisson",
        "zero-inflated-poisson",
        "negative-binomial",
        "zero-inflated-negative-binomial",
        "bernoulli",
    ],
    typer.Option(help="The law of a count given its rate.", rich_help_panel=MODEL),
]
ZeroProbability = Annotated[
    Literal["column", "single", "row"],
    typer.Option(
        help="Of a zero-inflated law: a probability of zeros for each column, one, or for each row.",
        rich_help_panel=MODEL,
    ),
]
ZeroFormula = Annotated[
    str | None,
    typer.Option(
        help='What zeros of a zero-inflated law depend on, such as "~ site", over the covariates.',
        rich_help_panel=MODEL,
    ),
]
Method = Annotated[
    Literal[
        "ml", "variational", "exact", "mcmc", "moments", "composite", "bbvi", "iwae", "amortised", "smoothed"
    ],
    typer.Option(help="Maximum likelihood, the bound, or another way.", rich_help_panel=MODEL),
]
Posterior = Annotated[
    Literal["diagonal", "full"],
    typer.Option(help="Gaussian of each row in the bound.", rich_help_panel=MODEL),
]
Shrinkage = Annotated[
    str,
    typer.Option(
        metavar="auto|0..1", help="How far Sigma is pulled to its diagonal; 0: not.", rich_help_panel=MODEL
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same numbers.", rich_help_panel=MODEL)]
MaxIter = Annotated[
    int | None, typer.Option(min=1, help="Iterations at most, of the main phase.", rich_help_panel=MODEL)
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for the results, made if need be.", rich_help_panel=RESULT)
]
H5adOut = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Copy of an AnnData input, as h5ad, with obsm['X_poplin'].",
        rich_help_panel=RESULT,
    ),
]
Colour = Annotated[
    str | None,
    typer.Option(
        "--colour",
        "--color",
        metavar="COLUMN",
        help="Covariate that colours the report's points.",
        rich_help_panel=RESULT,
    ),
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Every N iterations, keep in DIR/checkpoint.npz where the fit stands.",
        rich_help_panel=RESULT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on from the checkpoint in DIR, if there is one.", rich_help_panel=RESULT
    ),
]
NoStandardErrors = Annotated[
    bool, typer.Option("--no-se", help="Estimates alone, no standard errors.", rich_help_panel=RESULT)
]
StandardErrorTime = Annotated[
    float | None,
    typer.Option(
        "--se-time",
        metavar="SECONDS",
        help="After these, cheaper standard errors are taken, and it is said.",
        show_default="twice the fit's time, or 60",
        rich_help_panel=RESULT,
    ),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="This process is one of several, on one machine or many, that make the fit (ml, variational).",
        rich_help_panel=RESULT,
    ),
]
JoinTime = Annotated[
    float,
    typer.Option(
        "--join-time",
        metavar="SECONDS",
        help="With --distributed: how long the others are waited for.",
        rich_help_panel=RESULT,
    ),
]
Trusted = Annotated[
    bool,
    typer.Option(
        "--i-know-this-network",
        help="With --distributed: everybody who reaches this network may join the fit, and that is well.",
        rich_help_panel=RESULT,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing unless something is wrong.", rich_help_panel=RESULT)
]


# Where the command speaks: what is told to the reader, and what must not be missed.
#
# Start at `say`. Names come from files of strangers, so that nothing reaches the terminal that would steer it.


def say(words: str, *, end: bool = True) -> None:
    """Words for the reader, in one line or several."""
    typer.echo(_lines(words), nl=end)


def mention(words: str) -> None:
    """What is going on, past what may be read from the output by another program."""
    typer.echo(_lines(words), err=True)


def complain(words: str) -> None:
    """What must not be missed."""
    mention(f"poplin: {words}")


def _lines(words: str) -> str:
    return "\n".join(printable(line) for line in words.split("\n"))
