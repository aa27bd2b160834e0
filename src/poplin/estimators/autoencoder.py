"""`Autoencoder`: rows squeezed through q numbers and back, without a prior.

Start at `Autoencoder`. Without hidden layers it is linear, and spans the principal subspace.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from poplin.data.blocks import Block
from poplin.estimators import training
from poplin.estimators.building import Words, widths
from poplin.estimators.neural import AbstractNeural, rebuild
from poplin.estimators.parameters import AbstractEstimator
from poplin.estimators.settings import EpochSettings, NetworkSettings
from poplin.inference.importance import SLICE, in_slices
from poplin.methods.objectives import AbstractObjective, Binarised, Reconstruction, row_values


@dataclass(eq=False, repr=False)
class Autoencoder(AbstractNeural, AbstractEstimator, NetworkSettings, EpochSettings):
    """Autoencoder: the maximum of sum_i log p(y_i | f(g(y_i))) over an encoder g and a decoder f.

    Under the default likelihood, a Gaussian of fixed scale, that is least squares. Settings are those of `VAE`,
    without prior, posterior and draws. hidden=() is linear: C spans the space of the first q principal axes, and the
    encoder ends as the pseudo-inverse of the decoder where X'X is nonsingular.

    Attributes: `history_`, one line an epoch, means over rows in nats, higher is better; `stopped_`, `converged_`,
    `n_iter_` (epochs), `messages_`, `held_out_`, `seconds_`, `model_`.

    >>> import numpy as np, poplin
    >>> table = np.random.default_rng(0).normal(size=(60, 4))
    >>> fit = poplin.Autoencoder(2, hidden=(8,), max_epochs=3, patience=None).fit(table)
    >>> fit.transform(table).shape, fit.reconstruct(table).shape
    ((60, 2), (60, 4))
    """

    n_components: int = 10
    _: KW_ONLY
    scale: Any = "fixed"

    def _words(self) -> Words:
        return Words(
            "point", self.likelihood, self.scale, "normal", widths(self.hidden), self.activation, None
        )

    def _trained(self, block: Block) -> training.Trained:
        return training.train(self.model_, self._objective(), block, self._plan())

    def _kept(self) -> dict[str, np.ndarray]:
        return {}

    def _objective(self) -> AbstractObjective:
        return Binarised(Reconstruction()) if self.binarise else Reconstruction()

    def score_samples(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """Log p(y | f(g(y))) of each row in nats (n,), higher is better: no likelihood of the row."""
        block = self._block(Y, data, offset)
        return in_slices(lambda part, _: row_values(self.model_, part), block, SLICE)

    def score(self, Y: Any, y: Any = None, **others: Any) -> float:
        """Mean of `score_samples`, in nats a row: higher is better."""
        return float(np.mean(self.score_samples(Y, **others)))


def rebuilt(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Autoencoder:
    """A fitted `Autoencoder` from what its `save` wrote."""
    return rebuild(Autoencoder, arrays, meta)
