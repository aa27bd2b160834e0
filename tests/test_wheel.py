"""The wheel as others install it: what is in it, and what it does where no extra is installed."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# libraries of the extras are hidden, as if they were not there
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"duckdb", "blackjax", "pooch", "openpyxl", "rdata"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""
USE = """
import numpy as np, poplin
random = np.random.default_rng(0)
counts = random.poisson(np.exp(random.normal(1, 1, (40, 3))))
fit = poplin.PLN(method="variational").fit(counts)
fit.save("fit.npz")
again = poplin.load("fit.npz")
assert np.array_equal(again.coef_, fit.coef_) and fit.converged_
print(poplin.__file__)
"""
ASKED = {
    "mcmc": "import poplin; poplin.PLN(method='mcmc').fit([[1, 2], [3, 4], [0, 1], [2, 2]])",
    "datasets": "import poplin.datasets as d; d.fetch(d.names()[0])",
    "events": "from poplin.data import events; events._base('e', '1GB', None).__enter__()",
    "formats": "import pathlib, poplin.data.framed as f; f._opened(pathlib.Path('a.xlsx'), formulas=False).__enter__()",
}


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and the other libraries but those of the extras."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build as b; print(b.build_wheel('{folder}'))"
    named = subprocess.run(
        [sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wheel = folder / named.stdout.split()[-1]
    venv.create(folder / "env", with_pip=False)
    there = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(there), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (there / "others.pth").write_text(
        sysconfig.get_path("purelib")
    )  # as paths: its own .pth files are not read
    (there / "sitecustomize.py").write_text(HIDDEN)
    return folder / "env" / "bin" / "python"


def _run(python: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", code], cwd=folder, capture_output=True, text=True, env={"HOME": str(folder)}
    )


def test_a_wheel_fits_saves_and_loads(python: Path, tmp_path: Path) -> None:
    done = _run(python, USE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1]), "it is the wheel that ran"


@pytest.mark.parametrize("extra", ASKED)
def test_what_is_not_installed_names_its_extra(python: Path, tmp_path: Path, extra: str) -> None:
    done = _run(python, ASKED[extra], tmp_path)
    assert "InputError" in done.stderr and f"pip install 'poplin[{extra}]'" in done.stderr, done.stderr[
        -2000:
    ]
