"""Settings that models with an encoder share, each said once.

Start at `NetworkSettings`. A model is a dataclass over these: its own settings come first, what it inherits is given by
name, and a default that differs is said again in the model. scikit-learn reads them all off the signature that
the dataclass makes. What each means is told by `VAE`.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkSettings:
    """The rows, the networks, and how a step is taken."""

    likelihood: str = "gaussian"
    scale: Any = "column"
    hidden: Any = (128,)
    activation: str = "relu"
    condition: Any = ()
    batch: str | None = None
    layer: str | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    callback: Any = None
    random_state: int = 0


@dataclass(kw_only=True, eq=False, repr=False)
class EpochSettings:
    """How long it is trained, and how a fit that was stopped goes on."""

    binarise: bool = False
    max_epochs: int = 400
    schedule: str = "constant"
    validation_fraction: float = 0.1
    patience: int | None = 20
    checkpoint: Any = None


@dataclass(kw_only=True, eq=False, repr=False)
class BoundSettings:
    """The rows' Gaussians and the bound."""

    posterior: str = "diagonal"
    draws: int = 1
    kl_warmup: int = 10
