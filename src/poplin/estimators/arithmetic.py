"""Latent arithmetic: what rows would look like under a treatment that was seen on other rows only.

Start at `predict_shift`. It serves every model with an encoder.
"""

from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import listed


class Shifted(NamedTuple):
    """Expected rows (n, p) with the shift and without it, and the shift delta (q,) in the latent space."""

    rows: np.ndarray
    without: np.ndarray
    shift: np.ndarray


def predict_shift(
    fit: Any, control: Any, treated: Any, *, to: Any, types: tuple[Any, Any] | None = None
) -> Shifted:
    """E[y | w + delta] for the rows `to`, where delta leads from `control` to `treated` in the latent space.

    `types`: a label for each row of control and of treated. delta is then the mean over types seen in both of the
    difference of their latent means, so that a treatment that changed the mixture of types does not count as a shift;
    without labels it is the difference of the overall means. The change to report is `rows - without`: both are
    decoded, so that what decoding alone changes is in neither. Source: Lotfollahi, Wolf & Theis (2019), Nat. Methods.

    Raises `InputError` when no type is seen in both. Cost: one pass of the encoder and two of the decoder.

    >>> import numpy as np, poplin
    >>> random = np.random.default_rng(0)
    >>> one = random.normal(size=(40, 3))
    >>> fit = poplin.Autoencoder(2, hidden=(), max_epochs=5, patience=None).fit(np.vstack([one, one + 1]))
    >>> poplin.predict_shift(fit, one, one + 1, to=one[:5]).rows.shape
    (5, 3)
    """
    positions = fit.transform(control), fit.transform(treated)
    alike = (np.zeros(len(positions[0])), np.zeros(len(positions[1])))
    shift = balanced_difference(positions, alike if types is None else types)
    latent = fit.transform(to)
    return Shifted(fit.inverse_transform(latent + shift), fit.inverse_transform(latent), shift)


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
