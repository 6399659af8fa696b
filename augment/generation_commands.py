"""What `weakpref generate` and `weakpref pair` do: read files, call one public function, write one output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augment.commands import check_out, write_manifest
from augment.contamination import contamination
from augment.generate import generate as generate_candidates
from augment.generate import read_candidates
from augment.near_duplicates import near_duplicates
from augment.pair_candidates import Pairing, pair_candidates
from labeling.errors import DataError
from labeling.layouts import MESSAGES, TEXT, is_number, plain
from labeling.llm import Conversation, Engine, Sampling
from labeling.pairs import prompt_text
from labeling.sources import open_source


@dataclass(frozen=True)
class Prompting:
    """Which prompts of a file are answered."""

    similar: float | None = None
    """Leave out near-duplicates of this similarity, in (0, 1]; None = answer all."""
    held_out: Path | None = None
    """Prompts, or pairs, of an evaluation, that the prompts must not overlap with."""
    max_overlap: float = 0.5
    """Most of a prompt's 8-word sequences that may occur in held-out prompts, in [0, 1]; more is an error."""


def generate(
    path: str,
    out: Path,
    load: Callable[[], Engine],
    sampling: Sampling,
    prompting: Prompting,
    *,
    progress: bool = False,
) -> str:
    """Write candidates for a file of prompts, whose engine is loaded last; return what happened in one line."""
    check_out(out, path)
    prompts = read_prompts(path)
    n_given, texts = len(prompts), [prompt_text(prompt) for prompt in prompts]
    counts: dict[str, object] = {"given": n_given}
    if prompting.similar is not None:
        found = near_duplicates(texts, threshold=prompting.similar)
        counts |= {"same": found.n_same, "near_duplicates": found.n_near}
        prompts, texts = list(compress(prompts, found.keep)), list(compress(texts, found.keep))
    if prompting.held_out is not None:
        held_out = [prompt_text(prompt) for prompt in read_prompts(str(prompting.held_out))]
        overlap = contamination(texts, held_out)
        overlap.check(prompting.max_overlap)
        counts["contamination"] = overlap.report(prompting.max_overlap)
    engine = load()
    made = generate_candidates(prompts, engine, out, sampling, progress=progress)
    figures = {name: value for name, value in asdict(made).items() if name != "path"}
    inputs = {"prompts": Path(path)} | ({"held_out": prompting.held_out} if prompting.held_out else {})
    how = asdict(sampling) | {"model": engine.model}
    write_manifest(out, "generate", inputs, sampling.seed, counts | figures | {"sampling": how})
    return (
        f"{out}: {made.n_candidates:,} candidates for {made.n_prompts:,} of {n_given:,} prompts, "
        f"{made.n_empty:,} empty, {made.n_cut:,} cut at {sampling.max_tokens} tokens"
    )


def pair(paths: Sequence[Path], out: Path, how: Pairing, score: str | None = None) -> str:
    """Write pairs of the candidates in some files, scored by their column `score`; return what happened in one line."""
    for path in paths:
        check_out(out, path)
    tables = [read_candidates(path) for path in paths]
    names = ["prompt", "response", "sample", "model"]
    table = pa.concat_tables([part.select(names).replace_schema_metadata() for part in tables])
    scores = [_score(part, score, path) for part, path in zip(tables, paths, strict=True)] if score else None
    made = pair_candidates(table, np.concatenate(scores) if scores else None, how)
    if not made.table.num_rows:
        raise DataError(
            f"no pair could be made of {table.num_rows:,} candidates for {made.n_prompts:,} prompts "
            f"({_counted(made.left_out)}); expected one or more: generate more candidates, or pair another way"
        )
    made.write(out)
    counts = {"prompts": made.n_prompts, "pairs": made.table.num_rows, "left_out": dict(made.left_out)}
    inputs = {f"candidates_{i}": path for i, path in enumerate(paths)}
    write_manifest(out, "pair", inputs, how.seed, counts | {"pairing": asdict(how), "score": score})
    left = f"; left out {_counted(made.left_out)}" if made.left_out else ""
    return f"{out}: {made.table.num_rows:,} pairs of {made.n_prompts:,} prompts ({how.scheme}){left}"


def read_prompts(path: str) -> list[Conversation]:
    """Return the prompts of a file or hub id that `read_pairs` could open: its column `prompt`, texts or conversations.

    A text is one user turn. Raises DataError where there is no such column, or it has nulls.
    """
    found = open_source(path)
    kind = found.table.schema.field("prompt").type if "prompt" in found.table.column_names else None
    if kind is None or not (TEXT.holds(kind) or MESSAGES.holds(kind)):
        raise DataError(
            f"{path}: expected a column prompt with texts or lists of {{role, content}}, found "
            f"{kind or ', '.join(found.table.column_names)}; rename or convert it"
        )
    if found.bad or found.table["prompt"].null_count:
        raise DataError(f"{path}: some prompts are null or no valid text; expected one in every row: leave these out")
    values = plain(found.table["prompt"]).to_pylist()
    return [[{"role": "user", "content": value}] if isinstance(value, str) else value for value in values]


def _score(table: pa.Table, name: str, path: Path) -> npt.NDArray[np.float64]:
    if name not in table.column_names or not is_number(table[name].type):
        raise DataError(
            f"{path} has no column {name} of numbers, found {', '.join(table.column_names)}; add the scores, one a row"
        )
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "nothing left out"
