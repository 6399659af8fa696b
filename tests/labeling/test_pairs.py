"""Pairs: taking rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from labeling.errors import DataError, GoldError
from labeling.pairs import SCHEMA, Pairs


@pytest.fixture
def chunked() -> Pairs:
    """Ten pairs in four chunks, one of them empty."""
    row = {"prompt": [{"role": "user", "content": "Hi"}], "response_a": "a", "response_b": "b", "source": "made-up"}
    table = pa.Table.from_pylist([row | {"pair_id": str(i), "group": str(i)} for i in range(10)], schema=SCHEMA)
    return Pairs(pa.concat_tables([table[:3], table[3:4], table[4:4], table[4:]]), {})


@pytest.mark.parametrize("rows", [[], [7], [0, 3, 9], [9, 0, 3, 3, 8, 0, 2], list(range(10))])
def test_taking_rows_of_many_chunks_equals_taking_them_of_one(chunked: Pairs, rows: list[int]) -> None:
    glued = chunked.table.combine_chunks().take(pa.array(rows, pa.int64()))
    assert chunked.take(rows).table.equals(glued)
    mask = np.isin(np.arange(10), rows)
    assert chunked.take(mask).pair_ids.tolist() == [str(i) for i in sorted(set(rows))]


@pytest.mark.parametrize("row", [10, -1, -11])
def test_taking_a_row_that_is_not_there_raises(chunked: Pairs, row: int) -> None:
    with pytest.raises(DataError, match=f"row {row} is asked for, and rows are numbered 0 to 9"):
        chunked.take([row])


@pytest.mark.parametrize(
    ("gold", "says"),
    [
        ([5.0, 1.0, *[np.nan] * 8], r"gold is 5.0 in row 0 \(1 such rows\)"),
        ([np.nan, -1.0, *[1.0] * 8], r"gold is -1.0 in row 1"),
        ([1.0, np.inf, *[1.0] * 8], r"gold is inf in row 1"),
        ([1.0], r"gold has shape \(1,\); expected \(10,\)"),
    ],
)
def test_gold_that_is_no_probability_is_refused(chunked: Pairs, gold: list[float], says: str) -> None:
    with pytest.raises(GoldError, match=says):
        chunked.with_gold(gold)


@pytest.mark.parametrize("n", [0, 5, 11])
def test_a_mask_of_another_length_is_refused(chunked: Pairs, n: int) -> None:
    with pytest.raises(DataError, match=rf"a mask has shape \({n},\); expected \(10,\), one a pair"):
        chunked.take(np.ones(n, dtype=bool))
