"""Benchmarks of reward models in the layouts they are published in: prompts, responses to be preferred, the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from labeling.errors import DataError, LayoutError
from labeling.layouts import MESSAGES, TEXT, TEXTS, Kind, plain
from labeling.pairs import Message
from labeling.sources import open_source


@dataclass(frozen=True)
class Item:
    """One prompt of a benchmark."""

    id: str
    subset: str
    """Subset, or domain, as the file names it."""
    prompt: tuple[Message, ...]
    right: tuple[str, ...]
    """Responses that should be preferred, in the file's order."""
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The columns of a benchmark's file, and what a row must be like."""

    name: str
    columns: dict[str, Kind]
    subset: str
    """Column of the subset."""
    without: tuple[str, ...] = ()
    """Columns that mean another benchmark."""
    fault: Callable[[dict[str, Any]], str] = lambda _: ""
    """Say what is wrong with a row, '' if nothing."""


def _three_styles(row: dict[str, Any]) -> str:
    counts = len(row["chosen"]), len(row["rejected"])
    return "" if counts == (3, 3) else f"{counts[0]} chosen and {counts[1]} rejected responses, expected 3 and 3"


def _best_of(row: dict[str, Any]) -> str:
    counts = len(row["chosen"]), len(row["rejected"])
    if not all(counts):
        return f"{counts[0]} chosen and {counts[1]} rejected responses, expected 1 or more of each"
    if row["num_correct"] != counts[0]:
        return f"num_correct {row['num_correct']} and {counts[0]} chosen responses, expected as many"
    if row["subset"].lower() != "ties" and counts[0] != 1:
        return f"{counts[0]} chosen responses, expected 1 outside the subset Ties"
    return ""


NUMBER = Kind("a whole number", lambda found: bool(pa.types.is_integer(found)))
LAYOUTS = (
    Layout("rewardbench", {"prompt": TEXT | MESSAGES, "chosen": TEXT, "rejected": TEXT, "subset": TEXT}, "subset"),
    Layout(
        "rewardbench2",
        {"id": TEXT, "prompt": TEXT, "chosen": TEXTS, "rejected": TEXTS, "num_correct": NUMBER, "subset": TEXT},
        "subset",
        fault=_best_of,
    ),
    Layout(
        "rm-bench",
        {"prompt": TEXT, "chosen": TEXTS, "rejected": TEXTS, "domain": TEXT},
        "domain",
        ("num_correct",),
        _three_styles,
    ),
)
"""RewardBench (with its prior sets, whose prompts are conversations), RewardBench 2, RM-Bench."""
NAMES = tuple(layout.name for layout in LAYOUTS)


def read_benchmark(source: str | Path, name: str = "auto") -> tuple[str, list[Item]]:
    """Return the name and the items of a benchmark's file (Parquet, JSON, JSONL, CSV), or hub id.

    `name` is "auto", which goes by the columns, or one of `NAMES`. Raises LayoutError where the columns are those of no
    benchmark or not of the one named, DataError where a row is not what the benchmark defines.
    """
    found = open_source(str(source))
    table, label = found.table, found.label
    layout = _find(table, label, name)
    names = [*layout.columns, *(["id"] if "id" in table.column_names and "id" not in layout.columns else [])]
    read = pa.table([plain(table[column]) for column in names], names=names)
    items = []
    for i, row in enumerate(read.to_pylist()):
        empty = [column for column in layout.columns if row[column] is None]
        fault = f"no {empty[0]}" if empty else layout.fault(row)
        if fault:
            raise DataError(f"{label}, row {i}, read as {layout.name}: {fault}; leave the row out or mend it")
        items.append(_item(layout, row, i))
    if not items:
        raise DataError(f"{label} has no rows; expected the items of {layout.name}")
    return layout.name, items


def _item(layout: Layout, row: dict[str, Any], i: int) -> Item:
    prompt = row["prompt"]
    turns = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    right, wrong = ((value,) if isinstance(value, str) else tuple(value) for value in (row["chosen"], row["rejected"]))
    return Item(str(i if row.get("id") is None else row["id"]), str(row[layout.subset]), turns, right, wrong)


def _find(table: pa.Table, label: str, name: str) -> Layout:
    if name not in ("auto", *NAMES):
        raise LayoutError(f"no benchmark is called {name!r}; known are auto, {', '.join(NAMES)}")
    wanted = [layout for layout in LAYOUTS if name in ("auto", layout.name)]
    fitting = [layout for layout in wanted if not _misfit(layout, table)]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(table.column_names)
    if fitting:
        names = " and ".join(layout.name for layout in fitting)
        raise LayoutError(f"{label}: the columns {found} are those of {names}; name one with --benchmark")
    reasons = "; ".join(f"{layout.name}: {_misfit(layout, table)}" for layout in wanted)
    raise LayoutError(f"{label}: the columns {found} are those of no benchmark ({reasons}); rename or add them")


def _misfit(layout: Layout, table: pa.Table) -> str:
    names: Sequence[str] = table.column_names
    for column, kind in layout.columns.items():
        if column not in names:
            return f"there is no column {column}"
        if not kind.holds(table.schema.field(column).type):
            return f"column {column} should hold {kind.name}, found {table.schema.field(column).type}"
    others = [column for column in layout.without if column in names]
    return f"there is a column {others[0]}" if others else ""
