"""What a fit says of itself, in plain words and in plain text.

Start at `summary`. `Fitted` lists what is read of a fit; `verdict`, `method_words` and `shape_words` are the
sentences that the screen and the report share. Nothing is computed that is not there: a log-likelihood is
told when it has been asked for before.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from poplin._errors import InputError, printable
from poplin.data import held
from poplin.data.counts import Counts
from poplin.data.tables import listed
from poplin.methods.options import name_of

if TYPE_CHECKING:  # it brings JAX, and the command line shows its help without
    from poplin.inference.intervals import Interval

METHODS = {
    "ml": "maximum likelihood (stochastic-approximation EM)",
    "variational": "the variational bound (Gaussian approximation of each row's latent position)",
}
LARGEST_KHAT = 0.7  # beyond it the error of importance sampling is not what it seems (Vehtari et al. 2024)
OF_A_RUN = ("callback", "checkpoint", "checkpoint_every")  # settings of one run, which say nothing of the fit
COEFFICIENT_COLUMNS = (
    ("estimate", 9),
    ("std. error", 10),
    ("95 % interval", 17),
    ("z", 8),
    ("p", 8),
    ("method", 8),
)
# What the phases with chains watch instead of a bound in nats, which costs more than a step to know.
CHAIN_PHASES = {"pilot", "ml", "information"}
_WIDTH = 110


class Fitted(Protocol):
    """What the face of poplin reads of a fitted model; axis letters as everywhere (n, p, d, q)."""

    coef_: np.ndarray
    covariance_: Any
    sigma_: Any  # `models.covariance.Covariance`: the same without a square of p x p
    loadings_: np.ndarray | None
    specific_variance_: np.ndarray | None
    specific_at_edge_: np.ndarray | None
    components_: np.ndarray
    eigenvalues_: np.ndarray
    latent_mean_: Any  # an array, and a number below: Any, as they may be cached properties
    elbo_: Any
    shrinkage_: float
    trace_: dict[str, np.ndarray]
    converged_: bool
    n_iter_: int
    seconds_: float
    counts_: Counts
    messages_: tuple[str, ...]

    def get_params(self) -> dict[str, Any]:
        """The settings, by name."""
        ...

    def save(self, path: Any) -> None:
        """Write the fit to one file."""
        ...


def known_khat(fit: Fitted) -> np.ndarray | None:
    """Pareto k-hat of each row, where the log-likelihood has been asked for: it costs more than what shows it."""
    held = vars(fit).get("_marginal")
    return None if held is None else held.khat


def summary(fit: Fitted, *, shown: int = 8) -> str:
    """A fit as plain text, as statisticians expect it: call, data, convergence, estimates, what to know.

    `shown` is the number of coefficients and eigenvalues listed. Bounds and likelihoods are in nats, with
    every constant; higher is better. The log-likelihood is there only if it has been computed before.
    """
    lines = [f"{model_words(fit)} model, fitted by {method_words(fit)}", ""]
    lines += _two_columns(facts(fit))
    lines += [
        "",
        *_coefficient_lines(fit, shown),
        "",
        *_covariance_lines(fit, shown),
        *_scale_lines(fit, shown),
        *_own_lines(fit, shown),
        *_law_lines(fit),
    ]
    told = (*fit.counts_.notes, *fit.messages_, *getattr(fit, "coef_notes", tuple)())
    if told:
        lines += ["", "To know", *(line for note in told for line in _wrapped(note, "  - "))]
    return "\n".join(map(printable, lines))


def facts(fit: Fitted) -> dict[str, str]:
    """The head of the summary: what is fitted to what, how, and how far it came."""
    told = {
        "call": call(fit),
        "data": data_words(fit),
        "covariance": shape_words(fit),
        "shrinkage": shrinkage_words(fit),
        "outcome": verdict(fit),
    }
    bound = vars(fit).get(
        "elbo_"
    )  # a cached property, as the log-likelihood: there once it has been asked for
    if bound is not None:
        told["bound"] = f"{bound:.2f} nats (evidence lower bound, all constants, higher is better)"
    cluster = vars(fit).get("_cluster")
    if cluster is not None:
        told["standard errors"] = f"by clusters '{cluster.name}' ({cluster.count()} groups), Student's t"
    held = vars(fit).get("loglik_")  # a cached property: there once it has been asked for
    if held is not None:
        error = vars(fit).get("loglik_se_")
        told["log-likelihood"] = f"{held:.2f} nats" + (f" (Monte-Carlo error {error:.2f})" if error else "")
    return told


def call(fit: Fitted, changed: Mapping[str, Any] | None = None) -> str:
    """The constructor call with every setting that is not the default, some of them changed."""
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(type(fit)).parameters.items()
    }
    told = [
        f"{name}={_brief(value)}"
        for name, value in (fit.get_params() | dict(changed or {})).items()
        if name not in OF_A_RUN and not _same(value, defaults.get(name))
    ]
    return f"{type(fit).__name__}({', '.join(told)})"


def data_words(fit: Fitted) -> str:
    """Size, share of zeros and what else entered, in one line."""
    counts = fit.counts_
    n, p = counts.y.shape
    total, zeros = held.row_sums(counts.y).sum(), held.zeros(counts.y)
    words = f"{n} rows, {p} columns, {total:.0f} counted, {zeros:.0%} zeros"
    words += f"; {len(counts.covariate_names)} covariates" if len(counts.covariate_names) != 1 else ""
    words += "" if not np.any(held.smallest(counts.offset)) else "; with an offset"
    return words + ("" if np.all(counts.weights == 1) else "; weighted rows")


def method_words(fit: Fitted) -> str:
    """The method in words; one with options goes by its name."""
    method = fit.get_params().get("method", "ml")
    name = method if isinstance(method, str) else name_of(method)
    return METHODS.get(name, name)


MODELS = {
    "poisson": "Poisson-lognormal",
    "zero-inflated-poisson": "Zero-inflated Poisson-lognormal",
    "negative-binomial": "Negative-binomial-lognormal",
    "zero-inflated-negative-binomial": "Zero-inflated negative-binomial-lognormal",
    "bernoulli": "Bernoulli (presence and absence) logit-normal",
}


def model_words(fit: Fitted) -> str:
    """The model by the law of its counts."""
    law = str(fit.get_params().get("likelihood", "poisson"))
    return MODELS.get(law, law)


def law_ranges(fit: Fitted) -> list[str]:
    """The ranges of the law's own parameters, a sentence each; none of Poisson's and Bernoulli's."""
    zero, dispersion = _own(fit)
    told = []
    if zero is not None:
        share = np.asarray(getattr(fit, "zero_probability_", zero))
        told.append(f"probability of a zero beyond the counts' own {_range(share)}{_whose(fit)}")
    if dispersion is not None:
        told.append(f"dispersion a of each column (variance m + a m^2) {_range(dispersion)}")
    return told


