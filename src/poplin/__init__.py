"""poplin: latent-variable models of count tables, by maximum likelihood and by the bound.

Start at `PLN`. Names are loaded when they are first used, so that `import poplin` is quick and changes
nothing.
"""

from typing import TYPE_CHECKING, Any

from poplin._errors import ConvergenceWarning, DataWarning, InputError

if TYPE_CHECKING:
    from poplin.estimators.pln import PLN as PLN
    from poplin.estimators.pln import load as load

__version__ = "0.1.0"
__all__ = ["PLN", "ConvergenceWarning", "DataWarning", "InputError", "load"]

_ROOMS = {"PLN": "poplin.estimators.pln", "load": "poplin.estimators.pln"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'poplin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
