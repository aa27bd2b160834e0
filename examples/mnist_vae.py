"""`python examples/mnist_vae.py DATA OUT`: handwritten digits, diagonal against full posterior.

Pixels are probabilities, zeros and ones are drawn anew each time a row is seen (dynamic binarisation). One stochastic
layer of 50 and two deterministic layers of 200 tanh units each way. Writes `table.csv` (held-out negative
log-likelihood, nats, importance-sampled), `curves.png`, `digits.png`. --rows, --epochs and --draws make it small.
"""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from reading import images, options

import poplin

SIZES = {"rows": 60_000, "test": 10_000, "epochs": 200, "draws": 5000, "latent": 50}


def main() -> None:
    """Fit both posteriors, score the test images, draw."""
    chosen = options(__doc__, SIZES)
    train, grey = images(chosen.data, "train")[: chosen.rows], images(chosen.data, "t10k")[: chosen.test]
    test = np.random.default_rng(0).binomial(1, grey)  # drawn once, the same for all
    how = {"likelihood": "bernoulli", "binarise": True, "hidden": (200, 200), "activation": "tanh"}
    how |= {
        "max_epochs": chosen.epochs,
        "kl_warmup": 0,
        "patience": None,
        "schedule": "cosine",
        "learning_rate": 4e-3,
    }
    kinds = ("diagonal", "full")
    fits = {kind: poplin.VAE(chosen.latent, posterior=kind, **how).fit(train) for kind in kinds}
    lines = []
    for kind, fit in fits.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", poplin.LikelihoodWarning)  # rows in doubt are counted below
            found = fit.loglik_rows(test, draws=chosen.draws, proposal="gaussian", khat=True)
        error = np.std(found.value) / np.sqrt(len(test))
        shares = {"khat_above_0.7": np.mean(found.khat > 0.7), "seconds": fit.seconds_}
        lines.append({"posterior": kind, "nll": -np.mean(found.value), "se": error} | shares)
    pd.DataFrame(lines).to_csv(chosen.out / "table.csv", index=False)
    print(pd.DataFrame(lines).to_string(index=False))
    draw(fits, test, chosen.out)


def draw(fits: dict[str, poplin.VAE], test: np.ndarray, out: Path) -> None:
    """Training curves, and rows of images: seen, rebuilt, drawn from the prior."""
    figure, axes = plt.subplots()
    for kind, fit in fits.items():
        axes.plot(fit.history_["epoch"], fit.history_["held_out_bound"], label=f"{kind} posterior")
    axes.set(xlabel="epoch", ylabel="bound on left-out rows, nats a row (higher is better)")
    axes.legend()
    figure.savefig(out / "curves.png", dpi=120)
    fit = fits["full"]
    rows = np.concatenate([test[:10], fit.reconstruct(test[:10]), fit.sample(10)])
    figure, places = plt.subplots(3, 10, figsize=(10, 3.2))
    for place, row in zip(places.ravel(), rows, strict=True):
        place.imshow(row.reshape(28, 28), cmap="gray_r")
        place.axis("off")
    figure.savefig(out / "digits.png", dpi=120)


if __name__ == "__main__":
    main()
