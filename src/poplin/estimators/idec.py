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
from poplin._compile import at_length, compiled
from poplin._errors import InputError
from poplin.data.blocks import Block
from poplin.estimators import training
from poplin.estimators.building import Words, widths
from poplin.estimators.grouping import STARTS, Grouping
from poplin.estimators.neural import AbstractNeural, rebuild
from poplin.estimators.parameters import AbstractEstimator
from poplin.estimators.settings import NetworkSettings
from poplin.inference.importance import SLICE, in_slices
from poplin.methods.clustering import Centred, Clustering, Start, shares
from poplin.methods.objectives import Reconstruction, positions

KEPT = ("centres_", "labels_", "start_labels_", "start_positions_", "n_steps_")


@dataclass(eq=False, repr=False)
class IDEC(AbstractNeural, AbstractEstimator, NetworkSettings):
    """Deep embedded clustering that keeps the autoencoder: -(mean squared error) - gamma KL(P || Q), maximised.

    q_ik is a Student kernel of the distance from row i's position to centre k, p_ik sharpens it, over all rows. First
    an autoencoder is trained for `pretrain_epochs`, its learning rate falling to zero along a cosine, and rows are
    grouped by where it puts them: no label is used.

    Settings
        n_clusters, n_components: clusters, latent dimensions.
        start: how rows are grouped first: "k-means" (20 starts), as in the source, or "neighbours": by the graph of
            each row's ten nearest, for groups that are not round. Then P is the groups themselves for the first epoch.
        gamma: weight of the clustering term, beside the mean squared error of an entry.
        update_interval: steps between two looks at all rows; tol: it stops when fewer rows change their cluster.
        max_iter: steps at most. Others are those of `Autoencoder`; the settings of the source are hidden=(500, 500,
        2000), batch_size=256.

    Attributes: `labels_` (n,), `centres_` (k, q), `start_labels_` (those of the start), `start_positions_`
    (n, q): where rows lay then; `history_` is that of the
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
    start: str = "k-means"
    gamma: float = 0.1
    update_interval: int = 140
    tol: float = 1e-3
    max_iter: int = 20_000
    pretrain_epochs: int = 200
    batch_size: int = 256
    labels_: np.ndarray = field(init=False)
    start_labels_: np.ndarray = field(init=False)
    start_positions_: np.ndarray = field(init=False)
    n_steps_: np.ndarray = field(init=False)
    centres_: np.ndarray = field(init=False)

    def _words(self) -> Words:
        return Words(
            "point", self.likelihood, self.scale, "normal", widths(self.hidden), self.activation, None
        )

    def _grouping(self) -> Grouping:
        if self.start not in STARTS:
            known = ", ".join(map(repr, STARTS))
            raise InputError(f"start={self.start!r} is not known; it is one of {known}.")
        return STARTS[self.start]

    def _plan(self) -> training.Plan:
        """How the autoencoder is trained before."""
        get = self._setting
        sizes = (self.pretrain_epochs, get("batch_size"), get("learning_rate"))
        return training.Plan(*sizes, "cosine", 0, 0.0, None, get("random_state"), get("callback"))

    def _trained(self, block: Block) -> training.Trained:
        began, plan, grouping = time.perf_counter(), self._plan(), self._grouping()
        first = training.train(self.model_, Reconstruction(), block, plan)
        used = np.flatnonzero(np.asarray(block.weights) > 0)
        rows = jax.device_put(jax.tree.map(lambda a: a[used], block))
        latent = in_slices(lambda part, _: positions(first.model, part)[0], jax.device_get(rows), SLICE)
        bounds = training.batch_bounds(len(used), plan.batch_size)
        labels = grouping.labels(latent, self.n_clusters, plan.seed)
        begin = centres(latent, labels, self.n_clusters)
        numbers = (np.float32(value) for value in (self.gamma, self.tol, plan.learning_rate))
        size, held = int(np.max(np.diff(bounds))), grouping.held * (len(bounds) - 1)
        method = Clustering(*numbers, bounds, held, size=size, interval=self.update_interval)  # type: ignore[arg-type]
        self.start_labels_, self.start_positions_ = labels, latent
        start = Start(Centred(first.model, jnp.asarray(begin)), labels, training.seed_key(plan.seed))  # type: ignore[arg-type]
        how = {"phase": "clustering", "max_iter": self.max_iter, "began": began, "callback": plan.callback}
        with at_length():
            outcome = loop.run(method, start, rows, **how)  # type: ignore[arg-type]
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
        return {name: getattr(self, name) for name in KEPT}

    def responsibilities(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """Q, the share of each cluster in each row, (n, k)."""
        return np.asarray(_shares(self.transform(Y, data=data, offset=offset), self.centres_))

    def predict(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """The cluster of the largest share, (n,)."""
        return np.argmax(self.responsibilities(Y, data=data, offset=offset), axis=1)


def centres(latent: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """The mean position of each group, (k, q); that of all rows for a group without any."""
    members = [latent[labels == k] for k in range(clusters)]
    means = [(one if len(one) else latent).mean(axis=0) for one in members]
    return np.stack(means).astype(np.float32)


_shares = compiled()(shares)


def rebuilt(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> IDEC:
    """A fitted `IDEC` from what its `save` wrote."""
    return rebuild(IDEC, arrays, meta)
