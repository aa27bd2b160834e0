"""The checks at the door, one function each: they return what they were given, as arrays, or raise.

Every message says what was found, where (by name), what is wanted and how to mend it. Start at
`check_counts` for the table itself, `check_covariates` for X, `check_basis` for a borrowed basis V.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.held import (
    KINDS,
    Faults,
    faults,
    faults_of_entries,
    is_held_sparse,
    is_on_disk,
    missing,
    observed,
    survey,
)
from poplin.data.readers import read_basis
from poplin.data.tables import Named, Names, and_more, as_named, column_defaults, is_path, listed, more, place

# A covariate whose part not explained by the others is smaller than this fraction of it is collinear: below
# it, X'X (condition number squared) has no correct digit left in double precision.
COLLINEAR = 1e-8
MOST_COVARIATE = 1e150  # the square of more overflows
MOST_EXACT = 2**53  # whole numbers beyond it are rounded in double precision
MOST_LOG = 100.0  # of an offset: e^100 is no exposure
_BASIS = "The basis V"
_AGAIN = (  # in Python, at the command line
    "Columns that are not orthonormal (for want of rows or of digits) are so again as V, _ = numpy.linalg.qr(V).",
    "Columns that are not orthonormal (for want of rows or of digits) are so again in the file after "
    "numpy.linalg.qr(V)[0] in Python or qr.Q(qr(V)) in R; or ask for V with all its digits.",
)


def check_names(names: Names, what: str, mend: str) -> Names:
    """`names`, when no two are equal and a file can hold each."""
    half = [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in str(name))]
    if half:
        raise InputError(
            f"{what.capitalize()} names hold half a character (a lone surrogate, of text read in another encoding than "
            f"its own), which no file can keep: {listed(ascii(str(name))[1:-1] for name in half)}. Read the table "
            "again in its encoding, or rename."
        )
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(
            f"Duplicated {what} names: {listed(twice)}. Every {what} needs its own name; {mend}."
        )
    return names


def check_counts(y: Any, rows: Names, columns: Names) -> Any:
    """`y` (n, p), when every entry is a whole number from 0, below 2^53, or NaN (missing).

    Raises `InputError` that names the first bad entry and says how many there are; of a table that stays sparse, how
    many in that row.
    """
    if is_on_disk(y):
        told = survey(y)
        _check_none_missing(y.sparse and told.missing.any())
        _check_faults(told.faults, rows, columns)
    elif is_held_sparse(y):
        _check_none_missing(np.isnan(y.data).any())
        _check_faults(faults_of_entries(y), rows, columns)
    else:
        _check_faults(faults(y), rows, columns)
    return y


def _check_none_missing(lacking: Any) -> None:
    if lacking:
        raise InputError(
            "Y holds missing counts (NaN), and is too large to be made dense; of a sparse table what is not stored is "
            "a count of 0. Leave out rows or columns until it is smaller, or leave out what is missing."
        )


def _check_faults(found: Faults, rows: Names, columns: Names) -> None:
    if found:
        kind = min(found)
        (what, mend), fault = KINDS[kind], found[kind]
        where = place((fault.row, fault.column), rows, columns)
        raise InputError(f"Y holds {what}, {fault.value:g},{where}{more(fault.many)}. {mend}")


def check_observed(y: Any, weights: np.ndarray, columns: Names) -> None:
    """Every column has at least one observed count in a row of positive weight."""
    if not missing(y).any():
        return
    seen = observed(y, weights > 0)
    names = [name for name, count in zip(columns, seen, strict=True) if count == 0]
    if names:
        raise InputError(
            f"No count is observed (all are missing) in the columns {listed(names)}, over the rows of "
            "positive weight. Nothing can be learned about them: leave them out of Y."
        )


def check_finite(values: np.ndarray, what: str, rows: Names, columns: Names | None, mend: str) -> np.ndarray:
    """`values`, when none is NaN or infinite."""
    bad = ~np.isfinite(values)
    if bad.any():
        index = np.argwhere(bad)[0]
        where = place(index, rows, columns)
        raise InputError(f"{what} is {values[tuple(index)]}{where}{and_more(bad)}. {mend}")
    return values


def check_exact(values: np.ndarray, name: str, rows: Names, more_said: str = "") -> None:
    """Raise `InputError` for whole numbers that double precision would round; what is no whole number is as it came."""
    if values.dtype.kind not in "iu":
        return
    bad = (values > MOST_EXACT) | (values < -MOST_EXACT)
    if bad.any():
        i = int(np.argmax(bad))
        raise InputError(
            f"The covariate '{name}' is {values[i]} at row '{rows[i]}'{and_more(bad)}: whole numbers beyond 2^53 are "
            f"rounded. Give it in another unit, or as the difference from the smallest.{more_said}"
        )


def check_log_scale(values: np.ndarray, what: str, rows: Names, columns: Names | None) -> np.ndarray:
    """`values` of an offset, when none is so far from 0 that it must be on the scale of counts."""
    far = np.abs(values) > MOST_LOG
    if far.any():
        index = np.argwhere(far)[0]
        raise InputError(
            f"{what} is {values[tuple(index)]:g}{place(index, rows, columns)}{and_more(far)}, a factor of e to that "
            "power. Offsets are on the log scale: take the logarithm, as in offset(log(reads)), --offset 'log(reads)' "
            "or offset=np.log(reads)."
        )
    return values


def check_covariates(x: np.ndarray, names: Names, weights: np.ndarray) -> np.ndarray:
    """`x` (n, d), when d < n and no covariate is a combination of the others, over rows of positive weight.

    The rank is read from a QR decomposition with pivoting of the columns scaled to length one: the names of
    the covariates that add nothing are in the message. Cost O(n d^2).
    """
    x_used = x[weights > 0]
    n, d = x_used.shape
    if d >= n:
        raise InputError(
            f"X has {d} covariates (with the intercept) for {n} rows of positive weight; fewer covariates "
            "than rows are needed. Leave covariates out or add rows."
        )
    scale = np.abs(x_used).max(axis=0)
    empty = [name for name, size in zip(names, scale, strict=True) if size == 0]
    if empty:
        raise InputError(
            f"The covariates {listed(empty)} are 0 in every row. {_crossed(empty) or 'Leave them out.'}"
        )
    extreme = [j for j in range(d) if not 1 / MOST_COVARIATE < scale[j] < MOST_COVARIATE]
    if extreme:
        j = extreme[0]
        raise InputError(
            f"The covariate '{names[j]}' is of the size {scale[j]:g}, whose square no number holds. Check its cells, "
            "or give it in another unit."
        )
    constant = [j for j in range(d) if np.ptp(x_used[:, j]) == 0]
    if len(constant) > 1:
        kept = next((j for j in constant if names[j] == "Intercept"), constant[0])
        extra = [names[j] for j in constant if j != kept]
        raise InputError(
            f"The covariates {listed(extra)} are constant, as '{names[kept]}' already is: their effects "
            "cannot be told apart. Leave them out."
        )
    _check_rank_of(x_used / np.linalg.norm(x_used, axis=0), names)
    return x


def has_intercept(x: np.ndarray) -> bool:
    """Whether some combination of the covariates is the same for every row."""
    ones = np.ones(len(x))
    return bool(np.allclose(x @ np.linalg.lstsq(x, ones, rcond=None)[0], ones, rtol=0, atol=1e-6))


def _check_rank_of(x: np.ndarray, names: Names) -> None:
    from scipy.linalg import qr, solve_triangular

    factors: Any = qr(x, mode="r", pivoting=True)
    r, pivot = factors  # x[:, pivot] = Q r
    size = np.abs(np.diag(r))
    rank = int((size > COLLINEAR * size[0]).sum())
    if rank == x.shape[1]:
        return
    # x[:, pivot[rank:]] = x[:, pivot[:rank]] @ share
    share = solve_triangular(r[:rank, :rank], r[:rank, rank:])
    told = []
    for k, j in enumerate(pivot[rank:]):
        partners = [names[pivot[i]] for i in range(rank) if abs(share[i, k]) > 1e-6]
        told.append(f"'{names[j]}' is a combination of {listed(partners)}")
    crossed = _crossed([names[j] for j in pivot])
    raise InputError(
        f"The covariates are collinear: {'; '.join(told[:3])}{'; and more' if len(told) > 3 else ''}. "
        "Their effects cannot be told apart: leave out one of each set (or, for tiny spread on a large "
        f"mean, centre it).{' ' if crossed else ''}{crossed}"
    )


def _crossed(names: list[str]) -> str:
    """What helps where an interaction asks for what no row has."""
    if not any(":" in name for name in names):
        return ""
    return (
        "An interaction needs rows in each combination of levels: where one has none, write + in place of * or :, "
        "leave out the rows of that level, or make one column of the two that names the combinations there are."
    )


def check_weights(weights: np.ndarray, rows: Names) -> np.ndarray:
    """`weights` (n,), when finite, not negative and not all zero."""
    check_finite(weights, "A weight", rows, None, "Weights are finite numbers from 0; 0 leaves a row out.")
    if (weights < 0).any():
        i = int(np.argmax(weights < 0))
        raise InputError(
            f"The weight at row '{rows[i]}' is negative, {weights[i]:g}. Weights are numbers from 0."
        )
    if not (weights > 0).any():
        raise InputError(
            "Every weight is 0, so no row is left to fit. Give at least two rows a positive weight."
        )
    return weights


def _in_order(named: Named, columns: Names | None, what: str) -> np.ndarray:
    """The values with their rows in the order of the counts' columns, where both have names."""
    if named.row_names is None or columns is None or named.row_names == columns:
        return named.values
    check_names(named.row_names, "row", f"rename the rows of {what}")
    place = {name: i for i, name in enumerate(named.row_names)}
    lacking = [name for name in columns if name not in place]
    if lacking:
        raise InputError(
            f"{what} lacks rows for {len(lacking)} of the {len(columns)} columns of Y: {listed(lacking)}; its own "
            f"begin with {listed(named.row_names[:3])}. Give it one row for each column of Y, by the same name."
        )
    if len(place) > len(columns):
        extra = [name for name in named.row_names if name not in set(columns)]
        raise InputError(
            f"{what} has rows that are no columns of Y: {listed(extra)}. Leave them out."
            f"{' ' + _AGAIN[0] if what == _BASIS else ''}",
            at_command_line=f"{what} has rows that are no columns of the counts: {listed(extra)}. Leave them out."
            f"{' ' + _AGAIN[1] if what == _BASIS else ''}",
        )
    return named.values[[place[name] for name in columns]]


