"""`weakpref generate` and `weakpref pair`: from a file of prompts to pairs that voters can label."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from augment.generate import SCHEMA
from labeling import read_pairs
from labeling.pairs import prompt_id


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["Name a colour.", "Name a fruit that grows on trees.", "Name a fruit that grows on trees!"]
    pq.write_table(pa.table({"prompt": texts}), "prompts.parquet")
    return tmp_path


def write_candidates(path, scores=None):
    prompt = [{"role": "user", "content": "Name a colour."}]
    row = dict.fromkeys(SCHEMA.names) | {"prompt": prompt, "prompt_id": prompt_id(prompt), "model": "m@1"}
    rows = [row | {"sample": i, "response": text} for i, text in enumerate(["Red.", "Blue, I think.", "A car."])]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table if scores is None else table.append_column("score", pa.array(scores)), path)


def test_all_candidates_of_a_prompt_are_paired(folder, capsys):
    write_candidates("candidates.parquet")
    assert main(["pair", "candidates.parquet", "-o", "pairs.parquet"]) == 0
    assert capsys.readouterr().out.startswith("pairs.parquet: 3 pairs of 1 prompts (all)")
    assert len(read_pairs("pairs.parquet")) == 3
    assert json.loads(Path("pairs.parquet.manifest.json").read_text())["counts"]["pairs"] == 3


def test_the_best_stands_against_the_worst_by_a_column_of_scores(folder):
    write_candidates("candidates.parquet", [0.5, 2.0, -1.0])
    assert main(["pair", "candidates.parquet", "-o", "p.parquet", "--scheme", "best-worst", "--score", "score"]) == 0
    (row,) = pq.read_table("p.parquet").to_pylist()
    assert {row["response_a"]: row["score_a"], row["response_b"]: row["score_b"]} == {
        "Blue, I think.": 2.0,
        "A car.": -1.0,
    }


def test_what_cannot_be_paired_or_answered_is_refused_in_one_line(folder, fails):
    write_candidates("candidates.parquet")
    asked = ["pair", "candidates.parquet", "-o", "pairs.parquet"]
    assert "has no column score of numbers" in fails(*asked, "--score", "score")
    assert "no pair could be made of 3 candidates" in fails(*asked, "--scheme", "two-models")
    assert "is also the input" in fails("pair", "candidates.parquet", "-o", "candidates.parquet")
    assert "-n is an option of --scheme random, not all; leave it out" in fails(*asked, "-n", "3")
    assert "--tier-share is an option of --scheme length-controlled" in fails(*asked, "--tier-share", "0.4")
    pq.write_table(pa.table({"text": ["Hi"]}), "texts.parquet")
    generate = ["generate", "texts.parquet", "-o", "out.parquet", "--model", "smollm2"]
    assert "expected a column prompt" in fails(*generate)
    generate[1] = "prompts.parquet"
    assert "expected" in fails(*generate, "--similar", "2")
    assert not Path("pairs.parquet").exists()
    assert not Path("out.parquet").exists()


def test_prompts_that_stand_in_an_evaluation_are_refused(folder, fails):
    text = "Name one fruit that grows on trees in the south of France."
    pq.write_table(pa.table({"prompt": [text]}), "same.parquet")
    asked = ["generate", "same.parquet", "-o", "out.parquet", "--model", "smollm2"]
    pq.write_table(pa.table({"prompt": [text, "Other."]}), "held_out.parquet")
    assert "held-out" in fails(*asked, "--held-out", "held_out.parquet")
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": said}] for said in ("Yes.", "No.")]
    pq.write_table(pa.table({"chosen": [turns[0]], "rejected": [turns[1]]}), "pairs_held_out.parquet")
    assert "held-out" in fails(*asked, "--held-out", "pairs_held_out.parquet")  # the prompt is in the conversations


@pytest.mark.slow
def test_smollm2_answers_a_file_of_prompts_and_the_answers_become_pairs(folder, smollm2_folder, capsys):
    options = ["--model", str(smollm2_folder), "-n", "2", "--max-tokens", "8", "--similar", "0.8", "--cache", "answers"]
    assert main(["generate", "prompts.parquet", "-o", "candidates.parquet", *options]) == 0
    assert "4 candidates for 2 of 3 prompts" in capsys.readouterr().out
    manifest = json.loads(Path("candidates.parquet.manifest.json").read_text())
    assert manifest["counts"]["sampling"]["model"].startswith("SmolLM2-135M-Instruct@")
    assert main(["pair", "candidates.parquet", "-o", "pairs.parquet"]) == 0
    assert 1 <= len(read_pairs("pairs.parquet")) <= 2
