"""What each contender of `benchmarks.neural` does, inside its own process.

Start at `CONTENDERS`: a task in, rates and the curve of the held-out bound over seconds out.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETTINGS: dict[str, dict[str, Any]] = {
    "speed": {"rows": 10_000, "columns": 100, "hidden": [128], "likelihood": "poisson", "epochs": 30},
    "pbmc3k": {
        "rows": 2638,
        "columns": 2000,
        "hidden": [128],
        "likelihood": "negative-binomial",
        "epochs": 60,
    },
    "mnist": {"rows": 60_000, "columns": 784, "hidden": [200, 200], "likelihood": "bernoulli", "epochs": 5},
}
for _setting, _latent in (("speed", 10), ("pbmc3k", 10), ("mnist", 50)):
    SETTINGS[_setting] |= {"latent": _latent, "batch": 128}
WARMUP = 5  # epochs, of the KL weight


def table(task: dict[str, Any]) -> np.ndarray:
    """The rows of a setting; those of `speed` have three strong latent directions and a mean count of about 3."""
    if task["setting"] == "mnist":
        with gzip.open(DATA / "mnist" / "train-images-idx3-ubyte.gz") as file:
            raw = np.frombuffer(file.read(), dtype=np.uint8, offset=16)
        return raw.reshape(-1, 784)[: task["rows"]] / 255.0
    if task["setting"] == "pbmc3k":
        import scipy.sparse

        counts = scipy.sparse.load_npz(DATA / "pbmc3k.npz").toarray().astype(float)
        return counts[:, np.argsort(-counts.sum(axis=0))[: task["columns"]]]
    random = np.random.default_rng(0)
    loadings = 0.5 * random.normal(size=(3, task["columns"]))
    return random.poisson(np.exp(0.8 + random.normal(size=(task["rows"], 3)) @ loadings)).astype(float)


def products(task: dict[str, Any]) -> dict[str, Any]:
    """Rows per second if only the matrix products of a step were done: forward, and their gradients.

    The better of how training compiles, and how the compiler would by itself.
    """
    import jax

    from poplin._numerics import settings

    layers, b = _layers(task), task["batch"]
    arrays = [tuple(np.zeros(shape, np.float32) for shape in ((b, i), (i, o), (b, o))) for i, o in layers]

    def many(arrays: Any) -> Any:
        def step(_: Any, arrays: Any) -> Any:
            # the first layer's input needs no gradient
            return [(g @ w.T if k else x, x.T @ g, x @ w) for k, (x, w, g) in enumerate(arrays)]

        return jax.lax.fori_loop(0, 300, step, arrays)

    seconds = []
    for options in ({}, settings("long")):
        program = jax.jit(many, compiler_options=options)
        jax.block_until_ready(program(arrays))
        seconds += [_timed(lambda p=program: jax.block_until_ready(p(arrays))) for _ in range(3)]
    rate = 300 * b / min(seconds)
    return {"cells_per_s": rate, "gflops": rate * operations(task) / 1e9, "step_us": 1e6 / rate}


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _layers(task: dict[str, Any]) -> list[tuple[int, int]]:
    p, q, hidden = task["columns"], task["latent"], task["hidden"]
    outputs = 2 * q + (q * q if task["posterior"] == "full" else 0)
    sizes = [(p, *hidden, outputs), (q, *reversed(hidden), p)]
    return [pair for chain in sizes for pair in zip(chain, chain[1:], strict=False)]


def operations(task: dict[str, Any]) -> int:
    """Floating-point operations of the products of a row's step."""
    layers = _layers(task)
    return 6 * sum(i * o for i, o in layers) - 2 * layers[0][0] * layers[0][1]


