"""Texts rewarded by vLLM as its users do; a module of its own, since vLLM may live in another environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

SETTINGS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""One process, so that its last line says what was wrong; on a CPU 1 GiB for keys, not nearly all the memory."""


def classify(folder: Path, texts: Sequence[str]) -> tuple[list[list[int]], npt.NDArray[np.float64]]:
    """Return the tokens vLLM makes of each text and its rewards, float64 (n,), activation off, in float32."""
    from vllm import LLM, PoolingParams

    llm = LLM(model=str(folder), runner="pooling", dtype="float32", load_format="safetensors", enforce_eager=True)
    outputs = llm.classify(list(texts), pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
    ids = [list(output.prompt_token_ids) for output in outputs]
    return ids, np.array([output.outputs.probs[0] for output in outputs], dtype=np.float64)


def main(arguments: Sequence[str]) -> None:
    """Read texts from one JSON file and write tokens and rewards to another."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    folder, asked, answered = map(Path, arguments)
    ids, rewards = classify(folder, json.loads(asked.read_text(encoding="utf-8")))
    answered.write_text(json.dumps([ids, rewards.tolist()]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
