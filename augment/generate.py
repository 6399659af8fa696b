"""Generation: several responses to each prompt, as a Parquet file of candidates; killed at any moment, it goes on."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augment.progress import progress_bar
from labeling.budget import Watch
from labeling.errors import BudgetError, DataError, WeakprefWarning
from labeling.files import replacing
from labeling.layouts import plain
from labeling.llm import Completion, Conversation, Engine, Sampling, fitting
from labeling.pairs import MESSAGES, prompt_id
from labeling.parts import claim, is_claimed, is_part, part_folder, remove_parts, stamp, stamped

SAMPLING = Sampling(n=4, temperature=0.7, top_p=0.9)
"""How self-rewarding models draw candidates (arXiv 2401.10020)."""

RUN = b"weakpref.generate"
"""Key of the Parquet metadata that says which run made a file."""

SCHEMA = pa.schema(
    [
        ("prompt", MESSAGES),
        ("prompt_id", pa.string()),
        ("response", pa.string()),
        ("sample", pa.int32()),
        ("model", pa.string()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_tokens", pa.int32()),
        ("stop", pa.list_(pa.string())),
        ("seed", pa.int64()),
        ("n_tokens", pa.int32()),
        ("log_prob", pa.float64()),
        ("finish_reason", pa.string()),
    ]
)
"""A candidate: one response to one prompt, what drew it, and its summed log-probability (null where none is known)."""


@dataclass(frozen=True)
class Generated:
    """What a run of `generate` wrote."""

    path: Path
    n_prompts: int
    n_repeated: int
    """Prompts that were given more than once and answered once."""
    n_candidates: int
    n_empty: int
    """Candidates without a text, or of nothing but white space. They are kept: `pair_candidates` leaves them out."""
    n_cut: int
    """Candidates cut at `max_tokens`."""
    n_too_long: int
    """Prompts without an answer, for the model has no room for them beside `max_tokens` of it."""
    n_tokens: int
    """Tokens of all candidates."""


def generate(
    prompts: Sequence[Conversation],
    engine: Engine,
    out: str | Path,
    sampling: Sampling = SAMPLING,
    *,
    chunk: int = 64,
    progress: bool = False,
) -> Generated:
    """Write `sampling.n` candidates for each prompt (`SCHEMA`, one row each), in the order of prompts and samples.

    The engine gets `chunk` prompts at a time. What it answered lies in the folder `<out>.parts` until all is there, so
    that a run that was killed goes on from its last whole chunk; the file is the same, byte for byte, as that of a run
    that was not, if the engine repeats itself (temperature 0, or its own seeding). A finished file is not made again.

    A prompt that the model has no room for gets empty candidates of the `finish_reason` too_long, with a
    WeakprefWarning that counts such prompts.

    Raises DataError for no prompts, or none that the model has room for, a prompt that is no conversation ending in the
    user's turn, several samples at temperature 0, more `max_tokens` than the model holds, parts of another run, or an
    engine that returns another number of completions.
    """
    unique = _unique(prompts)
    _check(sampling, chunk, engine)
    target, parts = Path(out), part_folder(out)
    run = _run(unique, engine, sampling, chunk)
    if not _is_whole(target, run, len(unique) * sampling.n):
        claim(parts, run)
        chunks = _parts(unique, parts, chunk)
        with progress_bar("Prompts", progress) as watch:
            watch(wanted=len(unique))
            for i, (path, some) in enumerate(chunks):
                try:
                    _answer(path, some, engine, sampling, watch)
                except BudgetError as error:
                    raise BudgetError(f"{error}; {i} of {len(chunks)} parts lie in {parts}") from None
        files = [path for path, _ in chunks]
        if all(_is_unanswered(path) for path in files):
            remove_parts(parts)
            text = _too_long(target, len(unique), len(unique), engine, sampling)
            raise DataError(f"{text}, so there is nothing to write: shorten them, or ask for shorter answers")
        _join(files, run, target)
    remove_parts(parts)
    made = _counted(target, len(prompts), len(unique))
    if made.n_too_long:
        text = _too_long(target, made.n_too_long, made.n_prompts, engine, sampling)
        way_out = "shorten them, ask for shorter answers or a larger context, and write to another file"
        warnings.warn(f"{text}: their candidates are empty; {way_out}", WeakprefWarning, stacklevel=2)
    return made


def _is_unanswered(path: Path) -> bool:
    """Return whether all prompts of a part are too long."""
    return bool(pc.all(pc.equal(pq.read_table(path, columns=["finish_reason"])["finish_reason"], "too_long")).as_py())


def _too_long(target: Path, n: int, of: int, engine: Engine, sampling: Sampling) -> str:
    room = f"for {engine.model} beside {sampling.max_tokens:,} tokens of answer"
    return f"{target}: {n:,} of {of:,} prompts are too long {room}"


def unanswered(
    prompts: Sequence[Conversation], engine: Engine, out: str | Path, sampling: Sampling = SAMPLING, *, chunk: int = 64
) -> tuple[list[Conversation], list[Conversation]]:
    """Return the distinct prompts that are answered, and those `generate` would still ask about; nothing is written.

    Raises DataError as `generate` does.
    """
    unique = _unique(prompts)
    _check(sampling, chunk, engine)
    parts, run = part_folder(out), _run(unique, engine, sampling, chunk)
    if _is_whole(Path(out), run, len(unique) * sampling.n):
        return unique, []
    is_claimed(parts, run)
    found: dict[bool, list[Conversation]] = {True: [], False: []}
    for path, some in _parts(unique, parts, chunk):
        found[is_part(path, len(some) * sampling.n)] += some
    return found[True], found[False]


def read_candidates(path: str | Path) -> pa.Table:
    """Return a file of candidates, be it as pandas or polars wrote it again; raises DataError where it is none."""
    try:
        table = _plain(pq.read_table(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); make it with `weakpref generate`") from None
    check_candidates(table, str(path))
    return table


def _plain(table: pa.Table) -> pa.Table:
    """Return a table with the columns of `SCHEMA` in its types, where those they have hold the same: pandas and polars
    write larger ones."""
    for i, name in enumerate(table.column_names):
        if name in SCHEMA.names:
            column, wanted = plain(table[name]), SCHEMA.field(name).type
            whole = pa.types.is_integer(column.type) and pa.types.is_integer(wanted)
            table = table.set_column(i, name, column.cast(wanted) if whole else column)
    return table


def check_candidates(table: pa.Table, label: str = "candidates") -> None:
    """Raise DataError if a table lacks a column of candidates that pairing needs, or holds another type in it."""
    for name in ("prompt", "response", "sample", "model"):
        found = table.schema.field(name).type if name in table.column_names else None
        if found != SCHEMA.field(name).type:
            raise DataError(
                f"{label}: expected the column {name} of type {SCHEMA.field(name).type}, "
                f"found {found or ', '.join(table.column_names) or 'no columns'}; make it with `weakpref generate`"
            )
        if name != "response" and table[name].null_count:
            raise DataError(
                f"{label}: {table[name].null_count:,} rows have no {name}; expected one in every row: leave them out"
            )


def check_prompts(prompts: Sequence[Conversation]) -> None:
    """Raise DataError unless there are prompts, each a conversation of texts that ends in the user's turn."""
    if not prompts:
        raise DataError("there are no prompts; expected one or more")
    for i, prompt in enumerate(prompts):
        texts = [turn.get("content") or "" for turn in prompt or ()]
        if not prompt or prompt[-1].get("role") != "user" or any(not text.strip() or "\0" in text for text in texts):
            raise DataError(
                f"prompt {i} is {str(prompt)[:80]!r}; expected turns {{role, content}} with texts that are not blank "
                "and hold no NUL character, the last of the user"
            )


