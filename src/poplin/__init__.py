"""poplin: latent-variable models of count tables, by maximum likelihood and by the bound.

Start at `PLN`. Names are loaded when they are first used, so that `import poplin` is quick and changes
nothing.
"""

from __future__ import annotations

from poplin._errors import ConvergenceWarning, DataWarning, InputError, LikelihoodWarning

TYPE_CHECKING = False  # as type checkers take it; `typing` would take half of the time that all of this takes
if TYPE_CHECKING:
    from typing import Any

    from poplin.estimators.common_basis import CommonBasis as CommonBasis
    from poplin.estimators.compare import compare as compare
    from poplin.estimators.compare import likelihood_ratio, select
    from poplin.estimators.loading import load as load
    from poplin.estimators.pln import PLN as PLN
    from poplin.estimators.ppca import PPCA as PPCA
    from poplin.estimators.vae import IDEC, Autoencoder, MixtureVAE, predict_shift
    from poplin.estimators.vae import VAE as VAE
    from poplin.sites.plan import SitePlan as SitePlan
    from poplin.sites.summaries import SiteSummary as SiteSummary

__version__ = "0.1.0"
__all__ = [
    "IDEC",
    "PLN",
    "PPCA",
    "VAE",
    "Autoencoder",
    "CommonBasis",
    "MixtureVAE",
    "SitePlan",
    "SiteSummary",
    "ConvergenceWarning",
    "DataWarning",
    "InputError",
    "LikelihoodWarning",
    "compare",
    "likelihood_ratio",
    "load",
    "predict_shift",
    "select",
]

_ROOMS = {
    "CommonBasis": "poplin.estimators.common_basis",
    "SitePlan": "poplin.sites.plan",
    "SiteSummary": "poplin.sites.summaries",
    "compare": "poplin.estimators.compare",
    "PLN": "poplin.estimators.pln",
    "Autoencoder": "poplin.estimators.vae",
    "IDEC": "poplin.estimators.vae",
    "MixtureVAE": "poplin.estimators.vae",
    "PPCA": "poplin.estimators.ppca",
    "VAE": "poplin.estimators.vae",
    "likelihood_ratio": "poplin.estimators.compare",
    "load": "poplin.estimators.loading",
    "predict_shift": "poplin.estimators.vae",
    "select": "poplin.estimators.compare",
}
# Whole rooms: poplin.methods.Exact(), poplin.offsets.gmpr(Y), poplin.plots.embedding(fit), poplin.tl.pln(adata),
# poplin.datasets.fetch(name).
_MODULES = {
    "datasets": "poplin.datasets",
    "methods": "poplin.methods",
    "offsets": "poplin.data.offsets",
    "plots": "poplin.report.plots",
    "tl": "poplin.tl",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _ROOMS:
        raise AttributeError(f"module 'poplin' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
