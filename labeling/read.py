"""Reading preference pairs: any known source and layout in, checked `Pairs` out."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeling import layouts
from labeling.errors import DataError, WeakprefWarning
from labeling.pairs import MAX_CHARS, Pairs
from labeling.rows import BadRow, Converted, check
from labeling.sources import Source, open_source
from labeling.values import without_broken_text

TOPICS = ("label", "labels")
"""Names of those that, as texts, may say something else."""
LABELS = ("gold", "label", "labels", "preference", "preferred", "winner", "winner_model_a")
"""Names, in any case, under which other data have what is read from `gold`."""


def read_pairs(
    source: object,
    *,
    layout: str | None = None,
    name: str | None = None,
    on_bad_rows: Literal["error", "drop"] = "error",
    max_chars: int = MAX_CHARS,
) -> Pairs:
    """Read preference pairs and check every row; `Pairs` are returned as they are.

    `source` is a path (.parquet, .jsonl, .jsonl.gz, .json, .csv, a folder of Parquet files), a hub id (`owner/name`,
    its split `train`), a pandas DataFrame, a pyarrow Table or a `datasets.Dataset`. Its layout is recognised by the
    columns (`layouts.LAYOUTS`), or named by `layout`. Where a layout names a winner, which response becomes A is drawn
    by a content hash. `name` becomes the pairs' `source` where no column says it (else: the file's stem, or hub id).

    Rows that cannot be used (`rows.check`) raise, or are left out, counted in `Pairs.dropped`, with a WeakprefWarning.
    A response may have `max_chars` characters. Of duplicates with different gold the first is kept with the mean gold.

    Raises DataError (no such file, empty, truncated, hub out of reach), LayoutError (columns), RowError (rows).

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"prompt": ["Hi"], "response_a": ["Hello!"], "response_b": ["What?"], "gold": [1.0]})
    >>> read_pairs(frame).gold
    array([1.])
    """
    if isinstance(source, Pairs):
        return source
    if on_bad_rows not in ("error", "drop"):
        raise DataError(f"on_bad_rows must be 'error' or 'drop', found {on_bad_rows!r}")
    found = open_source(source)
    converted = _convert(found, layouts.find(found.table, found.label, layout))
    named = _name_source(converted, found.stem if name is None else name)
    table, dropped = check(named, on_bad_rows=on_bad_rows, max_chars=max_chars, label=found.label)
    return Pairs(table, dropped)


def _convert(found: Source, layout: layouts.Layout) -> Converted:
    """Convert the rows whose text can be read; the others are bad already."""
    used = [name for name in found.table.column_names if name in layout.columns or name in layout.optional]
    table, broken = without_broken_text(found.table.select(used))
    bad = [row for row in (*found.bad, *broken) if row.column in used]
    keep = np.ones(table.num_rows, dtype=np.bool_)
    keep[[row.row for row in bad]] = False
    rows = np.flatnonzero(keep)
    _warn_of_unread_labels(found, layout)
    plain = pa.table([layouts.plain(column) for column in table.columns], names=used)
    made = layout.convert(plain.filter(pa.array(keep)))
    unusable = [BadRow(int(rows[row.row]), row.column, row.reason, row.detail) for row in made.bad]
    once = {row.row: row for row in bad}
    return Converted(made.table, rows[made.rows], [*once.values(), *unusable])


def _warn_of_unread_labels(found: Source, layout: layouts.Layout) -> None:
    """Warn where no label is read from a column that is called as labels often are: all rows would count as labelled,
    or none."""
    names = found.table.column_names
    unread = [name for name in names if name.lower() in LABELS and name not in layout.optional | layout.columns]
    said = [name for name in unread if not (name.lower() in TOPICS and layouts.is_text(found.table[name].type))]
    if layout.name != "canonical" and said:
        warnings.warn(
            f"{found.label}: the layout {layout.name} says itself which response is preferred, so {', '.join(said)} is "
            "not read, and every row counts as labelled; put rows without a label, and ties, into the canonical layout "
            "(prompt, response_a, response_b, and gold = P(A preferred), null where there is no label), or drop it",
            WeakprefWarning,
            stacklevel=4,
        )
    elif layout.name == "canonical" and "gold" not in names and unread:
        warnings.warn(
            f"{found.label}: no label is read: expected a column gold, P(A preferred), and found {', '.join(unread)}, "
            "which is not read; write gold = 1 where A is preferred, 0 where B is, 0.5 for a tie",
            WeakprefWarning,
            stacklevel=3,
        )


def _name_source(converted: Converted, name: str) -> Converted:
    table = converted.table
    column = pc.fill_null(table["source"], name)
    return Converted(
        table.set_column(table.schema.get_field_index("source"), "source", column), converted.rows, converted.bad
    )
