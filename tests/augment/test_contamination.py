"""Contamination: word sequences shared with held-out prompts, counted exactly, reported, and refused over a limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.contamination import contamination, words
from augment.generation_commands import Prompting
from labeling.errors import DataError

HELD_OUT = [
    "Explain to a child of ten why the sea is salt and rivers are not.",
    "What is the capital of France?",
    "Explain to a child of ten why the sky is blue at noon.",
]


def test_the_share_of_a_prompt_is_that_of_its_word_sequences_found_in_held_out_prompts():
    prompts = [
        HELD_OUT[0].upper(),
        "Please explain to a child of ten why the sky is blue at noon, but red at night.",
        "Name a good book about salt and rivers for a child of ten years.",
    ]
    found = contamination(prompts, HELD_OUT)
    assert found.shares.tolist() == [1.0, pytest.approx(6 / 11), 0.0]
    assert found.nearest.tolist() == [0, 2, -1]


def test_a_prompt_shorter_than_the_sequence_must_be_the_same_throughout():
    found = contamination(["what is the capital of france", "What is the capital?", "?!", ""], HELD_OUT)
    assert found.shares.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_words_of_scripts_without_spaces_are_their_characters():
    assert words("Ein Café, 3 Straßen: 大海!") == ["ein", "café", "3", "straßen", "大", "海"]
    held_out = ["请写一首关于大海和月亮的诗"]
    assert contamination(["你好。请写一首关于大海和月亮的诗吧"], held_out).shares[0] == pytest.approx(6 / 9)


@given(st.lists(st.text("ab ", max_size=30), min_size=1, max_size=5), st.integers(1, 4))
def test_a_held_out_prompt_is_wholly_contaminated_and_order_does_not_matter(held_out, n_words):
    found = contamination(held_out, held_out[::-1], n_words=n_words)
    assert found.shares.tolist() == [float(bool(words(text))) for text in held_out]


def test_the_report_names_the_worst_and_is_json():
    found = contamination([HELD_OUT[1], "Something else entirely.", HELD_OUT[2] + " Please."], HELD_OUT)
    report = json.loads(json.dumps(found.report(0.9)))
    assert (report["n_words"], report["n_prompts"], report["n_held_out"]) == (8, 3, 3)
    assert (report["n_touched"], report["n_over_limit"]) == (2, 1)
    assert report["worst"][0] == {"row": 0, "share": 1.0, "held_out_row": 1}
    assert [row["row"] for row in report["worst"]] == [0, 2]


def test_over_the_limit_the_worst_prompt_is_named():
    found = contamination(["Something else.", HELD_OUT[2]], HELD_OUT)
    found.check(1.0)
    words = (
        r"1 of 2 prompts share more than 50% of their 8-word .* the worst is row 1 \(100%, held-out row 2\): 'Explain"
    )
    with pytest.raises(DataError, match=words):
        found.check(0.5)


@pytest.mark.parametrize("limit", [50.0, -1.0, float("nan")])
def test_a_limit_that_is_no_share_does_not_switch_the_check_off(limit):
    found = contamination(["the very same words"], ["the very same words"])
    with pytest.raises(DataError, match=r"expected a share in \[0, 1\]"):
        found.check(limit)
    with pytest.raises(DataError, match=r"expected a share in \[0, 1\]"):
        Prompting(held_out=Path("x"), max_overlap=limit)
    with pytest.raises(DataError, match="--max-overlap does nothing without --held-out"):
        Prompting(max_overlap=0.1)


def test_nothing_held_out_is_an_error_and_no_prompts_are_not():
    with pytest.raises(DataError, match="0 held-out prompts; expected 1 or more"):
        contamination(["a"], [])
    with pytest.raises(DataError, match="n_words is 0"):
        contamination(["a"], ["b"], n_words=0)
    assert contamination([], ["b"]).report(0.5)["mean_share"] == 0.0
