"""`python examples/balance.py DATA OUT`: how the scale c of the decoder's noise orders the latent space.

DATA is the folder of MNIST. Autoencoders with two latent dimensions: plain, and variational ones with noise of standard
deviation c, which weighs reconstruction (1 / 2c^2) against the prior. Numbers for each, on rows left out: mean squared
error of a pixel; divergence; `jump`, the largest of 20 equal steps along a line between two rows' positions, decoded,
over the mean step (1: even); `near`, the share of draws from the prior (plain: from a normal law with the moments of
its positions) that decode to within the distance of some row in which 95 % of rebuilt rows lie. Writes `table.csv`,
`latent.png` and `grid.png`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from reading import images, options
from scipy.stats import norm
from sklearn.neighbors import NearestNeighbors

import poplin

SIZES = {"rows": 20_000, "test": 2000, "epochs": 60, "hidden": 256}
SCALES = (0.1, 0.3, 1.0, 2.0, 4.0)


def regularity(fit: poplin.VAE | poplin.Autoencoder, test: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """Numbers about the latent space of one fit."""
    random, latent, rebuilt = np.random.default_rng(0), fit.transform(test), fit.reconstruct(test)
    one, other = latent[random.permutation(len(test))[:200]], latent[random.permutation(len(test))[:200]]
    share = np.linspace(0, 1, 21)[:, None, None]
    line = fit.inverse_transform((one + share * (other - one)).reshape(-1, 2)).reshape(21, len(one), -1)
    steps = np.linalg.norm(np.diff(line, axis=0), axis=2)
    moved = steps.mean(axis=0) > 1e-6
    near = NearestNeighbors(n_neighbors=1).fit(train)
    limit = np.quantile(near.kneighbors(rebuilt)[0], 0.95)
    normal = isinstance(fit, poplin.VAE)
    drawn = random.standard_normal((1000, 2))
    if not normal:
        drawn = random.multivariate_normal(latent.mean(axis=0), np.cov(latent.T), 1000)
    found = {"mse": np.mean((rebuilt - test) ** 2)}
    found["divergence"] = fit.history_["held_out_divergence"].iloc[-1] if normal else 0.0
    found["jump"] = np.mean(steps.max(axis=0)[moved] / steps.mean(axis=0)[moved])
    return found | {"near": np.mean(near.kneighbors(fit.inverse_transform(drawn))[0] <= limit)}


def main() -> None:
    """Fit, measure, draw."""
    chosen = options(__doc__, SIZES)
    train, test = images(chosen.data, "train")[: chosen.rows], images(chosen.data, "t10k")[: chosen.test]
    how = {"hidden": (chosen.hidden,) * 2, "max_epochs": chosen.epochs, "patience": None}
    how["schedule"] = "cosine"
    fits = {"plain": poplin.Autoencoder(2, **how).fit(train)}
    warmup = min(10, chosen.epochs - 1)
    fits |= {f"c = {c}": poplin.VAE(2, scale=c, kl_warmup=warmup, **how).fit(train) for c in SCALES}
    table = pd.DataFrame([{"model": name} | regularity(fit, test, train) for name, fit in fits.items()])
    table.to_csv(chosen.out / "table.csv", index=False)
    print(table.round(3).to_string(index=False))
    figure, places = plt.subplots(2, 3, figsize=(12, 8), layout="constrained")
    grids, cells = plt.subplots(2, 3, figsize=(12, 8), layout="constrained")
    quantiles = norm.ppf(np.linspace(0.05, 0.95, 12))
    for place, cell, (name, fit) in zip(places.ravel(), cells.ravel(), fits.items(), strict=True):
        latent = fit.transform(test)
        place.scatter(*latent.T, s=2)
        place.set(title=name, xlabel="first latent dimension", ylabel="second")
        centre, unit = (latent.mean(axis=0), latent.std(axis=0)) if name == "plain" else (0, 1)
        points = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2) * unit + centre
        tiles = fit.inverse_transform(points).reshape(12, 12, 28, 28).transpose(0, 2, 1, 3).reshape(336, 336)
        cell.imshow(tiles, cmap="gray_r", vmin=0, vmax=1)
        cell.set(title=name, xticks=[], yticks=[])
    figure.savefig(chosen.out / "latent.png", dpi=100)
    grids.savefig(chosen.out / "grid.png", dpi=100)


if __name__ == "__main__":
    main()
