"""`IDEC`, improved deep embedded clustering: an autoencoder that also gathers rows around centres.

Start at `IDEC`. The method is in `methods/clustering.py`.
"""

import time
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin import fit as loop
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.estimators import training
from poplin.estimators.building import Words, widths
from poplin.estimators.neural import AbstractNeural, rebuild
from poplin.estimators.parameters import AbstractEstimator
from poplin.estimators.settings import NetworkSettings
from poplin.inference.importance import SLICE, in_slices
from poplin.methods.clustering import Centred, Clustering, Start, shares
from poplin.methods.objectives import Reconstruction, positions


@dataclass(eq=False, repr=False)
class IDEC(AbstractNeural, AbstractEstimator, NetworkSettings):
    """Deep embedded clustering that keeps the autoencoder: -(mean squared error) - gamma KL(P || Q), maximised.

    q_ik is a Student kernel of the distance from row i's position to centre k, p_ik sharpens it, over all rows. First
    an autoencoder is trained for `pretrain_epochs` and k-means (20 starts) finds the centres: no label is used.

    Settings
        n_clusters, n_components: clusters, latent dimensions.
        gamma: weight of the clustering term, beside the mean squared error of an entry.
        update_interval: steps between two looks at all rows; tol: it stops when fewer rows change their cluster.
        max_iter: steps at most. Others are those of `Autoencoder`; the settings of the source are hidden=(500, 500,
        2000), batch_size=256.

    Attributes: `labels_` (n,), `centres_` (k, q), `start_labels_` (those of k-means before); `history_` is that of the
    autoencoder before clustering; `n_iter_` (its epochs), `n_steps_` (of clustering), `converged_`, `stopped_`,
    `messages_`, `seconds_`.

    Source: Guo, Gao, Liu & Yin (2017), IJCAI.

    >>> import numpy as np, poplin
    >>> table = np.random.default_rng(0).normal(np.repeat([[0.0], [5.0]], 30, axis=0), 1.0, (60, 4))
    >>> fit = poplin.IDEC(2, 2, hidden=(8,), pretrain_epochs=30, max_iter=200).fit(table)
    >>> fit.predict(table).shape, fit.responsibilities(table).shape
    ((60,), (60, 2))
    """

    n_clusters: int = 10
    n_components: int = 10
    _: KW_ONLY
    scale: Any = "fixed"
    hidden: Any = (500, 500, 2000)
    gamma: float = 0.1
    update_interval: int = 140
    tol: float = 1e-3
    max_iter: int = 20_000
    pretrain_epochs: int = 200
    batch_size: int = 256
    labels_: np.ndarray = field(init=False)
    start_labels_: np.ndarray = field(init=False)
    n_steps_: np.ndarray = field(init=False)
    centres_: np.ndarray = field(init=False)

    def _words(self) -> Words:
        return Words(
            "point", self.likelihood, self.scale, "normal", widths(self.hidden), self.activation, None
        )

    def _plan(self) -> training.Plan:
        """How the autoencoder is trained before."""
        get = self._setting
        sizes = (self.pretrain_epochs, get("batch_size"), get("learning_rate"))
        return training.Plan(*sizes, "constant", 0, 0.0, None, get("random_state"), get("callback"))

    def _trained(self, block: Block) -> training.Trained:
        began, plan = time.perf_counter(), self._plan()
        first = training.train(self.model_, Reconstruction(), block, plan)
        used = np.flatnonzero(np.asarray(block.weights) > 0)
        rows = jax.device_put(jax.tree.map(lambda a: a[used], block))
        latent = in_slices(lambda part, _: positions(first.model, part)[0], jax.device_get(rows), SLICE)
        bounds = training.batch_bounds(len(used), plan.batch_size)
        numbers = (np.float32(value) for value in (self.gamma, self.tol, plan.learning_rate))
        size = int(np.max(np.diff(bounds)))
        method = Clustering(*numbers, bounds, size=size, interval=self.update_interval)  # type: ignore[arg-type]
        begin, self.start_labels_ = centres(latent, self.n_clusters, plan.seed)
        model = Centred(first.model, jnp.asarray(begin))
        outcome = loop.run(
            method,
            Start(model, training.seed_key(plan.seed)),  # type: ignore[arg-type]
            rows,
            phase="clustering",
            max_iter=self.max_iter,
            began=began,
            callback=plan.callback,
        )
        state = jax.device_get(outcome.state)
        self.centres_, self.labels_ = state.model.centres, np.asarray(outcome.rows.labels)
        notes = () if outcome.converged else (self._unsettled(float(state.changed)),)
        stopped = "interrupted" if outcome.interrupted else "tol" if outcome.converged else "max_iter"
        self.n_steps_ = np.asarray(state.iteration)
        return training.Trained(
            state.model.networks, first.history, stopped, (*first.messages, *notes), first.held
        )

    def _unsettled(self, changed: float) -> str:
        return (
            f"Clustering stopped after max_iter={self.max_iter} steps, while {changed:.2%} of the rows still changed "
            f"their cluster (tol is {self.tol:.2%}). Raise max_iter."
        )

    def _kept(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in ("centres_", "labels_", "start_labels_", "n_steps_")}

    def responsibilities(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """Q, the share of each cluster in each row, (n, k)."""
        return np.asarray(_shares(self.transform(Y, data=data, offset=offset), self.centres_))

    def predict(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """The cluster of the largest share, (n,)."""
        return np.argmax(self.responsibilities(Y, data=data, offset=offset), axis=1)


def centres(latent: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (k, q) and labels (n,) of the best of 20 starts of k-means."""
    from sklearn.cluster import KMeans

    found: Any = KMeans(clusters, n_init=20, random_state=seed).fit(latent)  # type: ignore[arg-type]
    return found.cluster_centers_.astype(np.float32), found.labels_


_shares = compiled()(shares)


def rebuilt(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> IDEC:
    """A fitted `IDEC` from what its `save` wrote."""
    return rebuild(IDEC, arrays, meta)
