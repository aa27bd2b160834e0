"""The methods by name, and what each can be told beyond it: `PLN(method=poplin.methods.Exact(order=20))`.

Start at `METHODS`. These are plain records; `fitting/driver.py` says how each is carried out. A method's name
stands for its record with nothing changed (`chosen`).
"""

from typing import Any, NamedTuple

from poplin._errors import InputError

__all__ = [
    "BBVI",
    "IWAE",
    "MCMC",
    "Amortised",
    "Composite",
    "Exact",
    "MaximumLikelihood",
    "Moments",
    "Smoothed",
    "Variational",
]


class MaximumLikelihood(NamedTuple):
    """Maximum likelihood by stochastic-approximation EM, from where a variational fit ends: the default.

    Cost of an iteration: n p exponentials and n p q products a chain, a handful of times. Sources: Delyon, Lavielle &
    Moulines (1999), Ann. Stat. 27; Yu & Meng (2011), JCGS 20.

    Attributes:
        chains: of each row; None: as many as make 1000 chains of all rows, 32 a row at most, and one on large tables.
            More make an iteration dearer and its draws less noisy.
    """

    chains: int | None = None


class Variational(NamedTuple):
    """The bound: a Gaussian for each row in the place of its posterior. Quick, and biased where counts are low.

    Source: Chiquet, Mariadassou & Robin (2018), Ann. Appl. Stat. 12.

    Attributes:
        posterior: covariances of the rows' Gaussians, "diagonal" or "full"; None: what `PLN(posterior=...)` says.
    """

    posterior: str | None = None


class Exact(NamedTuple):
    """Numerical integration, where Sigma is diagonal or there are at most 3 latent dimensions.

    Cost of a step: n p order^q exponentials (n p order for a diagonal Sigma).

    Attributes:
        order: Gauss-Hermite nodes along an axis; None: doubled until the log-likelihood no longer changes.
    """

    order: int | None = None


class Moments(NamedTuple):
    """Closed form, from means and cross-products; needs an intercept among the covariates.

    E[y_j y_k] / (E y_j E y_k) = exp(Sigma_jk) (Aitchison & Ho 1989). Cost n p^2; rough where counts are low.
    """


class Composite(NamedTuple):
    """Pairwise likelihoods: margins first, then one correlation a pair.

    Cost of a step: O(n p^2 order^2).

    Attributes:
        order: Gauss-Hermite nodes along each of the two axes of a pair.
        margin_order: nodes of a margin.
    """

    order: int = 12
    margin_order: int = 40


class MCMC(NamedTuple):
    """Monte-Carlo EM with the no-U-turn sampler of BlackJAX.

    The fit then has `draws_`, and `rhat_` and `chain_effective_draws_` of each row. Source: Hoffman & Gelman (2014),
    JMLR 15.

    Attributes:
        draws: of every row in an E-step of the first phase, twice as many in each that follows.
        most_draws: at most.
    """

    draws: int = 5
    most_draws: int = 320


class BBVI(NamedTuple):
    """Black-box variational inference with diagonal Gaussians: gradients of the bound from draws.

    The fit then has `gradient_variance_`: of a row's gradient at the start and at the end. Source: Ranganath, Gerrish &
    Blei (2014), AISTATS.

    Attributes:
        gradient: "reparam" (through the draws) or "score" (the score function, noisier).
        control: for the score function: "none", "rao-blackwell" (each component sees only the terms in which it
            occurs), "rloo" (less the mean of the other draws), or "both".
        draws: of every row at a step, two or more.
        rate: of a step while it is constant.
    """

    gradient: str = "reparam"
    control: str = "none"
    draws: int = 10
    rate: float = 0.1


class IWAE(NamedTuple):
    """The importance-weighted bound with diagonal Gaussians, doubly reparameterised.

    What is reported of rows (`latent_mean_`, `elbo_`) is refitted by the plain bound: an importance-weighted proposal
    is no posterior. Sources: Burda, Grosse & Salakhutdinov (2016), ICLR; Tucker et al. (2019), ICLR.

    Attributes:
        draws: of every row at a step: the more, the nearer the bound is to the likelihood.
        rate: of a step while it is constant.
    """

    draws: int = 20
    rate: float = 0.3


class Amortised(NamedTuple):
    """The bound with Gaussians from a network, which sees a row and says where it is: new rows need no optimisation.

    A round is so many epochs (200 steps at least); the learning rate falls where rounds no longer gain. Source of
    `refine`: Kim et al. (2018), ICML.

    Attributes:
        posterior: covariances "diagonal" or "full" (L L', L = mask * L' + diag(sigma)).
        hidden: units of the network's layers.
        decoder: B and Sigma follow by the M-step over all rows ("exact"), or climb together with the network
            ("gradient"; the M-step then comes last).
        refine: free steps of each row from the network's answer (semi-amortised), in the fit and for new rows.
        epochs: passes over the rows in a round.
        batch_size: rows of a minibatch.
        rate: learning rate.
    """

    posterior: str = "diagonal"
    hidden: tuple[int, ...] = (64, 64)
    decoder: str = "exact"
    refine: int = 0
    epochs: int = 5
    batch_size: int = 256
    rate: float = 3e-3


class Smoothed(NamedTuple):
    """Two steps: the variational fit, its means and standard deviations smoothed by two networks, B and Sigma refitted.

    The networks have ReLU units, a linear output for means, softplus for standard deviations, and are trained on
    squared errors until rows that were left out gain no more. The fit then has `smoothing_r2_`: the shares of the
    variance of means and of standard deviations that the networks reproduce.

    Attributes:
        hidden: units of the networks' layers.
        epochs: passes over the rows at most (2000 steps, if that is more).
        batch_size: rows of a minibatch.
        rate: learning rate.
    """

    hidden: tuple[int, ...] = (30, 30)
    epochs: int = 200
    batch_size: int = 128
    rate: float = 1e-3


METHODS: dict[str, type] = {
    "ml": MaximumLikelihood,
    "variational": Variational,
    "exact": Exact,
    "mcmc": MCMC,
    "moments": Moments,
    "composite": Composite,
    "bbvi": BBVI,
    "iwae": IWAE,
    "amortised": Amortised,
    "smoothed": Smoothed,
}
_NAMES = {options: name for name, options in METHODS.items()}


def chosen(method: Any) -> Any:
    """The options of a method that is given by its name or by them; an `InputError` that lists the names."""
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if type(method) in _NAMES:
        return method
    raise InputError(
        f"method={method!r}: wanted is one of {', '.join(map(repr, METHODS))}, or options from poplin.methods."
    )


def name_of(method: Any) -> str:
    """The name of a method that is given by its name or by its options."""
    return _NAMES[type(chosen(method))]


def to_plain(method: Any) -> Any:
    """A method as a word, where nothing but its name is said, or as a list, for a file."""
    options = chosen(method)
    return name_of(method) if options == type(options)() else [name_of(method), dict(options._asdict())]


def from_plain(kept: Any) -> Any:
    """The method that `to_plain` wrote."""
    return kept if isinstance(kept, str) else METHODS[kept[0]](**kept[1])