def poplin_rate(task: dict[str, Any]) -> dict[str, Any]:
    """`poplin.VAE`: the rate without left-out rows, then the curve with a tenth of them left out."""
    import poplin

    rows = table(task)
    how: dict[str, Any] = {"hidden": tuple(task["hidden"]), "likelihood": task["likelihood"]}
    how |= {"posterior": task["posterior"], "batch_size": task["batch"], "patience": None}
    images = task["likelihood"] == "bernoulli"
    how |= {"kl_warmup": min(WARMUP, task["epochs"] - 1)}
    how |= {"binarise": True, "activation": "tanh"} if images else {}
    offset = {} if images else {"offset": np.log(rows.sum(axis=1))}
    seen: list[tuple[int, float]] = []
    how["callback"] = lambda progress: seen.append((progress.iteration, time.perf_counter()))
    began = time.perf_counter()
    fit = poplin.VAE(task["latent"], max_epochs=task["epochs"], validation_fraction=0.0, **how)
    fit.fit(rows, **offset)
    steps, seconds = seen[-1][0] - seen[0][0], seen[-1][1] - seen[0][1]
    rate = steps / seconds / -(-len(rows) // task["batch"]) * len(rows)
    compiling = seen[0][1] - began
    parts = _parts(fit, rows[: task["batch"]], {k: v[: task["batch"]] for k, v in offset.items()})
    seen.clear()
    fit = poplin.VAE(task["latent"], max_epochs=task["epochs"], **how).fit(rows, **offset)
    batches = -(-(len(rows) - len(fit.held_out_)) // task["batch"])
    done, when = np.array(seen).T
    after = np.interp(fit.history_["epoch"] * batches, done, when - when[0])
    held = fit.history_["held_out_bound"].to_numpy()
    curve = [[float(a), float(b)] for a, b in zip(after, held, strict=True)][how["kl_warmup"] :]
    found = {"cells_per_s": rate, "gflops": rate * operations(task) / 1e9, "step_us": 1e6 / rate}
    return (
        found | {"compile_s": compiling, "curve": curve, "versions": f"poplin, jax {version('jax')}"} | parts
    )


def _parts(fit: Any, rows: np.ndarray, offset: dict[str, np.ndarray]) -> dict[str, float]:
    """Microseconds a row of the objective alone, and of its gradient, on one batch."""
    import jax
    import jax.numpy as jnp

    from poplin._numerics import compiled

    block, objective = jax.device_put(fit._block(rows, None, offset.get("offset"))), fit._objective()

    def value(model: Any, key: Any) -> Any:
        return jnp.mean(objective.terms(model, key, block, jnp.ones(())).objective)

    found = {}
    model, key = jax.device_put((fit.model_, np.zeros(2, np.uint32)))
    for name, function in (("forward_us", value), ("gradient_us", jax.grad(value))):
        program = compiled()(function)
        jax.block_until_ready(program(model, key))
        seconds = min(_timed(lambda p=program: jax.block_until_ready(p(model, key))) for _ in range(50))
        found[name] = 1e6 * seconds / len(rows)
    return found


def scvi_rate(task: dict[str, Any]) -> dict[str, Any]:
    """scvi-tools' SCVI: the rate of epochs after the first, then the curve with a tenth of the rows left out."""
    import anndata
    import scvi
    import torch
    from lightning.pytorch.callbacks import Callback

    torch.set_num_threads(task["threads"])
    rows = anndata.AnnData(table(task).astype(np.float32))
    scvi.model.SCVI.setup_anndata(rows)
    likelihood = {"negative-binomial": "nb"}.get(task["likelihood"], task["likelihood"])
    sizes = {"n_hidden": task["hidden"][0], "n_latent": task["latent"], "n_layers": len(task["hidden"])}
    how = {"batch_size": task["batch"], "enable_progress_bar": False, "accelerator": "cpu"}
    how |= {"plan_kwargs": {"n_epochs_kl_warmup": WARMUP}}
    model = scvi.model.SCVI(rows, gene_likelihood=likelihood, **sizes)
    compiling = _timed(lambda: model.train(max_epochs=1, train_size=1.0, **how))
    seconds = _timed(lambda: model.train(max_epochs=5, train_size=1.0, **how))
    when: list[float] = []

    class Clock(Callback):
        """Notes the time at the end of each epoch's look at left-out rows."""

        def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
            when.append(time.perf_counter())

    model = scvi.model.SCVI(rows, gene_likelihood=likelihood, **sizes)
    began = time.perf_counter()
    model.train(
        max_epochs=task["epochs"], train_size=0.9, check_val_every_n_epoch=1, callbacks=[Clock()], **how
    )
    held = -model.history["elbo_validation"].to_numpy(dtype=float).ravel()
    after = np.array(when)[-len(held) :] - began
    curve = [[float(a), float(b)] for a, b in zip(after, held, strict=True)][WARMUP:]
    rate = 5 * task["rows"] / seconds
    told = {"compile_s": compiling, "step_us": 1e6 / rate, "versions": f"scvi-tools {scvi.__version__}"}
    return {"cells_per_s": rate, "gflops": rate * operations(task) / 1e9, "curve": curve} | told


CONTENDERS = {"products": products, "poplin": poplin_rate, "scvi-tools": scvi_rate}
