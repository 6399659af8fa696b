"""Which language model is asked, by which engine and how: the options that judges and generation share."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from labeling.errors import DataError
from labeling.llm import Engine
from labeling.planned_engine import PlannedEngine
from rm.options import option

PACKAGED = "smollm2"
"""The model that needs no network and no path."""

OPTIONS = {
    "transformers": ("dtype", "device"),
    "vllm": ("dtype", "tensor_parallel_size", "max_model_len", "gpu_memory_utilization", "adapter"),
    "openai": ("base_url", "concurrency", "requests_per_minute", "tokens_per_minute"),
}
"""What can be set of each engine."""

CHUNKS = {"transformers": 64, "vllm": 1024, "openai": 128}
"""Prompts an engine gets at a time, and most that a kill loses: enough to keep it busy."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelOptions:
    """A model, its engine, and the settings of that engine; None leaves a setting to the engine."""

    model: str | None = option(
        "smollm2 (small, packaged, offline); a causal language model as folder or hub id; or a server's name of it."
    )
    engine: Literal["transformers", "vllm", "openai"] = option(
        "What runs it: transformers (here), vllm (here, GPUs), openai (any OpenAI-compatible server).", "transformers"
    )
    dtype: str | None = option("transformers, vllm: numbers it computes with: float32, bfloat16, float16.")
    device: str | None = option(
        "transformers: cpu or cuda (default: cpu; self-reward, best-of-n, eft: cuda if there is one)."
    )
    tensor_parallel_size: int | None = option("vllm: GPUs it is spread over (default: 1).")
    max_model_len: int | None = option("vllm: most tokens of a prompt and its answer (default: the model's).")
    gpu_memory_utilization: float | None = option("vllm: share of GPU memory it may take (default: 0.9).")
    adapter: Path | None = option("vllm: folder of a LoRA adapter.")
    base_url: str | None = option("openai: the server, such as http://localhost:8000/v1; key from OPENAI_API_KEY.")
    concurrency: int | None = option("openai: most requests under way at once (default: 16).")
    requests_per_minute: float | None = option("openai: most requests a minute.")
    tokens_per_minute: float | None = option("openai: most tokens a minute, estimated.")

    def check(self) -> None:
        """Raise DataError if no model is named, or a setting is out of range or not of this engine."""
        if self.model is None:
            raise DataError("which model? expected --model smollm2, a folder, a hub id or a server's name; pass one")
        for name, value in self._settings().items():
            flag = f"--{name.replace('_', '-')}"
            if name not in OPTIONS[self.engine]:
                owners = " and ".join(engine for engine, names in OPTIONS.items() if name in names)
                raise DataError(f"{flag} is no option of --engine {self.engine}, but of {owners}; leave it out")
            if isinstance(value, int | float) and not value > 0:
                raise DataError(f"{flag} is {value}; expected a number above 0")
        if self.dtype not in (None, *DTYPES, *(("auto",) if self.engine == "vllm" else ())):
            raise DataError(f"--dtype is {self.dtype!r}; expected {', '.join(DTYPES)}")
        if self.engine == "vllm" and self.model == PACKAGED:
            raise DataError(f"--model {PACKAGED} runs on --engine transformers; name a folder or hub id for vllm")

    @property
    def chunk(self) -> int:
        """Prompts the engine gets at a time."""
        return CHUNKS[self.engine]

    @property
    def local(self) -> bool:
        """Whether the model runs here, at no price."""
        return self.engine != "openai"

    def load(self) -> Engine:
        """Return the engine, its model loaded."""
        self.check()
        source, settings = str(self.model), self._settings()
        if self.engine == "openai":
            return self._server(source, settings)
        if self.engine == "vllm":
            from labeling.vllm_engine import VLLMEngine

            return VLLMEngine.load(source, **settings)
        from labeling.smollm2 import smollm2
        from labeling.transformers_engine import TransformersEngine

        return smollm2(**settings) if source == PACKAGED else TransformersEngine.load(source, **settings)

    def planned(self) -> PlannedEngine:
        """Return an engine that answers nothing but has the model's name and tokenizer; no weights are loaded."""
        self.check()
        source = str(self.model)
        if self.engine == "openai":
            server = self._server(source, self._settings(), asks=False)
            return PlannedEngine(server.model, server.count_tokens, server=server.source.removeprefix(server.model))
        if self.engine == "transformers" and source == PACKAGED:
            from labeling.smollm2 import packaged_context, packaged_name, packaged_tokenizer

            name = packaged_name(self.dtype or "float32")
            return PlannedEngine.of_tokenizer(name, packaged_tokenizer(), packaged_context())
        from labeling.transformers_engine import load_tokenizer, model_name, planned_context

        tokenizer = load_tokenizer(source)
        if self.engine == "transformers":
            name = model_name(source, self.dtype or "float32")
            return PlannedEngine.of_tokenizer(name, tokenizer, planned_context(source))
        from labeling.vllm_engine import engine_name, planned_config

        config = planned_config(source, self.dtype or "auto", self.max_model_len)
        name = engine_name(source, config.dtype, adapter=self.adapter)
        return PlannedEngine.of_tokenizer(name, tokenizer, config.max_model_len)

    def _settings(self) -> dict[str, Any]:
        """Return what is set of the engine."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("model", "engine")}
        return {name: value for name, value in given.items() if value is not None}

    def _server(self, source: str, settings: dict[str, Any], *, asks: bool = True) -> Engine:
        from labeling.openai_engine import OpenAIEngine

        if "OPENAI_API_KEY" in os.environ:
            return OpenAIEngine(source, **settings)
        if self.base_url is None and asks:
            raise DataError("OPENAI_API_KEY is not set; set it to your key, or name a server without one by --base-url")
        return OpenAIEngine(source, api_key="none", **settings)
