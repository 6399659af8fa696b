"""`weakpref new-prompts`: over HTTP, within limits, and where nothing new is found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai  # noqa: F401  (slow to import: not on the first test's time)
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"prompt": [f"Name a colour, number {i}." for i in range(6)]}), "prompts.parquet")
    return tmp_path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def counts(name):
    return json.loads(Path(f"{name}.manifest.json").read_text())["counts"]


@pytest.mark.slow
def test_new_prompts_are_written_with_what_was_left_out_and_why(folder, server, over_http, capsys):
    three = " Task 1: Tell me {0} {1} things.\nTask 2: Draw it now for {0}.\nTask 3: No."
    server.says = lambda content, seed: three.format(seed, seed + 1)
    grow = ["new-prompts", "prompts.parquet", "-o", "new.parquet", *over_http, "-n", "5", "--batch", "2"]
    assert run(*grow, "--dry-run") == 0
    assert re.search(r"^requests +22 ", capsys.readouterr().out, re.MULTILINE)
    assert run(*grow, "--cache", "answers") == 0
    assert "5 of 5 new prompts from 6 seeds, 6 requests; left out" in capsys.readouterr().out
    made = counts("new.parquet")
    assert made["requests"] == len(server.requests) == 6
    assert made["left_out"] == {"a keyword": 4, "enough were found before": 5, "under 4 words": 4}
    assert run("generate", "new.parquet", "-o", "out.parquet", *over_http, "-n", "1") == 0
    assert counts("out.parquet")["n_candidates"] == 5


def test_new_prompts_stop_at_a_limit_and_go_on_to_the_same_bytes(folder, server, over_http):
    server.says = lambda content, seed: f" Tell me {seed} {seed + 1} things."
    grow = ["new-prompts", "prompts.parquet", *over_http, "-n", "9", "--batch", "3", "-o"]
    assert run(*grow, "straight.parquet") == 0
    server.requests.clear()
    assert run(*grow, "new.parquet", "--cache", "answers", "--max-requests", "4") == 3
    assert run(*grow, "new.parquet", "--cache", "answers") == 0
    assert len(server.requests) == 9
    for end in ("", ".manifest.json"):
        assert Path(f"new.parquet{end}").read_bytes() == Path(f"straight.parquet{end}").read_bytes()


def test_where_nothing_new_is_found_nothing_is_written(folder, server, over_http, capsys):
    server.says = lambda content, seed: "No."
    grow = ["new-prompts", "prompts.parquet", "-o", "new.parquet", *over_http, "-n", "1", "--batch", "2"]
    assert run(*grow) == 2
    assert "no new prompt was kept of 6 requests" in capsys.readouterr().err
    assert not Path("new.parquet").exists()
