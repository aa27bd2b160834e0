"""`python examples/donors.py DATA OUT`: blood cells of five donors, with and without the donor as batch.

DATA is the folder of kang_donors.npz. Principal components of log-normalised counts, an autoencoder without and with
`batch="donor"`. Two halves are told for each: what is kept of biology (k-means against cell types, silhouette of types)
and how donors mix (1 - |silhouette of donors| within a type; share of other donors among a cell's 30 nearest of its
type, over what chance gives). Types serve to score only. Writes `table.csv` (means over seeds) and `latent.png`.
"""

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from reading import cells, options
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
    kept["type_silhouette"] = np.mean(silhouette_samples(latent, types))
    overlap, mixed = np.zeros(len(latent)), np.zeros(len(latent))
    for kind in np.unique(types):
        inside = types == kind
        own, places = donors[inside], latent[inside]
        search = NearestNeighbors(n_neighbors=min(30, len(own) - 1)).fit(places)
        near = search.kneighbors(return_distance=False)
        overlap[inside] = 1 - np.abs(silhouette_samples(places, own))
        mixed[inside] = np.mean(own[near] != own[:, None], axis=1) / np.mean(own[:, None] != own)
    return kept | {"donors_overlap": overlap.mean(), "donors_mix": mixed.mean()}


def main() -> None:
    """Embed, score, draw two principal axes of each embedding, a colour a donor."""
    chosen = options(__doc__, SIZES)
    counts, known = cells(chosen.data / "kang_donors.npz")
    some = np.sort(np.random.default_rng(0).permutation(len(counts))[: chosen.rows])
    types, donors = known["cluster_id"][some], known["sample_id"][some]
    obs = pd.DataFrame({"type": types, "donor": donors}, some.astype(str))
    table, offset = anndata.AnnData(counts[some], obs=obs), np.log(counts[some].sum(axis=1))
    logged = np.log1p(table.X * np.exp(np.median(offset) - offset)[:, None])
    how = {"likelihood": "negative-binomial", "hidden": chosen.hidden, "max_epochs": chosen.epochs}
    how |= {"patience": None, "schedule": "cosine", "kl_warmup": chosen.epochs // 10}
    lines = []
    for seed in range(chosen.seeds):
        table.obsm["PCA"] = PCA(chosen.latent, random_state=seed).fit_transform(logged)
        for name, batch in (("VAE", None), ("VAE, batch", "donor")):
            fit = poplin.VAE(chosen.latent, batch=batch, random_state=seed, **how).fit(table, offset=offset)
            fit.embed(table, key=name, offset=offset)
        lines += [{"embedding": name} | scores(table.obsm[name], table.obs, seed) for name in table.obsm]
    means = pd.DataFrame(lines).groupby("embedding").mean()
    means.to_csv(chosen.out / "table.csv")
    print(means.round(3).to_string())
    figure, axes = plt.subplots(1, 3, figsize=(15, 5))
    for place, name in zip(axes, table.obsm, strict=True):
        points = PCA(2).fit_transform(table.obsm[name])
        for donor in np.unique(table.obs["donor"]):
            place.scatter(*points[table.obs["donor"] == donor].T, s=2, label=donor)
        place.set(title=name, xlabel="first axis", ylabel="second axis")
    axes[0].legend(title="donor", markerscale=4)
    figure.savefig(chosen.out / "latent.png", dpi=120)


if __name__ == "__main__":
    main()
