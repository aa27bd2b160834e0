"""What a model with a prior can be asked: the likelihood of rows, the bound on it, new rows, shares of components.

Start at `AbstractLikely.loglik_rows`. It needs a fitted `AbstractNeural` beside it, whose model and door it uses.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError, LikelihoodWarning
from poplin._numerics import compiled, double_precision
from poplin._random import Purpose, derive
from poplin.data.blocks import Block
from poplin.data.tables import listed
from poplin.estimators import neural
from poplin.estimators.building import Shape, Words
from poplin.inference.likelihood import (
    DECODED_NUMBERS,
    KHAT_DRAWS,
    SLICE,
    RowLikelihood,
    amortised_loglik,
    in_slices,
)
from poplin.inference.summary import LARGEST_KHAT
from poplin.methods.gradient import Bound, ExactBound
from poplin.models.networks import Mixture

# Likelihoods that are less exact than they say, told alike by every door that returns one.
#
# Start at `warn_of`; `doubt` is its sentence.


def doubt(unsure: np.ndarray, names: Sequence[str], *, of: str = "") -> str | None:
    """How many rows are unsure, and which, by name; `of` says under what model. None where none is."""
    rows = np.flatnonzero(unsure)
    if not len(rows):
        return None
    return (
        f"The log-likelihoods{of} of {len(rows)} of {len(names)} rows are less exact than their standard errors say "
        f"(Pareto k-hat above {LARGEST_KHAT}): {listed(names[int(i)] for i in rows)}. Their counts may lie far from "
        "what the model expects. Look at these rows, and compare models without them too."
    )


def warn_of(unsure: np.ndarray, names: Sequence[str], *, of: str = "", stacklevel: int = 3) -> None:
    """A `LikelihoodWarning` where there are unsure rows."""
    told = doubt(unsure, names, of=of)
    if told is not None:
        warnings.warn(told, LikelihoodWarning, stacklevel=stacklevel)


BOUND_DRAWS = 100  # a row, for the bound after the fit


class AbstractLikely:
    """The likelihood and the samples of a fitted model (encoder, decoder, likelihood, prior)."""

    likelihood: str
    random_state: int
    model_: Any
    coded_: neural.Coded
    shape_: Shape

    @abstractmethod
    def _words(self) -> Words:
        """The parts that the model is made of, by name."""

    @abstractmethod
    def _has_exact_bound(self) -> bool:
        """Whether the bound needs no draws."""

    @abstractmethod
    def _new_rows(self, Y: Any, data: Any, offset: Any) -> neural.Rows:
        """Rows for the fitted model, checked, with their names."""

    @abstractmethod
    def _block(self, Y: Any, data: Any, offset: Any, dtype: Any = np.float32) -> Block:
        """Rows for the fitted model, checked and coded."""

    @abstractmethod
    def transform(
        self, Y: Any, *, data: Any = None, offset: Any = None, return_variance: bool = False
    ) -> Any:
        """Means of the rows' latent positions."""

    def _width(self) -> int:
        """The most numbers that a decoded draw takes."""
        return max(self.model_.likelihood.width(self.shape_.columns), *self._words().hidden, 1)

    def _precise(self) -> Any:
        """Counts and measurements are scored in double precision; logits of zeros and ones need none."""
        return np.float32 if self.likelihood in ("bernoulli", "categorical") else np.float64

    def loglik_rows(
        self,
        Y: Any,
        *,
        data: Any = None,
        offset: Any = None,
        draws: int = 1000,
        khat: bool = False,
        proposal: str = "student",
    ) -> RowLikelihood:
        """Importance-sampled log-likelihood of each row with its standard error.

        log p(y) ~ log mean_s p(y, w_s) / t(w_s) over draws w_s ~ t. A `LikelihoodWarning` names rows whose error may be
        larger than stated (from 25 draws on). Cost: `draws` passes of the decoder a row.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.
            draws: of each row. More where errors are too large.
            khat: also Pareto k-hat of each row, for which 25 draws or more are needed.
            proposal: t: "student", a Student density around the encoder's Gaussian, whose tails are heavy enough
                wherever a row says little, or that "gaussian" itself, as published numbers of autoencoders have it.

        Returns:
            A `RowLikelihood` of arrays (n,).

        Raises:
            InputError: an unknown proposal, too few draws for k-hat, or rows that are not such as the model was fitted
                to.
        """
        if proposal not in ("student", "gaussian"):
            raise InputError(f"proposal={proposal!r} is not known; it is 'student' or 'gaussian'.")
        if khat and draws < KHAT_DRAWS:
            raise InputError(
                f"draws={draws}: k-hat looks at the largest ratios and needs {KHAT_DRAWS} draws."
            )
        dtype = self._precise()
        how = {"seed": self.random_state, "draws": draws, "khat": khat, "student": proposal == "student"}
        with double_precision():
            rows = self._new_rows(Y, data, offset)
            block = neural.as_rows_block(self.model_.likelihood, rows, dtype)
            model = jax.tree.map(lambda a: np.asarray(a, dtype=dtype), self.model_)
            found = amortised_loglik(model, block, width=self._width(), **how)
        warn_of(found.unsure, rows.names)
        return found

    def score_samples(
        self, Y: Any, *, data: Any = None, offset: Any = None, draws: int = 1000, return_se: bool = False
    ) -> Any:
        """Importance-sampled log-likelihood of each row (see `loglik_rows`).

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.
            draws: of each row.
            return_se: also return the Monte-Carlo standard errors.

        Returns:
            Log-likelihoods (n,), nats, higher is better; with `return_se` the pair with their errors (n,).

        Raises:
            InputError: columns, conditions or values are not such as the model was fitted to.
        """
        found = self.loglik_rows(Y, data=data, offset=offset, draws=draws)
        return (found.value, found.standard_error) if return_se else found.value

    def score(self, Y: Any, y: Any = None, **others: Any) -> float:
        """Mean of `score_samples`.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            y: ignored.
            others: arguments of `score_samples` by name: data, offset, draws.

        Returns:
            Nats a row, higher is better.
        """
        return float(np.mean(self.score_samples(Y, **others)))

    def bound_samples(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """The bound on each row's log-likelihood, at beta = 1.

        Exact where it has a closed form (a linear decoder), else the mean of 100 draws.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.

        Returns:
            Bounds (n,), nats, every constant, higher is better.

        Raises:
            InputError: columns, conditions or values are not such as the model was fitted to.
        """
        dtype = self._precise()
        exact = self._has_exact_bound()
        with double_precision():
            block = self._block(Y, data, offset, dtype)
            model = jax.tree.map(lambda a: np.asarray(a, dtype=dtype), self.model_)
            one = np.asarray(1.0, dtype=dtype)
            objective = ExactBound(one) if exact else Bound(one, BOUND_DRAWS)  # type: ignore[arg-type]
            size = SLICE if exact else max(1, min(SLICE, DECODED_NUMBERS // (BOUND_DRAWS * self._width())))
            seed = np.array([self.random_state, 0], dtype=np.uint32)
            return in_slices(lambda part, first: _bounds(objective, model, seed, part, first), block, size)

    def responsibilities(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """Under a mixture prior: P(component | w) at each row's latent mean.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.

        Returns:
            Shares (n, k), each row's sum 1.

        Raises:
            InputError: the prior is normal (fit with prior=k), or rows are not such as the model was fitted to.
        """
        if not isinstance(self.model_.prior, Mixture):
            raise InputError("A normal prior has no components; fit with prior=k, a number of them.")
        latent = self.transform(Y, data=data, offset=offset)
        return np.asarray(_shares(self.model_.prior, latent))

    def predict(self, Y: Any, *, data: Any = None, offset: Any = None) -> np.ndarray:
        """Under a mixture prior: the component of the largest share.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.

        Returns:
            Numbers of components (n,), from 0.

        Raises:
            InputError: the prior is normal (fit with prior=k), or rows are not such as the model was fitted to.
        """
        return np.argmax(self.responsibilities(Y, data=data, offset=offset), axis=1)

    def sample(self, n: int, *, data: Any = None, offset: float = 0.0, random_state: int = 0) -> np.ndarray:
        """Draw rows from the fitted model: w from the prior, y from the likelihood.

        Args:
            n: number of rows.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`.
            offset: on the log scale, for counts; one number.
            random_state: the seed of the draws.

        Returns:
            Rows (n, p); whole numbers where the model is one of counts.

        Raises:
            InputError: data has another number of rows than n, or a rate is above 1e15, at which counts are not exact.
        """
        x = neural.conditions(self.coded_, data, n)
        key = derive(random_state, Purpose.MAIN).key_data()
        out = np.asarray(_drawn(self.model_, key, x, shape=(n, self.shape_.rank)))
        return self.model_.likelihood.sample(
            derive(random_state, Purpose.MAIN).generator(), out, np.float32(offset)
        )


@compiled()
def _bounds(objective: Any, model: Any, seed: Any, block: Block, first: Any) -> Any:
    terms = objective.terms(model, jax.random.fold_in(seed, first), block, jnp.asarray(1.0, block.y.dtype))
    return terms.reconstruction - terms.divergence


@compiled()
def _shares(prior: Any, latent: Any) -> Any:
    return prior.responsibilities(latent)


@compiled(static_argnames="shape")
def _drawn(model: Any, key: Any, x: Any, *, shape: tuple[int, int]) -> Any:
    """What the decoder gives at positions drawn from the prior."""
    return model.decoder(model.prior.sample(key, shape), x)
