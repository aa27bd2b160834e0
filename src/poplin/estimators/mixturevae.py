"""`MixtureVAE`: clusters in the latent space of a variational autoencoder, found without labels.

Start at `MixtureVAE`. It is a `VAE` whose prior is a normal mixture, and a start that lets the mixture find clusters.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import numpy as np

from poplin.data.blocks import Block
from poplin.estimators import training
from poplin.estimators.building import Words, widths
from poplin.estimators.likely import AbstractLikely
from poplin.estimators.neural import AbstractNeural, rebuild
from poplin.estimators.parameters import AbstractEstimator
from poplin.estimators.settings import BoundSettings, EpochSettings, NetworkSettings
from poplin.estimators.stretches import beside
from poplin.inference.importance import SLICE, in_slices
from poplin.methods.objectives import AbstractObjective, Binarised, Bound, positions
from poplin.models.priors import Mixture, StandardNormal

SMALLEST_VARIANCE = 1e-3  # of a component when the mixture starts


@dataclass(eq=False, repr=False)
class MixtureVAE(
    AbstractNeural, AbstractLikely, AbstractEstimator, NetworkSettings, EpochSettings, BoundSettings
):
    """Variational autoencoder with p(w) = sum_k pi_k N(m_k, diag(s_k^2)), all learned; k is a row's cluster.

    The mixture is summed exactly (logsumexp): no label is sampled. Before, the same networks are trained for
    `pretrain_epochs` under a standard normal prior whose KL term has the small weight `pretrain_beta`, and a Gaussian
    mixture is fitted to the latent means (scikit-learn, the likeliest of 5 starts): no label is used for that either.

    Settings
        n_clusters: components of the mixture.
        pretrain_epochs, pretrain_beta: of the start.
        Others are those of `VAE`.

    `predict` gives clusters (n,), `responsibilities` P(k | w) at each row's latent mean (n, k).

    Source: the model is that of Jiang et al. (2017), IJCAI; the bound sums over k instead of approximating q(k).

    >>> import numpy as np, poplin
    >>> counts = np.random.default_rng(0).poisson(np.repeat([[1.0], [20.0]], 40, axis=0) * np.ones(4))
    >>> how = dict(hidden=(8,), max_epochs=5, pretrain_epochs=20, patience=None, learning_rate=0.01)
    >>> fit = poplin.MixtureVAE(2, 1, likelihood="poisson", **how).fit(counts)
    >>> fit.predict(counts).shape, fit.responsibilities(counts).shape
    ((80,), (80, 2))
    """

    n_clusters: int = 10
    n_components: int = 10
    _: KW_ONLY
    hidden: Any = (500, 500)
    pretrain_epochs: int = 50
    pretrain_beta: float = 0.1
    max_epochs: int = 200
    kl_warmup: int = 0

    @property
    def prior(self) -> int:
        """The number of components, as `VAE` has it."""
        return self.n_clusters

    def _words(self) -> Words:
        names = (self.posterior, self.likelihood, self.scale, self.n_clusters)
        return Words(*names, widths(self.hidden), self.activation, None)

    def _objective(self) -> AbstractObjective:
        return self._bound(1.0)

    def _bound(self, beta: float) -> AbstractObjective:
        bound = Bound(np.float32(beta), int(self.draws))  # type: ignore[arg-type]
        return Binarised(bound) if self.binarise else bound

    def _has_exact_bound(self) -> bool:
        return False

    def _kept(self) -> dict[str, np.ndarray]:
        return {}

    def _trained(self, block: Block) -> training.Trained:
        """First the networks trained under a normal prior, and the mixture that fits their latent means, then both."""
        plan = self._plan()._replace(max_epochs=self.pretrain_epochs, kl_warmup=0, patience=None)
        plan = plan._replace(checkpoint=beside(self.checkpoint, "start"))
        alone = self.model_._replace(prior=StandardNormal())
        first = training.train(alone, self._bound(self.pretrain_beta), block, plan)
        latent = in_slices(lambda part, _: positions(first.model, part)[0], block, SLICE)
        used = np.asarray(block.weights) > 0
        model = first.model._replace(prior=fitted_mixture(latent[used], self.n_clusters, plan.seed))
        return training.train(model, self._objective(), block, self._plan())


def fitted_mixture(latent: np.ndarray, components: int, seed: int) -> Mixture:
    """The normal mixture of diagonal covariances that fits latent positions (n, q) best, of 5 starts."""
    from sklearn.mixture import GaussianMixture

    floor = SMALLEST_VARIANCE * float(np.mean(np.var(latent, axis=0)))
    found = GaussianMixture(components, covariance_type="diag", n_init=5, reg_covar=floor, random_state=seed)
    found.fit(latent.astype(float))
    held: Any = found  # scikit-learn's types say that they may be None
    arrays = (np.log(held.weights_), held.means_, 0.5 * np.log(held.covariances_))
    return jax.tree.map(lambda a: np.asarray(a, dtype=np.float32), Mixture(*arrays))


def rebuilt(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> MixtureVAE:
    """A fitted `MixtureVAE` from what its `save` wrote."""
    return rebuild(MixtureVAE, arrays, meta)
