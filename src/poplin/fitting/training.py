"""How a network is trained on the shared loop, what it begins from, and the history of it as a table.

Start at `train`. `Plan` holds the settings; `History` columns are means over rows in nats: objective, bound and
reconstruction are better when higher, the divergence (KL) is what the bound takes off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from poplin import fit as loop
from poplin._errors import InputError
from poplin._numerics import at_length
from poplin._random import Purpose, derive
from poplin.data.blocks import Block
from poplin.fitting.checkpoints import Keeper, Settings, run_resumed
from poplin.methods.gradient import COLUMNS, HELD_COLUMNS, AbstractObjective, Gradient, Split, Start

MOST_HELD = 5000  # left-out rows: more tell no more and cost time
STEPS = 8  # of the schedule "steps"
PATIENT = 200  # steps without a gain that patience means at least: of few rows an epoch is a single one
HARDLY = 20  # steps from the first values, which give the columns' means, by which a network hardly moves


EXTRA = (0.05, 10.0)  # of squared mean: what variance beyond Poisson's a negative binomial starts with
SMALLEST_SHARE = 0.01  # of the average column: a rarer column's intercept starts there


class Plan(NamedTuple):
    """How long and how: epochs at most, rows of a minibatch, learning rate and its schedule, KL warm-up, stopping.

    `keeper` keeps where training stands; `began`: when the fit did, None: with training.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    schedule: str  # one of SCHEDULES
    kl_warmup: int
    validation_fraction: float
    patience: int | None
    seed: int
    callback: Callable[[loop.Progress], None] | None
    keeper: Keeper | None = None
    began: float | None = None


class Trained(NamedTuple):
    """Where training ended: the best model, its history, why it stopped, what to know, which rows were left out."""

    model: Any
    history: pd.DataFrame
    stopped: str  # "patience", "max_epochs", "interrupted" or "failed"
    messages: tuple[str, ...]
    held: np.ndarray


def train(model: Any, objective: AbstractObjective, block: Block, plan: Plan) -> Trained:
    """Train from first values; the same seed, data and settings give the same numbers on the same machine."""
    began = time.perf_counter() if plan.began is None else plan.began
    check(plan)
    chosen, left = _split(block, plan)
    # put on the device once: arrays of the host would be copied there for every stretch of steps
    split = jax.device_put(Split(_rows_at(block, chosen), _rows_at(block, left) if len(left) else None))
    method = method_of(objective, len(chosen), plan)
    batches = len(method.bounds) - 1
    first = Start(model, seed_key(plan.seed))  # type: ignore[arg-type]
    settings = Settings(batches * plan.max_epochs, 0.0, began, plan.callback, plan.keeper)
    with at_length():
        outcome = run_resumed(method, first, split, settings, phase="train")
    state = jax.device_get(outcome.state)
    history = as_history(state.history)
    failed = not np.isfinite(state.objective)
    stopped = "patience" if outcome.converged else "interrupted" if outcome.interrupted else "max_epochs"
    stopped = "failed" if failed else stopped
    return Trained(state.kept, history, stopped, _messages(history, plan, stopped, batches), left)


def check(plan: Plan) -> None:
    """The settings of the plan go together."""
    if plan.schedule not in SCHEDULES:
        raise InputError(
            f"schedule={plan.schedule!r} is not known; it is one of {', '.join(map(repr, SCHEDULES))}."
        )
    if plan.patience is not None and plan.validation_fraction == 0:
        raise InputError(
            "Early stopping looks at left-out rows: give patience with validation_fraction above 0, or "
            "patience=None to train for max_epochs."
        )


def in_steps(passed: np.ndarray) -> np.ndarray:
    """10^(-i/7) in the i-th of eight steps, which lasts 3^i, at these shares of all epochs (Burda et al. 2016)."""
    ends = np.cumsum(3.0 ** np.arange(STEPS))
    number = np.searchsorted(ends / ends[-1], passed + 1e-9, side="right")
    return 10.0 ** (-np.minimum(number, STEPS - 1) / (STEPS - 1))


# The learning rate as a share of its first value, by the share of epochs that have passed.
SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,
    "cosine": lambda passed: 0.5 * (1 + np.cos(np.pi * passed)),
    "steps": in_steps,
}


def seed_key(seed: int) -> np.ndarray:
    """The key of a seed."""
    return derive(seed, Purpose.MAIN).key_data()


