"""Rows that cannot be used are named, or left out and counted."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyarrow as pa
import pytest

from labeling.errors import RowError, WeakprefWarning
from labeling.pairs import SCHEMA, Pairs
from labeling.read import read_pairs

INPUT = SCHEMA.remove(0)
FINE: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "Hi"}],
    "response_a": "Hello!",
    "response_b": "What?",
    "gold": 1.0,
    "annotator_votes": [1.0, 1.0],
}
OTHER = FINE | {"prompt": [{"role": "user", "content": "Bye"}]}


def turn(role: str | None, content: str | None) -> list[dict[str, str | None]]:
    return [{"role": role, "content": content}]


BROKEN = [
    ({"response_a": None}, "response_a", "null response"),
    ({"response_b": None}, "response_b", "null response"),
    ({"response_b": ""}, "response_b", "empty response"),
    ({"response_a": " \n\t"}, "response_a", "empty response"),
    ({"response_a": "a\0b"}, "response_a", "NUL character"),
    ({"response_b": "x" * 1_000_000}, "response_b", "response over 500,000 characters"),
    ({"response_a": "same", "response_b": "same"}, "response_a and response_b", "identical responses"),
    ({"prompt": None}, "prompt", "null prompt"),
    ({"prompt": []}, "prompt", "empty prompt"),
    ({"prompt": turn("user", " ")}, "prompt", "empty prompt"),
    ({"prompt": turn("user", None)}, "prompt", "message without content"),
    ({"prompt": turn(None, "Hi")}, "prompt", "message without a role"),
    ({"prompt": [None]}, "prompt", "message without a role"),
    ({"prompt": turn("", "Hi")}, "prompt", "message without a role"),
    ({"prompt": turn("user", "H\0i")}, "prompt", "NUL character"),
    ({"gold": 1.5}, "gold", "label outside [0, 1] (found 1.5)"),
    ({"gold": -1.0}, "gold", "label outside [0, 1] (found -1.0)"),
    ({"gold": math.inf}, "gold", "label outside [0, 1] (found inf)"),
    ({"annotator_votes": [1.0, 2.0]}, "annotator_votes", "vote outside [0, 1] (found [1.0, 2.0])"),
    ({}, "response_a and response_b", "duplicate pair (the same as row 0)"),
    (
        {"response_a": FINE["response_b"], "response_b": FINE["response_a"], "gold": 0.0},
        "response_a and response_b",
        "duplicate pair (the same as row 0)",
    ),
]


def read(rows: list[dict[str, Any]], **options: Any) -> Pairs:
    return read_pairs(pa.Table.from_pylist(rows, schema=INPUT), **options)


@pytest.mark.parametrize(("change", "column", "reason"), BROKEN)
def test_a_bad_row_is_named_with_its_column_reason_and_the_way_out(
    change: dict[str, Any], column: str, reason: str
) -> None:
    with pytest.raises(RowError) as error:
        read([FINE, OTHER, FINE | change])
    text = str(error.value)
    assert f"row 2, column {column}: {reason}; 1 bad row in all: 1 {reason.split(' (')[0]}" in text
    assert 'on_bad_rows="drop" (command line: --drop-bad-rows)' in text


@pytest.mark.parametrize(("change", "column", "reason"), BROKEN)
def test_a_bad_row_can_be_dropped_and_is_counted(change: dict[str, Any], column: str, reason: str) -> None:
    kind = reason.split(" (")[0]
    with pytest.warns(WeakprefWarning) as seen:
        pairs = read([FINE, OTHER, FINE | change], on_bad_rows="drop")
    assert pairs.dropped == {kind: 1}
    assert (
        pairs.table.drop_columns("pair_id").to_pylist() == read([FINE, OTHER]).table.drop_columns("pair_id").to_pylist()
    )
    assert f"left out 1 bad row, kept 2 pairs: 1 {kind}" in str(seen[0].message)


def test_null_prompts_among_others_are_dropped_and_counted() -> None:
    rows = [
        FINE | {"response_a": f"Hello {i}!", "prompt": None if i % 2 else turn("user", f"Hi {i}")} for i in range(6)
    ]
    with pytest.warns(WeakprefWarning, match="left out 3 bad rows, kept 3 pairs: 3 null prompt"):
        pairs = read(rows, on_bad_rows="drop")
    assert [turns[0]["content"] for turns in pairs.table["prompt"].to_pylist()] == ["Hi 0", "Hi 2", "Hi 4"]


def test_the_first_bad_row_is_named_and_each_kind_counted() -> None:
    rows = [FINE, OTHER, OTHER, FINE | {"response_a": ""}, FINE | {"response_b": ""}, FINE | {"response_b": None}]
    with pytest.raises(RowError, match=r"row 2, .*: duplicate pair.* 4 bad rows in all: 1 duplicate pair, 2 empty"):
        read(rows)


def test_rows_are_numbered_as_they_were_read_also_after_others_went() -> None:
    broken = [FINE | {"response_a": ""}, FINE, FINE]
    with pytest.warns(WeakprefWarning):
        assert read([*broken, OTHER], on_bad_rows="drop").dropped == {"duplicate pair": 1, "empty response": 1}
    with pytest.raises(RowError, match="row 0, column response_a"):
        read(broken)


def test_bad_rows_are_found_in_every_chunk() -> None:
    chunks = [pa.Table.from_pylist([row], schema=INPUT) for row in (FINE, OTHER, FINE | {"gold": 3.0})]
    with pytest.raises(RowError, match="row 2, column gold"):
        read_pairs(pa.concat_tables(chunks))


def test_a_slice_is_checked_by_its_own_rows() -> None:
    rows = [FINE | {"prompt": []}, OTHER, FINE | {"annotator_votes": [9.0]}]
    assert len(read_pairs(pa.Table.from_pylist(rows, schema=INPUT).slice(1, 1))) == 1
    with pytest.raises(RowError, match="row 1, column annotator_votes"):
        read_pairs(pa.Table.from_pylist(rows, schema=INPUT).slice(1))


def test_nothing_left_is_an_error_even_when_dropping() -> None:
    with pytest.raises(RowError, match="no usable row is left"):
        read([FINE | {"response_a": ""}], on_bad_rows="drop")


def test_max_chars_is_a_limit_that_may_be_reached() -> None:
    assert len(read([FINE], max_chars=len(FINE["response_a"]))) == 1
    with pytest.raises(RowError, match="response over 5 characters"):
        read([FINE], max_chars=5)


def test_an_empty_turn_within_a_dialogue_is_allowed() -> None:
    dialogue = [*turn("user", "Hi"), *turn("assistant", ""), *turn("user", "Hello?")]
    assert read([FINE | {"prompt": dialogue}]).table["prompt"].to_pylist() == [dialogue]


@pytest.mark.parametrize("gold", [None, math.nan])
def test_a_missing_label_is_null(gold: float | None) -> None:
    pairs = read([FINE | {"gold": gold, "annotator_votes": [None, math.nan, 1.0]}])
    assert pairs.table["gold"].null_count == 1
    assert pairs.table["annotator_votes"].to_pylist() == [[None, None, 1.0]]
    assert math.isnan(pairs.gold[0])


def swapped(row: dict[str, Any], gold: float | None, votes: list[float] | None = None) -> dict[str, Any]:
    return row | {
        "response_a": row["response_b"], "response_b": row["response_a"], "gold": gold, "annotator_votes": votes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("again", "gold", "votes"),
    [
        (FINE, 1.0, [1.0, 1.0]),
        (swapped(FINE, 0.0), 1.0, [1.0, 1.0]),
        (swapped(FINE, 1.0, [1.0, 0.5]), 0.5, [1.0, 1.0, 0.0, 0.5]),
        (FINE | {"gold": 0.0, "annotator_votes": None}, 0.5, [1.0, 1.0]),
        (FINE | {"gold": None, "annotator_votes": None}, 1.0, [1.0, 1.0]),
    ],
)
def test_the_labels_of_duplicates_are_merged_in_the_orientation_of_the_first(
    again: dict[str, Any], gold: float, votes: list[float]
) -> None:
    with pytest.warns(WeakprefWarning) as seen:
        pairs = read([OTHER, FINE, again], on_bad_rows="drop")
    assert pairs.table["response_a"].to_pylist()[1] == FINE["response_a"]
    assert pairs.gold.tolist() == [1.0, gold]
    assert pairs.table["annotator_votes"].to_pylist()[1] == votes
    assert ("now have the mean of all" in str(seen[0].message)) == (gold == 0.5)


def test_an_unlabelled_first_duplicate_gets_the_label_of_the_second() -> None:
    with pytest.warns(WeakprefWarning, match="left out 1 bad row"):
        pairs = read([FINE | {"gold": None, "annotator_votes": None}, swapped(FINE, 0.25)], on_bad_rows="drop")
    assert pairs.gold.tolist() == [0.75]


def test_the_same_responses_to_another_prompt_are_no_duplicate() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read([FINE, OTHER])) == 2
