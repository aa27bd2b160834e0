"""`VAE`, the variational autoencoder as users meet it: settings, and what it can be asked beyond its face.

Start at `VAE`. Fitting, embedding, decoding and the training loop are in `neural.py`.
"""

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin import fit as loop
from poplin._numerics import at_length, compiled
from poplin._types import InputError
from poplin.data.blocks import Block
from poplin.data.checks import check_basis
from poplin.data.tables import listed
from poplin.estimators import neural
from poplin.estimators.building import (
    AbstractEstimator,
    BoundSettings,
    EpochSettings,
    NetworkSettings,
    Words,
    widths,
)
from poplin.estimators.checkpoints import beside
from poplin.estimators.likely import AbstractLikely
from poplin.estimators.neural import AbstractNeural, rebuild
from poplin.inference.likelihood import SLICE, in_slices
from poplin.methods.gradient import (
    AbstractObjective,
    Binarised,
    Bound,
    Centred,
    Clustering,
    ClusteringStart,
    ExactBound,
    ImportanceBound,
    Reconstruction,
    positions,
    row_values,
    shares,
)
from poplin.models.networks import Mixture, StandardNormal


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
        basis = self.basis
        if basis is not None:
            basis = check_basis(basis, self.n_features_in_, self.column_names_)
            if basis.shape[1] != self.n_components:
                raise InputError(
                    f"The basis V has {basis.shape[1]} columns and n_components={self.n_components}. Give as many "
                    f"columns as components: n_components={basis.shape[1]}, or V[:, :{self.n_components}]."
                )
        return Words(*names, widths(self.hidden), self.activation, basis)

    def _trained(self, block: Block) -> neural.Trained:
        return neural.train(self.model_, self._objective(), block, self._plan())

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