def _own(fit: Fitted) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The law's own parameters: logits of zeros (k, p) or (k, 1), dispersions (p,); None where there are none."""
    found = (getattr(fit, name, None) for name in ("zero_coef_", "dispersion_"))
    zero, dispersion = (None if one is None else np.asarray(one) for one in found)
    return zero, dispersion


def _whose(fit: Fitted) -> str:
    settings = fit.get_params()
    formula, share = settings.get("zero_formula"), settings.get("zero_probability", "column")
    if formula is not None:
        return f", by {formula}" + (", the same in all columns" if share == "single" else "")
    return {"column": ", of each column", "single": ", of the whole table", "row": ", of each row"}[share]


def _range(values: np.ndarray) -> str:
    low, middle, high = (f"{f(values):.3g}" for f in (np.min, np.median, np.max))
    return low if low == high else f"{low} to {high} (median {middle})"


def law_records(fit: Fitted) -> list[dict[str, Any]]:
    """The law's own parameters, a line each, with intervals where there are any; nothing where it has none.

    zero: the logit of the probability of a zero beyond the counts' own, or its coefficient of a feature; probability is
    there where the logit is that of the column or of the row. dispersion: a. An empty column means all columns.
    """
    zero, dispersion = _own(fit)
    lines = [] if zero is None else _zero_lines(fit, zero)
    if dispersion is not None:
        names, told = fit.counts_.column_names, _interval_of(fit, "dispersion", len(dispersion))
        lines += [
            {"parameter": "dispersion", "feature": "", "column": name, "estimate": float(value)} | more
            for name, value, more in zip(names, dispersion, told, strict=True)
        ]
    return lines


