"""`python examples/clusters.py DATA OUT`: images of ten kinds, grouped without labels.

DATA is a folder with the four files of MNIST or Fashion-MNIST; all images or the last --rows of them. k-means and the
graph of neighbours on an autoencoder's positions, IDEC started from the graph (the method named beforehand), and a
mixture autoencoder, over seeds fixed beforehand (0, 1, ...); labels serve to score only, once, at the end. Networks
have two hidden layers of --width. Writes `runs.csv`, `table.csv` (mean and sd over seeds of accuracy, mutual
information, adjusted Rand index) and `latent.png`.
"""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from reading import images, labels, options
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

import poplin

SIZES = {"rows": 70_000, "epochs": 40, "width": 500, "seeds": 5}
NUMBERS = ["accuracy", "nmi", "ari"]


def scores(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Accuracy under the best one-to-one naming of clusters, mutual information, adjusted Rand index."""
    table = confusion_matrix(truth, found)
    accuracy = table[linear_sum_assignment(table, maximize=True)].sum() / table.sum()
    return accuracy, normalized_mutual_info_score(truth, found), adjusted_rand_score(truth, found)


def main() -> None:
    """Fit with every seed, score, draw the last one."""
    chosen = options(__doc__, SIZES)
    both = ("train", "t10k")
    rows = np.concatenate([images(chosen.data, part) for part in both])[-chosen.rows :]
    truth = np.concatenate([labels(chosen.data, part) for part in both])[-chosen.rows :]
    how = {"hidden": (chosen.width,) * 2, "batch_size": 256}
    first = {"max_iter": 200 * chosen.epochs, "pretrain_epochs": chosen.epochs, "start": "neighbours"}
    second = {"max_epochs": chosen.epochs // 2, "pretrain_epochs": chosen.epochs // 2, "scale": 0.3}
    runs = pd.read_csv(chosen.out / "runs.csv") if (chosen.out / "runs.csv").exists() else pd.DataFrame()
    done = min(len(runs) // 4, chosen.seeds - 1)  # a run that was stopped goes on
    lines = [tuple(line) for line in runs.to_numpy()[: 4 * done]]
    for seed in range(done, chosen.seeds):
        with warnings.catch_warnings():  # whether it settled is told in runs.csv
            warnings.simplefilter("ignore", poplin.ConvergenceWarning)
            idec = poplin.IDEC(10, random_state=seed, **first, **how).fit(rows)
        mixture = poplin.MixtureVAE(10, random_state=seed, patience=None, **second, **how).fit(rows)
        found = {
            "AE + k-means": KMeans(10, n_init=20, random_state=seed).fit_predict(idec.start_positions_),
            "AE + neighbours": idec.start_labels_,
            "IDEC": idec.labels_,
            "MixtureVAE": mixture.predict(rows),
        }
        lines += [(name, seed, idec.converged_, *scores(truth, one)) for name, one in found.items()]
        runs = pd.DataFrame(lines, columns=["method", "seed", "settled", *NUMBERS])
        runs.to_csv(chosen.out / "runs.csv", index=False)
    table = runs.groupby("method", sort=False)[NUMBERS].agg(["mean", "std"])
    table.columns = ["_".join(names) for names in table.columns]
    table.reset_index().to_csv(chosen.out / "table.csv", index=False)
    print(table.round(3).to_string())
    draw({"IDEC": idec, "MixtureVAE": mixture}, rows[:5000], truth, chosen.out)


def draw(fits: dict[str, poplin.IDEC | poplin.MixtureVAE], rows: np.ndarray, truth: np.ndarray, out: Path):
    """Two principal axes of the rows' positions."""
    figure, places = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for place, (name, fit) in zip(places, fits.items(), strict=True):
        points = PCA(2).fit_transform(fit.transform(rows))
        place.scatter(*points.T, c=truth[: len(points)], cmap="tab10", s=3)
        place.set(title=f"{name}: colours are the true kinds", xlabel="first axis", ylabel="second axis")
    figure.savefig(out / "latent.png", dpi=120)


if __name__ == "__main__":
    main()
