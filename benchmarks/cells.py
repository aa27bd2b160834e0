"""`python -m benchmarks.cells`: blood cells grouped by their embeddings, beside scvi-tools where it is installed.

2638 cells of pbmc3k, the 2000 genes of largest dispersion, against nine cell types, which serve to score only (and came
from clusters of principal components of these counts). Embeddings: principal components of log-normalised counts;
`poplin.VAE` (its latent means, and principal components of what it decodes); SCVI with n_layers=2, n_latent=30, nb, in
the interpreter that --peer-python names. Each is grouped by k-means and by the graph of neighbours, over seeds fixed
beforehand (0, 1, ...). `poplin.IDEC` on the log-normalised counts groups by itself, and the autoencoder that it begins
from stands beside it. Writes `cells.csv`, a line a seed, embedding and grouping, and `cells.md`: mean (sd) over seeds.
Start at `embeddings`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import records
from benchmarks.measure import REPOSITORY, facts

GENES, LATENT, EPOCHS = 2000, 10, 100
SCORES = ("ari", "nmi", "accuracy")
COLUMNS = ("embedding", "grouping", "seed", *SCORES, "seconds", "commit", "date", "cpu", "cores", "python")
PEER = """
import sys, numpy as np, anndata, scvi, torch
counts, out, seed = np.load(sys.argv[1]).astype("float32"), sys.argv[2], int(sys.argv[3])
scvi.settings.seed = seed
rows = anndata.AnnData(counts)
scvi.model.SCVI.setup_anndata(rows)
model = scvi.model.SCVI(rows, n_layers=2, n_latent=30, gene_likelihood="nb")
model.train(accelerator="cpu", enable_progress_bar=False)
np.save(out, model.get_latent_representation())
"""


def table(shared: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (n, p), each cell's total over all genes, cell types."""
    import scipy.sparse

    path = shared / "data" / "pbmc3k.npz"
    with np.load(path) as file:
        types = file["cov_cell_type"]
    counts = scipy.sparse.load_npz(path).toarray().astype(float)
    dispersion = counts.var(axis=0) / np.maximum(counts.mean(axis=0), 0.01)
    return counts[:, np.argsort(-dispersion)[:GENES]], counts.sum(axis=1), types


def logged(counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Log(1 + count at the median depth)."""
    return np.log1p(counts / depth[:, None] * np.median(depth))


def embeddings(
    counts: np.ndarray, depth: np.ndarray, seed: int, peer: str | None
) -> dict[str, tuple[Any, float]]:
    """Positions (n, q) by name, with the seconds that finding them took."""
    from sklearn.decomposition import PCA

    import poplin

    def components(values: np.ndarray) -> np.ndarray:
        return PCA(LATENT, random_state=seed).fit_transform(values)

    how: dict[str, Any] = {"likelihood": "negative-binomial", "hidden": 32, "max_epochs": EPOCHS}
    fit = poplin.VAE(LATENT, patience=None, kl_warmup=20, random_state=seed, **how)
    fit.fit(counts, offset=np.log(depth))
    latent = fit.transform(counts, offset=np.log(depth))
    decoded = np.log1p(fit.inverse_transform(latent, offset=np.log(np.median(depth))))
    began = time.perf_counter()
    axes = components(logged(counts, depth))
    found = {
        "PCA": (axes, time.perf_counter() - began),
        "poplin.VAE": (latent, fit.seconds_),
        "poplin.VAE, decoded": (components(decoded), fit.seconds_),
    }
    return found if peer is None else found | {"scvi-tools": _peer(peer, counts, seed)}


def _peer(python: str, counts: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "counts.npy"), Path(folder, "latent.npy")
        np.save(given, counts)
        began = time.perf_counter()
        command = [python, "-c", PEER, str(given), str(made), str(seed)]
        subprocess.run(command, check=True, capture_output=True)
        return np.load(made), time.perf_counter() - began


def scores(types: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Adjusted Rand index, mutual information, accuracy under the best one-to-one naming of groups."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    shared = contingency_matrix(types, found)
    accuracy = shared[linear_sum_assignment(shared, maximize=True)].sum() / len(types)
    rand, information = adjusted_rand_score(types, found), normalized_mutual_info_score(types, found)
    return {"ari": rand, "nmi": information, "accuracy": accuracy}


def lines_of(counts: np.ndarray, depth: np.ndarray, types: np.ndarray, seed: int, peer: str | None) -> Any:
    """The lines of one seed."""
    import poplin
    from poplin.estimators.building import STARTS

    groups = len(np.unique(types))
    how: dict[str, Any] = {"hidden": (128,), "start": "neighbours", "batch_size": 128}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.ConvergenceWarning)
        fit = poplin.IDEC(groups, LATENT, random_state=seed, **how).fit(logged(counts, depth))
    found = embeddings(counts, depth, seed, peer)
    found["poplin.IDEC, its autoencoder"] = fit.start_positions_, fit.seconds_
    for name, (latent, seconds) in found.items():
        for grouping, start in STARTS.items():
            told = {"embedding": name, "grouping": grouping, "seed": seed, "seconds": seconds}
            yield told | scores(types, start.labels(latent, groups, seed)) | facts()
    told = {"embedding": "poplin.IDEC", "grouping": "its own", "seed": seed, "seconds": fit.seconds_}
    yield told | scores(types, fit.labels_) | facts()


def page(lines: list[dict[str, Any]]) -> str:
    """Mean (sd) over seeds as a table."""
    found = pd.DataFrame(lines).groupby(["embedding", "grouping"], sort=False)
    text = "| embedding | grouped by | adjusted Rand index | mutual information | accuracy | seconds |\n"
    text += "|---|---|---|---|---|---|\n"
    for (name, grouping), part in found:
        spread = [f" ({part[k].std():.3f})" if len(part) > 1 else "" for k in SCORES]
        told = [f"{part[k].mean():.3f}{sd}" for k, sd in zip(SCORES, spread, strict=True)]
        text += f"| {name} | {grouping} | {' | '.join(told)} | {part['seconds'].mean():.0f} |\n"
    return text


def main(arguments: list[str] | None = None) -> None:
    """Run the seeds that the file does not have, write both files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer-python", default=None, help="an interpreter that has scvi-tools")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    chosen = parser.parse_args(arguments)
    counts, depth, types = table(chosen.shared)
    lines = records.read(chosen.out / "cells.csv")
    done = {int(line["seed"]) for line in lines}
    for seed in sorted(set(range(chosen.seeds)) - done):
        lines += lines_of(counts, depth, types, seed, chosen.peer_python)
        records.write(chosen.out / "cells.csv", lines, COLUMNS)
        (chosen.out / "cells.md").write_text(page(lines))
        print(page(lines), flush=True)


if __name__ == "__main__":
    main()
