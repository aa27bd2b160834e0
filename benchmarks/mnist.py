"""`python -m benchmarks.mnist DATA`: held-out likelihood of binarised digits, one model and seed a process.

Dynamic binarisation (zeros and ones drawn anew each time a row is seen), one stochastic layer of 50, two deterministic
layers of 200 tanh units each way: the architecture of Burda, Grosse & Salakhutdinov (2016). All 60000 training rows are
trained on, for a number of epochs fixed beforehand. The test rows are binarised once (NumPy seed 0, the same for all);
log p is by importance sampling from the encoder's Gaussian with --draws draws a row.

The learning rate begins at 0.004 and falls to zero along a cosine: of 0.001, 0.002 and 0.004 with batches of 128, and
0.001 and 0.002 with 64, it was the best after 30 epochs (seed 0, the first 1000 test rows).

--posterior, --importance, --seed, --epochs, --schedule and --batch name a run. It can be stopped at any time and goes
on where it was: training has a checkpoint, scoring keeps each slice of rows. --seconds ends training early; the run is
then scored as it stands, under the number of epochs it has seen. `--report` reads the finished runs, prints
`mnist.csv`, and draws the training curves. Two runs at once: one core each, by `taskset`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.measure import REPOSITORY, facts

# fmt: off
COLUMNS = (
    "posterior", "importance", "seed", "epochs", "trained", "schedule", "batch", "learning_rate", "rows", "draws",
    "nll", "se", "bound", "active_units", "train_s", "score_s", "device", "commit", "date", "cpu", "cores",
    "python",
)
# fmt: on
SLICE = 500  # test rows scored between two writings
ACTIVE = 0.01  # variance of a latent dimension's mean over rows above which it is in use (Burda et al. 2016)


def main(arguments: list[str] | None = None) -> None:
    """Train and score one run, or report on all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mnist", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out" / "mnist")
    parser.add_argument("--posterior", choices=("diagonal", "full"), default="diagonal")
    parser.add_argument("--schedule", default="cosine")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    numbers = {"importance": 1, "seed": 0, "epochs": 200, "batch": 128, "draws": 5000}
    for name, default in (numbers | {"rows": 10_000, "train": 60_000}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=np.inf, help="of training, in this call")
    parser.add_argument("--report", action="store_true")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.report:
        report(chosen.out)
    else:
        run(chosen)


def images(folder: Path, part: str) -> np.ndarray:
    """The grey levels of a part ("train" or "t10k") as probabilities, (n, 784)."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), dtype=np.uint8, offset=16)
    return raw.reshape(-1, 784) / 255.0


def run(chosen: argparse.Namespace) -> None:
    """Train to the last epoch, score slice by slice, write the line."""
    import jax

    kind = f"{chosen.posterior}-k{chosen.importance}-e{chosen.epochs}-{chosen.schedule}-b{chosen.batch}"
    place = chosen.out / f"{kind}-s{chosen.seed}"
    fit, seconds = trained(chosen, place)
    if fit.n_iter_ < chosen.epochs:
        place = place.with_name(f"{place.name}-until{fit.n_iter_}")
    fit.save(place.with_suffix(".fit.npz"))
    test = np.random.default_rng(0).binomial(1, images(chosen.data, "t10k")).astype(float)[: chosen.rows]
    values, scoring = scored(fit, test, chosen.draws, place)
    mean, told = fit.transform(test), ("posterior", "importance", "seed", "epochs", "schedule", "batch")
    line = {name: getattr(chosen, name) for name in (*told, "learning_rate", "rows", "draws")}
    line |= {"nll": -values.mean(), "se": values.std() / np.sqrt(len(values))}
    line |= {"trained": fit.n_iter_, "train_s": seconds}
    line |= {"score_s": scoring, "active_units": int(np.sum(mean.var(axis=0) > ACTIVE))}
    line |= {"bound": float(np.mean(fit.bound_samples(test[:1000])))}
    line |= {"device": jax.devices()[0].device_kind} | facts()
    place.with_suffix(".json").write_text(json.dumps(line))
    print(f"{place.name}: {line['nll']:.2f} nats (se {line['se']:.2f}), {line['active_units']} active units")


def trained(chosen: argparse.Namespace, place: Path) -> tuple[Any, float]:
    """The fit of a run and the seconds that training took, from its files where there are any."""
    import poplin

    done, spent = place.with_suffix(".fit.npz"), place.with_suffix(".seconds")
    if done.exists():
        return poplin.load(done), float(spent.read_text())
    before, began = float(spent.read_text()) if spent.exists() else 0.0, time.perf_counter()
    told = [began]

    def tell(progress: Any) -> None:
        if time.perf_counter() - began > chosen.seconds:
            raise KeyboardInterrupt
        if time.perf_counter() - told[0] > 30:
            told[0] = time.perf_counter()
            spent.write_text(str(before + told[0] - began))
            line = f"step {progress.iteration} of {progress.max_iter}: {progress.objective:.2f}"
            print(line, flush=True)

    how = {"posterior": chosen.posterior, "importance": chosen.importance, "random_state": chosen.seed}
    how |= {"max_epochs": chosen.epochs, "schedule": chosen.schedule, "batch_size": chosen.batch}
    how |= {"learning_rate": chosen.learning_rate, "kl_warmup": 0, "patience": None}
    fit = poplin.VAE(
        50,
        likelihood="bernoulli",
        binarise=True,
        hidden=(200, 200),
        activation="tanh",
        validation_fraction=0.0,
        checkpoint=place.with_suffix(".training.npz"),
        callback=tell,
        **how,
    ).fit(images(chosen.data, "train")[: chosen.train])
    spent.write_text(str(before + time.perf_counter() - began))
    return fit, float(spent.read_text())


def scored(fit: Any, test: np.ndarray, draws: int, place: Path) -> tuple[np.ndarray, float]:
    """Log p of the test rows, kept after each slice, and seconds."""
    kept = place.with_suffix(f".loglik-{draws}.npy")
    values = np.load(kept) if kept.exists() else np.zeros(0)
    began, first = time.perf_counter(), len(values)
    while len(values) < len(test):
        rows = test[len(values) : len(values) + SLICE]
        values = np.append(values, fit.loglik_rows(rows, draws=draws, proposal="gaussian").value)
        np.save(kept, values)
        print(f"scored {len(values)} rows: {-values.mean():.2f}", flush=True)
    scoring = (time.perf_counter() - began) * len(test) / max(len(values) - first, 1)
    return values[: len(test)], scoring


def report(out: Path) -> None:
    """Table and curves of the finished runs."""
    import matplotlib.pyplot as plt

    import poplin

    lines = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    records.write(out / "mnist.csv", lines, COLUMNS)
    print((out / "mnist.csv").read_text())
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for path in sorted(out.glob("*.fit.npz")):
        fit = poplin.load(path)
        told = f"{fit.posterior}, draws {fit.importance}, epochs {fit.max_epochs}, seed {fit.random_state}"
        axes.plot(fit.history_["epoch"], -fit.history_["objective"], label=told)
    axes.set(xlabel="epoch", ylabel="minus the training objective, nats a row (lower is better)")
    axes.set(ylim=(80, 110), xscale="log")
    axes.legend(fontsize=7)
    figure.savefig(out / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
