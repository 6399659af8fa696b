"""The engine for GPUs: vLLM in this process (extra `vllm`), prompts that start alike side by side.

>>> from labeling.vllm_engine import VLLMEngine
>>> engine = VLLMEngine.load("path/to/model", tensor_parallel_size=2, max_model_len=4096)  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labeling.chat_tokens import PromptEncoder, check_lengths, choice_tokens, stop_texts
from labeling.errors import DataError
from labeling.llm import Completion, Conversation, FloatArray, Sampling, renormalised, sample_seed
from labeling.transformers_engine import weights_revision

RANKS = (8, 16, 32, 64, 128, 256, 512)
"""What vLLM takes as the most rank of an adapter."""


CLOSING_S = 60.0
"""How long vLLM's processes may take to end before they are killed, which nobody waits for."""


@dataclass(frozen=True, eq=False)
class VLLMEngine:
    """A language model run by vLLM."""

    llm: Any
    """A `vllm.LLM` with prefix caching."""
    model: str
    """Name, revision and dtype, and the adapter's."""
    adapter: Any = None
    """A `vllm.lora.request.LoRARequest`, or None."""

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        adapter: str | Path | None = None,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool | None = None,
        seed: int = 0,
    ) -> VLLMEngine:
        """Load a model from a folder or the Hugging Face hub, over `tensor_parallel_size` GPUs.

        `max_model_len` is the most tokens of a prompt and its answer; `adapter` a LoRA folder as peft writes it.
        `enforce_eager` runs the model without compiling it first; None does so on a CPU, where compiling takes minutes.
        Raises DataError if vLLM is not installed or the adapter is none.
        """
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise DataError("VLLMEngine needs vLLM; run: pip install 'weakpref[vllm]'") from error
        rank = None if adapter is None else _rank(Path(adapter))
        llm = LLM(
            model=str(source),
            revision=revision,
            dtype=dtype,
            tensor_parallel_size=tensor_parallel_size,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=current_platform.is_cpu() if enforce_eager is None else enforce_eager,
            seed=seed,
            enable_prefix_caching=True,
            enable_lora=adapter is not None,
            **({} if rank is None else {"max_lora_rank": rank}),
        )
        return cls(llm, engine_name(source, llm.model_config.dtype, revision, adapter), _request(adapter))

    @property
    def source(self) -> str:
        """What a cached answer belongs to: the model, for it runs here."""
        return self.model

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return int(self.llm.model_config.max_model_len)

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order.

        Raises DataError naming the first prompt that is too long for the model.
        """
        from vllm import SamplingParams

        tokens = self._encoded(prompts, sampling.max_tokens)
        stops = list(stop_texts(self._tokenizer(), sampling))
        asked = [(row, sampling.first + i) for row in range(len(tokens)) for i in range(sampling.n)]
        how = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                stop=stops,
                seed=sample_seed(prompts[row], sampling, number),
                logprobs=0,
            )
            for row, number in asked
        ]
        outputs = [output.outputs[0] for output in self._run([tokens[row] for row, _ in asked], how)]
        done = [
            Completion(out.text, len(out.token_ids), float(out.cumulative_logprob), str(out.finish_reason))
            for out in outputs
        ]
        return [done[i : i + sampling.n] for i in range(0, len(done), sampling.n)]

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return log-probabilities (n, k) of the k choices, whole token sequences, renormalised over them.

        Raises DataError if one choice is the start of another, or a prompt is too long for the model.
        """
        from vllm import SamplingParams

        answers = [tuple(ids) for ids in choice_tokens(self._tokenizer(), choices)]
        tokens = self._encoded(prompts, max(map(len, answers)))
        after = next_tokens(answers)
        asked = [(row, start) for row in range(len(tokens)) for start in after]
        how = {
            start: SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=ids, detokenize=False)
            for start, ids in after.items()
        }
        outputs = self._run([[*tokens[row], *start] for row, start in asked], [how[start] for _, start in asked])
        found = {place: output.outputs[0].logprobs[0] for place, output in zip(asked, outputs, strict=True)}
        scores = [
            [sum(found[row, ids[:i]][ids[i]].logprob for i in range(len(ids))) for ids in answers]
            for row in range(len(tokens))
        ]
        return renormalised(np.array(scores, dtype=float).reshape(len(tokens), len(answers)))

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is, chat template included."""
        return self._encoder.count(prompts)

    def close(self) -> None:
        """End vLLM's processes, and with them the memory they hold; no more can be asked.

        Dropping the engine is not enough: vLLM keeps references to itself.
        """
        self.llm.llm_engine.engine_core.shutdown(timeout=CLOSING_S)

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return PromptEncoder(self._tokenizer())

    def _encoded(self, prompts: Sequence[Conversation], room: int) -> list[list[int]]:
        tokens = self._encoder.encode(prompts)
        check_lengths([len(ids) for ids in tokens], room, self.context, self.model)
        return tokens

    def _run(self, tokens: Sequence[list[int]], how: Sequence[Any]) -> list[Any]:
        """Return vLLM's outputs in the order of `tokens`; it is sent them sorted, so that shared starts meet."""
        order = sorted(range(len(tokens)), key=lambda row: tokens[row])
        outputs = self.llm.generate(
            [{"prompt_token_ids": tokens[row]} for row in order],
            [how[row] for row in order],
            lora_request=self.adapter,
            use_tqdm=False,
        )
        found = dict(zip(order, outputs, strict=True))
        return [found[row] for row in range(len(tokens))]

    def _tokenizer(self) -> Any:
        return self.llm.get_tokenizer()


def engine_name(source: str | Path, dtype: Any, revision: str | None = None, adapter: str | Path | None = None) -> str:
    """Return the name of a model's engine: name, revision and dtype, and the adapter's."""
    name = f"{Path(source).name}@{weights_revision(source, revision)}"
    if adapter is not None:
        name += f" + {Path(adapter).name}@{weights_revision(adapter)}"
    return f"{name} ({str(dtype).removeprefix('torch.')})"


def planned_config(source: str | Path, dtype: str = "auto", max_model_len: int | None = None) -> Any:
    """Return vLLM's ModelConfig of a model (its dtype and max_model_len), read without its weights."""
    from vllm import EngineArgs

    return EngineArgs(model=str(source), dtype=dtype, max_model_len=max_model_len).create_model_config()


def next_tokens(answers: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Return for each start of an answer the tokens that may follow it: what is asked of the model, prompt by prompt.

    Not vLLM's `prompt_logprobs`, which forgo the prefix cache and fail beside an adapter.

    >>> next_tokens([(7, 1), (7, 2), (5,)])
    {(): [5, 7], (7,): [1, 2]}
    """
    found: dict[tuple[int, ...], set[int]] = {}
    for ids in answers:
        for i in range(len(ids)):
            found.setdefault(ids[:i], set()).add(ids[i])
    return {start: sorted(ids) for start, ids in found.items()}


def _request(adapter: str | Path | None) -> Any:
    from vllm.lora.request import LoRARequest

    return None if adapter is None else LoRARequest(Path(adapter).name, 1, str(adapter))


def _rank(adapter: Path) -> int:
    """Return the least rank vLLM takes that holds this adapter's. Raises DataError if there is no LoRA adapter."""
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise DataError(f"{adapter}: expected a LoRA adapter's folder, found no adapter_config.json in it")
    rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    fitting = [size for size in RANKS if size >= rank]
    if not fitting:
        raise DataError(f"{adapter}: its rank is {rank}; vLLM takes at most {RANKS[-1]}")
    return fitting[0]
