"""What `weakpref generate`, `new-prompts` and `pair` do: read files, call one public function, write one output."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augment.commands import check_out, write_manifest
from augment.contamination import check_limit, contamination
from augment.generate import generate as generate_candidates
from augment.generate import read_candidates, unanswered
from augment.models import ModelOptions
from augment.near_duplicates import near_duplicates
from augment.new_prompts import FewShot, PromptFilter, new_prompts
from augment.pair_candidates import Pairing, pair_candidates
from augment.progress import on_terminal
from augment.spending import SpendingOptions
from labeling.errors import DataError, WeakprefWarning
from labeling.files import replacing
from labeling.layouts import MESSAGES, TEXT, is_number, plain
from labeling.llm import Conversation, Sampling, fitting
from labeling.pairs import MESSAGES as MESSAGES_TYPE
from labeling.pairs import prompt_text
from labeling.read import read_pairs
from labeling.sources import open_source
from rm.options import option


@dataclass(frozen=True)
class Prompting:
    """Which prompts of a file are answered."""

    similar: float | None = option("Leave out prompts this similar (0 to 1) to one that is kept.")
    held_out: Path | None = option("Prompts, or pairs, of an evaluation, not to be overlapped with.")
    max_overlap: float = option("Most of a prompt's 8-word runs that may be held out (0 to 1); more is an error.", 0.5)

    def __post_init__(self) -> None:
        check_limit(self.max_overlap)
        if self.held_out is None and self.max_overlap != type(self).max_overlap:
            raise DataError("--max-overlap does nothing without --held-out; pass what is not to be overlapped with")

    def __call__(self, prompts: Sequence[Conversation]) -> tuple[list[Conversation], dict[str, object]]:
        """Return the prompts to answer, and counts. Raises DataError if one overlaps with those held out."""
        prompts, texts = list(prompts), [prompt_text(prompt) for prompt in prompts]
        counts: dict[str, object] = {"given": len(prompts)}
        if self.similar is not None:
            found = near_duplicates(texts, threshold=self.similar)
            counts |= {"same": found.n_same, "near_duplicates": found.n_near}
            prompts, texts = list(compress(prompts, found.keep)), list(compress(texts, found.keep))
        if self.held_out is not None:
            held_out = [prompt_text(prompt) for prompt in _held_out(str(self.held_out))]
            overlap = contamination(texts, held_out)
            overlap.check(self.max_overlap)
            counts["contamination"] = overlap.report(self.max_overlap)
        return prompts, counts

    def inputs(self) -> dict[str, Path]:
        """Return the files that were read."""
        return {"held_out": self.held_out} if self.held_out else {}


def generate(
    path: str, out: Path, model: ModelOptions, spending: SpendingOptions, sampling: Sampling, prompting: Prompting
) -> str:
    """Write candidates for a file of prompts; return what happened in one line, or what it would take."""
    check_out(out, path)
    model.check()
    spending.check(cached=True)
    prompts, counts = prompting(read_prompts(path))
    if spending.dry_run:
        plan = spending.plan(model)
        answered, rest = unanswered(prompts, plan.engine, out, sampling, chunk=model.chunk)
        fit = [list(compress(some, fitting(some, plan.engine, sampling.max_tokens))) for some in (answered, rest)]
        plan.engine.generate(fit[1], sampling)
        plan.engine.usage += plan.engine.most(fit[0], sampling)
        n_too_long = len(answered) + len(rest) - sum(map(len, fit))
        return plan.said(out) + (f"\n{n_too_long:,} prompts are too long and get no answer" if n_too_long else "")
    engine = spending.engine(model)
    made = generate_candidates(prompts, engine, out, sampling, chunk=model.chunk, progress=on_terminal())
    figures = {name: value for name, value in asdict(made).items() if name != "path"}
    how = asdict(sampling) | {"model": engine.model}
    inputs = {"prompts": Path(path)} | prompting.inputs()
    write_manifest(out, "generate", inputs, sampling.seed, counts | figures | {"sampling": how})
    return (
        f"{out}: {made.n_candidates:,} candidates for {made.n_prompts:,} of {counts['given']:,} prompts, "
        f"{made.n_empty:,} empty, {made.n_cut:,} cut at {sampling.max_tokens} tokens"
        + (f", {made.n_too_long:,} prompts too long" if made.n_too_long else "")
    )


@dataclass(frozen=True)
class Growing:
    """How many new prompts are wanted, how the model is asked for them, and which are kept."""

    n: int = option("New prompts wanted.", 100)
    max_rouge: float = option("Leave out prompts whose ROUGE-L with a seed or a kept prompt is this or more.", 0.7)
    min_words: int = option("Leave out shorter prompts.", 4)
    max_words: int = option("Leave out longer prompts.", 150)
    batch: int = option("Requests made at a time; later ones are shown prompts of earlier ones.", 16)
    temperature: float = option("How freely the model writes.", 0.6)
    top_p: float = option("Draw from the likeliest tokens that make up this share.", 0.9)
    max_tokens: int = option("Most tokens of an answer, which holds several prompts.", 512)
    seed: int = option("Seed of everything random.", 0)


def grow(path: str, out: Path, model: ModelOptions, spending: SpendingOptions, growing: Growing) -> str:
    """Write new prompts like those of a file; return what was kept and left out in one line, or what it would take."""
    check_out(out, path)
    model.check()
    spending.check(cached=False)
    seeds = read_prompts(path)
    how = FewShot(batch=growing.batch, seed=growing.seed)
    keep = PromptFilter(growing.max_rouge, growing.min_words, growing.max_words)
    sampling = Sampling(1, growing.temperature, growing.top_p, growing.max_tokens, seed=growing.seed)
    if spending.dry_run:
        plan = spending.plan(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeakprefWarning)  # a plan finds no prompts
            new_prompts(seeds, plan.engine, growing.n, how=how, keep=keep, sampling=sampling)
        return plan.said(out)
    engine = spending.engine(model)
    made = new_prompts(seeds, engine, growing.n, how=how, keep=keep, sampling=sampling, progress=on_terminal())
    if not made.prompts:
        raise DataError(
            f"no new prompt was kept of {made.n_requests:,} requests; expected one or more: give more seeds, a larger "
            "model, or looser filters"
        )
    with replacing(out) as part:
        column = pa.array([list(prompt) for prompt in made.prompts], MESSAGES_TYPE)
        pq.write_table(pa.table({"prompt": column}), part, compression="zstd")
    counts = {
        "seeds": len(seeds),
        "prompts": len(made.prompts),
        "requests": made.n_requests,
        "tokens": made.n_tokens,
        "left_out": dict(made.left_out),
        "growing": asdict(growing) | {"model": engine.model, "keywords": list(keep.keywords)},
    }
    write_manifest(out, "new-prompts", {"seeds": Path(path)}, growing.seed, counts)
    return (
        f"{out}: {len(made.prompts):,} of {growing.n:,} new prompts from {len(seeds):,} seeds, {made.n_requests:,} "
        f"requests; left out {_counted(made.left_out)}"
    )


def pair(paths: Sequence[Path], out: Path, how: Pairing, score: str | None = None) -> str:
    """Write pairs of the candidates in some files, scored by their column `score`; return what happened in one line."""
    for path in paths:
        check_out(out, path, pairs=True)
    for scheme, name in (("length-controlled", "tier_share"), ("random", "n"), ("random", "seed")):
        if how.scheme != scheme and getattr(how, name) != getattr(Pairing, name):
            given = f"-{name}" if name == "n" else f"--{name.replace('_', '-')}"
            raise DataError(f"{given} is an option of --scheme {scheme}, not {how.scheme}; leave it out")
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
    if any(row.column == "prompt" for row in found.bad) or found.table["prompt"].null_count:
        raise DataError(f"{path}: some prompts are null or no valid text; expected one in every row: leave these out")
    values = plain(found.table["prompt"]).to_pylist()
    return [[{"role": "user", "content": value}] if isinstance(value, str) else value for value in values]


def _held_out(path: str) -> list[Conversation]:
    """Return the prompts of a file of prompts, or of pairs in any layout that `read_pairs` knows."""
    if "prompt" in open_source(path).table.column_names:
        return read_prompts(path)
    found: list[Conversation] = read_pairs(path, on_bad_rows="drop").table["prompt"].to_pylist()
    return found


def _score(table: pa.Table, name: str, path: Path) -> npt.NDArray[np.float64]:
    if name not in table.column_names or not is_number(table[name].type):
        raise DataError(
            f"{path} has no column {name} of numbers, found {', '.join(table.column_names)}; add the scores, one a row"
        )
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "nothing left out"
