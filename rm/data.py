"""Training pairs: the universal Parquet layout read, tokenised once, ordered by length, padded into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from labeling.errors import DataError
from labeling.pairs import Message, prompt_id
from rm.template import render

Ids = npt.NDArray[np.int32]
COLUMNS = ("chosen", "rejected", "p_chosen", "weight")
CHUNK = 1024
"""Conversations tokenised at a time."""


@dataclass(frozen=True)
class TrainingTable:
    """Rows of the universal layout that can be trained on."""

    table: pa.Table
    """The columns chosen, rejected (conversations), p_chosen in [0, 1], weight > 0, origin (text, may be null)."""
    n_unweighted: int
    """Rows left out because their weight is 0."""
    n_gold: int
    """Rows that are left and whose origin is gold."""


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


def read_training(data: str | Path, gold_weight: float = 1.0) -> TrainingTable:
    """Read a folder or file in the universal layout; p_chosen and weight are 1 where missing.

    The weight of rows whose origin is gold is multiplied by `gold_weight`. Raises DataError where columns are missing,
    p_chosen or weight is out of range, no row has a positive weight, or gold is to weigh more and there is none.
    """
    table = pa.concat_tables([_read(file) for file in training_files(data)])
    p_chosen, weight = (table[name].to_numpy() for name in ("p_chosen", "weight"))
    for name, wrong, expected in (
        ("p_chosen", ~((p_chosen >= 0) & (p_chosen <= 1)), "a probability in [0, 1]"),
        ("weight", ~((weight >= 0) & np.isfinite(weight)), "a finite number of 0 or more"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(f"{data}: {name} is {table[name][row]} in row {row}, expected {expected}")
    used = np.flatnonzero(weight > 0)
    if not len(used):
        raise DataError(f"{data}: none of {len(weight)} rows has a positive weight, so there is nothing to train on")
    table = table.take(pa.array(used))
    gold = table["origin"].to_numpy() == "gold"
    if gold_weight != 1 and not gold.any():
        raise DataError(
            f"{data}: gold_weight is {gold_weight}, but no row with a positive weight has origin gold; leave it at 1"
        )
    weight = np.where(gold, gold_weight * weight[used], weight[used])
    table = table.set_column(table.column_names.index("weight"), "weight", pa.array(weight))
    return TrainingTable(table, len(p_chosen) - len(used), int(gold.sum()))


def _read(file: Path) -> pa.Table:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is not a readable Parquet file ({error}); export it again") from None
    with parquet:
        names = parquet.schema_arrow.names
        missing = [name for name in COLUMNS[:2] if name not in names]
        if missing:
            raise DataError(
                f"{file}: column {' and '.join(missing)} missing, found {', '.join(names)}; "
                "write the file with augment.export, or rename its columns to chosen and rejected"
            )
        table = parquet.read(columns=[name for name in (*COLUMNS, "origin") if name in names])
    for name in COLUMNS[:2]:
        _check_conversations(file, name, table[name])
    columns = {name: table[name] for name in COLUMNS[:2]} | {name: _numbers(file, table, name) for name in COLUMNS[2:]}
    origin = table["origin"].cast(pa.string()) if "origin" in names else pa.nulls(len(table), pa.string())
    return pa.table(columns | {"origin": origin})


def _numbers(file: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([np.ones(len(table))])
    kind = table[name].type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{file}: {name} is {kind}, expected numbers; export it as double")
    return table[name].cast(pa.float64()).fill_null(1.0)


def _check_conversations(file: Path, name: str, column: pa.ChunkedArray) -> None:
    kind = column.type
    turns = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    if turns is None or not pa.types.is_struct(turns) or not {"role", "content"} <= {field.name for field in turns}:
        raise DataError(f"{file}: {name} is {kind}, expected whole conversations, list<struct<role, content>>")
    for row, conversation in enumerate(conversations(column)):
        if not conversation or conversation[-1]["role"] != "assistant":
            raise DataError(
                f"{file}: {name} in row {row} does not end in an assistant's turn: expected the response last"
            )
        if any(turn["role"] is None or turn["content"] is None for turn in conversation):
            raise DataError(f"{file}: {name} in row {row} has a turn without role or content; drop or complete the row")


def conversations(column: pa.ChunkedArray) -> Iterator[list[Message]]:
    """Yield a column's conversations, their turns reduced to role and content."""
    for start in range(0, len(column), CHUNK):
        for turns in column.slice(start, CHUNK).to_pylist():
            yield [{"role": turn["role"], "content": turn["content"]} for turn in turns or ()]


def prompt_ids(table: pa.Table) -> list[str]:
    """Return the sorted distinct hashes of the prompts: all turns of a conversation but the last."""
    return sorted({prompt_id(turns[:-1]) for name in COLUMNS[:2] for turns in conversations(table[name])})


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


class PairDataset(Dataset[dict[str, Any]]):
    """Tokenised pairs: item i is {chosen, rejected: ids, p_chosen, weight: float}."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, table: pa.Table, max_length: int) -> None:
        sides = [tokenise(tokenizer, conversations(table[name]), max_length) for name in COLUMNS[:2]]
        self.chosen, self.rejected = (side.ids for side in sides)
        self.n_truncated = int(sum(side.truncated.sum() for side in sides))
        self.p_chosen, self.weight = (table[name].to_numpy() for name in COLUMNS[2:])

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "chosen": self.chosen[index],
            "rejected": self.rejected[index],
            "p_chosen": self.p_chosen[index],
            "weight": self.weight[index],
        }

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of the longer conversation of each pair, shape (n,)."""
        return np.array([max(len(a), len(b)) for a, b in zip(self.chosen, self.rejected, strict=True)], dtype=np.int64)


class LengthGrouped(Sampler[int]):
    """A new order every epoch in which the pairs of one optimizer step are of similar length, so little is padding.

    Pairs are shuffled, sorted within windows of `WINDOW` steps, and the steps shuffled again. The order depends on seed
    and epoch only, and not on how a step is split into batches.
    """

    WINDOW = 16

    def __init__(self, lengths: npt.NDArray[np.int64], step_size: int, seed: int) -> None:
        self.lengths, self.step_size, self.seed, self.epoch = lengths, step_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        window = self.step_size * self.WINDOW
        windows = [order[start : start + window] for start in range(0, len(order), window)]
        sorted_order = np.concatenate([rows[np.argsort(self.lengths[rows], kind="stable")] for rows in windows])
        full = len(order) // self.step_size
        steps = np.split(sorted_order[: full * self.step_size], max(full, 1))
        shuffled = [steps[i] for i in generator.permutation(len(steps))]
        rest = sorted_order[full * self.step_size :]  # an incomplete step comes last, or it would shift the others
        yield from np.concatenate([*shuffled, rest]).tolist()


@dataclass(frozen=True)
class Collator:
    """Pads n pairs to one batch: the n chosen conversations, then the n rejected, on the right, to the longest.

    Returns input_ids and attention_mask int64 (2n, length), p_chosen and weight float32 (n,).
    """

    pad_token_id: int

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some items of a `PairDataset`."""
        batch = pad([pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs], self.pad_token_id)
        for name in COLUMNS[2:]:
            batch[name] = torch.tensor([pair[name] for pair in pairs], dtype=torch.float32)
        return batch


def pad(rows: Sequence[Ids], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask, int64 (n, longest), padded on the right."""
    longest = max(len(row) for row in rows)
    input_ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