def _unique(prompts: Sequence[Conversation]) -> list[Conversation]:
    check_prompts(prompts)
    first: dict[str, Conversation] = {}
    for prompt in prompts:
        first.setdefault(prompt_id(prompt), prompt)
    return list(first.values())


def _check(sampling: Sampling, chunk: int, engine: Engine) -> None:
    if chunk < 1:
        raise DataError(f"chunk is {chunk}; expected 1 or more")
    if sampling.n > 1 and sampling.temperature == 0:
        raise DataError(
            f"n is {sampling.n} at temperature 0, where all samples are the same; expected n = 1, or a temperature > 0"
        )
    if engine.context is not None and sampling.max_tokens >= engine.context:
        raise DataError(
            f"max_tokens is {sampling.max_tokens:,}, but {engine.model} holds {engine.context:,} tokens, prompt and "
            "answer together; ask for shorter answers"
        )


def _run(prompts: Sequence[Conversation], engine: Engine, sampling: Sampling, chunk: int) -> dict[str, Any]:
    """Return what a run is known by: the same here, the same file."""
    ids = "".join(prompt_id(prompt) for prompt in prompts)
    digest = hashlib.blake2b(ids.encode(), digest_size=16).hexdigest()
    how = asdict(sampling) | {"stop": list(sampling.stop)}
    return {"prompts": digest, "model": engine.source, "sampling": how, "chunk": chunk}


