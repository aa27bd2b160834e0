"""One page that says what was fitted, what came out and what not to trust; it needs nothing beside itself.

Start at `page`. The words are in `page.html.j2`, `verdicts.py` and `inference/summary.py`, the figures in `figures.py`
and `figures.py`; `page.js` sorts, searches and points, over what `html.py` says. Names that come from the data
are escaped by jinja2: a column called <script> is shown, not run.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import platform
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poplin.data.held import smallest
from poplin.inference import summary
from poplin.inference.summary import Fitted
from poplin.methods.options import name_of
from poplin.report import figures, verdicts, views

# What the page's own script works on: coefficients to sort and search, rows to point at. Plain lists, ready for JSON.
#
# Start at `for_script`. A value that is no number is None; names go through jinja2's tojson, which leaves nothing
# that ends a script.


MOST_SORTED_EFFECTS, MOST_FACTS = 20_000, 12
DIGITS = 5
OPEN = 1e308  # JSON has no infinity


def for_script(fit: Fitted, colour: views.Colour | None, covariates: Any) -> dict[str, Any]:
    """Everything that the script reads."""
    return {"effects": effects(fit), "points": points(fit, colour, covariates), "groups": figures.GROUPS}


def effects(fit: Fitted) -> dict[str, Any]:
    """Coefficients, one list each: covariate, column, estimate, ends of the interval, p, adjusted p, method.

    An open end is 1e308.

    Above 20 000 of them, those that are largest against their error (without errors: the largest).
    """
    counts = fit.counts_
    told = summary.coef_interval(fit)
    d, p = fit.coef_.shape
    lists, methods = [fit.coef_.ravel()], None
    size = np.abs(fit.coef_)
    if told is not None:
        from poplin.inference.intervals import adjusted

        size = np.nan_to_num(np.abs(told.z))
        ends = (np.clip(part, -OPEN, OPEN) for part in (told.lower, told.upper))
        lists += [np.broadcast_to(part, (d, p)).ravel() for part in (*ends, told.p)]
        methods = np.broadcast_to(told.method, (d, p)).ravel()
        lists.append(np.concatenate([adjusted(told.p[k]) for k in range(d)]))
    kept = np.sort(np.argsort(-size, axis=None, kind="stable")[:MOST_SORTED_EFFECTS])
    rows = [[int(at // p), int(at % p), *(_rounded(values[at]) for values in lists)] for at in kept]
    if methods is not None:
        rows = [[*row, str(methods[at])] for row, at in zip(rows, kept, strict=True)]
    return {
        **{"covariates": list(counts.covariate_names), "columns": list(counts.column_names)},
        **{"rows": rows, "of": d * p, "tested": told is not None},
    }


def points(fit: Fitted, colour: views.Colour | None, covariates: Any) -> dict[str, Any]:
    """Names of the rows that are drawn, and what is known of each: covariates as given, else as they were coded."""
    counts = fit.counts_
    shown = figures.drawn_rows(len(counts.row_names))
    facts: dict[str, list[Any]] = {}
    if colour is not None:
        facts[colour.name] = _values(np.asarray(colour.values)[shown])
    if covariates is not None and len(covariates) == len(counts.row_names):
        for name in covariates.columns:
            facts.setdefault(str(name), _values(covariates[name].to_numpy()[shown]))
    else:
        for k, name in enumerate(counts.covariate_names):
            if name != "Intercept" and colour is None:
                facts[name] = _values(counts.x[shown, k])
    kept = dict(list(facts.items())[:MOST_FACTS])
    return {"names": [counts.row_names[i] for i in shown], "facts": kept}


def _values(values: np.ndarray) -> list[Any]:
    if values.dtype.kind in "iuf":
        return [_rounded(value) for value in values.astype(float)]
    return [str(value) for value in values]


def _rounded(value: Any) -> float | None:
    value = float(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


MOST_EFFECTS = 60  # in the page without its script; with it, `page_data.MOST_EFFECTS`
REFERENCES = {
    "model": "Aitchison J, Ho CH (1989) The multivariate Poisson-log normal distribution. Biometrika 76, "
    "643-653.",
    "ml": "Delyon B, Lavielle M, Moulines E (1999) Convergence of a stochastic approximation version of the "
    "EM algorithm. Annals of Statistics 27, 94-128.",
    "variational": "Chiquet J, Mariadassou M, Robin S (2021) The Poisson-lognormal model as a versatile "
    "framework for the joint analysis of species abundances. Frontiers in Ecology and Evolution 9, 588292.",
}


class Origin(NamedTuple):
    """Where a fit comes from: the name of its table, the command that remakes it, what the points show.

    `covariates` is a DataFrame with a line for each row of the table: what is told of a row under the pointer.
    """

    source: str = "a table of counts"
    command: str = ""
    colour: views.Colour | None = None
    covariates: Any = None


FRAME = {name: getattr(figures, name) for name in ("WIDTH", "HEIGHT", "LEFT", "BOTTOM", "PAD")}
LATER = "jinja2", "PIL.Image", "scipy.cluster.hierarchy", "scipy.spatial.distance"


def load_meanwhile() -> None:
    """Begin to load the libraries that only a report needs; a fit has moments in which it waits for the compiler."""

    def load() -> None:
        for name in LATER:
            importlib.import_module(name)

    threading.Thread(target=load, daemon=True).start()


def page(fit: Fitted, origin: Origin | None = None) -> str:
    """The report of a fit as one HTML page, self-contained, for light and dark themes.

    `origin` says where it comes from; without it the call in Python stands in for the command.
    """
    return rendered("page.html.j2", **_content(fit, origin or Origin()))


def rendered(template: str, **content: Any) -> str:
    """A page of this folder; what comes from data is escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    rules = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    made = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **rules)
    made.filters["number"] = _number
    made.globals["frame"] = FRAME
    return made.get_template(template).render(**content)