def rebuilt_vae(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> VAE:
    """A fitted `VAE` from what its `save` wrote."""
    return rebuild(VAE, arrays, meta)


# `Autoencoder`: rows squeezed through q numbers and back, without a prior.
#
# Start at `Autoencoder`. Without hidden layers it is linear, and spans the principal subspace.


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

    def _trained(self, block: Block) -> neural.Trained:
        return neural.train(self.model_, self._objective(), block, self._plan())

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


def rebuilt_autoencoder(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Autoencoder:
    """A fitted `Autoencoder` from what its `save` wrote."""
    return rebuild(Autoencoder, arrays, meta)


# `MixtureVAE`: clusters in the latent space of a variational autoencoder, found without labels.
#
# Start at `MixtureVAE`. It is a `VAE` whose prior is a normal mixture, and a start that lets the mixture find
# clusters.


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

    def _trained(self, block: Block) -> neural.Trained:
        """First the networks trained under a normal prior, and the mixture that fits their latent means, then both."""
        plan = self._plan()._replace(max_epochs=self.pretrain_epochs, kl_warmup=0, patience=None)
        plan = plan._replace(checkpoint=beside(self.checkpoint, "start"))
        alone = self.model_._replace(prior=StandardNormal())
        first = neural.train(alone, self._bound(self.pretrain_beta), block, plan)
        latent = in_slices(lambda part, _: positions(first.model, part)[0], block, SLICE)
        used = np.asarray(block.weights) > 0
        model = first.model._replace(prior=fitted_mixture(latent[used], self.n_clusters, plan.seed))
        return neural.train(model, self._objective(), block, self._plan())


def fitted_mixture(latent: np.ndarray, components: int, seed: int) -> Mixture:
    """The normal mixture of diagonal covariances that fits latent positions (n, q) best, of 5 starts."""
    from sklearn.mixture import GaussianMixture

    floor = SMALLEST_VARIANCE * float(np.mean(np.var(latent, axis=0)))
    found = GaussianMixture(components, covariance_type="diag", n_init=5, reg_covar=floor, random_state=seed)
    found.fit(latent.astype(float))
    held: Any = found  # scikit-learn's types say that they may be None
    arrays = (np.log(held.weights_), held.means_, 0.5 * np.log(held.covariances_))
    return jax.tree.map(lambda a: np.asarray(a, dtype=np.float32), Mixture(*arrays))


def rebuilt_mixturevae(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> MixtureVAE:
    """A fitted `MixtureVAE` from what its `save` wrote."""
    return rebuild(MixtureVAE, arrays, meta)


# Where clusters begin: a label for every row from its latent position, without any label from elsewhere.
#
# Start at `STARTS`. k-means looks for round groups of one size; a graph of neighbours follows groups of any shape,
# and cuts where few rows are near each other.


NEIGHBOURS = 10  # of each row, in the graph
TRIALS = 20  # starts of k-means, of which the best is kept


def by_means(latent: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Labels (n,) of the best of 20 starts of k-means on positions (n, q)."""
    from sklearn.cluster import KMeans

    found: Any = KMeans(clusters, n_init=TRIALS, random_state=seed)  # type: ignore[arg-type]
    return found.fit_predict(latent)


def by_neighbours(latent: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Labels (n,) by spectral clustering of the graph in which each row is tied to its ten nearest.

    A ties i and j with 1 where each is near the other, 1/2 where one is; leading eigenvectors of D^(-1/2) A D^(-1/2),
    rows scaled to length one, are grouped by k-means: as many as clusters, and up to half as many more, since a group
    that the first ones leave together shows in the next. Kept is the grouping of the smallest normalised cut. Cost: a
    search for neighbours (n log n while q is small) and products of a sparse matrix of 20 n entries. Sources: Ng,
    Jordan & Weiss (2001), NIPS; Shi & Malik (2000), IEEE PAMI 22.
    """
    import scipy.sparse
    from scipy.sparse.linalg import eigsh
    from sklearn.neighbors import kneighbors_graph

    n = len(latent)
    near: Any = kneighbors_graph(latent, min(NEIGHBOURS, n - 1), include_self=False)
    ties = (near + near.T) / 2
    root = np.sqrt(np.asarray(ties.sum(axis=1)).ravel())
    scaled = scipy.sparse.diags_array(1 / root)
    first = root + 0.1 * root.mean() * np.random.default_rng(seed).standard_normal(n)
    numbers = sorted({min(clusters + more, n - 1) for more in (0, clusters // 4, clusters // 2)})
    # to machine precision: a looser one misses that a graph in pieces has the largest eigenvalue several times
    how: Any = {"which": "LA", "v0": first, "tol": 0, "ncv": min(6 * clusters, n)}
    _, vectors = eigsh(scaled @ ties @ scaled, numbers[-1], **how)
    found = [by_means(_unit(vectors[:, -many:]), clusters, seed) for many in numbers]
    return min(found, key=lambda labels: normalised_cut(ties, labels))


def normalised_cut(ties: Any, labels: np.ndarray) -> float:
    """Sum over groups of the share of their ties (sparse, n x n) that leads out of them."""
    member = np.eye(labels.max() + 1)[labels]
    inside, whole = np.sum(member * (ties @ member), axis=0), np.asarray(ties.sum(axis=1)).ravel() @ member
    return float(np.sum(1 - inside[whole > 0] / whole[whole > 0]))


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


class Grouping(NamedTuple):
    """How rows are grouped, and for how many epochs those groups are what clustering aims at."""

    labels: Callable[[np.ndarray, int, int], np.ndarray]
    held: int


STARTS = {"k-means": Grouping(by_means, 0), "neighbours": Grouping(by_neighbours, 1)}


# `IDEC`, improved deep embedded clustering: an autoencoder that also gathers rows around centres.
#
# Start at `IDEC`. The method is in `methods/gradient.py`.


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

    def _plan(self) -> neural.Plan:
        """How the autoencoder is trained before."""
        get = self._setting
        sizes = (self.pretrain_epochs, get("batch_size"), get("learning_rate"))
        return neural.Plan(*sizes, "cosine", 0, 0.0, None, get("random_state"), get("callback"))

    def _trained(self, block: Block) -> neural.Trained:
        began, plan, grouping = time.perf_counter(), self._plan(), self._grouping()
        first = neural.train(self.model_, Reconstruction(), block, plan)
        used = np.flatnonzero(np.asarray(block.weights) > 0)
        rows = jax.device_put(jax.tree.map(lambda a: a[used], block))
        latent = in_slices(lambda part, _: positions(first.model, part)[0], jax.device_get(rows), SLICE)
        bounds = neural.batch_bounds(len(used), plan.batch_size)
        labels = grouping.labels(latent, self.n_clusters, plan.seed)
        begin = centres(latent, labels, self.n_clusters)
        numbers = (np.float32(value) for value in (self.gamma, self.tol, plan.learning_rate))
        size, held = int(np.max(np.diff(bounds))), grouping.held * (len(bounds) - 1)
        method = Clustering(*numbers, bounds, held, size=size, interval=self.update_interval)  # type: ignore[arg-type]
        self.start_labels_, self.start_positions_ = labels, latent
        start = ClusteringStart(Centred(first.model, jnp.asarray(begin)), labels, neural.seed_key(plan.seed))  # type: ignore[arg-type]
        how = {"phase": "clustering", "max_iter": self.max_iter, "began": began, "callback": plan.callback}
        with at_length():
            outcome = loop.run(method, start, rows, **how)  # type: ignore[arg-type]
        state = jax.device_get(outcome.state)
        self.centres_, self.labels_ = state.model.centres, np.asarray(outcome.rows.labels)
        notes = () if outcome.converged else (self._unsettled(float(state.changed)),)
        stopped = "interrupted" if outcome.interrupted else "tol" if outcome.converged else "max_iter"
        self.n_steps_ = np.asarray(state.iteration)
        return neural.Trained(
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


def rebuilt_idec(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> IDEC:
    """A fitted `IDEC` from what its `save` wrote."""
    return rebuild(IDEC, arrays, meta)


# Latent arithmetic: what rows would look like under a treatment that was seen on other rows only.
#
# Start at `predict_shift`. It serves every model with an encoder.


class Shifted(NamedTuple):
    """Expected rows (n, p) with the shift and without it, and the shift delta (q,) in the latent space."""

    rows: np.ndarray
    without: np.ndarray
    shift: np.ndarray


Three = tuple[Any, Any, Any]  # one thing for each group: control, treated, to
NOTHING: Three = (None, None, None)


def predict_shift(
    fit: Any,
    control: Any,
    treated: Any,
    *,
    to: Any,
    types: tuple[Any, Any] | None = None,
    data: Three = NOTHING,
    offset: Three = NOTHING,
) -> Shifted:
    """E[y | w + delta] for the rows `to`, where delta leads from `control` to `treated` in the latent space.

    `types`: a label for each row of control and of treated. delta is then the mean over types seen in both of the
    difference of their latent means, so that a treatment that changed the mixture of types does not count as a shift;
    without labels it is the difference of the overall means. The change to report is `rows - without`: both are
    decoded, so that what decoding alone changes is in neither. `data` and `offset` hold conditions and offsets of
    (control, treated, to), for a model that was fitted with them; the rows `to` are decoded under their own. Source:
    Lotfollahi, Wolf & Theis (2019), Nat. Methods.

    Raises `InputError` when no type is seen in both. Cost: one pass of the encoder and two of the decoder.

    >>> import numpy as np, poplin
    >>> random = np.random.default_rng(0)
    >>> one = random.normal(size=(40, 3))
    >>> fit = poplin.Autoencoder(2, hidden=(), max_epochs=5, patience=None).fit(np.vstack([one, one + 1]))
    >>> poplin.predict_shift(fit, one, one + 1, to=one[:5]).rows.shape
    (5, 3)
    """
    groups = zip((control, treated, to), data, offset, strict=True)
    first, second, latent = [fit.transform(rows, **_given(d, o)) for rows, d, o in groups]
    alike = (np.zeros(len(first)), np.zeros(len(second)))
    shift = balanced_difference((first, second), alike if types is None else types)
    own = getattr(to, "obs", None) if hasattr(fit, "coded_") else None  # of an AnnData
    how = _given(own if data[2] is None else data[2], offset[2])
    return Shifted(fit.inverse_transform(latent + shift, **how), fit.inverse_transform(latent, **how), shift)


def _given(data: Any, offset: Any) -> dict[str, Any]:
    return {name: thing for name, thing in (("data", data), ("offset", offset)) if thing is not None}


def balanced_difference(positions: tuple[np.ndarray, np.ndarray], labels: tuple[Any, Any]) -> np.ndarray:
    """Mean over types of (mean of the second group - mean of the first), every type counting once, (q,)."""
    first, second = (np.asarray(label) for label in labels)
    for group, label in zip(positions, (first, second), strict=True):
        if label.shape != (len(group),):
            raise InputError(f"types holds {label.shape} labels for {len(group)} rows. Give one label a row.")
    shared = np.intersect1d(first, second)
    if len(shared) == 0:
        seen = f"{listed(np.unique(first))} and {listed(np.unique(second))}"
        raise InputError(f"No type is seen in both control and treated: they hold {seen}.")
    return np.mean(
        [
            positions[1][second == kind].mean(axis=0) - positions[0][first == kind].mean(axis=0)
            for kind in shared
        ],
        axis=0,
    )