def _split(block: Block, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Which rows train and which are left out; rows of weight 0 do neither."""
    used = np.flatnonzero(np.asarray(block.weights) > 0)
    held = min(round(plan.validation_fraction * len(used)), MOST_HELD, len(used) - 1)
    order = derive(plan.seed, Purpose.VALIDATION).generator().permutation(used)
    return np.sort(order[held:]), np.sort(order[:held])


def _rows_at(block: Block, index: np.ndarray) -> Block:
    return jax.tree.map(lambda a: a[index], block)


def method_of(objective: AbstractObjective, rows: int, plan: Plan) -> Gradient:
    """Training on so many rows by this plan."""
    bounds = batch_bounds(rows, plan.batch_size)
    patience = np.inf if plan.patience is None else max(plan.patience, -(-PATIENT // (len(bounds) - 1)))
    shape = SCHEDULES[plan.schedule](np.arange(plan.max_epochs) / plan.max_epochs)
    return Gradient(
        objective,
        bounds=bounds,  # type: ignore[arg-type]
        rates=(plan.learning_rate * shape).astype(np.float32),  # type: ignore[arg-type]
        warmup=np.float32(plan.kl_warmup),  # type: ignore[arg-type]
        patience=np.float32(patience),  # type: ignore[arg-type]
        size=int(np.max(np.diff(bounds))),
    )


def batch_bounds(rows: int, batch_size: int) -> np.ndarray:
    """Where minibatches begin among shuffled rows, (batches + 1,): their sizes differ by one row at most."""
    batches = -(-rows // batch_size)
    return ((np.arange(batches + 1) * rows) // batches).astype(np.int32)


def as_history(lines: np.ndarray) -> pd.DataFrame:
    """One line an epoch: its KL weight, objective and parts over the training rows, then over left-out rows."""
    lines = lines[~np.isnan(lines[:, 0])].astype(float)
    table = pd.DataFrame(lines, columns=pd.Index([*COLUMNS, *HELD_COLUMNS]))
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    table.insert(3, "bound", table["reconstruction"] - table["divergence"])
    table["held_out_bound"] = table["held_out_reconstruction"] - table["held_out_divergence"]
    if len(table) == 0:  # every column is empty, and none is to be dropped
        return table
    return table.dropna(axis="columns", how="all")


def _messages(history: pd.DataFrame, plan: Plan, stopped: str, batches: int) -> tuple[str, ...]:
    notes = []
    weight = float(history["kl_weight"].iloc[-1]) if len(history) else 0.0
    if weight < 1:
        notes.append(
            f"The weight of the KL term reached {weight:.2f} only, not 1: what was maximised is not the bound. "
            f"Train for more than kl_warmup={plan.kl_warmup} epochs, or lower kl_warmup."
        )
    if stopped == "failed":
        notes.append(
            f"The objective was no longer finite in epoch {len(history) + 1}; the model is the best one before. "
            "Lower learning_rate."
        )
    if stopped == "patience" and (steps := _kept_after(history) * batches) <= HARDLY:
        notes.append(
            "The network explains no more of left-out rows than the columns' means, from which it starts: the best "
            f"model was that after {steps} steps. So few rows may tell no more, or only to fewer components or a "
            "smaller network (hidden)."
        )
    if stopped == "max_epochs" and plan.patience is not None:
        notes.append(
            f"Training stopped after max_epochs={plan.max_epochs} before the left-out rows' objective had gone without "
            f"a gain for {plan.patience} epochs and {PATIENT} steps. Raise max_epochs."
        )
    return tuple(notes)


def _kept_after(history: pd.DataFrame) -> int:
    """The epoch whose model was kept, counted from 1."""
    return 1 + int(np.nanargmax(history["held_out_objective"]))


class Columns(NamedTuple):
    """What first values need to know of the training rows, (p,) each but the typical exposure."""

    mean: np.ndarray
    unit: np.ndarray
    log_rate: np.ndarray
    log_size: np.ndarray  # of the negative binomial of the same mean and variance
    seen_mean: np.ndarray  # of what the encoder sees
    seen_unit: np.ndarray
    typical: np.ndarray  # mean offset, ()


def describe(y: np.ndarray, offset: np.ndarray, *, counts: bool) -> Columns:
    """Column summaries in double precision; a constant column has unit 1."""
    y = np.asarray(y, dtype=float)
    mean, unit = y.mean(axis=0), _unit(y)
    if not counts:
        nothing = np.zeros(y.shape[1])
        return Columns(mean, unit, nothing, nothing, mean, unit, np.zeros(()))
    offset = np.asarray(offset, dtype=float)
    exposure = np.exp(np.broadcast_to(offset, y.shape))
    floor = SMALLEST_SHARE * max(mean.mean(), 1 / len(y))
    log_rate = np.log(np.maximum(mean, floor) / exposure.mean(axis=0))
    expected = np.exp(log_rate) * exposure
    extra = np.sum((y - expected) ** 2 - expected, axis=0) / np.sum(expected**2, axis=0)
    typical = offset.mean()
    seen = np.log1p(y * np.exp(typical - offset.mean(axis=1, keepdims=True)))
    log_size = -np.log(np.clip(extra, *EXTRA))
    return Columns(mean, unit, log_rate, log_size, seen.mean(axis=0), _unit(seen), np.asarray(typical))


def _unit(values: np.ndarray) -> np.ndarray:
    """The standard deviation of each column, 1 where it does not vary but for rounding, in whatever units it is."""
    sd = values.std(axis=0)
    return np.where(sd > np.maximum(1e-8 * np.abs(values.mean(axis=0)), 1e-18), sd, 1.0)
