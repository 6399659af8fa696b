"""Training pairs: the universal layout read in chunks and checked, conversations tokenised, cut to length, padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerBase

from labeling.errors import DataError
from labeling.pairs import MESSAGES, Message
from rm.packing import Ids, shared_prefix
from rm.template import render

COLUMNS = ("chosen", "rejected", "p_chosen", "weight")
CHUNK = 1024
"""Rows read, and conversations tokenised, at a time."""


def training_files(data: str | Path) -> list[Path]:
    """Return the Parquet files of a folder in the universal layout (data/train-*.parquet), or the file itself."""
    path = Path(data)
    if path.is_file():
        return [path]
    files = sorted(path.glob("data/train-*.parquet"))
    if not files:
        found = "nothing there" if not path.exists() else "no data/train-*.parquet in it"
        raise DataError(f"{path}: expected a Parquet file or a folder written by `weakpref export`, found {found}")
    return files


def read_rows(file: Path) -> Iterator[pa.Table]:
    """Yield a file in the universal layout in chunks: chosen, rejected, p_chosen, weight, origin (text, may be null).

    p_chosen and weight are 1 where missing. Raises DataError where columns are missing or of other types, p_chosen or
    weight is out of range, or a conversation does not end in a response.
    """
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is not a readable Parquet file ({error}); write it with `weakpref export`") from None
    with parquet:
        names = parquet.schema_arrow.names
        _check_columns(file, parquet.schema_arrow)
        first = 0
        wanted = [name for name in (*COLUMNS, "origin") if name in names]
        for batch in parquet.iter_batches(CHUNK, columns=wanted):
            yield _checked(file, pa.Table.from_batches([batch]), first)
            first += len(batch)


def read_table(data: str | Path) -> pa.Table:
    """Read all rows of a folder or file that have a positive weight, checked; raises DataError where there is none."""
    table = pa.concat_tables([rows for file in training_files(data) for rows in read_rows(file)])
    used = table.filter(pc.greater(table["weight"], 0))
    if not len(used):
        raise DataError(f"{data}: none of {len(table)} rows has a positive weight, so there is nothing to train on")
    return used


def _check_columns(file: Path, schema: pa.Schema) -> None:
    missing = [name for name in COLUMNS[:2] if name not in schema.names]
    if missing:
        raise DataError(
            f"{file}: column {' and '.join(missing)} missing, found {', '.join(schema.names)}; "
            "write it with `weakpref export` (augment.export), which wants no posterior where all pairs have gold"
        )
    for name in COLUMNS[:2]:
        kind = schema.field(name).type
        turns = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
        if turns is None or not pa.types.is_struct(turns) or not {"role", "content"} <= {field.name for field in turns}:
            raise DataError(f"{file}: {name} is {kind}, expected whole conversations, list<struct<role, content>>")
    for name in COLUMNS[2:]:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise DataError(f"{file}: {name} is {kind}, expected numbers; export it as double")


def _checked(file: Path, table: pa.Table, first: int) -> pa.Table:
    """Return a chunk in its final types, its rows counted from `first` in what an error says."""
    for name in COLUMNS[:2]:
        _check_conversations(file, name, table[name], first)
    columns = {name: pa.chunked_array([pa.array(conversations(table[name]), MESSAGES)]) for name in COLUMNS[:2]}
    columns |= {name: _numbers(table, name) for name in COLUMNS[2:]}
    p_chosen, weight = (columns[name].to_numpy() for name in COLUMNS[2:])
    for name, wrong, expected in (
        ("p_chosen", ~((p_chosen >= 0) & (p_chosen <= 1)), "a probability in [0, 1]"),
        ("weight", ~((weight >= 0) & np.isfinite(weight)), "a finite number of 0 or more"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(f"{file}: {name} is {columns[name][row]} in row {first + row}, expected {expected}")
    origin = table["origin"].cast(pa.string()) if "origin" in table.column_names else pa.nulls(len(table), pa.string())
    return pa.table(columns | {"origin": origin})


def _numbers(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([np.ones(len(table))])
    return table[name].cast(pa.float64()).fill_null(1.0)


def _check_conversations(file: Path, name: str, column: pa.ChunkedArray, first: int) -> None:
    for row, conversation in enumerate(conversations(column), first):
        if not conversation or conversation[-1]["role"] != "assistant":
            raise DataError(
                f"{file}: {name} in row {row} does not end in an assistant's turn: expected the response last"
            )
        if any(turn["role"] is None or turn["content"] is None for turn in conversation):
            raise DataError(f"{file}: {name} in row {row} has a turn without role or content; drop or complete the row")
        if len(conversation) == 1:
            raise DataError(
                f"{file}: {name} in row {row} is a response without its prompt: expected whole conversations, the "
                "prompt's turns first; bring the file into this layout with read_pairs and export"
            )


def conversations(column: pa.ChunkedArray) -> Iterator[list[Message]]:
    """Yield a column's conversations, their turns reduced to role and content."""
    for start in range(0, len(column), CHUNK):
        for turns in column.slice(start, CHUNK).to_pylist():
            yield [{"role": turn["role"], "content": turn["content"]} for turn in turns or ()]


@dataclass(frozen=True)
class Tokenised:
    """Conversations as token ids."""

    ids: list[Ids]
    """One array of at most max_length ids a conversation."""
    truncated: npt.NDArray[np.bool_]
    """Shape (n,): whether the beginning was cut off."""


def tokenise(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Sequence[Message]], max_length: int) -> Tokenised:
    """Tokenise conversations rendered by the chat template; over-long ones lose the beginning of the prompt.

    The first token is kept if it is the tokenizer's [CLS] or BOS; the end of the response never goes.
    """
    ids: list[Ids] = []
    truncated: list[bool] = []
    remaining = iter(rows)
    while chunk := list(islice(remaining, CHUNK)):
        texts = render(tokenizer, chunk)
        for row in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            truncated.append(len(row) > max_length)
            ids.append(np.asarray(truncate(row, max_length, tokenizer), dtype=np.int32))
    return Tokenised(ids, np.array(truncated, dtype=np.bool_))


def truncate(row: Sequence[int], max_length: int, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
    """Return the last max_length ids, with a leading [CLS] or BOS kept in the first place."""
    if len(row) <= max_length:
        return row
    if row[0] in (tokenizer.cls_token_id, tokenizer.bos_token_id) and max_length > 1:
        return [row[0], *row[len(row) - max_length + 1 :]]
    return row[len(row) - max_length :]


def shorten(
    chosen: Sequence[int], rejected: Sequence[int], max_length: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[Sequence[int], Sequence[int]]:
    """Return both conversations of a pair with at most max_length ids.

    Where one is too long, both lose the same beginning of what they have in common, a leading [CLS] or BOS excepted, so
    that both responses are still to the same prompt; a response that is too long by itself then loses its beginning.
    """
    excess = max(len(chosen), len(rejected)) - max_length
    if excess <= 0:
        return chosen, rejected
    kept = int(chosen[0] in (tokenizer.cls_token_id, tokenizer.bos_token_id))
    common = shared_prefix([np.asarray(chosen), np.asarray(rejected)])
    cut = min(excess, max(common - kept, 0))
    sides = ([*ids[:kept], *ids[kept + cut :]] for ids in (chosen, rejected))
    first, second = (truncate(ids, max_length, tokenizer) for ids in sides)
    return first, second


def pad(rows: Sequence[Ids], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask, int64 (n, longest), padded on the right."""
    longest = max(len(row) for row in rows)
    input_ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
