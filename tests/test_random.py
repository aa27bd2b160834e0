"""Random streams: one function derives them all, and no two purposes share one."""

import re
from itertools import combinations
from pathlib import Path

import jax
import numpy as np
import pytest

import poplin
from poplin._random import Purpose, derive

SEEDS = (0, 1, 2**31 - 1, 2**40 + 3)


def test_no_two_streams_are_one() -> None:
    """Over seeds, purposes and numbers: 64 bits of each differ."""
    made = [
        derive(seed, purpose, *more) for seed in SEEDS for purpose in Purpose for more in ((), (1,), (2,))
    ]
    for kind in ("key_data", "generator"):
        first = [
            tuple(stream.key_data()) if kind == "key_data" else stream.generator().integers(2**63)
            for stream in made
        ]
        assert all(one != other for one, other in combinations(first, 2)), kind


@pytest.mark.parametrize("seed", SEEDS)
def test_the_main_stream_is_that_of_the_seed_itself(seed: int) -> None:
    main = derive(seed, Purpose.MAIN)
    assert main.generator().random() == np.random.default_rng(seed).random()
    with jax.enable_x64(True):
        usual = jax.random.key(seed, impl="threefry2x32")
        np.testing.assert_array_equal(jax.random.key_data(main.key()), jax.random.key_data(usual))


def test_streams_begin_nowhere_else() -> None:
    """In the package no other line makes a generator or a key of a seed; simulation studies number their tables."""
    began = re.compile(r"default_rng\(|SeedSequence\(|random\.(PRNGKey|key)\(|RandomState\(")
    package = Path(poplin.__file__).parent
    there = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if began.search(line) and ">>>" not in line and not path.is_relative_to(package / "studies")
    }
    assert there == {"_random.py", "inference/information.py"}  # the latter from the words of a derived key
