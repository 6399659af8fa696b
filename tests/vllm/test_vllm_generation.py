"""Generation on vLLM: a run that is killed and goes on in another process writes the very bytes of one that was not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from augment.generate import generate, read_candidates
from labeling.llm import Conversation, Sampling
from labeling.vllm_engine import VLLMEngine

SAMPLING = Sampling(n=2, temperature=0.8, top_p=0.9, max_tokens=10, seed=5)
SHARED = "You are asked about colours. " * 40  # more than a block of vLLM's prefix cache
PROMPTS: list[Conversation] = [[{"role": "user", "content": f"{SHARED}Name colour {i}."}] for i in range(5)]
PROMPTS += [[{"role": "user", "content": f"Name a colour for {thing}."}] for thing in ("a car", "🙂", "a cup", "it")]
CHUNK = 2
RUN = """
import sys
from labeling.vllm_engine import VLLMEngine
from augment.generate import generate
from test_vllm_generation import CHUNK, PROMPTS, SAMPLING

model, adapter, out = sys.argv[1:]
engine = VLLMEngine.load(model, dtype="float32", max_model_len=1024, adapter=adapter, enforce_eager=True)
generate(PROMPTS, VLLMEngine(engine.llm, "SmolLM2"), out, SAMPLING, chunk=CHUNK)
"""


def begin(model: Path, adapter: Path, out: Path) -> subprocess.Popen[bytes]:
    here = Path(__file__).resolve()
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = [{str(here.parent)!r}, {str(here.parents[2])!r}]{RUN}",
    ]
    with out.with_suffix(".log").open("wb") as said:
        return subprocess.Popen([*command, str(model), str(adapter), str(out)], stdout=said, stderr=said)


def finished_parts(out: Path) -> int:
    return len(list(Path(f"{out}.parts").glob("0*.parquet")))


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    tilted: Any, smollm2_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    run, end = begin(smollm2_folder, adapter, killed), time.monotonic() + 240
    try:
        while finished_parts(killed) < 2 and run.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
    finally:
        run.kill()
        run.wait()
    parts = finished_parts(killed)
    assert 2 <= parts < 5, killed.with_suffix(".log").read_text(encoding="utf-8", errors="replace")[-3000:]
    assert not killed.exists()
    engine = VLLMEngine(tilted.llm, "SmolLM2")
    done = [generate(PROMPTS, engine, out, SAMPLING, chunk=CHUNK) for out in (killed, whole)]
    assert [report.n_candidates for report in done] == [18, 18]
    assert read_candidates(killed).equals(read_candidates(whole))
    assert killed.read_bytes() == whole.read_bytes()
    texts = read_candidates(whole)["response"].to_pylist()
    assert len(set(texts)) > 9  # they are drawn, not all the same