def check_basis(V: Any, p: int, columns: Names | None = None) -> np.ndarray:
    """A borrowed basis V as a (p, q) array with orthonormal columns, V'V = I within 1e-6, q <= p.

    V may be a path. Rows are matched by name when V has row names and the `columns` of the counts are given.
    Raises `InputError` when V has another shape, is not finite or not orthonormal.
    """
    V = read_basis(V) if is_path(V) else V
    named = as_named(V, _BASIS)
    basis = named.values[:, None] if named.values.ndim == 1 else named.values
    if basis.ndim == 2 and basis.shape[0] != p and basis.shape[1] == p:
        said = (
            f"The basis V has the shape {basis.shape}; wanted is ({p}, q), one row per column of Y. It looks"
        )
        raise InputError(
            f"{said} transposed: pass V.T.",
            at_command_line=f"{said} transposed: turn the file, so that it has a line for each column of the counts.",
        )
    basis = _in_order(named._replace(values=basis), columns, _BASIS)
    if basis.ndim != 2 or basis.shape[0] != p or not 1 <= basis.shape[1] <= p:
        raise InputError(
            f"The basis V has the shape {basis.shape}; wanted is ({p}, q) with 1 <= q <= {p}, one row per "
            "column of Y."
        )
    axes = named.column_names or tuple(str(k + 1) for k in range(basis.shape[1]))
    check_finite(
        basis, "An entry of the basis V", columns or column_defaults(p), axes, "Give finite numbers."
    )
    gap = float(np.abs(basis.T @ basis - np.eye(basis.shape[1])).max())
    if gap > 1e-6:
        said = (
            f"The columns of the basis V are not orthonormal: max |V'V - I| = {gap:.3g}, wanted at most 1e-6."
        )
        raise InputError(f"{said} {_AGAIN[0]}", at_command_line=f"{said} {_AGAIN[1]}")
    return basis


