"""Readers of one file (Parquet, CSV, JSON, JSONL): each returns a table and the rows with text that none can hold."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from labeling.errors import DataError
from labeling.layouts import MESSAGES_COLUMNS, TEXT_COLUMNS, is_text, plain
from labeling.rows import BadRow
from labeling.values import from_values, one_line

Read = tuple[pa.Table, list[BadRow]]
WRITTEN_TURNS = r"^\s*\[\s*\{\s*[\"'](role|content)[\"']"
"""How a conversation begins that was written as text, as JSON or as Python's repr."""


def reader(name: str) -> Callable[[Path], Read] | None:
    """Return the reader for a file of that name, None where its ending is unknown."""
    readers = {".parquet": parquet, ".jsonl": jsonl, ".jsonl.gz": jsonl, ".json": json_file, ".csv": csv}
    return next((read for suffix, read in readers.items() if name.lower().endswith(suffix)), None)


def parquet(path: Path) -> Read:
    """Read a Parquet file."""
    try:
        return pq.ParquetFile(path).read(), []
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is no readable Parquet file, perhaps truncated ({one_line(error)}); copy or write it again"
        ) from None


def csv(path: Path) -> Read:
    """Read a CSV file with a header, UTF-8; columns that some layout reads as text are text."""
    skipped: list[Any] = []

    def note(row: Any) -> str:
        skipped.append(row)
        return "skip"

    try:
        table = pcsv.read_csv(
            path,
            # One block, so that a text may be as long as it likes; one thread, so that bad rows know their number.
            read_options=pcsv.ReadOptions(use_threads=False, block_size=min(path.stat().st_size + 1, 2**31 - 1)),
            parse_options=pcsv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=pcsv.ConvertOptions(column_types=dict.fromkeys(TEXT_COLUMNS, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} is no readable CSV file ({one_line(error)}); write it as UTF-8 with a header"
        ) from None
    if skipped:
        first = skipped[0]
        raise DataError(
            f"{path}, record {first.number} (the header is record 1): expected {first.expected_columns} fields, found "
            f"{first.actual_columns}: {first.text[:60]!r}; {len(skipped)} such records in all; quote or correct them"
        )
    return table, []


def with_conversations(table: pa.Table, label: str) -> Read:
    """Return a table whose conversations written as text, JSON or Python, are conversations, and rows that hold none.

    A column that may hold some counts as such where every text that is not blank begins as a conversation does.
    """
    bad: list[BadRow] = []
    for i, name in enumerate(table.column_names):
        if name in MESSAGES_COLUMNS and _begin_as_turns(table.column(i)):
            turns, unread = _conversations(name, table.column(i).to_pylist(), label)
            table, bad = table.set_column(i, name, turns), bad + unread
    return table, bad


def _begin_as_turns(column: pa.ChunkedArray) -> bool:
    if not is_text(column.type):
        return False
    column = plain(column)
    try:
        given = column.filter(pc.not_equal(pc.utf8_trim_whitespace(column), ""))
    except pa.ArrowInvalid:  # bytes that are no text, which are told of later
        return False
    return len(given) > 0 and bool(pc.all(pc.match_substring_regex(given, WRITTEN_TURNS)).as_py())


def _conversations(name: str, texts: list[str | None], label: str) -> tuple[pa.ChunkedArray, list[BadRow]]:
    """Return the conversations that texts spell, null for blank ones, and the rows of those that spell none."""
    turns: list[list[dict[str, Any]] | None] = []
    bad: list[BadRow] = []
    for row, text in enumerate(texts):
        found = _turns(text) if text and text.strip() else None
        turns.append(found)
        if found is None and text and text.strip():
            bad.append(BadRow(row, name, "no conversation, neither as JSON nor as Python", text[:60]))
    table, broken = from_values({name: turns}, len(turns), label)
    return table[name], bad + broken


def _turns(text: str) -> list[dict[str, Any]] | None:
    """Return the conversation that a text spells; None where it spells none."""
    for read in (json.loads, ast.literal_eval):
        try:
            return [{"role": turn["role"], "content": turn["content"]} for turn in read(text)]
        except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
            continue
    return None


def json_file(path: Path) -> Read:
    """Read a JSON file: one list of objects, or one object a line."""
    text = path.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text.startswith(b"["):
        return jsonl(path)
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: no valid JSON ({error}); correct it") from None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}, element {number}: expected an object, found {type(row).__name__}")
    return _from_objects(path, rows)


def jsonl(path: Path) -> Read:
    """Read a file of one JSON object a line, perhaps gzipped."""
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as file:
        return _from_objects(path, list(_json_objects(path, file)))


def _from_objects(path: Path, rows: list[dict[str, Any]]) -> Read:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return from_values({name: [row.get(name) for row in rows] for name in names}, len(rows), str(path))


def _json_objects(path: Path, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: no valid JSON ({error}); correct or remove the line") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected one JSON object a line, found {type(row).__name__}")
        yield row