def _content(fit: Fitted, origin: Origin) -> dict[str, Any]:
    """Everything that the template says, by the name that it uses."""
    counts = fit.counts_
    effects = list(summary.largest_effects(fit, MOST_EFFECTS))
    told = summary.coef_interval(fit)
    places = [(counts.covariate_names.index(a), counts.column_names.index(b)) for a, b, _ in effects]
    return {
        "origin": origin,
        "facts": {name: told for name, told in summary.facts(fit).items() if name not in ("call", "outcome")},
        "verdict": summary.verdict(fit).partition(": "),
        "converged": fit.converged_,
        "method": summary.method_words(fit),
        "model": _lowered(summary.model_words(fit)),
        **_law(fit),
        "exp": lambda value: float(np.exp(value)),
        "equation": _equation(fit),
        "notes": (*counts.notes, *fit.messages_, *getattr(fit, "coef_notes", tuple)()),
        "effects": effects,
        "ends": None if told is None else _ends(told, places),
        "effects_of": fit.coef_.shape[1]
        * max(len(counts.covariate_names) - ("Intercept" in counts.covariate_names), 1),
        "only_intercept": counts.covariate_names == ("Intercept",),
        "residuals": summary.residual_range(fit),
        "pairs": views.strongest_pairs(fit),
        "standings": views.standings(fit),
        "scatter": figures.scatter(fit, origin.colour),
        "heat_map": figures.heat_map(fit),
        "traces": figures.traces(fit),
        **_checked(fit, origin.command),
        "data": for_script(fit, origin.colour, origin.covariates),
        "command": origin.command or summary.call(fit),
        "versions": versions(),
        "seed": fit.get_params().get("random_state"),
        "methods": _methods_paragraph(fit),
        "references": _references(fit),
    }


def _ends(told: Any, places: list[tuple[int, int]]) -> list[tuple[float, float, float, str]]:
    """Interval, p and method of the coefficients at these places."""
    method = np.broadcast_to(told.method, told.p.shape)
    return [(told.lower[at], told.upper[at], told.p[at], str(method[at])) for at in places]


def _law(fit: Fitted) -> dict[str, Any]:
    """The law's own parameters: their ranges, and the first lines of their table."""
    lines = summary.law_records(fit)
    ranges = [words[0].upper() + words[1:] for words in summary.law_ranges(fit)]
    shown = sorted(lines, key=_largest)[:MOST_EFFECTS]
    return {"law_ranges": ranges, "law": shown, "law_of": len(lines)}


