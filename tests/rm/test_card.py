"""The model card of a trained reward model: true, the same every time, and its lines run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from labeling.errors import DataError
from labeling.pairs import Pairs
from rm.calibration import calibrate
from rm.card import card, write_card
from rm.config import RewardConfig
from rm.model import RewardModel
from rm.trainer import train

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(bases: dict[str, str], universal: Callable[..., Path], conversations: Rows, tmp_path: Path) -> Path:
    data = universal(conversations(12), origin=["gold"] * 4 + ["weak"] * 8)
    config = RewardConfig(
        model=bases["qwen3"], max_length=128, max_steps=10, batch_size=4, learning_rate=1e-3, bf16=False
    )
    return train(data, config, out=tmp_path / "rm0")


def test_the_front_matter_is_what_the_hub_reads(folder: Path) -> None:
    data = ModelCard((folder / "README.md").read_text()).data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-classification"
    assert data["tags"] == ["reward-model", "weakpref"]


def test_the_lines_for_transformers_run_and_give_our_reward(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    lines = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)[0]
    said: dict[str, Any] = {}
    exec(lines.replace("DIRECTORY", str(folder)), said)
    prompt, response = [{"role": "user", "content": "1 + 1 = ?"}], "2"
    assert said["reward"] == pytest.approx(RewardModel.load(folder).score([prompt], [response])[0], abs=1e-4)


def test_it_says_what_the_manifest_says_and_no_path(folder: Path, tmp_path: Path) -> None:
    text, manifest = (folder / "README.md").read_text(), json.loads((folder / "manifest.json").read_text())
    assert f"| train.parquet | `{manifest['inputs']['train.parquet']}` |" in text
    assert "| gold | people | 4 |" in text
    assert "| weak | labeling functions, merged by a label model | 8 |" in text
    assert "Seed 0, 10 steps." in text
    assert "| learning_rate | 0.001 |" in text
    assert f"mean {manifest['rewards']['mean']:.3f}" in text
    assert "Not calibrated on held-out gold pairs" in text
    assert str(tmp_path.parent) not in text
    assert " /" not in text


def test_held_out_figures_are_those_of_the_weights_that_were_kept() -> None:
    figures = {"eval_accuracy": 0.75, "eval_ece": 0.0625}
    log = [{"step": step, "eval_log_loss": loss, **figures} for step, loss in ((5, 0.5), (10, 0.625))]
    manifest: dict[str, Any] = {
        "config": {"model": "m", "max_length": 8},
        "rewards": {"n_responses": 2, "mean": 0.0, "std": 1.0},
        "inputs": {}, "versions": {}, "seed": 0, "counts": {"pairs": 9, "steps": 10, "held_out": 3},
    }  # fmt: skip
    line = "On 3 held-out pairs, by their soft labels, at step"
    assert f"{line} 10: log-loss 0.625, accuracy 0.750, ECE 0.062." in card(manifest, log, {})
    manifest["config"]["patience"] = 2
    assert f"{line} 5, where it was least and the weights were kept: log-loss 0.500" in card(manifest, log, {})


def test_the_same_directory_gives_the_same_bytes(folder: Path) -> None:
    before = (folder / "README.md").read_bytes()
    assert write_card(folder).read_bytes() == before


def test_calibration_is_written_into_it(folder: Path, conversations: Rows, as_pairs: Callable[..., Pairs]) -> None:
    rows = [
        ([{"role": "user", "content": f"Unseen {i}"}], good, bad) for i, (_, good, bad) in enumerate(conversations(30))
    ]
    found = calibrate(folder, as_pairs(rows, [float(i % 3 > 0) for i in range(30)]))
    text = (folder / "README.md").read_text()
    assert f"sigmoid((r_A - r_B) / {found.temperature:.4f})" in text
    assert f"log-loss {found.before.log_loss:.3f} [" in text


def test_openrlhf_finds_mean_and_deviation_in_the_config(folder: Path) -> None:
    config, manifest = (json.loads((folder / name).read_text()) for name in ("config.json", "manifest.json"))
    assert (config["mean"], config["std"]) == (manifest["rewards"]["mean"], manifest["rewards"]["std"])


def test_a_directory_from_elsewhere_has_no_card_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no manifest.json of a training run"):
        write_card(tmp_path)
