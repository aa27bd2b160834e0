"""A fit that several processes make together: what is refused, and whether all of them make the same one.

Start at `check`. Nothing is done where there is one process.
"""

import hashlib
import json
from typing import Any

import jax

from poplin._errors import InputError
from poplin.data.counts import Counts
from poplin.data.placing import check_agreed
from poplin.estimators import checkpoints, esteps, streamed
from poplin.estimators.resuming import Keeper


def check(counts: Counts, settings: dict[str, Any], keeper: Keeper | None) -> None:
    """Raise `InputError` for a fit that processes cannot share, and in all of them where one has another fit."""
    if jax.process_count() == 1:
        return
    name = esteps.name_of(esteps.chosen(settings["method"]))
    if name not in esteps.PLAIN:
        raise InputError(
            f"method='{name}' runs in one process; several ({jax.process_count()} here) share a fit by 'ml' or "
            "'variational'. Choose one of these, or fit in one process."
        )
    # of several devices' fits whether they have loadings makes no difference
    if streamed.wanted(counts, name, loadings=False):
        raise InputError(
            "A table whose rows are dense a block at a time (sparse, or very large) is fitted in one process. Use one."
        )
    told = json.dumps(checkpoints.facts(counts, settings), sort_keys=True)
    told += repr(settings["checkpoint_every"]) + ("" if keeper is None else keeper.standing)
    check_agreed(hashlib.sha256(told.encode()).hexdigest(), "Counts, settings or checkpoints")
