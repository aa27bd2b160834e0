"""Where the bias of the bound comes from: the Gaussian family, or the bound itself?

Start at `STUDY`. The same law is fitted by three families (diagonal in Z, diagonal in w, full), by the
importance-weighted bound, by moments, pairwise and maximum likelihood, over mean count, rank and n.
"""

from __future__ import annotations

from poplin.studies import columns as use
from poplin.studies import records, study
from poplin.studies.figures import Axis, curves
from poplin.studies.study import Cell, Column, Figure, Study

SLOW = 3  # tables for the methods that take half a minute each


def methods(p: int, q: int) -> tuple[Column, ...]:
    """The families for Sigma of rank q; with q = p the free Sigma is fitted as such (but for w-diagonal)."""
    bound = {"method": "variational"}
    free = {} if q == p else {"rank": q}
    return (
        use.pln("Z-diagonal", bound),
        use.low_rank("w-diagonal", q, **bound),
        use.pln("full S_i", {**bound, "posterior": "full", "max_iter": use.STEPS, **free}),
        use.pln("IWAE", {"method": "iwae", **free})._replace(at_most=SLOW),
        use.MOMENTS,
        use.COMPOSITE._replace(at_most=SLOW),
        use.pln("ml", {"shrinkage": 0, **free}),
        use.TRUE_LATENT,
    )


def cells(small: bool) -> list[Cell]:
    """Rank q of random loadings (variances one on average), and AR1(0.8) of full rank; means and n varied."""
    if small:
        return [_cell(200, 6, 2, 0, 2, shape="random"), _cell(200, 6, 6, 0, 2, shape="AR1")]
    grid = [(1000, q, mean, "random") for q in (2, 5, 10) for mean in (-1, 0, 1, 2)]
    grid += [(1000, 20, mean, "AR1") for mean in (-1, 0, 1, 2)]
    grid += [(n, q, 0, shape) for n in (300, 3000) for q, shape in ((5, "random"), (20, "AR1"))]
    return [_cell(n, 20, q, mean, 20, shape=shape) for n, q, mean, shape in grid]


def _cell(n: int, p: int, q: int, mean: int, replicates: int, *, shape: str) -> Cell:
    ar1 = shape == "AR1"
    law = (
        study.law(n, study.autoregressive(p, 0.8), mean=mean)
        if ar1
        else study.random_low_rank(n, p, q, mean=mean)
    )
    factors = {"sigma": shape, "n": n, "p": p, "q": q, "mean": mean}
    return Cell(factors, study.drawn_from(law), methods(p, q), replicates)


MEAN, ROWS = Axis("mean", "mean of Z"), Axis("n", "rows n", log=True)
SIGMA_BIAS = Axis("rms_bias_sigma", "rms bias of Sigma")
COEF_BIAS = Axis("rms_bias_coef", "rms bias of B")

STUDY = Study(
    name="families",
    title="Families: how much of the bias is the Gaussian family, how much the bound",
    question=(
        "p=20. The diagonal family in Z, the diagonal one in w, the full one, the importance-weighted bound of 20 "
        "draws, moments, pairwise and maximum likelihood on the same tables: how large is the bias of each, and how "
        "does it fall with the mean count, p/q and n?"
    ),
    cells=cells,
    measures=(records.errors, records.lags),
    shown=(
        *(
            "bias_coef",
            "rms_bias_coef",
            "bias_in_sd_coef",
            "lag0",
            "lag1",
            "rms_bias_sigma",
            "bias_in_sd_sigma",
        ),
        *("sd_sigma", "rmse_sigma", "frobenius", "cpu_s"),
    ),
    figures=(
        Figure(
            "sigma_mean",
            "Root-mean-square bias of Sigma against the mean, n=1000.",
            curves(MEAN, SIGMA_BIAS, panels="q", where={"n": 1000}),
        ),
        Figure(
            "coef_mean",
            "Root-mean-square bias of B against the mean, n=1000.",
            curves(MEAN, COEF_BIAS, panels="q", where={"n": 1000}),
        ),
        Figure(
            "sigma_n",
            "Root-mean-square bias of Sigma against n, mean 0: what does not fall is not noise.",
            curves(ROWS, SIGMA_BIAS, panels="q", where={"mean": 0, "q": (5, 20)}),
        ),
    ),
)
