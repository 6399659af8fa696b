"""Scoring: rewards of many responses, chunk by chunk into files; killed at any moment, it goes on.

>>> from rm.scoring import Scoring, score_to
>>> score_to("runs/rm0", pairs, "rewards.parquet", Scoring(bf16=True, processes=8))  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers.utils.hub import cached_file, extract_commit_hash

from labeling.errors import WeakprefWarning
from labeling.files import check_no_pairs, sha256
from labeling.pairs import Message, Pairs, check_pairs
from labeling.parts import claim, is_part, part_folder, remove_parts, stamp, stamped, write_among
from rm.checkpoint import read_record
from rm.model import check_reward_model
from rm.shares import Scoring, finish, rank_and_world, read_parts
from rm.temperature import KEY

FloatArray = npt.NDArray[np.float64]
SCORING = Scoring()
RUN = b"weakpref.score"
"""Key of the Parquet metadata that says which run made a file of rewards."""
MODEL_FILES = ("*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files of a model on which a reward depends."""


@dataclass(frozen=True)
class Scored:
    """What a run of `score_to` wrote."""

    path: Path
    n_responses: int
    n_distinct: int
    """Different conversations, each scored once."""
    n_truncated: int
    """Those of them longer than the model's max_length, which lost the beginning of their prompt."""
    model: Mapping[str, str]
    """SHA-256 of each file of the model, as `model_hashes` has it."""


def score_to(
    model: str | Path, pairs: Pairs, out: str | Path, how: Scoring = SCORING, *, progress: bool = False
) -> Scored | None:
    """Write the rewards of both responses of each pair to `out`, as Parquet: pair_id, r_a, r_b (float64 logits).

    What is done lies in `<out>.parts` until all is there: a run that is killed goes on with what is left, and the file
    has the same bytes; a finished file of the same run is not made again. Under torchrun every process takes its share,
    and all but the first return None. Warns of conversations that were truncated.

    Raises DataError where the model cannot be loaded or the parts are another run's.
    """
    check_pairs(pairs)
    ids = pa.array(pairs.pair_ids.tolist(), pa.string())

    def table(rewards: FloatArray) -> pa.Table:
        r_a, r_b = np.split(rewards, 2)
        return pa.table({"pair_id": ids, "r_a": pa.array(r_a), "r_b": pa.array(r_b)})

    prompts = pairs.table["prompt"].to_pylist()
    responses = pairs.table["response_a"].to_pylist() + pairs.table["response_b"].to_pylist()
    return score_rows(model, prompts * 2, responses, out, table, how, progress=progress)


def score_rows(
    model: str | Path,
    prompts: Sequence[Sequence[Message]],
    responses: Sequence[str],
    out: str | Path,
    table: Callable[[FloatArray], pa.Table],
    how: Scoring = SCORING,
    *,
    progress: bool = False,
) -> Scored | None:
    """Write what `table` makes of the rewards (n,) of n responses as one Parquet file; see `score_to`."""
    check_reward_model(model)
    check_no_pairs(out)
    distinct, rows = distinct_conversations(prompts, responses)
    run: dict[str, Any] = {
        "model": model_hashes(model),
        "conversations": _digest(distinct, rows),
        **how.record(),
    }
    target, parts = Path(out), part_folder(out)
    made = stamped(target, RUN)
    if made is None or made["run"] != run or not is_part(target, made["rows"]):
        claim(parts, run)
        finish(model, how, parts, distinct, progress=progress)
        if rank_and_world()[0]:
            return None
        rewards, truncated = read_parts(parts)
        whole = table(rewards[rows])
        made = {"run": run, "rows": whole.num_rows, "truncated": int(truncated.sum())}
        write_among(parts, whole.replace_schema_metadata(stamp(made, RUN)), target)
    remove_parts(parts)
    if made["truncated"]:
        warnings.warn(
            f"{made['truncated']} of {len(distinct)} conversations are longer than the model takes and lost their "
            "beginning (prompt first)",
            WeakprefWarning,
            stacklevel=3,
        )
    return Scored(target, len(rows), len(distinct), made["truncated"], run["model"])


def distinct_conversations(
    prompts: Sequence[Sequence[Message]], responses: Sequence[str]
) -> tuple[list[list[Message]], npt.NDArray[np.int64]]:
    """Return the different conversations of n prompts and responses, and the place of each row among them, (n,).

    Conversations of one prompt stand side by side, in the order in which they first occur.
    """
    by_prompt: dict[tuple[tuple[str, str], ...], dict[str, list[int]]] = {}
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        turns = tuple((turn["role"], turn["content"]) for turn in prompt)
        by_prompt.setdefault(turns, {}).setdefault(response, []).append(row)
    distinct: list[list[Message]] = []
    places = np.empty(len(responses), dtype=np.int64)
    for turns, answers in by_prompt.items():
        for response, rows in answers.items():
            places[rows] = len(distinct)
            conversation = [*turns, ("assistant", response)]
            distinct.append([{"role": role, "content": content} for role, content in conversation])
    return distinct, places


def model_hashes(model: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model on which a reward depends; of a hub id, that and its commit.

    Of config.json it is that of its entries, sorted, but the one that `rm.calibrate` writes: no reward depends on it.
    """
    folder = Path(model)
    if not folder.is_dir():
        return {"hub": str(model), "commit": _commit(str(model))}
    found = {file.name: sha256(file) for pattern in MODEL_FILES for file in sorted(folder.glob(pattern))}
    if "config.json" in found:
        config = {name: value for name, value in read_record(folder / "config.json").items() if name != KEY}
        found["config.json"] = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return found


def _commit(model: str) -> str:
    """Return the commit of a hub id that would be loaded now, '' where nothing is found: loading says why."""
    try:
        file = cached_file(model, "config.json")
    except (OSError, ValueError):
        return ""
    return extract_commit_hash(file, None) or ""


def _digest(distinct: Sequence[Sequence[Message]], rows: npt.NDArray[np.int64]) -> str:
    digest = hashlib.blake2b(rows.tobytes(), digest_size=16)
    for conversation in distinct:
        turns = [[turn["role"], turn["content"]] for turn in conversation]
        digest.update(json.dumps(turns).encode())
    return digest.hexdigest()
