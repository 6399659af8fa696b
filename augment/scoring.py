"""What `weakpref score` and `weakpref verify` do: a file's pairs or candidates rewarded; one model, all consumers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augment.commands import Reading, check_out
from augment.generate import read_candidates
from labeling.files import manifest, sha256, write_json

if TYPE_CHECKING:
    from rm.scoring import Scored
    from rm.shares import Scoring

REWARD = "reward"
"""The column that scored candidates get: `weakpref pair --score reward` reads it."""


def score(model: str, path: str, out: Path, reading: Reading, how: Scoring) -> str:
    """Write the rewards of every pair, or candidate, in a file; return what happened in one line."""
    check_out(out, path)
    shown = sys.stderr.isatty()
    what = "candidates" if is_candidates(path) else "pairs"
    scored, counts = (_candidates if what == "candidates" else _pairs)(model, path, out, reading, how, shown)
    if scored is None:
        return f"{out}: this process has done its share"
    counts |= {"distinct": scored.n_distinct, "truncated": scored.n_truncated}
    inputs = {what: sha256(path) if Path(path).is_file() else Path(path).name}
    inputs |= {f"model/{name}": digest for name, digest in scored.model.items()}
    record = manifest("score", inputs=inputs, seed=None, counts=counts)
    record |= {"scoring": dict(how.record()), "sha256": sha256(out)}
    write_json(out.with_name(f"{out.name}.manifest.json"), record)
    return f"{out}: rewards of {counts[what]:,} {what}, {scored.n_distinct:,} different conversations"


def verify(
    model: Path, pairs: str | None, reading: Reading, limit: int, vllm_python: str | None, out: Path | None
) -> tuple[bool, str]:
    """Return whether every consumer of a reward model agrees, and a table of them; write it to `out` as JSON."""
    import rm

    if out is not None:
        check_out(out, pairs or model, parquet=False)
    result = rm.verify(model, reading(pairs) if pairs else None, limit=limit, vllm_python=vllm_python)
    if out is not None:
        write_json(out, result.record())
    asked = sum(one.difference is not None for one in result.checked)
    n_differ = sum(one.differs for one in result.checked)
    n_failed = sum(one.failed for one in result.checked)
    last = f"{model}: {n_differ} of {asked} consumers asked differ by more than {result.tolerance:g}"
    failures = f"; {n_failed} failed" if n_failed else ""
    return result.agrees, f"{result.text()}\n{last} on {result.n} conversations{failures}"


def is_candidates(path: str) -> bool:
    """Return whether a file holds candidates, as `weakpref generate` writes them, and not pairs."""
    try:
        names = set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        return False
    return {"prompt", "response", "sample", "model"} <= names


def with_rewards(table: pa.Table, rewards: npt.NDArray[np.float64]) -> pa.Table:
    """Return candidates with their rewards as the column `reward`, null where there is no response."""
    kept = table.drop_columns([REWARD]) if REWARD in table.column_names else table
    known = pc.is_valid(table["response"])
    return kept.append_column(REWARD, pc.if_else(known, pa.array(rewards), pa.scalar(None, pa.float64())))


def _pairs(
    model: str, path: str, out: Path, reading: Reading, how: Scoring, shown: bool
) -> tuple[Scored | None, dict[str, object]]:
    from rm.scoring import score_to

    pairs = reading(path)
    counts: dict[str, object] = {"pairs": len(pairs), "dropped": dict(pairs.dropped)}
    return score_to(model, pairs, out, how, progress=shown), counts


def _candidates(
    model: str, path: str, out: Path, _: Reading, how: Scoring, shown: bool
) -> tuple[Scored | None, dict[str, object]]:
    from rm.scoring import score_rows

    table = read_candidates(path)
    prompts, responses = table["prompt"].to_pylist(), [text or "" for text in table["response"].to_pylist()]
    scored = score_rows(model, prompts, responses, out, lambda r: with_rewards(table, r), how, progress=shown)
    return scored, {"candidates": table.num_rows}
