"""The ways to fit that are not "ml" or "variational": from a method's options to phases on the loop.

Start at `fit`. Each way ends in `Fitted` phases, the pseudo-rows behind a shrunk Sigma, and what else it has to report.
The options themselves are in `methods/options.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from poplin._errors import InputError
from poplin.estimators import amortised, blackbox, closed, integrated, sampled, smoothed
from poplin.estimators.tasks import Ended, Task
from poplin.methods.options import BBVI, IWAE, MCMC, Amortised, Composite, Exact, Moments, Smoothed

PLAIN = ("ml", "variational")


class Way(NamedTuple):
    """A method's options, how it is carried out, and its usual number of iterations and tolerance."""

    options: type
    carry_out: Callable[[Any, Task], Ended]
    max_iter: int
    tol: float


WAYS: dict[str, Way] = {
    "exact": Way(Exact, integrated.fit, 1_000, 1e-9),
    "mcmc": Way(MCMC, sampled.fit, 600, 0.1),
    "bbvi": Way(BBVI, blackbox.fit_bbvi, 2_000, 0.2),
    "iwae": Way(IWAE, blackbox.fit_iwae, 2_000, 0.2),
    "moments": Way(Moments, closed.fit_moments, 1, 1e-10),
    "composite": Way(Composite, closed.fit_composite, 1_000, 1e-9),
    "amortised": Way(Amortised, amortised.fit, 100, 1e-3),
    "smoothed": Way(Smoothed, smoothed.fit, 20_000, 1e-10),
}
NAMES = (*PLAIN, *WAYS)
INFORMED = ("ml", "variational", "exact", "mcmc")  # whose errors follow from information or from a sandwich


def chosen(method: Any) -> Any:
    """Either "ml" or "variational", or the options of another way; an `InputError` that lists the names."""
    if isinstance(method, str) and method in PLAIN:
        return method
    if isinstance(method, str) and method in WAYS:
        return WAYS[method].options()
    if type(method) in _by_options():
        return method
    raise InputError(
        f"method={method!r}: wanted is one of {', '.join(map(repr, NAMES))}, or options from poplin.methods."
    )


def way_of(options: Any) -> Way:
    """The way that these options belong to."""
    return WAYS[_by_options()[type(options)]]


def name_of(method: Any) -> str:
    """The name of a method that is given by its name or by its options."""
    return method if isinstance(method, str) else _by_options()[type(method)]


def check_informed(method: Any) -> None:
    """An `InputError` where standard errors of a method's estimates do not follow from the likelihood's information."""
    if name_of(method) not in INFORMED:
        raise InputError(
            f"Standard errors of method={name_of(method)!r} do not follow from the likelihood's information. Give "
            "n_boot, for example n_boot=200, or fit with method='ml'."
        )


def _by_options() -> dict[type, str]:
    return {way.options: name for name, way in WAYS.items()}


def to_plain(method: Any) -> Any:
    """A method as a word or a list, for a file."""
    return method if isinstance(method, str) else [name_of(method), dict(method._asdict())]


def from_plain(kept: Any) -> Any:
    """The method that `to_plain` wrote."""
    return kept if isinstance(kept, str) else WAYS[kept[0]].options(**kept[1])


def fit(options: Any, task: Task) -> Ended:
    """Carry a way out."""
    return way_of(options).carry_out(options, task)
