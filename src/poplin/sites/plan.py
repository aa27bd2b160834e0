"""What all sites agree on before anybody fits, and the files that they exchange: JSON, numbers and names, nothing else.

Start at `SitePlan`. A plan says which codes, how many axes, which covariates and how few patients are too few; its
fingerprint is in every file that follows it, so that files of other plans are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import InputError, said
from poplin.data.checks import check_names
from poplin.data.held import dense_rows, pieces
from poplin.data.tables import listed
from poplin.store import written_whole

FORMAT, VERSION = "poplin sites", 1
COMMON = ("axes", "subspace", "proportional", "equal")
MOST_NUMBERS = 6_000  # of a site, whose information is formed whole
LARGEST = 1e50  # numbers of a file are smaller
MOST_BYTES = 20 * MOST_NUMBERS**2 // 2  # of a file: that information, upper half, a number in at most 20


@dataclass(frozen=True)
class SitePlan:
    """What the sites of one study agree on.

    Args:
        codes: names of the columns; a site may lack some.
        rank: q, how many common axes.
        formula: covariates, such as "~ age + sex"; None: an intercept alone.
        offset: name of a covariate that is added to the log rate, or its log as "log(months)"; None: none.
        min_patients: a code that fewer patients of a site have leaves that site with no number. Take the rule of your
            data's owner: 11 is that of CMS and PCORnet.
        patients_a_number: a code is also left out that fewer patients have than so many for each of its numbers, its
            coefficients and loadings; 0: no such rule.
        most_share: and one of which a single patient has more than this share of all counts; 1: no such rule.
        common: "axes" (each site its own scales), "subspace", "proportional" or "equal".
        remainder: r, axes that each site has for itself beside the common ones.
        share: covariates whose coefficients are the same at all sites.

    Attributes:
        fingerprint: the same for the same plan, and for no other.

    Raises:
        InputError: an argument that cannot be; the message says which and what is wanted.
    """

    codes: tuple[str, ...]
    rank: int
    formula: str | None = None
    offset: str | None = None
    min_patients: int = 11
    common: str = "axes"
    remainder: int = 0
    share: tuple[str, ...] = ()
    patients_a_number: int = 3
    most_share: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", tuple(map(str, self.codes)))
        object.__setattr__(self, "share", tuple(map(str, self.share)))
        check_names(self.codes, "code", "name each code once")
        check_model(len(self.codes), self.rank, self.common, self.remainder)
        if not isinstance(self.min_patients, int) or self.min_patients < 1:
            raise InputError(f"min_patients is {self.min_patients!r}; wanted is a whole number from 1.")
        if not isinstance(self.patients_a_number, int) or self.patients_a_number < 0:
            raise InputError(
                f"patients_a_number is {self.patients_a_number!r}; wanted is a whole number from 0."
            )
        if not isinstance(self.most_share, int | float) or not 0 < self.most_share <= 1:
            raise InputError(f"most_share is {self.most_share!r}; wanted is a share above 0, at most 1.")

    @property
    def fingerprint(self) -> str:
        """The same for the same plan, and for no other."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:16]

    def _text(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=True)

    def save(self, path: Any) -> None:
        """Write the plan as JSON, whole or not at all.

        Args:
            path: the file.

        Raises:
            InputError: it cannot be written.
        """
        write_json(path, "plan", dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Any) -> SitePlan:
        """Read a plan.

        Args:
            path: a file that `save` wrote.

        Returns:
            The plan.

        Raises:
            InputError: the file is damaged, or no plan.
        """
        with opened(path, "plan", "Ask the coordinator for it again.") as found:
            return _whole_plan(found)

    def withheld(self, counts: Any, names: Sequence[str], *, covariates: int = 1) -> dict[str, str]:
        """Codes of the plan that a site's file may not tell of, since few patients are behind their numbers.

        Args:
            counts: counts (n, p), dense, scipy.sparse or on disk; NaN is a missing count.
            names: of its columns.
            covariates: d, coefficients a code, the intercept's included.

        Returns:
            Why not, by code, in the order of the table.
        """
        patients, share = behind(counts)
        each, wanted = covariates + self.rank + self.remainder, set(self.codes)
        least = self.patients_a_number * each
        found: dict[str, str] = {}
        for name, many, most in zip(names, patients, share, strict=True):
            if name not in wanted:
                continue
            if many < self.min_patients:
                found[name] = f"fewer than {self.min_patients} patients have it"
            elif many < least:
                rule = f"{self.patients_a_number} for each of its {each} numbers"
                found[name] = f"fewer than {least} patients have it, {rule}"
            elif most > self.most_share:
                found[name] = f"one patient has more than {100 * self.most_share:g} % of its counts"
        return found


