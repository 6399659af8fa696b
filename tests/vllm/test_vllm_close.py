"""vLLM in processes of its own, as it runs by default: what ends them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys

import psutil

from labeling.llm import Sampling
from labeling.vllm_engine import VLLMEngine


def running():
    processes = psutil.Process().children(recursive=True)
    return sum(one.status() != psutil.STATUS_ZOMBIE and one.name().startswith("VLLM") for one in processes)


if __name__ == "__main__":
    for _ in range(2):
        engine = VLLMEngine.load(sys.argv[1], max_model_len=256)
        engine.generate([[{"role": "user", "content": "Name a colour."}]], Sampling(max_tokens=4))
        before = running()
        engine.close()
        print("running", before > 0, running())
"""


def test_closing_an_engine_ends_its_processes_and_another_can_follow(smollm2_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(CODE)
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(tmp_path / "run.py"), str(smollm2_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert [line for line in done.stdout.splitlines() if line.startswith("running")] == ["running True 0"] * 2, (
        done.stderr
    )
