"""What the examples share: their options, and the files that they read.

Start at `options`. Every example is `python examples/NAME.py DATA OUT` with a number for each size.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import scipy.sparse


def options(text: str | None, sizes: dict[str, int]) -> argparse.Namespace:
    """The folders `data` and `out`, which is made, and the sizes."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen


def images(folder: Path, part: str) -> np.ndarray:
    """The grey levels of a part of MNIST ("train" or "t10k") from 0 to 1, (n, 784)."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), dtype=np.uint8, offset=16)
    return raw.reshape(-1, 784) / 255.0


def labels(folder: Path, part: str) -> np.ndarray:
    """The true kinds of a part, (n,)."""
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=8).astype(int)


def cells(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Counts (n, p) of a sparse table and what is known of its rows, by name."""
    with np.load(path) as file:
        known = {name.removeprefix("cov_"): file[name] for name in file.files if name.startswith("cov_")}
    return scipy.sparse.load_npz(path).toarray().astype(float), known
