"""What `poplin counts` leaves behind: a sparse table with its totals, ready for `poplin fit`.

Start at `write`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poplin._errors import InputError
from poplin.data.events import EventCounts
from poplin.report.files import check_file
from poplin.store import written_together, written_whole

KINDS = (".h5ad", ".npz")


def check_target(out: Path) -> Path:
    """`out`, when a table can be written there. Raises `InputError` for another ending or a place that is not there."""
    if out.suffix not in KINDS:
        raise InputError(f"--out {out}: wanted is a name that ends in .h5ad or .npz.")
    return check_file(out)


def write(found: EventCounts, out: Path, command: str = "") -> None:
    """Write counts, names, totals and the report of what was dropped, whole or not at all.

    .h5ad: obs has total, log_total (an offset), counted (what is left in the row); var has rows (in which the column is
    seen) and concept_id, where columns have the names of OMOP's concepts; uns["poplin_counts"] the report and the
    command. .npz: the layout of scipy.sparse.save_npz with obs_names, var_names, var_concept_id, cov_total,
    cov_log_total, cov_counted and what is known of persons.
    """
    with np.errstate(
        divide="ignore"
    ):  # a row whose counts are all 0 has none, and a fit that is given it says so
        facts = {"total": found.totals, "log_total": np.log(found.totals)}
    facts |= {"counted": np.asarray(found.counts.sum(axis=1)).ravel(), **found.people}
    if out.suffix == ".npz":
        _write_npz(found, facts, out)
        return
    import anndata
    import pandas

    obs = pandas.DataFrame(facts, index=pandas.Index(found.row_names, dtype=object))
    seen = {"rows": found.rows_seen} | ({"concept_id": list(found.concepts)} if found.concepts else {})
    var = pandas.DataFrame(seen, index=pandas.Index(found.column_names, dtype=object))
    held = anndata.AnnData(
        found.counts, obs, var, {"poplin_counts": {"report": list(found.report), "command": command}}
    )
    with written_together(out.absolute().parent) as draft:
        held.write_h5ad(draft / out.name, compression="gzip")


def _write_npz(found: EventCounts, facts: dict[str, np.ndarray], out: Path) -> None:
    counts = found.counts
    names = {"obs_names": np.array(found.row_names), "var_names": np.array(found.column_names)}
    parts = {"format": np.array("csr"), "shape": np.array(counts.shape), "data": counts.data}
    parts |= {"indices": counts.indices, "indptr": counts.indptr}
    if found.concepts:
        names["var_concept_id"] = np.array(found.concepts)
    told = {f"cov_{name}": np.asarray(column.tolist()) for name, column in facts.items()}
    with written_whole(out, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **parts, **names, **told)
