"""`weakpref evaluate`: which columns of a file the pairs are measured by."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.commands import Reading
from augment.evaluating import MOST_VALUES, columns_of
from labeling.errors import DataError


def written(folder: Path, origin: list[str]) -> str:
    columns = {
        "prompt": [f"Why {i}?" for i in range(len(origin))],
        "response_a": ["Because."] * len(origin),
        "response_b": ["No idea."] * len(origin),
        "origin": origin,
    }
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    return str(folder / "pairs.parquet")


def test_origin_is_measured_by_unasked(tmp_path: Path) -> None:
    path = written(tmp_path, ["gold", "weak", "gold"])
    assert columns_of(path, Reading()(path), Reading(), []) == {"origin": ["gold", "weak", "gold"]}


def test_an_origin_of_too_many_values_is_an_error_only_where_it_was_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, [str(i) for i in range(MOST_VALUES + 1)])
    pairs = Reading()(path)
    assert columns_of(path, pairs, Reading(), []) == {}
    with pytest.raises(DataError, match="column origin has 1,001 values, expected at most 1000: choose another"):
        columns_of(path, pairs, Reading(), ["origin"])
