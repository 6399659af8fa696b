"""Conversations that a CSV file, a data frame or another table holds as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from labeling.errors import RowError, WeakprefWarning
from labeling.read import read_pairs


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["json", "repr"])
def test_conversations_in_a_csv_are_conversations_again(tmp_path: Path, write: Callable[[object], str]) -> None:
    turns = [{"role": "system", "content": 'Be "kind".'}, {"role": "user", "content": "Hi,\nit's me"}]
    rows = [{"prompt": turns[i:], "response_a": "a", "response_b": "b", "gold": 1.0} for i in range(2)]
    pd.DataFrame(rows).assign(prompt=[write(row["prompt"]) for row in rows]).to_csv(tmp_path / "chat.csv", index=False)
    assert read_pairs(tmp_path / "chat.csv").pair_ids.tolist() == read_pairs(pd.DataFrame(rows)).pair_ids.tolist()


def test_conversations_written_as_text_are_conversations_in_every_kind_of_table(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Hi"}
    sides = {side: [asked, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    expected = read_pairs(pd.DataFrame([sides])).pair_ids.tolist()
    text = pd.DataFrame([{side: json.dumps(turns) for side, turns in sides.items()}])
    text.to_json(tmp_path / "text.jsonl", orient="records", lines=True)
    text.to_parquet(tmp_path / "text.parquet")
    large = pa.table({name: pa.array(text[name], pa.large_string()) for name in text})
    for source in (text, tmp_path / "text.jsonl", tmp_path / "text.parquet", large):
        assert read_pairs(source).pair_ids.tolist() == expected


def test_conversations_in_a_csv_that_cannot_be_read_are_bad_rows(tmp_path: Path) -> None:
    turns = '[{"role": "user", "content": "%s"}]'
    prompts = [
        turns % "Hi",
        "[{'role': 'user', 'con",
        "",
        turns % r"\ud800",
        turns % "x",
        '[{"role": "user", "content": null}]',
    ]
    rows = pd.DataFrame({"prompt": prompts, "response_a": [*"abcdef"], "response_b": [*"ghijkl"]})
    rows.assign(extra="[{'role': 'x'}\n {'role': 'y'}]").to_csv(tmp_path / "chat.csv", index=False)
    with pytest.raises(RowError, match="no conversation, neither as JSON nor as Python"):
        read_pairs(tmp_path / "chat.csv")
    with pytest.warns(WeakprefWarning, match="left out 4 bad rows"):
        found = read_pairs(tmp_path / "chat.csv", on_bad_rows="drop")
    assert [pair.messages[0]["content"] for pair in found] == ["Hi", "x"]


def test_a_text_that_looks_like_a_conversation_among_others_stays_text(tmp_path: Path) -> None:
    texts = ["[{'role': 'user', 'content': 'Hi'}] in Python?", "Hi"]
    rows = pd.DataFrame({"prompt": texts, "response_a": ["a", "b"], "response_b": ["b", "a"]})
    rows.to_csv(tmp_path / "text.csv", index=False)
    assert [pair.prompt for pair in read_pairs(tmp_path / "text.csv")] == texts


def test_responses_that_are_written_conversations_stay_texts() -> None:
    chat = json.dumps([{"role": "user", "content": "Hi"}])
    rows = pd.DataFrame({"prompt": ["Write a chat."], "response_a": [chat], "response_b": [chat + "!"]})
    assert next(iter(read_pairs(rows))).response_a == chat
