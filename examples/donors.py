"""`python examples/donors.py DATA OUT`: blood cells of five donors, with and without the donor as batch.

DATA is the folder of kang_donors.npz. Principal components of log-normalised counts, a variational autoencoder
without and with `batch="donor"`. Two halves are told for each, since one is bought with the other: what is kept of
biology (k-means against cell types: adjusted Rand index, mutual information; silhouette of types) and how donors mix
(1 - |silhouette of donors| within a type; share of a cell's 30 nearest neighbours of its type that come from other
donors, divided by what chance gives). Types serve to score only. Writes `table.csv` (means over seeds) and
`latent.png`.
"""

from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from reading import cells as read
from reading import options
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples
from sklearn.neighbors import NearestNeighbors

import poplin

SIZES = {"rows": 8684, "epochs": 200, "latent": 10, "hidden": 128, "seeds": 3}


def scores(latent: np.ndarray, cells: pd.DataFrame, seed: int) -> dict[str, float]:
    """Biology kept, donors mixed: all higher is better."""
    types, donors = cells["type"].to_numpy(), cells["donor"].to_numpy()
    found = KMeans(len(np.unique(types)), n_init=10, random_state=seed).fit_predict(latent)
    kept = {"ari": adjusted_rand_score(types, found), "nmi": normalized_mutual_info_score(types, found)}
    kept["type_silhouette"] = float(np.mean(silhouette_samples(latent, types)))
    apart, mixed = [], []
    for kind in np.unique(types):
        own, places = donors[types == kind], latent[types == kind]
        near = min(30, len(own) - 1)
        others = NearestNeighbors(n_neighbors=near).fit(places).kneighbors(return_distance=False)
        chance = np.mean(own[:, None] != own)
        apart.append(np.abs(silhouette_samples(places, own)))
        mixed.append((own[others] != own[:, None]).mean(axis=1) / chance)
    return kept | {
        "donors_overlap": 1 - np.concatenate(apart).mean(),
        "donors_mix": np.concatenate(mixed).mean(),
    }


def main() -> None:
    """Embed, score, draw."""
    chosen = options(__doc__, SIZES)
    counts, known = read(chosen.data / "kang_donors.npz")
    some = np.sort(np.random.default_rng(0).permutation(len(counts))[: chosen.rows])
    obs = pd.DataFrame({"type": known["cluster_id"][some], "donor": known["sample_id"][some]}).rename(
        index=str
    )
    cells = anndata.AnnData(counts[some], obs=obs)
    depth = cells.X.sum(axis=1)
    logged = np.log1p(cells.X / depth[:, None] * np.median(depth))
    how = {"likelihood": "negative-binomial", "hidden": chosen.hidden, "max_epochs": chosen.epochs}
    how |= {"patience": None, "schedule": "cosine", "kl_warmup": chosen.epochs // 10}
    lines = []
    for seed in range(chosen.seeds):
        cells.obsm["PCA"] = PCA(chosen.latent, random_state=seed).fit_transform(logged)
        for name, batch in (("VAE", None), ("VAE, batch", "donor")):
            fit = poplin.VAE(chosen.latent, batch=batch, random_state=seed, **how).fit(
                cells, offset=np.log(depth)
            )
            fit.embed(cells, key=name, offset=np.log(depth))
        for name in ("PCA", "VAE", "VAE, batch"):
            lines.append({"embedding": name} | scores(cells.obsm[name], cells.obs, seed))
    table = pd.DataFrame(lines).groupby("embedding").mean()
    table.reset_index().to_csv(chosen.out / "table.csv", index=False)
    print(table.round(3).to_string())
    draw(cells, chosen.out)


def draw(cells: anndata.AnnData, out: Path) -> None:
    """Two principal axes of each embedding, a colour a donor."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 5))
    for place, name in zip(axes, ("PCA", "VAE", "VAE, batch"), strict=True):
        points = PCA(2).fit_transform(cells.obsm[name])
        for donor in np.unique(cells.obs["donor"]):
            place.scatter(*points[cells.obs["donor"] == donor].T, s=2, label=donor)
        place.set(title=name, xlabel="first axis", ylabel="second axis")
    axes[0].legend(title="donor", markerscale=4)
    figure.savefig(out / "latent.png", dpi=120)


if __name__ == "__main__":
    main()