def _is_whole(path: Path, run: dict[str, Any], rows: int) -> bool:
    return is_part(path, rows) and stamped(path, RUN) == run


def _parts(prompts: Sequence[Conversation], folder: Path, chunk: int) -> list[tuple[Path, Sequence[Conversation]]]:
    """Return the parts a run is made of: the file of each, and its prompts."""
    starts = range(0, len(prompts), chunk)
    return [(folder / f"{i:06d}.parquet", prompts[start : start + chunk]) for i, start in enumerate(starts)]


def _answer(path: Path, prompts: Sequence[Conversation], engine: Engine, sampling: Sampling, watch: Watch) -> None:
    n_tokens = 0
    if not is_part(path, len(prompts) * sampling.n):
        rows = _rows(prompts, engine, sampling)
        n_tokens = sum(row["n_tokens"] for row in rows)
        with replacing(path) as part:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part, compression="zstd")
    watch(done=len(prompts), tokens=n_tokens)


def _rows(prompts: Sequence[Conversation], engine: Engine, sampling: Sampling) -> list[dict[str, Any]]:
    fits = fitting(prompts, engine, sampling.max_tokens)
    asked = list(compress(prompts, fits))
    given = engine.generate(asked, sampling) if asked else []
    if [len(samples) for samples in given] != [sampling.n] * len(asked):
        raise DataError(
            f"{engine.model} returned {sum(map(len, given))} completions for {len(given)} prompts; expected "
            f"{sampling.n} for each of {len(asked)}: the engine is at fault"
        )
    rest, none = iter(given), [Completion.none("too_long")] * sampling.n
    answers = [next(rest) if fit else none for fit in fits]
    how = asdict(sampling) | {"model": engine.model, "stop": list(sampling.stop)}
    return [
        {"prompt": list(prompt), "prompt_id": prompt_id(prompt), "sample": sampling.first + i}
        | how
        | _columns(completion)
        for prompt, samples in zip(prompts, answers, strict=True)
        for i, completion in enumerate(samples)
    ]


def _columns(completion: Completion) -> dict[str, Any]:
    text = completion.text.encode("utf-8", "replace").decode()  # a lone surrogate fits no column
    if completion.finish_reason == "length":
        text = text.rstrip("\ufffd")  # what a cut inside a character leaves; the model wrote no such character
    return {
        "response": text,
        "n_tokens": completion.n_tokens,
        "log_prob": None if math.isnan(completion.log_prob) else completion.log_prob,
        "finish_reason": completion.finish_reason,
    }


def _join(parts: Sequence[Path], run: dict[str, Any], target: Path) -> None:
    """Write the parts as one file, a row group each; it is made among them, so that a kill leaves nothing else."""
    schema = SCHEMA.with_metadata(stamp(run, RUN))
    whole = parts[0].with_name("whole")
    with pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for path in parts:
            writer.write_table(pq.read_table(path).replace_schema_metadata(schema.metadata))
    os.replace(whole, target)


def _counted(path: Path, n_given: int, n_prompts: int) -> Generated:
    table = pq.read_table(path, columns=["prompt_id", "response", "n_tokens", "finish_reason"])
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(table["response"])), 0)
    return Generated(
        path=path,
        n_prompts=n_prompts,
        n_repeated=n_given - n_prompts,
        n_candidates=table.num_rows,
        n_empty=pc.sum(blank).as_py(),
        n_cut=pc.sum(pc.equal(table["finish_reason"], "length")).as_py(),
        n_too_long=pc.count_distinct(table.filter(pc.equal(table["finish_reason"], "too_long"))["prompt_id"]).as_py(),
        n_tokens=pc.sum(table["n_tokens"]).as_py(),
    )