def check_rank(rank: Any, n: int, p: int) -> int:
    """The number of latent dimensions as an int in 1..min(n, p)."""
    whole = isinstance(rank, int | np.integer) and not isinstance(rank, bool | np.bool_)
    if not whole or not 1 <= int(rank) <= min(n, p):
        raise InputError(
            f"rank is {rank!r}; wanted is a whole number from 1 to min(n, p) = min({n}, {p}) = {min(n, p)}."
        )
    return int(rank)


def check_covariance(covariance: Any, p: int, columns: Names | None = None) -> str | np.ndarray:
    """'full', 'diagonal' or 'spherical', or a fixed Sigma as a symmetric positive definite (p, p) array.

    Rows and columns are matched by name when it is a DataFrame and the `columns` of the counts are given.
    """
    shapes = ("full", "diagonal", "spherical")
    if isinstance(covariance, str):
        if covariance not in shapes:
            raise InputError(
                f"covariance is '{covariance}'; wanted is one of {listed(shapes)} or a {p} x {p} array."
            )
        return covariance
    named = as_named(covariance, "The covariance")
    sigma = _in_order(named, columns, "The covariance")
    if named.column_names is not None and sigma.ndim == 2:
        across = Named(sigma.T, named.column_names)
        sigma = _in_order(across, columns, "The covariance").T
    if sigma.shape != (p, p):
        raise InputError(
            f"The covariance has the shape {sigma.shape}; wanted is ({p}, {p}), as Y has {p} columns."
        )
    if not np.isfinite(sigma).all():
        raise InputError("The covariance holds entries that are NaN or infinite. Give finite numbers.")
    gap = float(np.abs(sigma - sigma.T).max())
    if gap > 1e-8 * float(np.abs(sigma).max()):
        raise InputError(
            f"The covariance is not symmetric: max |S - S'| = {gap:.3g}. Mend it with (S + S.T) / 2."
        )
    sigma = (sigma + sigma.T) / 2
    smallest, largest = np.linalg.eigvalsh(sigma)[[0, -1]]
    if smallest <= 1e-14 * p * max(largest, 0.0):
        raise InputError(
            f"The covariance is not positive definite: its smallest eigenvalue is {smallest:.3g}. Add a "
            "small number to its diagonal, or pass its leading eigenvectors as `basis`."
        )
    return sigma
