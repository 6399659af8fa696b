from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.errors import DataError
from rm.data import CHUNK, pad, read_rows, shorten, tokenise, truncate
from rm.model import load_base

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
Write = Callable[..., Path]


def read(file: Path) -> pa.Table:
    return pa.concat_tables(read_rows(file))


def test_missing_columns_of_soft_labels_mean_certainty_and_equal_weight(universal: Write, conversations: Rows) -> None:
    table = read(universal(conversations(3)))
    assert table["p_chosen"].to_pylist() == table["weight"].to_pylist() == [1.0, 1.0, 1.0]


def test_a_missing_value_means_certainty(universal: Write, conversations: Rows) -> None:
    assert read(universal(conversations(2), p_chosen=[0.7, None]))["p_chosen"].to_pylist() == [0.7, 1.0]


def test_a_file_is_read_in_chunks_and_an_error_counts_all_rows(universal: Write, conversations: Rows) -> None:
    n = CHUNK + 3
    file = universal(conversations(2) * (n // 2) + conversations(1), p_chosen=[0.6] * (n - 1) + [2.0])
    with pytest.raises(DataError, match=f"p_chosen is 2.0 in row {n - 1}"):
        list(read_rows(file))
    assert len(next(iter(read_rows(file)))) == CHUNK


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"p_chosen": [0.7, 1.2]}, r"p_chosen is 1.2 in row 1, expected a probability in \[0, 1\]"),
        ({"p_chosen": [float("nan"), 1.0]}, "p_chosen is nan in row 0"),
        ({"weight": [-1.0, 1.0]}, "weight is -1.0 in row 0, expected a finite number of 0 or more"),
        ({"p_chosen": ["yes", "no"]}, "p_chosen is string, expected numbers"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    universal: Write, conversations: Rows, columns: dict[str, list[float]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read(universal(conversations(2), **columns))


def test_missing_conversations_are_named_with_what_was_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "chosen": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column rejected missing, found prompt, chosen"):
        read(tmp_path / "x.parquet")


def test_plain_text_is_no_conversation(tmp_path: Path) -> None:
    pq.write_table(pa.table({"chosen": ["a"], "rejected": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="chosen is string, expected whole conversations"):
        read(tmp_path / "x.parquet")


def test_a_conversation_must_end_in_a_response(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "Hi"}]]
    pq.write_table(pa.table({"chosen": turns, "rejected": turns}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="chosen in row 0 does not end in an assistant's turn"):
        read(tmp_path / "x.parquet")


def test_a_response_without_its_prompt_is_refused(tmp_path: Path) -> None:
    """The explicit layout of TRL's DPO keeps the prompt in a column of its own."""
    said = {name: [[{"role": "assistant", "content": name}]] for name in ("chosen", "rejected")}
    table = pa.table({"prompt": [[{"role": "user", "content": "Hi"}]], **said})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"chosen in row 0 is a response without its prompt: .* read_pairs and export"):
        read(tmp_path / "x.parquet")


def test_a_null_content_is_named(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]]
    pq.write_table(pa.table({"chosen": turns, "rejected": turns}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="chosen in row 0 has a turn without role or content"):
        read(tmp_path / "x.parquet")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"x\.parquet is not a readable Parquet file"):
        read(tmp_path / "x.parquet")


def test_an_over_long_conversation_keeps_cls_and_the_end_of_the_response(tiny: str, conversations: Rows) -> None:
    _, tokenizer = load_base(tiny, 128)
    prompt, response, _ = conversations(1)[0]
    turns = [[*prompt, {"role": "assistant", "content": response}]]
    whole, cut = tokenise(tokenizer, turns, 128), tokenise(tokenizer, turns, 8)
    assert not whole.truncated.any()
    assert cut.truncated.all()
    assert cut.ids[0].tolist() == [whole.ids[0][0], *whole.ids[0][-7:]]
    assert truncate([5, 6, 7], 2, tokenizer) == [6, 7]


@pytest.mark.parametrize("max_length", [4, 9, 12, 40])
def test_an_over_long_pair_loses_the_same_of_its_prompt_on_both_sides(tiny: str, max_length: int) -> None:
    _, tokenizer = load_base(tiny, 128)
    cls, prompt = tokenizer.cls_token_id, list(range(10, 20))
    chosen, rejected = [cls, *prompt, 31, 32, 33], [cls, *prompt, 41]
    first, second = shorten(chosen, rejected, max_length, tokenizer)
    assert max(len(first), len(second)) == min(max_length, len(chosen))
    assert first[0] == second[0] == cls
    assert list(first[-3:]) == chosen[-3:]
    assert second[-1] == 41
    assert list(first[1:-3]) == list(second[1:-1])


def test_a_response_that_is_too_long_by_itself_loses_its_beginning_and_the_other_keeps_all(tiny: str) -> None:
    _, tokenizer = load_base(tiny, 128)
    cls = tokenizer.cls_token_id
    first, second = shorten([cls, 10, 11, *range(30, 40)], [cls, 10, 11, 41, 42], 6, tokenizer)
    assert list(first) == [cls, *range(35, 40)]
    assert list(second) == [cls, 41, 42]


def test_padding_is_on_the_right_and_masked() -> None:
    batch = pad([np.array([5, 6, 7]), np.array([8])], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
