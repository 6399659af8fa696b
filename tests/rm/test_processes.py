"""Two processes train the model that one does: data parallel and fully sharded, over CPUs (gloo)."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rm.launch import command

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
Write = Callable[..., Path]
ROOT = Path(__file__).parent.parent.parent


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def run(words: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "preset", "more"),
    [("llama", "ddp", ()), ("bert", "ddp", ()), ("llama", "fsdp2", ()), ("llama", "fsdp2", ("--lora-r", "2"))],
)
def test_two_processes_train_the_model_that_one_does(
    bases: dict[str, str], universal: Write, conversations: Rows, tmp_path: Path, base: str, preset: str,
    more: tuple[str, ...],
) -> None:  # fmt: skip
    data = universal(conversations(20), weight=[0.2 + 0.3 * (i % 5) for i in range(20)])  # the last step holds 4 pairs
    options = [str(data), "--model", bases[base], "--learning-rate", "1e-3", "--max-length", "128", "--no-bf16", *more]
    run([sys.executable, "-m", "rm.train", *options, "--batch-size", "8", "--out", str(tmp_path / "one")])
    launch = ["--num_processes", "2", "--main_process_port", free_port()]
    words = command(preset, launch, "rm.train", [*options, "--batch-size", "4", "--out", str(tmp_path / "two")])
    if preset == "fsdp2":
        where = words.index("-m", 3)
        words[where : where + 2] = [str(Path(__file__).parent / "fsdp_on_cpu.py")]
    assert run(words).count("reward model trained") == 1
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weights in one.items():
        if name.endswith("key.bias"):  # adds the same to all scores: its gradient is rounding error, rescaled by AdamW
            continue
        np.testing.assert_allclose(weights, two[name], atol=1e-5, err_msg=name)
    counts = [json.loads((tmp_path / name / "manifest.json").read_text())["counts"] for name in ("one", "two")]
    assert counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--lora-r", "2")])
def test_rewards_of_a_model_in_shards_are_not_rounded_to_bfloat16(
    bases: dict[str, str], universal: Write, conversations: Rows, tmp_path: Path, more: tuple[str, ...]
) -> None:
    data = universal(conversations(20))
    options = [str(data), "--model", bases["llama"], "--max-length", "128", "--bf16", "--batch-size", "4", *more]
    launch = ["--num_processes", "2", "--main_process_port", free_port()]
    words = command("fsdp2", launch, "rm.train", [*options, "--out", str(tmp_path / "two")])
    where = words.index("-m", 3)
    words[where : where + 2] = [str(Path(__file__).parent / "fsdp_rewards.py")]
    told = re.findall(r"rounded (\d+) of (\d+);", run(words))  # the processes may write into one line
    rounded, rewards = (sum(int(counts[k]) for counts in told) for k in (0, 1))
    assert rewards >= 20
    assert rounded < rewards / 10


@pytest.mark.slow
def test_two_processes_killed_in_a_later_epoch_go_on_to_the_same_weights(
    bases: dict[str, str], universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data = universal(conversations(20))
    options = [str(data), "--model", bases["llama"], "--learning-rate", "1e-3", "--max-length", "128", "--no-bf16"]
    options += ["--batch-size", "1", "--epochs", "4", "--save-steps", "1"]  # ten steps an epoch

    def words(name: str, *more: str) -> list[str]:
        launch = ["--num_processes", "2", "--main_process_port", free_port()]
        return command("ddp", launch, "rm.train", [*options, "--out", str(tmp_path / name), *more])

    run(words("straight"))
    killed = words("resumed")
    where = killed.index("-m", 3)
    killed[where : where + 2] = [str(Path(__file__).parent / "killed_at_step_16.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert subprocess.run(killed, env=environment, capture_output=True, check=False, timeout=600).returncode != 0
    assert (tmp_path / "resumed.checkpoints" / "checkpoint-15").is_dir()
    run(words("resumed", "--resume"))
    straight, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "resumed"))
    for name, weights in straight.items():
        np.testing.assert_array_equal(weights, resumed[name], err_msg=name)
