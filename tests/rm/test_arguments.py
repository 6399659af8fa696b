"""What callers hand to the trainer and to saved reward models: other kinds are named before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rm
from labeling.errors import DataError
from labeling.pairs import Pairs
from rm import RewardConfig
from rm.ensemble import Ensemble
from rm.evaluation import evaluate_rewards
from rm.handoff import save
from rm.model import RewardModel, load_base
from rm.order import Mixture
from rm.plan import plan
from rm.scoring import score_to


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    save(RewardModel(*load_base(tiny, 64), 64), tmp_path / "rm")
    return tmp_path / "rm"


@pytest.fixture
def pairs(conversations: Any, as_pairs: Callable[..., Pairs]) -> Pairs:
    return as_pairs(conversations(4), [1.0, 0.0, 1.0, 0.0])


def test_pairs_and_tables_are_no_data_to_train_on(tiny: str, pairs: Pairs, tmp_path: Path) -> None:
    config = RewardConfig(tiny)
    for call in (lambda data, **more: rm.train(data, config, out=tmp_path / "rm", **more),
                 lambda data, **more: plan(data, config, **more)):  # fmt: skip
        for data in (pairs, pairs.to_pandas(), [pairs]):
            with pytest.raises(DataError, match=r"data is a \w+, expected the folder that augment\.export wrote"):
                call(data)
        with pytest.raises(DataError, match="held_out is a Pairs, expected the folder"):
            call("augmented", held_out=pairs)
        with pytest.raises(DataError, match="data is empty"):
            call([])
    with pytest.raises(DataError, match="config is 'minilm', expected RewardConfig"):
        rm.train("augmented", "minilm", out=tmp_path / "rm")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": "1e-5"}, "learning_rate is '1e-5', expected a number"),
        ({"max_steps": 1.5}, "max_steps is 1.5, expected a whole number"),
        ({"epochs": True}, "epochs is True, expected a number"),
        ({"bf16": "no"}, "bf16 is 'no', expected True or False"),
        ({"model": 3}, "model is 3, expected a text"),
        ({"mix": 0.5}, "mix is 0.5, expected several numbers"),
    ],
)
def test_options_of_another_kind_are_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        RewardConfig(**{"model": "minilm"} | changed)


def test_paths_lists_and_whole_numbers_are_taken_as_what_they_mean() -> None:
    config = RewardConfig(
        Path("base"), lora_targets=["query", "value"], mix=[0.5, 0.5], max_steps=np.int64(3), seed=2.0, epochs=1
    )  # type: ignore[arg-type]
    assert (config.model, config.lora_targets, config.mix) == ("base", "query,value", (0.5, 0.5))
    assert [type(value) for value in (config.max_steps, config.seed, config.epochs)] == [int, int, float]


def test_a_share_that_draws_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"of set 1 \(3 pairs\) not one would be drawn in an epoch of 1,003 pairs"):
        Mixture.of([1000, 3], (0.9999, 0.0001))
    assert Mixture.of([1000, 3], (0.999, 0.001)).drawn == (1002, 1)


def test_a_loaded_model_a_table_and_one_folder_for_several_are_named(
    folder: Path, pairs: Pairs, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="the reward model is a RewardModel, expected the directory"):
        rm.evaluate(RewardModel.load(folder), pairs)  # type: ignore[arg-type]
    for call in (rm.evaluate, rm.calibrate):
        with pytest.raises(DataError, match="pairs is a DataFrame; expected Pairs"):
            call(folder, pairs.to_pandas())
    for several in (str(folder), folder):
        with pytest.raises(DataError, match="expected a list of two or more directories"):
            Ensemble.load(several)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="expected a list of two or more directories"):
            rm.average(several, tmp_path / "mean")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"nope does not exist; expected a directory written by rm\.train"):
        rm.average([folder, tmp_path / "nope"], tmp_path / "mean")


def test_rewards_of_another_shape_are_named(pairs: Pairs) -> None:
    rewards = np.array([[1.0, 0.0]] * 4)
    for other in (rewards[:, 0], rewards[:3], rewards.T):
        with pytest.raises(DataError, match=r"rewards have shape .*, expected \(4, 2\)"):
            evaluate_rewards(other, pairs)
    with pytest.raises(DataError, match="temperature is -1, expected a number above 0"):
        evaluate_rewards(rewards, pairs, temperature=-1)
    assert evaluate_rewards(rewards.tolist(), pairs).accuracy == 0.5


def test_rewards_are_written_over_no_folder_and_no_pairs(folder: Path, pairs: Pairs, tmp_path: Path) -> None:
    pairs.write(tmp_path / "pairs.parquet")
    before = (tmp_path / "pairs.parquet").read_bytes()
    with pytest.raises(DataError, match="holds preference pairs, which would be lost; write to another file"):
        score_to(folder, pairs, tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match="is a folder, expected the name of a file to write"):
        score_to(folder, pairs, folder)
    assert (tmp_path / "pairs.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "rm"]