LAW_COLUMNS = ("feature", "column", "estimate", "se", "lower", "upper", "probability")


def _zero_lines(fit: Fitted, coef: np.ndarray) -> list[dict[str, Any]]:
    zeros = fit.counts_.zeros
    features = ("Intercept",) if zeros is None else zeros.names
    columns = fit.counts_.column_names if coef.shape[1] == len(fit.counts_.column_names) else ("",)
    alone = zeros is None or zeros.design is None
    told = iter(_interval_of(fit, "zero", coef.size))
    lines = []
    for feature, values in zip(features, coef, strict=True):
        for column, value in zip(columns, values, strict=True):
            line = {"parameter": "zero", "feature": feature, "column": column, "estimate": float(value)}
            more = {"probability": float(1 / (1 + np.exp(-value)))} if alone else {}
            lines.append(line | next(told) | more)
    return lines


def _interval_of(fit: Fitted, which: str, size: int) -> list[dict[str, float]]:
    """Standard errors and ends of the intervals of so many parameters; empty where there are none."""
    table = _asked(fit, which)
    if table is None or len(table) != size:
        return [{}] * size
    return [{name: float(line[name]) for name in LAW_COLUMNS[3:6]} for _, line in table.iterrows()]


def _law_lines(fit: Fitted) -> list[str]:
    told = law_ranges(fit)
    return (
        ["", "Law of the counts", *(line for words in told for line in _wrapped(words, "  "))] if told else []
    )


def shape_words(fit: Fitted) -> str:
    """The shape of the residual covariance in words."""
    settings = fit.get_params()
    p, q = fit.components_.shape
    own = "" if fit.specific_variance_ is None else " + diag(psi)"
    if settings.get("basis") is not None:
        return f"borrowed basis V ({p} x {q}): Sigma = V Lambda V'{own}, {q} scales estimated"
    if settings.get("rank") is not None:
        return f"rank {q}: Sigma = C C'{own}, C {p} x {q}, reported in principal axes"
    if not isinstance(settings.get("covariance"), str):
        return f"fixed Sigma, {p} x {p}, as given"
    free = {"full": f"{p * (p + 1) // 2} free", "diagonal": f"{p} variances", "spherical": "one variance"}
    return f"{settings['covariance']}, {p} x {p} ({free[settings['covariance']]})"


def shrinkage_words(fit: Fitted) -> str:
    """By how much correlations were pulled toward zero."""
    if fit.shrinkage_ == 0:
        return "none"
    chosen = " (chosen from the data)" if fit.get_params().get("shrinkage") == "auto" else ""
    return f"correlations pulled by {fit.shrinkage_:.2g} of their size toward 0{chosen}"


def verdict(fit: Fitted) -> str:
    """Whether the fit converged, and what to do if not."""
    spent = f"{fit.n_iter_} iterations ({fit.seconds_:.1f} s)"
    if getattr(fit, "interrupted_", False):
        return f"interrupted: after {spent}; these are the estimates reached by then. Run it to the end."
    if fit.converged_:
        return f"converged: the stopping rule held after {spent}"
    return (
        f"not converged: stopped after {spent} before the stopping rule held. Estimates may still move: "
        "allow more iterations (max_iter, --max-iter) before reading them, or fit a smaller model (a rank)."
    )


