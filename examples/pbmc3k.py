"""`python examples/pbmc3k.py DATA OUT`: blood cells, an embedding of their counts and its clusters.

DATA is the folder of pbmc3k.npz. The genes of largest dispersion; a variational autoencoder with negative binomial
counts and the log of each cell's total as offset. k-means on its latent means; on principal components of what it
decodes from them, log(1 + mean count at the median depth); and of the log-normalised counts, over seeds fixed
beforehand. Cell types are used to score only, and they came from clusters of principal components of these counts.
Writes `runs.csv`, `table.csv` (adjusted Rand index, mutual information: mean and sd over seeds) and `latent.png`.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from reading import cells, options
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import poplin

SIZES = {"rows": 2638, "genes": 2000, "epochs": 100, "latent": 10, "hidden": 32, "seeds": 5}


def main() -> None:
    """Embed, cluster, score, draw."""
    chosen = options(__doc__, SIZES)
    counts, known = cells(chosen.data / "pbmc3k.npz")
    counts, types = counts[: chosen.rows], known["cell_type"][: chosen.rows]
    depth = counts.sum(axis=1)
    mean = counts.mean(axis=0)
    counts = counts[:, np.argsort(-counts.var(axis=0) / np.maximum(mean, 0.01))[: chosen.genes]]
    logged = np.log1p(counts / depth[:, None] * np.median(depth))
    how = {"likelihood": "negative-binomial", "hidden": chosen.hidden, "max_epochs": chosen.epochs}
    how |= {"patience": None, "kl_warmup": min(20, chosen.epochs // 2)}
    lines = []
    for seed in range(chosen.seeds):
        fit = poplin.VAE(chosen.latent, random_state=seed, **how).fit(counts, offset=np.log(depth))
        embeddings = {"VAE": fit.transform(counts, offset=np.log(depth))}
        decoded = np.log1p(fit.inverse_transform(embeddings["VAE"], offset=np.log(np.median(depth))))
        embeddings["VAE, decoded"] = PCA(chosen.latent, random_state=seed).fit_transform(decoded)
        embeddings["PCA"] = PCA(chosen.latent, random_state=seed).fit_transform(logged)
        for name, latent in embeddings.items():
            found = KMeans(len(np.unique(types)), n_init=10, random_state=seed).fit_predict(latent)
            scores = {
                "ari": adjusted_rand_score(types, found),
                "nmi": normalized_mutual_info_score(types, found),
            }
            scores |= {"seconds": fit.seconds_, "held_out_bound": fit.history_["held_out_bound"].max()}
            lines.append({"embedding": name, "seed": seed} | scores)
        pd.DataFrame(lines).to_csv(chosen.out / "runs.csv", index=False)
    table = pd.DataFrame(lines).groupby("embedding")[["ari", "nmi"]].agg(["mean", "std"])
    table.columns = ["_".join(names) for names in table.columns]
    table.reset_index().to_csv(chosen.out / "table.csv", index=False)
    print(table.round(3).to_string())
    draw(embeddings["VAE"], types, chosen.out)


def draw(latent: np.ndarray, types: np.ndarray, out: Path) -> None:
    """The first two principal axes of the latent means, a colour a cell type."""
    places = PCA(2).fit_transform(latent)
    figure, axes = plt.subplots(figsize=(7, 5))
    for kind in np.unique(types):
        axes.scatter(*places[types == kind].T, s=4, label=kind)
    axes.set(xlabel="first axis of the latent means", ylabel="second axis")
    axes.legend(fontsize=7, markerscale=3)
    figure.savefig(out / "latent.png", dpi=120)


if __name__ == "__main__":
    main()
