"""Preference pairs: one Arrow table in the canonical layout, and one pair as a labeling function sees it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labeling.arrays import as_labels, as_rows
from labeling.errors import DataError, GoldError, VotesError
from labeling.files import check_parquet, replacing

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt", MESSAGES),
        ("response_a", pa.string()),
        ("response_b", pa.string()),
        ("gold", pa.float64()),
        ("annotator_votes", pa.list_(pa.float64())),
        ("group", pa.string()),
        ("source", pa.string()),
    ]
)
"""The canonical layout: the prompt's turns, two responses, gold = P(A preferred) or null."""

MAX_CHARS = 500_000
"""Most characters of a response, unless `read_pairs` is told otherwise."""

Message = Mapping[str, str]
FloatArray = npt.NDArray[np.float64]


def check_range(gold: FloatArray, first_row: int = 0) -> None:
    """Raise GoldError if gold (n,) of rows from `first_row` on is neither in [0, 1] nor NaN."""
    bad = np.flatnonzero((gold < 0) | (gold > 1))
    if len(bad):
        raise GoldError(
            f"gold is {gold[bad[0]]} in row {first_row + bad[0]} ({len(bad)} such rows), expected P(A preferred) in "
            "[0, 1]; NaN where unlabelled: rescale ratings first"
        )


def pair_id(prompt: Sequence[Message], response_a: str, response_b: str) -> str:
    """Return the content hash (32 hex digits) of a prompt and its two responses, in this order.

    >>> pair_id([{"role": "user", "content": "Hi"}], "Hello!", "What?")
    '9126eb8b50f8be89786c2d42b38189fa'
    """
    turns = [[turn["role"], turn["content"]] for turn in prompt]
    text = json.dumps([turns, response_a, response_b], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def prompt_id(prompt: Sequence[Message]) -> str:
    """Return the content hash (16 hex digits) of a prompt: the group of a pair whose source names none."""
    text = json.dumps([[turn["role"], turn["content"]] for turn in prompt], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def prompt_text(prompt: Sequence[Message]) -> str:
    """Render a prompt's turns as one text: a single user turn as it is, a dialogue with its roles named.

    >>> prompt_text([{"role": "user", "content": "Hi"}])
    'Hi'
    >>> print(prompt_text([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]))
    System: Be kind.
    <BLANKLINE>
    User: Hi
    """
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in prompt)


def question(prompt: Sequence[Message]) -> str:
    """Return the text of the last user turn ('' where there is none)."""
    return next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), "")


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair as a row labeling function sees it. It carries no gold label, so no function can read one."""

    pair_id: str
    prompt: str
    """The whole prompt as text (`prompt_text`)."""
    question: str
    """The last user turn."""
    messages: tuple[Message, ...]
    """The prompt's turns, each {"role", "content"}."""
    response_a: str
    response_b: str
    group: str
    source: str