def _whole_plan(found: Mapping[str, Any]) -> SitePlan:
    """A plan of all its fields, each of its kind; ValueError else."""
    known = {field.name for field in dataclasses.fields(SitePlan)}
    if set(found) != known:
        raise ValueError(f"its fields are {listed(found)}, wanted are {listed(known, len(known))}")
    lists, words = ("codes", "share"), ("formula", "offset")
    if not all(isinstance(found[name], list | tuple) for name in lists):
        raise ValueError("codes or share are no list of names")
    if not all(isinstance(one, str) for name in lists for one in found[name]):
        raise ValueError("a code or a covariate is no name")
    if not all(found[name] is None or isinstance(found[name], str) for name in words):
        raise ValueError("formula or offset are no words")
    if any(isinstance(value, bool) for value in found.values()):
        raise ValueError("a number is true or false")
    return SitePlan(**found)


def behind(counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """How many patients have each code (p,), and the largest share that one of them has of its counts (p,)."""
    patients, most, total = np.zeros((3, counts.shape[1]))
    for part in pieces(*counts.shape):
        some = np.nan_to_num(dense_rows(counts, part))
        patients += np.count_nonzero(some > 0, axis=0)
        most = np.maximum(most, some.max(axis=0))
        total += some.sum(axis=0)
    return patients, most / np.maximum(total, 1)


def check_model(codes: int, rank: Any, common: str, remainder: Any) -> None:
    """Raises `InputError` for a rank, a structure or a remainder that cannot be."""
    if common not in COMMON:
        raise InputError(f"common is {common!r}; wanted is one of {', '.join(COMMON)}.")
    for name, value, least in (("rank", rank, 1), ("remainder", remainder, 0)):
        if not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value!r}; wanted is a whole number from {least}.")
    if rank + remainder >= codes:
        raise InputError(
            f"rank + remainder is {rank + remainder} with {codes} codes; wanted are fewer axes than codes."
        )


def write_json(path: Any, kind: str, content: Mapping[str, Any]) -> None:
    """A file of this kind; arrays become lists."""
    told = {"format": FORMAT, "version": VERSION, "kind": kind, **content}
    try:
        with written_whole(path) as handle:
            json.dump(told, handle, default=_plain, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
            handle.write("\n")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}. Choose another place."
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} cannot be written")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], kind: str, mend: str) -> Iterator[dict[str, Any]]:
    """What `write_json` wrote, less its head; `InputError` for a file that is none, or of another kind.

    Files come from elsewhere, and whoever wrote one may be careless, or mean harm: what inside the block turns out not
    to go together is told as a damaged file, with `mend`.
    """
    found = _read(Path(path), kind)
    try:
        yield found
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged or was changed: {said(error)}. {mend}") from error


def numbers(values: Any, shape: Sequence[int | None]) -> np.ndarray:
    """An array of this shape (None: any size) of finite numbers, whose products are finite too; ValueError else."""
    found = np.array(values, float)
    fits = found.ndim == len(shape) and all(w in (None, n) for n, w in zip(found.shape, shape, strict=True))
    if not fits or not (np.abs(found) < LARGEST).all():
        wanted = " x ".join("any" if size is None else str(size) for size in shape) or "one number"
        raise ValueError(f"there are numbers of the shape {found.shape}, or none; wanted is {wanted}")
    return found


def _read(path: Path, kind: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{path} has {path.stat().st_size} bytes, more than any file of {FORMAT} ({MOST_BYTES})."
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not whole, or no JSON: {error}. Ask for it again.") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise InputError(f"{path} is no file of `poplin plan`, `poplin site` or `poplin pool`.")
    version, is_of = found.pop("version", None), found.pop("kind", None)
    if version != VERSION:
        raise InputError(f"{path} is of format {version!r}; this poplin reads {VERSION}. Update poplin.")
    if is_of != kind:
        raise InputError(f"{path} holds a {is_of}; wanted is a {kind}.")
    return found