def measure(phase: str) -> str:
    """What the objective of a phase is."""
    return "share of moves accepted" if phase.rpartition(": ")[2] in CHAIN_PHASES else "bound (nats)"


def largest_effects(fit: Fitted, shown: int) -> Iterator[tuple[str, str, float]]:
    """(covariate, column, estimate) of the largest coefficients, the intercept left out if there is more."""
    names = fit.counts_.covariate_names
    effects = [k for k, name in enumerate(names) if name != "Intercept"]
    size = (
        np.abs(fit.coef_[effects]) if effects else fit.coef_
    )  # of intercepts, the commonest columns come first
    effects = effects or list(range(len(names)))
    flat = fit.coef_[effects]
    for place in np.argsort(-size, axis=None, kind="stable")[:shown]:
        k, j = np.unravel_index(place, flat.shape)
        yield names[effects[k]], fit.counts_.column_names[j], float(flat[k, j])


def residual_range(fit: Fitted) -> str:
    """Smallest, median and largest variance, and the range of the correlations."""
    variance = fit.sigma_.diag()
    words = f"variances {variance.min():.3g} to {variance.max():.3g} (median {np.median(variance):.3g})"
    if np.count_nonzero(variance) > 1:
        every = [
            (np.fmin.reduce(part, axis=None), np.fmax.reduce(part, axis=None))
            for _, part in fit.sigma_.upper_correlations()
        ]
        low, high = (pick([ends[side] for ends in every]) for side, pick in enumerate((np.nanmin, np.nanmax)))
        words += f", correlations {low:.2f} to {high:.2f}"
    return words


def _coefficient_lines(fit: Fitted, shown: int) -> list[str]:
    rows = [_with_errors(fit, effect) for effect in largest_effects(fit, shown)]
    d, p = fit.coef_.shape
    wide = [
        max(len("covariate"), *(len(row[0]) for row in rows)),
        max(len("column"), *(len(row[1]) for row in rows)),
    ]
    head = f"Coefficients on the log scale, the {len(rows)} largest of {d * p}"
    names = [f"{name:>{size}}" for name, size in COEFFICIENT_COLUMNS[: len(rows[0]) - 2]]
    table = [f"  {'covariate':<{wide[0]}}  {'column':<{wide[1]}}  " + "  ".join(names)]
    for a, b, *told in rows:
        cells = [f"{cell:>{size}}" for cell, (_, size) in zip(told, COEFFICIENT_COLUMNS, strict=False)]
        table.append(f"  {a:<{wide[0]}}  {b:<{wide[1]}}  " + "  ".join(cells))
    return [head, *table]


def coef_interval(fit: Fitted) -> Interval | None:
    """Intervals of B as arrays (d, p); None of a fit that cannot be asked for them or has none."""
    asked = getattr(fit, "coef_interval", None)
    return None if asked is None else asked()


def _with_errors(fit: Fitted, effect: tuple[str, str, float]) -> tuple[Any, ...]:
    """An effect with its standard error, interval, z and p-value in words, where there are any."""
    told, (covariate, column, value) = coef_interval(fit), effect
    names = printable(covariate), printable(column)
    if told is None:
        return *names, f"{value:.3f}"
    at = fit.counts_.covariate_names.index(covariate), fit.counts_.column_names.index(column)
    interval = f"{told.lower[at]:.3f} to {told.upper[at]:.3f}"
    numbers = f"{value:.3f}", f"{told.se[at]:.3f}", interval, f"{told.z[at]:.3f}", f"{told.p[at]:.2g}"
    return *names, *numbers, str(np.broadcast_to(told.method, told.p.shape)[at])


def scale_table(fit: Fitted) -> Any:
    """A borrowed basis's scales with their intervals, in its order; None without a basis or standard errors."""
    return None if fit.get_params().get("basis") is None else _asked(fit, "scales")


def specific_table(fit: Fitted) -> Any:
    """The variances of the columns' own with their intervals; None without such variances or standard errors."""
    return None if fit.specific_variance_ is None else _asked(fit, "specific")


