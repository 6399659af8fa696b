"""Self-labels of one iteration: what a method believes of every pair, and what of it is trained on; as Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from labeling.errors import DataError
from labeling.files import replacing

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int32]
FACTS = b"weakpref.evolve"
COLUMNS = {"p_a": pa.float64(), "margin": pa.float64(), "spread": pa.float64(), "trained": pa.bool_()} | {
    "target": pa.float64(), "weight": pa.float64(), "iteration": pa.int32(),
    "held_out": pa.float64(),
}  # fmt: skip


@dataclass(frozen=True)
class SelfLabels:
    """Labels of n pairs, those with a seed label among them; all arrays have shape (n,)."""

    p_a: FloatArray
    """P(A preferred), in [0, 1], as the method has it."""
    margin: FloatArray
    """Reward of A minus reward of B under what labelled; NaN where no reward model did."""
    spread: FloatArray
    """Standard deviation of P(A preferred) over the members of an ensemble; NaN without one."""
    trained: BoolArray
    """Which of the kept pairs are trained on, besides those with a seed label: all that there is room for."""
    target: FloatArray
    """The label that pairs are kept with, P(A preferred); NaN for the others."""
    weight: FloatArray
    """And its weight, >= 0."""
    iteration: IntArray
    """In which iteration that label was made; 0 for the others."""
    held_out: FloatArray
    """P(A preferred) of the seed's pairs, cross-fitted: by a label model that saw no gold of their group; NaN for the
    others, and for methods that do not judge their labels so."""
    status: str = ""
    """Learning status, for methods that have one; "converged" ends the run."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the method has to say, for the ledger."""

    def __len__(self) -> int:
        return len(self.p_a)


def carry_over(kept: BoolArray, label: FloatArray, n: int, history: Sequence[SelfLabels]) -> dict[str, Any]:
    """Return trained, target and iteration of kept_n united with kept_(n-1), the newer label first.

    `kept` (m,) and `label` (m,), P(A preferred), are of iteration n; `history` holds the iterations before. The seed's
    pairs are added when the set is exported.
    """
    before = newly_kept(history[-1], n - 1) if history else np.zeros(len(kept), dtype=np.bool_)
    older = before & ~kept
    earlier = history[-1].target if history else np.full(len(kept), np.nan)
    target = np.where(kept, label, np.where(older, earlier, np.nan))
    iteration = np.where(kept, n, np.where(older, n - 1, 0)).astype(np.int32)
    return {"trained": kept | older, "target": target, "iteration": iteration}


def newly_kept(labels: SelfLabels, n: int) -> BoolArray:
    """Return which pairs (m,) iteration n itself kept, without those carried over."""
    kept: BoolArray = labels.iteration == n
    return kept


def ever_kept(history: Sequence[SelfLabels], m: int) -> BoolArray:
    """Return which of m pairs any iteration kept: as released they leave the pool, all others go back to it."""
    return np.any([labels.iteration > 0 for labels in history], axis=0) if history else np.zeros(m, dtype=np.bool_)


def write_self_labels(path: Path, labels: SelfLabels, pair_ids: npt.NDArray[np.str_]) -> None:
    """Write self-labels as Parquet: pair_id and the arrays, NaN as null; status and facts as metadata."""
    columns = {
        name: pa.array(getattr(labels, name), kind, from_pandas=pa.types.is_floating(kind))
        for name, kind in COLUMNS.items()
    }
    table = pa.table({"pair_id": pa.array(pair_ids.tolist(), pa.string())} | columns)
    facts = json.dumps({"status": labels.status, "facts": dict(labels.facts)}, sort_keys=True)
    with replacing(path) as part:
        pq.write_table(table.replace_schema_metadata({FACTS: facts}), part, compression="zstd")


def read_self_labels(path: Path, pair_ids: npt.NDArray[np.str_]) -> SelfLabels:
    """Read what `write_self_labels` wrote; raises DataError where it is of other pairs."""
    table = pq.read_table(path)
    if table["pair_id"].to_pylist() != pair_ids.tolist():
        raise DataError(f"{path} holds other pairs than this run's; delete the run's folder, or resume with its own")
    said = json.loads(table.schema.metadata[FACTS])
    arrays = {name: table[name].to_numpy() for name in COLUMNS}
    return SelfLabels(**arrays, status=said["status"], facts=said["facts"])
