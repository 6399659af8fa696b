"""From Python values to Arrow columns, and what to do with text that no Arrow column can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from labeling.errors import DataError
from labeling.layouts import COLUMNS
from labeling.rows import BadRow

NO_TEXT = "lone surrogate or other invalid Unicode"


def from_values(columns: Mapping[str, Any], n: int, label: str) -> tuple[pa.Table, list[BadRow]]:
    """Make a table of lists of Python values, or None for nulls.

    Columns that no layout uses become texts, or else nulls, where they do not fit one Arrow type.
    """
    bad: list[BadRow] = []
    made: dict[str, pa.Array] = {}
    for name, values in columns.items():
        if name not in COLUMNS:
            made[name] = _if_it_fits(values, n)
            continue
        try:
            made[name] = pa.array(values, from_pandas=True)
        except UnicodeEncodeError:
            readable = [value if _encodes(value) else None for value in values]
            bad += [BadRow(i, name, NO_TEXT) for i, value in enumerate(values) if value is not None is readable[i]]
            made[name] = _as_array(readable, name, label)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            made[name] = _as_array(values, name, label)
    return pa.table(made), bad


def _if_it_fits(values: Sequence[Any] | None, n: int) -> pa.Array:
    try:
        return pa.nulls(n) if values is None else pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        if values and all(value is None or isinstance(value, str | int | float) for value in values):
            return _if_it_fits([value if value is None else str(value) for value in values], n)
        return pa.nulls(n)
    except UnicodeEncodeError:
        return pa.nulls(n)


def _as_array(values: Sequence[Any], name: str, label: str) -> pa.Array:
    try:
        return pa.array(_within_64_bits(values), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        kinds: dict[str, int] = {}
        for i, value in enumerate(values):
            if value is not None:
                kinds.setdefault(type(value).__name__, i)
        found = ", ".join(f"{kind} (row {i})" for kind, i in kinds.items())
        raise DataError(
            f"{label}: column {name} must hold values of one kind, found {found}: {one_line(error)}; make them alike"
        ) from None


def _within_64_bits(values: Sequence[Any]) -> Sequence[Any]:
    """Return values with whole numbers as text where one has more than 63 bits, as hashes have; else as they are."""
    if not any(isinstance(value, int) and abs(value) >= 1 << 63 for value in values):
        return values
    return [str(value) if isinstance(value, int) else value for value in values]


def _encodes(value: Any) -> bool:
    """Tell whether every text in a value can be written as UTF-8: a lone surrogate cannot."""
    try:
        json.dumps(value, ensure_ascii=False, default=list).encode()
    except UnicodeEncodeError:
        return False
    return True


def without_broken_text(table: pa.Table) -> tuple[pa.Table, list[BadRow]]:
    """Return the table with null for every cell whose bytes are no UTF-8, and the rows of those cells."""
    bad: list[BadRow] = []
    for place, name in enumerate(table.column_names):
        try:
            table[name].validate(full=True)
        except pa.ArrowInvalid:
            cells: list[Any] = []
            for i, cell in enumerate(table[name]):
                try:
                    cells.append(cell.as_py())
                except UnicodeDecodeError:
                    cells.append(None)
                    bad.append(BadRow(i, name, NO_TEXT))
            table = table.set_column(place, name, pa.array(cells, table.schema.types[place]))
    return table, bad


def one_line(error: Exception) -> str:
    """Return what an exception says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