def _asked(fit: Fitted, which: str) -> Any:
    """A table of intervals, None of a fit that has no standard errors."""
    ask = getattr(fit, "confint", None)
    if ask is None or coef_interval(fit) is None:
        return None
    try:
        return ask(which)
    except InputError:  # of methods that estimate none
        return None


def _scale_lines(fit: Fitted, shown: int) -> list[str]:
    table = scale_table(fit)
    if table is None:
        return []
    told = [
        f"  {name}  {line.estimate:.3g} (95 % interval {line.lower:.3g} to {line.upper:.3g})"
        for name, line in table.iloc[:shown].iterrows()
    ]
    more = [f"  and {len(table) - shown} more"] if len(table) > shown else []
    return ["", "Scales of the basis V, in its order", *told, *more]


def own_tables(fit: Fitted) -> dict[str, Any]:
    """The law's own parameters with their intervals, by what `confint` calls them; a table is None without errors."""
    told = {"zero": getattr(fit, "zero_coef_", None), "dispersion": getattr(fit, "dispersion_", None)}
    return {which: _asked(fit, which) for which, estimate in told.items() if estimate is not None}


OWN_WORDS = {
    "zero": "Zeros beyond those of the counts (logits of their probabilities)",
    "dispersion": "Dispersions (variance of a count at the mean m: m + dispersion m^2)",
}


def _own_lines(fit: Fitted, shown: int) -> list[str]:
    found: list[str] = []
    for which, table in own_tables(fit).items():
        if table is None:
            continue
        found += ["", OWN_WORDS[which]]
        for name, line in table.iloc[:shown].iterrows():
            where = ": ".join(map(str, name)) if isinstance(name, tuple) else str(name)
            share = f", probability {line.probability:.3g}" if "probability" in line else ""
            ends = (
                f" (95 % interval {line.lower:.3g} to {line.upper:.3g})"
                if line.lower == line.lower
                else " (at 0)"
            )
            found.append(f"  {where}  {line.estimate:.3g}{ends}{share}")
        found += [f"  and {len(table) - shown} more"] if len(table) > shown else []
    return found


def _covariance_lines(fit: Fitted, shown: int) -> list[str]:
    total = fit.sigma_.trace() or 1.0
    head = [f"{value:.3g} ({value / total:.0%})" for value in fit.eigenvalues_[:shown]]
    more = len(fit.eigenvalues_) - len(head)
    listed = ", ".join(head) + (f" and {more} more" if more > 0 else "")
    return [
        "Residual covariance (what goes together beyond the covariates)",
        f"  {residual_range(fit)}",
        *_wrapped(f"eigenvalues {listed}", "  "),
        *_specific_lines(fit, total),
    ]


def _specific_lines(fit: Fitted, total: float) -> list[str]:
    """The range of the variances of the columns' own, and whose are at their edge; nothing without them."""
    own, at_edge = fit.specific_variance_, fit.specific_at_edge_
    if own is None or at_edge is None:
        return []
    words = f"variances of the columns' own {own.min():.3g} to {own.max():.3g} (median {np.median(own):.3g})"
    words += f", {own.sum() / total:.0%} of all variance"
    edge = [fit.counts_.column_names[j] for j in np.flatnonzero(at_edge)]
    words += f"; at their lower edge: {listed(edge)}" if edge else ""
    return _wrapped(words, "  ")


def _two_columns(told: Mapping[str, str]) -> list[str]:
    wide = max(len(name) for name in told) + 2
    return [line for name, words in told.items() for line in _wrapped(words, f"{name:<{wide}}")]


def _wrapped(text: str, head: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [head]


def _brief(value: Any) -> str:
    """A setting as it is written in a call; arrays by their shape."""
    shape = getattr(value, "shape", None)
    return f"<{' x '.join(map(str, shape))}>" if shape else repr(value)


def _same(value: Any, default: Any) -> bool:
    return value is default or (
        type(value) is type(default) and not hasattr(value, "shape") and value == default
    )
