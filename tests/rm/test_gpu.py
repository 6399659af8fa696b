"""What a GPU trains and scores is what the CPU does; skipped where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rm.config import RewardConfig
from rm.model import RewardModel
from rm.trainer import train

Row = tuple[list[dict[str, str]], str, str]
Rows = Callable[[int], list[Row]]
Write = Callable[..., Path]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def scores(folder: Path, rows: list[Row]) -> np.ndarray:
    model = RewardModel.load(folder)
    assert model.model.device.type == "cuda"
    return model.score([row[0] for row in rows] * 2, [row[1] for row in rows] + [row[2] for row in rows])


@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_a_gpu_trains_the_model_that_the_cpu_trains(
    bases: dict[str, str], name: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(40)
    data, options = universal(rows), {"learning_rate": 1e-3, "batch_size": 4, "max_length": 128}
    words = [str(data), "--model", bases[name], "--learning-rate", "1e-3", "--batch-size", "4", "--max-length", "128"]
    subprocess.run(
        [sys.executable, "-m", "rm.train", *words, "--no-bf16", "--out", str(tmp_path / "cpu")],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, check=True, capture_output=True,
    )  # fmt: skip
    config = RewardConfig(bases[name], bf16=False, **options)
    expected, found = (scores(folder, rows) for folder in (tmp_path / "cpu", train(data, config, out=tmp_path / "gpu")))
    assert np.ptp(expected) > 0.3
    np.testing.assert_allclose(found, expected, atol=0.01 * np.ptp(expected))


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}, {"lora_r": 4}])
def test_bfloat16_is_the_default_and_learns(
    bases: dict[str, str], name: str, more: dict[str, Any], universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(12)
    config = RewardConfig(bases[name], learning_rate=1e-3, batch_size=4, max_length=128, epochs=15, **more)
    found = scores(train(universal(rows), config, out=tmp_path / "rm"), rows)
    assert (found[:12] > found[12:]).mean() > 0.8
