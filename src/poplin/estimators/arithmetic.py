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
