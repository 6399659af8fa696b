from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.errors import DataError
from labeling.pairs import prompt_id
from rm.data import Collator, LengthGrouped, PairDataset, prompt_ids, read_training, tokenise, truncate
from rm.model import load_base
from rm.provenance import label_origins

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
Write = Callable[..., Path]


def test_missing_columns_of_soft_labels_mean_certainty_and_equal_weight(universal: Write, conversations: Rows) -> None:
    training = read_training(universal(conversations(3)))
    assert training.table["p_chosen"].to_pylist() == training.table["weight"].to_pylist() == [1.0, 1.0, 1.0]


def test_a_missing_value_means_certainty(universal: Write, conversations: Rows) -> None:
    training = read_training(universal(conversations(2), p_chosen=[0.7, None]))
    assert training.table["p_chosen"].to_pylist() == [0.7, 1.0]


def test_rows_without_weight_are_skipped_and_counted(universal: Write, conversations: Rows) -> None:
    training = read_training(universal(conversations(3), weight=[1.0, 0.0, 0.5], p_chosen=[0.9, 0.5, 0.6]))
    assert training.table["p_chosen"].to_pylist() == [0.9, 0.6]
    assert training.n_unweighted == 1


def test_a_folder_is_read_shard_by_shard(tmp_path: Path, universal: Write, conversations: Rows) -> None:
    (tmp_path / "data").mkdir()
    for i in range(2):
        universal(conversations(3), f"data/train-0000{i}-of-00002.parquet", weight=[1.0] * 3, source=["x"] * 3)
    assert len(read_training(tmp_path).table) == 6


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"p_chosen": [0.7, 1.2]}, r"p_chosen is 1.2 in row 1, expected a probability in \[0, 1\]"),
        ({"p_chosen": [float("nan"), 1.0]}, "p_chosen is nan in row 0"),
        ({"weight": [-1.0, 1.0]}, "weight is -1.0 in row 0, expected a finite number of 0 or more"),
        ({"weight": [0.0, 0.0]}, "none of 2 rows has a positive weight"),
        ({"p_chosen": ["yes", "no"]}, "p_chosen is string, expected numbers"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    universal: Write, conversations: Rows, columns: dict[str, list[float]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read_training(universal(conversations(2), **columns))


def test_missing_conversations_are_named_with_what_was_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "chosen": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column rejected missing, found prompt, chosen"):
        read_training(tmp_path / "x.parquet")


def test_plain_text_is_no_conversation(tmp_path: Path) -> None:
    pq.write_table(pa.table({"chosen": ["a"], "rejected": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="chosen is string, expected whole conversations"):
        read_training(tmp_path / "x.parquet")


def test_a_conversation_must_end_in_a_response(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "Hi"}]]
    pq.write_table(pa.table({"chosen": turns, "rejected": turns}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="chosen in row 0 does not end in an assistant's turn"):
        read_training(tmp_path / "x.parquet")


def test_a_null_content_is_named(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]]
    pq.write_table(pa.table({"chosen": turns, "rejected": turns}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="chosen in row 0 has a turn without role or content"):
        read_training(tmp_path / "x.parquet")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"x\.parquet is not a readable Parquet file"):
        read_training(tmp_path / "x.parquet")


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_data_says_what_it_looked_for(tmp_path: Path, made: bool) -> None:
    with pytest.raises(DataError, match="expected a Parquet file or a folder written by `weakpref export`, found"):
        read_training(tmp_path if made else tmp_path / "nowhere")


def test_prompt_hashes_are_those_of_the_pairs(universal: Write, conversations: Rows) -> None:
    rows = conversations(3)
    assert prompt_ids(read_training(universal(rows)).table) == sorted({prompt_id(prompt) for prompt, _, _ in rows})


def test_an_over_long_conversation_keeps_cls_and_the_end_of_the_response(tiny: str, conversations: Rows) -> None:
    _, tokenizer = load_base(tiny, 128)
    prompt, response, _ = conversations(1)[0]
    turns = [[*prompt, {"role": "assistant", "content": response}]]
    whole, cut = tokenise(tokenizer, turns, 128), tokenise(tokenizer, turns, 8)
    assert not whole.truncated.any()
    assert cut.truncated.all()
    assert cut.ids[0].tolist() == [whole.ids[0][0], *whole.ids[0][-7:]]
    assert truncate([5, 6, 7], 2, tokenizer) == [6, 7]


def test_chosen_comes_first_and_padding_is_masked(tiny: str, universal: Write, conversations: Rows) -> None:
    _, tokenizer = load_base(tiny, 128)
    rows = conversations(3)
    dataset = PairDataset(tokenizer, read_training(universal(rows, p_chosen=[0.6, 0.7, 0.8])).table, 128)
    batch = Collator(tokenizer.pad_token_id)([dataset[i] for i in range(3)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (6, dataset.lengths.max())
    assert batch["p_chosen"].tolist() == pytest.approx([0.6, 0.7, 0.8])
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    assert batch["attention_mask"].sum(1).tolist() == [len(ids) for ids in dataset.chosen + dataset.rejected]
    assert tokenizer.decode(batch["input_ids"][1]).startswith("[CLS]")


@pytest.mark.parametrize("n", [3, 16, 100, 1000])
def test_an_epoch_holds_every_pair_once_in_an_order_of_its_own(n: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, n)
    sampler = LengthGrouped(lengths, 16, seed=0)
    first = list(sampler)
    assert first == list(sampler)
    assert sorted(first) == list(range(n))
    sampler.set_epoch(1)
    assert n <= 16 or list(sampler) != first


def test_an_incomplete_step_comes_last_and_shifts_no_other() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 100)
    order = np.array(list(LengthGrouped(lengths, 16, seed=0)))
    for step in np.split(order[:96], 6):
        assert (np.diff(lengths[step]) >= 0).all()


def test_grouping_leaves_less_padding_than_chance() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1600)
    longest = [lengths[rows].max() for rows in np.split(np.array(list(LengthGrouped(lengths, 16, seed=0))), 100)]
    assert np.mean(longest) < 60 < lengths[:16].max()


def test_gold_rows_weigh_as_many_times_as_asked(universal: Write, conversations: Rows) -> None:
    data = universal(conversations(4), origin=["gold", "weak", None, "gold"], weight=[1.0, 0.5, 0.5, 0.0])
    training = read_training(data, gold_weight=4.0)
    assert training.table["weight"].to_pylist() == [4.0, 0.5, 0.5]
    assert (training.n_gold, training.n_unweighted) == (1, 1)


def test_gold_that_is_to_weigh_more_but_is_not_there_is_an_error(universal: Write, conversations: Rows) -> None:
    with pytest.raises(DataError, match=r"gold_weight is 2\.0, but no row with a positive weight has origin gold"):
        read_training(universal(conversations(2)), gold_weight=2.0)


def test_labels_are_counted_by_origin(universal: Callable[..., Path], conversations: Rows) -> None:
    origins = ["gold", "weak", None, "gold", "self"]
    table = read_training(universal(conversations(5), origin=origins, weight=[1.0, 1.0, 1.0, 0.0, 1.0])).table
    assert label_origins(table) == {"gold": 1, "self": 1, "unknown": 1, "weak": 1}
