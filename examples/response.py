"""`python examples/response.py DATA OUT`: interferon and a cell type whose treated cells were never seen.

DATA is the folder of kang_ifnb_small.npz. For each of five cell types a variational autoencoder sees all cells but the
treated ones of that type; `predict_shift` moves its untreated cells. The change of a gene is that of log(1 + mean count
at the median depth). Writes `table.csv`: R2 of the predicted against the true change over all genes and over the 100
that change most, beside "no change" (R2 = 1 - sum(true^2) / sum((true - mean)^2), at most 0) and the average change of
the other types; `response.png`: predicted against true.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from reading import cells, options

import poplin

SIZES = {"genes": 1267, "epochs": 300, "latent": 10, "hidden": 128, "seeds": 3}


def r2(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """1 - residual over total sum of squares: all genes, and the 100 that truly change most."""
    found = {}
    for name, genes in (("all", slice(None)), ("top100", np.argsort(-np.abs(true))[:100])):
        a, b = true[genes], predicted[genes]
        found[f"r2_{name}"] = 1 - np.sum((a - b) ** 2) / np.sum((a - a.mean()) ** 2)
    return found


def main() -> None:
    """Leave out the treated cells of each type in turn, predict their change, score, draw."""
    chosen = options(__doc__, SIZES)
    counts, known = cells(chosen.data / "kang_ifnb_small.npz")
    types, treated = known["cluster_id"], known["group_id"] == "stim"
    depth = counts.sum(axis=1)
    counts = counts[:, np.argsort(-counts.sum(axis=0))[: chosen.genes]]
    offset, typical = np.log(depth), np.median(depth)

    def level(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Log(1 + mean count at the median depth) of the chosen rows, (p,)."""
        return np.log1p(typical * (rows / depth[chosen][:, None]).mean(axis=0))

    true = {}
    for kind in np.unique(types):
        after, before = treated & (types == kind), ~treated & (types == kind)
        true[kind] = level(counts[after], after) - level(counts[before], before)
    how = {"likelihood": "negative-binomial", "hidden": chosen.hidden, "max_epochs": chosen.epochs}
    how |= {"patience": None, "schedule": "cosine", "kl_warmup": chosen.epochs // 10}
    lines, drawn = [], {}
    for kind, change in true.items():
        groups = [~treated & (types != kind), treated & (types != kind), ~treated & (types == kind)]
        others = [true[k] for k in true if k != kind]
        guesses = [("no change", np.zeros(chosen.genes)), ("average change", np.mean(others, axis=0))]
        seen = np.any(groups, axis=0)
        for seed in range(chosen.seeds):
            fit = poplin.VAE(chosen.latent, random_state=seed, **how).fit(counts[seen], offset=offset[seen])
            rows, told = [counts[g] for g in groups], {"types": (types[groups[0]], types[groups[1]])}
            told |= {"to": rows[2], "offset": tuple(offset[g] for g in groups)}
            found = poplin.predict_shift(fit, *rows[:2], **told)
            drawn[kind] = level(found.rows, groups[2]) - level(found.without, groups[2])
            guesses.append(("VAE", drawn[kind]))
        lines += [{"type": kind, "guess": name} | r2(change, guess) for name, guess in guesses]
    table = pd.DataFrame(lines).groupby(["type", "guess"], sort=False).mean().reset_index()
    table.to_csv(chosen.out / "table.csv", index=False)
    print(table.round(3).to_string(index=False))
    figure, places = plt.subplots(1, len(true), figsize=(4 * len(true), 4), sharex=True, sharey=True)
    for place, (kind, guess) in zip(places, drawn.items(), strict=True):
        place.scatter(true[kind], guess, s=3)
        place.axline((0, 0), slope=1, color="grey")
        place.set(title=kind, xlabel="true change", ylabel="predicted change")
    figure.savefig(chosen.out / "response.png", dpi=120)


if __name__ == "__main__":
    main()
