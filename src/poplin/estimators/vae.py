"""`VAE`, the variational autoencoder as users meet it: settings, and what it can be asked beyond its face.

Start at `VAE`. Fitting, embedding and decoding are in `neural.py`, the training loop in `training.py`.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.blocks import Block
from poplin.estimators import training
from poplin.estimators.building import Words, widths
from poplin.estimators.likely import AbstractLikely
from poplin.estimators.neural import AbstractNeural, rebuild
from poplin.estimators.parameters import AbstractEstimator
from poplin.estimators.settings import BoundSettings, EpochSettings, NetworkSettings
from poplin.methods.objectives import AbstractObjective, Binarised, Bound, ExactBound, ImportanceBound


@dataclass(eq=False, repr=False)
class VAE(AbstractNeural, AbstractLikely, AbstractEstimator, NetworkSettings, EpochSettings, BoundSettings):
    """Variational autoencoder: y | w ~ likelihood(f(w, x)), w ~ prior, q(w | y, x) a Gaussian from a network.

    Settings
        n_components: q, latent dimensions. All others are given by name.
        posterior: "diagonal", or "full": covariance L L' with L = mask * L' + diag(sigma), from the network.
        likelihood: "gaussian", "bernoulli", "categorical", "poisson", "negative-binomial", or "poisson-lognormal":
            rates exp(o + a + x'B + C w) without a decoder network, whose bound needs no draws.
        scale: of the Gaussian: "column" (learned), "row" (sigma(w), from the decoder), "fixed" (1), or a number c.
        beta: weight of the KL term in the objective; with 1 the objective is the bound.
        prior: "normal", or a number k of components of a normal mixture, which is learned and summed exactly.
        hidden: units of the encoder's hidden layers; the decoder has them in reverse. () is linear.
        activation: "relu", "tanh", "softplus" or "gelu".
        basis: for "poisson-lognormal": V (p, q) from elsewhere, C = V Lambda^(1/2).
        condition: names of columns of `data` (or of an AnnData's obs) that encoder and decoder also see.
        batch: name of one more such column, whose values are always taken as categories: a donor's number, a run.
        layer: of an AnnData, in place of its X.
        binarise: draw zeros and ones anew with the probabilities in Y, each time a row is seen.
        draws: of each row in a step; `importance` = k > 1 trains the importance-weighted bound of k draws instead.
        max_epochs, batch_size, learning_rate: of Adam on minibatches.
        schedule: of the learning rate: "constant", "cosine" (down to zero), or "steps": down to a tenth in eight
            steps, each three times as long as the one before (Burda, Grosse & Salakhutdinov 2016).
        kl_warmup: epochs over which the KL term's weight rises to 1.
        validation_fraction, patience: rows left out, and epochs (and 200 steps) without a better objective there
            after which it stops, the best model being kept; patience=None trains for max_epochs.
        checkpoint: a path (.npz): training is written there about once a minute, and the same fit goes on from it.
        callback, random_state: as everywhere; the same seed gives the same numbers on the same machine.

    Attributes: `history_`, one line an epoch, means over rows in nats (objective, bound and reconstruction: higher is
    better; the bound is reconstruction minus divergence; held_out_* are those of the left-out rows, at full KL
    weight); `stopped_` ("patience", "max_epochs", "interrupted", "failed"), `converged_`, `n_iter_` (epochs),
    `messages_`, `held_out_` (numbers of the left-out rows), `seconds_`, `model_`.

    Cost of an epoch: 6 n (sum of products of neighbouring layer sizes) operations, no transfer to the host. Source:
    Kingma & Welling (2014), ICLR.

    >>> import numpy as np, poplin
    >>> counts = np.random.default_rng(0).poisson(3.0, (60, 4))
    >>> fit = poplin.VAE(2, likelihood="poisson", hidden=(8,), max_epochs=3, kl_warmup=1, patience=None).fit(counts)
    >>> fit.transform(counts).shape, fit.score_samples(counts).shape, fit.n_iter_
    ((60, 2), (60,), 3)
    """

    n_components: int = 10
    _: KW_ONLY
    beta: float = 1.0
    prior: Any = "normal"
    basis: Any = None
    importance: int = 1

    def _words(self) -> Words:
        names = (self.posterior, self.likelihood, self.scale, self.prior)
        if self.posterior not in ("diagonal", "full"):
            raise InputError(f"posterior={self.posterior!r} is not known; it is 'diagonal' or 'full'.")
        if self.basis is not None and self.likelihood != "poisson-lognormal":
            raise InputError("A basis goes with likelihood='poisson-lognormal'; leave it out.")
        return Words(*names, widths(self.hidden), self.activation, self.basis)

    def _trained(self, block: Block) -> training.Trained:
        return training.train(self.model_, self._objective(), block, self._plan())

    def _kept(self) -> dict[str, np.ndarray]:
        return {}

    def _objective(self) -> AbstractObjective:
        if self.importance > 1:
            objective: AbstractObjective = ImportanceBound(int(self.importance))
        elif self._has_exact_bound():
            objective = ExactBound(np.float32(self.beta))  # type: ignore[arg-type]
        else:
            objective = Bound(np.float32(self.beta), int(self.draws))  # type: ignore[arg-type]
        return Binarised(objective) if self.binarise else objective

    def _has_exact_bound(self) -> bool:
        linear = self.likelihood == "poisson-lognormal" or not self._words().hidden
        known = {"poisson", "poisson-lognormal"} | ({"gaussian"} if self.scale != "row" else set())
        return linear and self.likelihood in known and self.prior == "normal"


def rebuilt(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> VAE:
    """A fitted `VAE` from what its `save` wrote."""
    return rebuild(VAE, arrays, meta)