def _largest(line: dict[str, Any]) -> tuple[str, float]:
    """The order of the law's parameters: zeros first, large before small."""
    return line["parameter"] != "zero", -line["estimate"]


def _checked(fit: Fitted, command: str) -> dict[str, Any]:
    """Diagnostics in words and the further pictures, which share what they are made of."""
    found = verdicts.found(fit, draws=figures.MOST_DRAWS, most=figures.MOST_RESIDUALS)
    return {
        "verdicts": verdicts.verdicts(fit, found, command),
        "pictures": figures.pictures(fit, found.frequencies, found.residuals, found.departures.curve),
    }


_NEGATIVE = "NegativeBinomial(mean m_ij = exp({eta}), variance m_ij + a_j m_ij^2)"
_INFLATED = "count_ij = 0 with probability pi_ij, else\ncount_ij ~ "
COUNTED = {
    "poisson": "count_ij ~ Poisson(exp({eta}))",
    "zero-inflated-poisson": f"{_INFLATED}Poisson(exp({{eta}}))",
    "negative-binomial": f"count_ij ~ {_NEGATIVE}",
    "zero-inflated-negative-binomial": _INFLATED + _NEGATIVE,
    "bernoulli": "count_ij ~ Bernoulli(1 / (1 + exp(-({eta}))))",
}


def _equation(fit: Fitted) -> list[str]:
    """The model in symbols, one line each, for the form that was fitted."""
    factor = fit.loadings_ is not None
    offset = "o_ij + " if np.any(smallest(fit.counts_.offset)) else ""
    own = fit.specific_variance_ is not None
    latent = "c_j' w_i" + " + e_ij" * own if factor else "z_ij"
    law = "w_i ~ N(0, I)" + ", e_ij ~ N(0, psi_j)" * own if factor else "z_i ~ N(0, Sigma)"
    count = COUNTED.get(fit.get_params().get("likelihood", "poisson"), "count_ij ~ law({eta})")
    return [*count.format(eta=f"{offset}x_i' b_j + {latent}").split("\n"), law]


def _methods_paragraph(fit: Fitted) -> str:
    """A paragraph for a paper, with the software, its version and the seed."""
    counts = fit.counts_
    n, p = counts.y.shape
    formula = fit.get_params().get("formula")
    given = ", ".join(counts.covariate_names)
    covariates = (
        f"the formula {formula}" if formula else f"the covariates {given}" if given != "Intercept" else ""
    )
    seed = fit.get_params().get("random_state")
    words = [
        f"Counts of {p} columns in {n} rows were modelled by a {_lowered(summary.model_words(fit))} model",
        "(Aitchison and Ho 1989)",
        f"with {covariates}" if covariates else "with an intercept for each column",
        "and log-scale offsets" if np.any(smallest(counts.offset)) else "",
        f"and a residual covariance of the form: {summary.shape_words(fit)}.",
        f"It was fitted by {summary.method_words(fit)} with poplin {_version('poplin')} (seed {seed});",
        f"shrinkage of the covariance: {summary.shrinkage_words(fit)}.",
        "" if fit.converged_ else "THE FIT DID NOT CONVERGE.",
    ]
    return " ".join(word for word in words if word)


def _lowered(words: str) -> str:
    """The words within a sentence; names of persons keep their capitals."""
    return words if words.startswith(("Poisson", "Bernoulli")) else words[0].lower() + words[1:]


def _references(fit: Fitted) -> list[str]:
    method = fit.get_params().get("method", "")
    name = method if isinstance(method, str) else name_of(method)
    software = f"poplin {_version('poplin')}: Poisson-lognormal latent-variable models in Python (2026)."
    chosen = [REFERENCES["model"], REFERENCES.get(name, "")]
    return [software, *(reference for reference in chosen if reference)]


def versions() -> str:
    """What made the page, for its last lines."""
    named = [f"{name} {_version(name)}" for name in ("poplin", "jax", "equinox", "numpy", "scipy")]
    return ", ".join([*named, f"Python {platform.python_version()} on {platform.machine()}"])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed as a package)"


def _number(value: float, digits: int = 3) -> str:
    """A number for a table, with a true minus sign so that columns line up."""
    return f"{value:.{digits}f}".replace("inf", "\N{INFINITY}").replace("-", "\N{MINUS SIGN}")
