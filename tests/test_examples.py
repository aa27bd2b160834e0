"""Every example runs, in a small setting, and writes what it says.

Start at `EXAMPLES`: the file, the folder of data it reads, options that make it small, the files it writes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests import commandline

REPOSITORY = Path(__file__).resolve().parents[1]
AS_A_SCRIPT = """
import os, runpy, sys
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
EXAMPLES = {
    "mnist_vae.py": (
        "mnist",
        ["--rows", "300", "--test", "30", "--epochs", "2", "--draws", "40", "--latent", "4"],
        ["table.csv", "curves.png", "digits.png"],
    ),
    "clusters.py": (
        "mnist",
        ["--rows", "300", "--epochs", "2", "--width", "8", "--seeds", "2"],
        ["table.csv", "runs.csv", "latent.png"],
    ),
    "balance.py": (
        "mnist",
        ["--rows", "300", "--test", "250", "--epochs", "2", "--hidden", "8"],
        ["table.csv", "latent.png", "grid.png"],
    ),
    "donors.py": (
        ".",
        ["--rows", "200", "--epochs", "2", "--latent", "3", "--hidden", "8", "--seeds", "1"],
        ["table.csv", "latent.png"],
    ),
    "response.py": (
        ".",
        ["--genes", "120", "--epochs", "2", "--latent", "3", "--hidden", "8", "--seeds", "1"],
        ["table.csv", "response.png"],
    ),
    "pbmc3k.py": (
        ".",
        ["--rows", "150", "--genes", "40", "--epochs", "2", "--latent", "3", "--hidden", "8", "--seeds", "2"],
        ["table.csv", "latent.png"],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder, options, written = EXAMPLES[name]
    script = REPOSITORY / "examples" / name
    assert len(script.read_text().splitlines()) < 80
    arguments = [str(script), str(shared_data / folder), str(tmp_path), *options]
    command = [sys.executable, "-c", f"{commandline.QUICKLY}\n{AS_A_SCRIPT}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all((tmp_path / file).stat().st_size > 0 for file in written)
    assert pd.read_csv(tmp_path / "table.csv").select_dtypes("number").notna().all(axis=None)
