from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labeling.errors import DataError
from labeling.pairs import prompt_id
from rm.data import training_files
from rm.sources import MixedPairs, input_hashes

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
Write = Callable[..., Path]
Tokenised = Callable[..., MixedPairs]


def test_a_folder_is_read_shard_by_shard(
    tmp_path: Path, universal: Write, conversations: Rows, tokenised: Tokenised
) -> None:
    (tmp_path / "data").mkdir()
    for i in range(2):
        universal(conversations(3), f"data/train-0000{i}-of-00002.parquet", weight=[1.0] * 3, source=["x"] * 3)
    assert len(tokenised(tmp_path)) == 6


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_data_says_what_it_looked_for(tmp_path: Path, made: bool) -> None:
    with pytest.raises(DataError, match="expected a Parquet file or a folder written by `weakpref export`, found"):
        training_files(tmp_path if made else tmp_path / "nowhere")


def test_rows_without_weight_are_skipped_and_counted(
    universal: Write, conversations: Rows, tokenised: Tokenised
) -> None:
    pairs = tokenised(universal(conversations(3), weight=[1.0, 0.0, 0.5], p_chosen=[0.9, 0.5, 0.6]))
    assert [pairs[i]["p_chosen"] for i in range(len(pairs))] == [0.9, 0.6]
    assert pairs.counts.skipped_zero_weight == 1
    with pytest.raises(DataError, match="none of 2 rows has a positive weight"):
        tokenised(universal(conversations(2), weight=[0.0, 0.0]))


def test_prompt_hashes_are_those_of_the_pairs(universal: Write, conversations: Rows, tokenised: Tokenised) -> None:
    rows = conversations(3)
    assert tokenised(universal(rows)).prompts() == sorted({prompt_id(prompt) for prompt, _, _ in rows})


def test_gold_rows_weigh_as_many_times_as_asked(universal: Write, conversations: Rows, tokenised: Tokenised) -> None:
    data = universal(conversations(4), origin=["gold", "weak", None, "gold"], weight=[1.0, 0.5, 0.5, 0.0])
    pairs = tokenised(data, gold_weight=4.0)
    assert [pairs[i]["weight"] for i in range(len(pairs))] == [4.0, 0.5, 0.5]
    assert (pairs.counts.gold, pairs.counts.skipped_zero_weight) == (1, 1)


def test_gold_that_is_to_weigh_more_but_is_not_there_is_an_error(
    universal: Write, conversations: Rows, tokenised: Tokenised
) -> None:
    with pytest.raises(DataError, match=r"gold_weight is 2\.0, but no row with a positive weight has origin gold"):
        tokenised(universal(conversations(2)), gold_weight=2.0)


def test_sets_follow_one_another_and_are_sampled_by_their_share(
    universal: Write, conversations: Rows, tokenised: Tokenised, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = conversations(9)
    first, second = universal(rows[:6], "first.parquet"), universal(rows[6:], "second.parquet")
    pairs, whole = tokenised(first, second, mix=(0.25, 0.75)), tokenised(universal(rows))
    assert pairs.mixture.drawn == (2, 7)
    for i in range(9):
        assert pairs[i]["chosen"].tolist() == whole[i]["chosen"].tolist()
    np.testing.assert_array_equal(pairs.lengths, whole.lengths)
    assert len(pairs.sample()) == 18
    monkeypatch.setattr("rm.sources.SAMPLE", 4)
    drawn = {turns[0]["content"] for turns in pairs.sample()}
    of_first = drawn & {row[0][0]["content"] for row in rows[:6]}
    assert (len(of_first), len(drawn)) == (1, 4)
    assert set(input_hashes([first, second])) == {"first.parquet/first.parquet", "second.parquet/second.parquet"}


def test_labels_are_counted_by_origin(universal: Write, conversations: Rows, tokenised: Tokenised) -> None:
    origins = ["gold", "weak", None, "gold", "self"]
    data = universal(conversations(5), origin=origins, weight=[1.0, 1.0, 1.0, 0.0, 1.0])
    assert tokenised(data).origins() == {"gold": 1, "self": 1, "unknown": 1, "weak": 1}
    assert tokenised(data, data).origins() == {"gold": 2, "self": 2, "unknown": 2, "weak": 2}
