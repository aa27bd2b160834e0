"""`VAE`, the variational autoencoder as users meet it: settings, and what it can be asked beyond its face.

Start at `VAE`. Fitting, embedding, decoding and the training loop are in `training.py`.
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin._numerics import at_length, compiled
from poplin.data.blocks import Block
from poplin.data.checks import check_basis
from poplin.data.tables import listed
from poplin.estimators.building import (
    STARTS,
    AbstractEstimator,
    BoundSettings,
    EpochSettings,
    Grouping,
    NetworkSettings,
    Words,
    centres,
    fitted_mixture,
    widths,
)
from poplin.estimators.likely import AbstractLikely
from poplin.estimators.neural import AbstractNeural, rebuild
from poplin.fitting import training
from poplin.fitting.checkpoints import Settings, run_resumed
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
from poplin.models.networks import StandardNormal


@dataclass(eq=False, repr=False)
class VAE(AbstractNeural, AbstractLikely, AbstractEstimator, NetworkSettings, EpochSettings, BoundSettings):
    """Variational autoencoder: a non-linear latent-variable model, whose rows' positions come from a network.

    y | w ~ likelihood(f(w, x)), w ~ prior, q(w | y, x) a Gaussian from a network; the objective is the mean of log p(y
    | w) - beta KL(q || prior). Cost of an epoch: 6 n (sum of products of neighbouring layer sizes) operations, no
    transfer to the host. Source: Kingma & Welling (2014), ICLR.

    Args:
        n_components: q, latent dimensions. All others are given by name.
        posterior: "diagonal", or "full": covariance L L' with L = mask * L' + diag(sigma), from the network.
        draws: of each row in a step.
        kl_warmup: epochs over which the KL term's weight rises to 1.
        binarise: draw zeros and ones anew with the probabilities in Y, each time a row is seen ("bernoulli").
        max_epochs: passes over the rows at most.
        schedule: of the learning rate: "constant", "cosine" (down to zero), or "steps": down to a tenth in eight steps,
            each three times as long as the one before (Burda, Grosse & Salakhutdinov 2016).
        validation_fraction: share of the rows that is left out (5000 rows at most), to see when to stop.
        patience: epochs (and 200 steps) without a better objective there after which it stops, the best model being
            kept; None trains for max_epochs.
        checkpoint: a file (.npz) of where the fit stands, written about once a minute and after Ctrl-C: the same fit
            goes on from it, to the numbers of one that was never stopped; a file of another fit is refused.
        likelihood: "gaussian", "bernoulli", "categorical", "poisson" or "negative-binomial", or "poisson-lognormal":
            rates exp(o + a + x'B + C w) without a decoder network, whose bound needs no draws.
        scale: of the Gaussian: "column" (learned), "row" (sigma(w), from the decoder), "fixed" (1), or a number.
        hidden: units of the encoder's hidden layers; the decoder has them in reverse. () is linear.
        activation: "relu", "tanh", "softplus" or "gelu".
        condition: names of columns of `data` (or of an AnnData's obs) that encoder and decoder also see.
        batch: name of one more such column, whose values are always taken as categories: a donor's number, a run.
        layer: of an AnnData (or an .h5ad), in place of its X.
        batch_size: rows of a minibatch.
        learning_rate: of Adam; lower it where training fails.
        callback: called between compiled chunks of steps with `poplin.fit.Progress`.
        random_state: the seed; the same seed gives the same numbers on the same machine.
        beta: weight of the KL term in the objective; with 1 the objective is the bound.
        prior: "normal", or a number k of components of a normal mixture, which is learned and summed exactly.
        basis: for "poisson-lognormal": V (p, q) from elsewhere, C = V Lambda^(1/2).
        importance: k > 1 trains the importance-weighted bound of k draws instead (Burda, Grosse & Salakhutdinov 2016).

    Attributes:
        history_: DataFrame, one line an epoch, means over rows in nats (objective, bound and reconstruction: higher is
            better; the bound is reconstruction minus divergence; held_out_* are those of the left-out rows, at full KL
            weight).
        stopped_: why: "patience", "max_epochs", "interrupted" or "failed".
        converged_: whether the stopping rule held.
        n_iter_: epochs.
        messages_: what has to be known of the fit, one sentence each.
        held_out_: numbers of the left-out rows.
        seconds_: that the fit took.
        column_names_: names of the columns.
        n_features_in_: p.
        model_: the networks (internal).
        coded_: what later rows must look like (internal).
        shape_: sizes that the networks follow from (internal).

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

    def _trained(self, block: Block, plan: training.Plan) -> training.Trained:
        return training.train(self.model_, self._objective(), block, plan)

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
    """Autoencoder: rows squeezed through q numbers and back, without a prior.

    The maximum of sum_i log p(y_i | f(g(y_i))) over an encoder g and a decoder f; under the default likelihood, a
    Gaussian of fixed scale, that is least squares. hidden=() is linear: C spans the space of the first q principal
    axes, and the encoder ends as the pseudo-inverse of the decoder where X'X is nonsingular. Cost of an epoch as of
    `VAE`.

    Args:
        n_components: q, numbers a row is squeezed to. All others are given by name.
        binarise: draw zeros and ones anew with the probabilities in Y, each time a row is seen ("bernoulli").
        max_epochs: passes over the rows at most.
        schedule: of the learning rate: "constant", "cosine" (down to zero), or "steps": down to a tenth in eight steps,
            each three times as long as the one before (Burda, Grosse & Salakhutdinov 2016).
        validation_fraction: share of the rows that is left out (5000 rows at most), to see when to stop.
        patience: epochs (and 200 steps) without a better objective there after which it stops, the best model being
            kept; None trains for max_epochs.
        checkpoint: a file (.npz) of where the fit stands, written about once a minute and after Ctrl-C: the same fit
            goes on from it, to the numbers of one that was never stopped; a file of another fit is refused.
        likelihood: "gaussian", "bernoulli", "categorical", "poisson" or "negative-binomial".
        scale: of the Gaussian: "column" (learned), "row" (sigma(w), from the decoder), "fixed" (1), or a number.
        hidden: units of the encoder's hidden layers; the decoder has them in reverse. () is linear.
        activation: "relu", "tanh", "softplus" or "gelu".
        condition: names of columns of `data` (or of an AnnData's obs) that encoder and decoder also see.
        batch: name of one more such column, whose values are always taken as categories: a donor's number, a run.
        layer: of an AnnData (or an .h5ad), in place of its X.
        batch_size: rows of a minibatch.
        learning_rate: of Adam; lower it where training fails.
        callback: called between compiled chunks of steps with `poplin.fit.Progress`.
        random_state: the seed; the same seed gives the same numbers on the same machine.

    Attributes:
        history_: DataFrame, one line an epoch, means over rows in nats (objective and reconstruction: higher is
            better).
        stopped_: why: "patience", "max_epochs", "interrupted" or "failed".
        converged_: whether the stopping rule held.
        n_iter_: epochs.
        messages_: what has to be known of the fit, one sentence each.
        held_out_: numbers of the left-out rows.
        seconds_: that the fit took.
        column_names_: names of the columns.
        n_features_in_: p.
        model_: the networks (internal).
        coded_: what later rows must look like (internal).
        shape_: sizes that the networks follow from (internal).

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

    def _trained(self, block: Block, plan: training.Plan) -> training.Trained:
        return training.train(self.model_, self._objective(), block, plan)

    def _kept(self) -> dict[str, np.ndarray]:
        return {}

    def _objective(self) -> AbstractObjective:
        return Binarised(Reconstruction()) if self.binarise else Reconstruction()

    def score_samples(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """Log p(y | f(g(y))) of each row: how well it is rebuilt, no likelihood of the row.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.

        Returns:
            Nats (n,), every constant, higher is better.

        Raises:
            InputError: columns, conditions or values are not such as the model was fitted to.
        """
        block = self._block(Y, data, offset)
        return in_slices(lambda part, _: row_values(self.model_, part), block, SLICE)

    def score(self, Y: Any, y: Any = None, **others: Any) -> float:
        """Mean of `score_samples`.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            y: ignored.
            others: arguments of `score_samples` by name: data, offset.

        Returns:
            Nats a row, higher is better.
        """
        return float(np.mean(self.score_samples(Y, **others)))


def rebuilt_autoencoder(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Autoencoder:
    """A fitted `Autoencoder` from what its `save` wrote."""
    return rebuild(Autoencoder, arrays, meta)


# `MixtureVAE`: clusters in the latent space of a variational autoencoder, found without labels.
#
# Start at `MixtureVAE`. It is a `VAE` whose prior is a normal mixture, and a start that lets the mixture find
# clusters.


@dataclass(eq=False, repr=False)
class MixtureVAE(
    AbstractNeural, AbstractLikely, AbstractEstimator, NetworkSettings, EpochSettings, BoundSettings
):
    """Variational autoencoder whose prior is a normal mixture: rows are clustered without labels.

    p(w) = sum_k pi_k N(m_k, diag(s_k^2)), all learned; k is a row's cluster (`predict`, `responsibilities`). The
    mixture is summed exactly (logsumexp): no label is sampled. Before, the same networks are trained under a standard
    normal prior, and a Gaussian mixture is fitted to the latent means (scikit-learn, the likeliest of 5 starts): no
    label is used for that either. Source: the model is that of Jiang et al. (2017), IJCAI; the bound sums over k
    instead of approximating q(k).

    Args:
        n_clusters: k, components of the mixture.
        n_components: q, latent dimensions. All others are given by name.
        posterior: "diagonal", or "full": covariance L L' with L = mask * L' + diag(sigma), from the network.
        draws: of each row in a step.
        kl_warmup: epochs over which the KL term's weight rises to 1.
        binarise: draw zeros and ones anew with the probabilities in Y, each time a row is seen ("bernoulli").
        max_epochs: passes over the rows at most.
        schedule: of the learning rate: "constant", "cosine" (down to zero), or "steps": down to a tenth in eight steps,
            each three times as long as the one before (Burda, Grosse & Salakhutdinov 2016).
        validation_fraction: share of the rows that is left out (5000 rows at most), to see when to stop.
        patience: epochs (and 200 steps) without a better objective there after which it stops, the best model being
            kept; None trains for max_epochs.
        checkpoint: a file (.npz) of where the fit stands, written about once a minute and after Ctrl-C: the same fit
            goes on from it, to the numbers of one that was never stopped; a file of another fit is refused.
        likelihood: "gaussian", "bernoulli", "categorical", "poisson" or "negative-binomial", or "poisson-lognormal", as
            of `VAE`.
        scale: of the Gaussian: "column" (learned), "row" (sigma(w), from the decoder), "fixed" (1), or a number.
        hidden: units of the encoder's hidden layers; the decoder has them in reverse. () is linear.
        activation: "relu", "tanh", "softplus" or "gelu".
        condition: names of columns of `data` (or of an AnnData's obs) that encoder and decoder also see.
        batch: name of one more such column, whose values are always taken as categories: a donor's number, a run.
        layer: of an AnnData (or an .h5ad), in place of its X.
        batch_size: rows of a minibatch.
        learning_rate: of Adam; lower it where training fails.
        callback: called between compiled chunks of steps with `poplin.fit.Progress`.
        random_state: the seed; the same seed gives the same numbers on the same machine.
        pretrain_epochs: of the start under a normal prior.
        pretrain_beta: the small weight of its KL term.

    Attributes:
        history_: DataFrame, one line an epoch, means over rows in nats after the start; columns as of `VAE`.
        stopped_: why: "patience", "max_epochs", "interrupted" or "failed".
        converged_: whether the stopping rule held.
        n_iter_: epochs.
        messages_: what has to be known of the fit, one sentence each.
        held_out_: numbers of the left-out rows.
        prior: k, as `VAE` has it.
        seconds_: that the fit took.
        column_names_: names of the columns.
        n_features_in_: p.
        model_: the networks (internal).
        coded_: what later rows must look like (internal).
        shape_: sizes that the networks follow from (internal).

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

    def _trained(self, block: Block, plan: training.Plan) -> training.Trained:
        """First the networks trained under a normal prior, and the mixture that fits their latent means, then both."""
        short = plan._replace(max_epochs=self.pretrain_epochs, kl_warmup=0, patience=None)
        alone = self.model_._replace(prior=StandardNormal())
        first = training.train(alone, self._bound(self.pretrain_beta), block, short)
        latent = in_slices(lambda part, _: positions(first.model, part)[0], block, SLICE)
        used = np.asarray(block.weights) > 0
        model = first.model._replace(prior=fitted_mixture(latent[used], self.n_clusters, plan.seed))
        if first.stopped == "interrupted":
            return first._replace(model=model)
        return training.train(model, self._objective(), block, plan)


def rebuilt_mixturevae(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> MixtureVAE:
    """A fitted `MixtureVAE` from what its `save` wrote."""
    return rebuild(MixtureVAE, arrays, meta)


# `IDEC`, improved deep embedded clustering: an autoencoder that also gathers rows around centres.
#
# Start at `IDEC`. The method is in `methods/gradient.py`.


KEPT = ("centres_", "labels_", "start_labels_", "start_positions_", "n_steps_")


@dataclass(eq=False, repr=False)
class IDEC(AbstractNeural, AbstractEstimator, NetworkSettings):
    """Deep embedded clustering that keeps the autoencoder: rows are gathered around centres.

    Maximised is -(mean squared error) - gamma KL(P || Q): q_ik is a Student kernel of the distance from row i's
    position to centre k, p_ik sharpens it, over all rows. First an autoencoder is trained, its learning rate falling to
    zero along a cosine, and rows are grouped by where it puts them: no label is used. The settings of the source are
    the defaults. Source: Guo, Gao, Liu & Yin (2017), IJCAI.

    Args:
        n_clusters: k, clusters.
        n_components: q, latent dimensions. All others are given by name.
        checkpoint: a file (.npz) of where the fit stands, written about once a minute and after Ctrl-C: the same fit
            goes on from it, to the numbers of one that was never stopped; a file of another fit is refused.
        likelihood: "gaussian", "bernoulli", "categorical", "poisson" or "negative-binomial".
        scale: of the Gaussian: "column" (learned), "row" (sigma(w), from the decoder), "fixed" (1), or a number.
        hidden: units of the encoder's hidden layers; the decoder has them in reverse. () is linear.
        activation: "relu", "tanh", "softplus" or "gelu".
        condition: names of columns of `data` (or of an AnnData's obs) that encoder and decoder also see.
        batch: name of one more such column, whose values are always taken as categories: a donor's number, a run.
        layer: of an AnnData (or an .h5ad), in place of its X.
        batch_size: rows of a minibatch.
        learning_rate: of Adam; lower it where training fails.
        callback: called between compiled chunks of steps with `poplin.fit.Progress`.
        random_state: the seed; the same seed gives the same numbers on the same machine.
        start: how rows are grouped first: "k-means" (20 starts), as in the source, or "neighbours": by the graph of
            each row's ten nearest, for groups that are not round. Then P is the groups themselves for the first epoch.
        gamma: weight of the clustering term, beside the mean squared error of an entry.
        update_interval: steps between two looks at all rows.
        tol: it stops when a smaller share of the rows changes its cluster between two looks.
        max_iter: steps of clustering at most.
        pretrain_epochs: passes over the rows of the autoencoder before.

    Attributes:
        history_: DataFrame, one line an epoch, means over rows in nats, of the autoencoder before clustering.
        stopped_: why: "tol", "max_iter" or "interrupted".
        converged_: whether the stopping rule held.
        n_iter_: epochs of the autoencoder.
        messages_: what has to be known of the fit, one sentence each.
        held_out_: numbers of the left-out rows.
        seconds_: that the fit took.
        column_names_: names of the columns.
        n_features_in_: p.
        model_: the networks (internal).
        coded_: what later rows must look like (internal).
        shape_: sizes that the networks follow from (internal).
        n_steps_: steps of clustering.
        labels_: clusters of the training rows (n,), from 0.
        centres_: (k, q).
        start_labels_: clusters of the start (n,).
        start_positions_: where rows lay then (n, q).

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

    def _trained(self, block: Block, plan: training.Plan) -> training.Trained:
        grouping = self._grouping()
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
        if first.stopped == "interrupted":
            self.centres_, self.labels_, self.n_steps_ = begin, labels, np.asarray(0)
            return first
        key = training.seed_key(plan.seed)
        start = ClusteringStart(Centred(first.model, jnp.asarray(begin)), labels, key)  # type: ignore[arg-type]
        assert plan.began is not None
        settings = Settings(self.max_iter, 0.0, plan.began, plan.callback, plan.keeper)
        with at_length():
            outcome = run_resumed(method, start, rows, settings, phase="clustering")
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
        """The share q_ik of each cluster in each row, by the distance of its position from the centres.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.

        Returns:
            Shares (n, k), each row's sum 1.

        Raises:
            InputError: columns, conditions or values are not such as the model was fitted to.
        """
        return np.asarray(_shares(self.transform(Y, data=data, offset=offset), self.centres_))

    def predict(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """The cluster of the largest share.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.

        Returns:
            Numbers of clusters (n,), from 0.

        Raises:
            InputError: columns, conditions or values are not such as the model was fitted to.
        """
        return np.argmax(self.responsibilities(Y, data=data, offset=offset), axis=1)


_shares = compiled()(shares)


def rebuilt_idec(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> IDEC:
    """A fitted `IDEC` from what its `save` wrote."""
    return rebuild(IDEC, arrays, meta)


# Latent arithmetic: what rows would look like under a treatment that was seen on other rows only.
#
# Start at `predict_shift`. It serves every model with an encoder.


class Shifted(NamedTuple):
    """What `predict_shift` gives.

    Attributes:
        rows: expected rows (n, p) with the shift.
        without: expected rows (n, p) without it; report `rows - without`.
        shift: delta (q,) in the latent space.
    """

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
    """What rows would look like under a treatment that was seen on other rows only: E[y | w + delta].

    delta leads from `control` to `treated` in the latent space. The change to report is `rows - without`: both are
    decoded, so that what decoding alone changes is in neither. Cost: one pass of the encoder and two of the decoder.
    Source: Lotfollahi, Wolf & Theis (2019), Nat. Methods.

    Args:
        fit: a fitted model with an encoder and a decoder (`VAE`, `Autoencoder`, `MixtureVAE`, `IDEC`, `PPCA`).
        control: rows (n, p) without the treatment.
        treated: rows (m, p) with it.
        to: the rows to shift.
        types: a label for each row of control and of treated. delta is then the mean over types seen in both of the
            difference of their latent means, so that a treatment that changed the mixture of types does not count as a
            shift; None: the difference of the overall means.
        data: conditions of (control, treated, to), for a model that was fitted with them; the rows `to` are decoded
            under their own.
        offset: offsets of (control, treated, to), log scale, for a model of counts.

    Returns:
        A `Shifted`: rows with the shift and without it, and delta.

    Raises:
        InputError: no type is seen in both, or labels are not one a row.

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