@dataclass(frozen=True)
class Pairs:
    """Preference pairs in the canonical layout (`SCHEMA`), checked on reading; made by `read_pairs`.

    Behaves as a sequence: `len(pairs)`, `for pair in pairs`, `pairs.take(indices_or_mask)`.
    """

    table: pa.Table
    """The canonical columns, one row a pair."""
    dropped: Mapping[str, int]
    """Why rows were left out on reading, and how many."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Pair]:
        for batch in self.table.to_batches():
            for row in batch.to_pylist():
                turns = row["prompt"]
                yield Pair(
                    row["pair_id"], prompt_text(turns), question(turns), tuple(turns),
                    row["response_a"], row["response_b"], row["group"], row["source"],
                )  # fmt: skip

    @cached_property
    def pair_ids(self) -> npt.NDArray[np.str_]:
        """Content hashes, shape (n,)."""
        return np.asarray(self.table["pair_id"].to_pylist(), dtype=np.str_)

    @cached_property
    def groups(self) -> npt.NDArray[np.str_]:
        """Group of each pair, shape (n,): rows of one group stay on one side of a split."""
        return np.asarray(self.table["group"].to_pylist(), dtype=np.str_)

    @cached_property
    def gold(self) -> FloatArray:
        """P(A preferred) as labelled, shape (n,), in [0, 1]; NaN where unlabelled."""
        return np.asarray(self.table["gold"].to_numpy(zero_copy_only=False), dtype=np.float64)

    @cached_property
    def prompt_texts(self) -> pa.Array:
        """The prompts as texts (`prompt_text`), shape (n,)."""
        return _map_prompts(self.table["prompt"], prompt_text)

    @cached_property
    def questions(self) -> pa.Array:
        """The last user turns, shape (n,)."""
        return _map_prompts(self.table["prompt"], question)

    def voter_table(self) -> pa.Table:
        """Return what voters may see: every column but the labels, the prompt as text, `question` and `messages`."""
        return pa.table(
            {
                "pair_id": self.table["pair_id"],
                "prompt": self.prompt_texts,
                "question": self.questions,
                "messages": self.table["prompt"],
                "response_a": self.table["response_a"],
                "response_b": self.table["response_b"],
                "group": self.table["group"],
                "source": self.table["source"],
            }
        )

    def __repr__(self) -> str:
        known, dropped = int((~np.isnan(self.gold)).sum()), sum(self.dropped.values())
        left_out = f", {dropped:,} rows left out" if dropped else ""
        return f"<Pairs: {len(self):,} pairs, {known:,} with gold, {len(set(self.groups)):,} groups{left_out}>"

    def to_pandas(self) -> pd.DataFrame:
        """Return all canonical columns as an Arrow-backed DataFrame."""
        frame: pd.DataFrame = self.table.to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def write(self, path: str | Path) -> None:
        """Write the pairs as Parquet, which `read_pairs` reads back; an empty `source` becomes the file's name."""
        check_parquet(path)
        with replacing(path) as part:
            pq.write_table(self.table, part, compression="zstd")

    def take(self, rows: npt.ArrayLike | slice) -> Pairs:
        """Return the pairs at the given row numbers, of a slice, or where a boolean mask (n,) is true.

        Raises DataError for a mask of another shape, and for rows there are not.
        """
        return Pairs(_take(self.table, as_rows(rows, len(self))), {})

    def with_gold(self, gold: npt.ArrayLike | None) -> Pairs:
        """Return the same pairs with other gold labels, shape (n,), NaN or None where unlabelled; None removes all.

        Raises GoldError for another shape, labels outside [0, 1], and what `as_labels` refuses.
        """
        values = np.full(len(self), np.nan) if gold is None else as_labels(gold)
        if values.shape != (len(self),):
            raise GoldError(f"gold has shape {values.shape}; expected ({len(self)},), one a pair, NaN = unlabelled")
        check_range(values)
        column = pa.array(values, type=pa.float64(), from_pandas=True)
        table = self.table.set_column(self.table.schema.get_field_index("gold"), "gold", column)
        blank = pa.nulls(len(self), SCHEMA.field("annotator_votes").type)
        hidden = pc.if_else(pc.is_null(table["gold"]), blank, table["annotator_votes"])
        return Pairs(
            table.set_column(SCHEMA.get_field_index("annotator_votes"), "annotator_votes", hidden), self.dropped
        )

    def with_groups(self, groups: npt.NDArray[np.str_]) -> Pairs:
        """Return the same pairs with other groups, shape (n,)."""
        column = pa.array(groups.tolist(), type=pa.string())
        return Pairs(self.table.set_column(SCHEMA.get_field_index("group"), "group", column), self.dropped)

    def swap(self) -> Pairs:
        """Return the pairs with their responses exchanged: gold 1 - gold, annotators' votes likewise, new pair ids."""
        rows = []
        for row in self.table.to_pylist():
            a, b, gold, votes = row["response_b"], row["response_a"], row["gold"], row["annotator_votes"]
            swapped: dict[str, Any] = {
                "pair_id": pair_id(row["prompt"], a, b),
                "response_a": a,
                "response_b": b,
                "gold": None if gold is None else 1.0 - gold,
                "annotator_votes": None if votes is None else [None if v is None else 1.0 - v for v in votes],
            }
            rows.append(row | swapped)
        return Pairs(pa.Table.from_pylist(rows, schema=SCHEMA), self.dropped)


def asked_of(pairs: pa.Table | Pairs) -> pa.Table:
    """Return `Pairs.voter_table()` of pairs, or such a table as it is; raises DataError for anything else."""
    if isinstance(pairs, pa.Table):
        return pairs
    check_pairs(pairs)
    return pairs.voter_table()


def ids_of(table: pa.Table) -> npt.NDArray[np.str_] | None:
    """Return the ids (n,) of the pairs of a voter table; None where it has none."""
    return np.asarray(table["pair_id"].to_pylist(), dtype=np.str_) if "pair_id" in table.column_names else None


def check_pairs(pairs: object, what: str = "pairs") -> None:
    """Raise DataError for anything but `Pairs`."""
    if not isinstance(pairs, Pairs):
        raise DataError(f"{what} is a {type(pairs).__name__}; expected Pairs: pass it through read_pairs first")


def check_same_pairs(n: int, ids: npt.NDArray[np.str_] | None, pairs: Pairs, what: str, way_out: str) -> None:
    """Raise VotesError unless what was said of n pairs is of these, in their order; `ids` (n,), None where unknown."""
    if n != len(pairs):
        raise VotesError(f"there are {what} on {n:,} pairs, but {len(pairs):,} pairs; {way_out}")
    if ids is None:
        return
    differ = np.flatnonzero(ids != pairs.pair_ids)
    if differ.size:
        i = int(differ[0])
        raise VotesError(
            f"the {what} belong to other pairs: row {i:,} is pair_id {ids[i]} in the {what}, but "
            f"{pairs.pair_ids[i]} in the pairs ({differ.size:,} rows differ); {way_out}"
        )


def _take(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return the given rows, chunk by chunk: `pa.Table.take` glues whole columns first and fails past 2 GB of text."""
    batches = table.to_batches()
    if len(batches) < 2:
        return table.take(pa.array(rows))
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    chunk = np.searchsorted(starts, rows, side="right") - 1
    picked = [np.flatnonzero(chunk == k) for k in np.unique(chunk)]
    parts = [batches[chunk[at[0]]].take(pa.array(rows[at] - starts[chunk[at[0]]])) for at in picked]
    taken = pa.Table.from_batches(parts, schema=table.schema)
    order = np.argsort(np.concatenate([*picked, []]), kind="stable")
    return taken if (np.diff(order) > 0).all() else taken.take(pa.array(order))


def _map_prompts(prompts: pa.ChunkedArray, render: Any) -> pa.Array:
    return pa.array([render(turns) for turns in prompts.to_pylist()], type=pa.string())
