"""The table of the demonstration: scikit-learn's handwritten digits, which come with it and are real counts.

Start at `digits`. Each of 1797 images is a row of 64 pixels; a pixel counts the inked points, 0 to 16, in its
4 x 4 block of the scan.
"""

from __future__ import annotations

import numpy as np

from poplin.data.tables import CountTable, listed

SEEN = 50  # images that must ink a pixel; fewer say next to nothing of its variance


def digits() -> tuple[CountTable, np.ndarray]:
    """The counts without the pixels that few images ink, and the digit that each image shows (for colour)."""
    from sklearn.datasets import load_digits

    counts, shown = (np.asarray(part) for part in load_digits(return_X_y=True))
    names = np.array([f"pixel_{j // 8 + 1}_{j % 8 + 1}" for j in range(counts.shape[1])])
    inked = (counts > 0).sum(axis=0) >= SEEN
    rows = tuple(f"image{i + 1}" for i in range(len(counts)))
    note = f"Left out, as fewer than {SEEN} images have ink there: {listed(names[~inked])}."
    return CountTable(counts[:, inked], rows, tuple(names[inked].tolist()), None, (note,)), shown
