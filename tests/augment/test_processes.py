"""Two processes train what one does: a loop's reward models and the policy of self-rewarding, over CPUs (gloo)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from augment import EvolveOptions, evolve
from augment.dpo import PolicyConfig
from augment.learning_status import Thresholds
from augment.self_iteration import PAIRS
from augment.self_labels import read_self_labels
from augment.self_reward import SelfReward
from augment.self_training import train_policy
from labeling import read_pairs, split_by_group
from labeling.errors import DataError, WeakprefError
from rm import RewardConfig
from tests.augment.test_evolve import frame

pytestmark = pytest.mark.slow


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    for name, weights in first.items():
        if name.endswith("key.bias"):  # adds the same to all scores: its gradient is rounding error, rescaled by AdamW
            continue
        np.testing.assert_allclose(weights, second[name], atol=2e-4, err_msg=name)  # one step moves a weight by 1e-3


def test_a_policy_trained_by_two_processes_is_that_of_one(policy_folder: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Name colour {i}."}], "prompt_id": str(i), "chosen": f"red {i}",
            "rejected": f"green, {i}", "score_chosen": 2.0, "score_rejected": 1.0, "chosen_ended": True,
            "rejected_ended": i != 2, "p_chosen": 0.6 + i / 10,
        }
        for i in range(4)
    ]  # fmt: skip
    config = PolicyConfig(learning_rate=3e-3, max_steps=2, batch_size=2, gradient_accumulation=1)
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), folder / "pairs.parquet")
        train_policy(folder, policy_folder, replace(config, batch_size=2 // processes), processes)
        assert json.loads((folder / "training.json").read_text())["steps"] == 2
    assert_same_weights(tmp_path / "1" / "model", tmp_path / "2" / "model")
    with pytest.raises(AssertionError):
        assert_same_weights(policy_folder, tmp_path / "2" / "model")


def test_what_fails_in_the_processes_fails_here(policy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeakprefError, match="training in several processes ended with exit code"):
        train_policy(tmp_path, policy_folder, PolicyConfig(), 2)  # there are no pairs
    with pytest.raises(DataError, match="processes is 0, expected 1 or more"):
        SelfReward(processes=0)


@pytest.mark.filterwarnings("ignore:.*for watch_share is 0")
def test_a_loop_in_two_processes_makes_the_labels_and_the_reward_model_of_one(tiny: str, tmp_path: Path) -> None:
    pairs, test = split_by_group(read_pairs(frame()), 0.2, seed=0)
    easy = Thresholds(high=0.5, low=0.5, delta=0.0, enough=1)
    config = RewardConfig(model=tiny, max_steps=2, learning_rate=1e-3, max_length=64, bf16=False)
    found = []
    for processes in (1, 2):
        options = EvolveOptions(
            replace(config, batch_size=12 // processes), method="ser", gold=16, iterations=1, thresholds=easy,
            watch_share=0.0, processes=processes,
        )  # fmt: skip
        found.append(evolve(pairs, tmp_path / str(processes), options, test=test))
    one, two = found
    labels = [read_self_labels(each.path / "iteration-1" / "self_labels.parquet", pairs.pair_ids) for each in found]
    np.testing.assert_allclose(labels[0].p_a, labels[1].p_a, atol=1e-5)
    assert_same_weights(one.model, two.model)
    for row, other in zip(one.rows, two.rows, strict=True):
        assert row["test_log_loss"] == pytest.approx(other["test_log_loss"], abs=1e-5)
        assert (row["steps"], other["steps"]) == (2, 2)
