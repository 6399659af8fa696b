"""A reward model run by vLLM's pooling: a second engine for scoring (extra `vllm`), rewards equal to transformers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from labeling.errors import DataError
from rm.batches import TOKENS
from rm.checkpoint import check_checkpoint, check_own_code
from rm.packing import Ids

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VLLMScorer:
    """A reward model in vLLM; made by `VLLMScorer.load`."""

    llm: Any
    """A `vllm.LLM` of the runner "pooling"."""
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """Tokens per conversation."""

    @classmethod
    def load(cls, path: str | Path, *, bf16: bool = False, tensor_parallel_size: int = 1) -> VLLMScorer:
        """Load a reward model from a directory (or a hub id) into vLLM, over `tensor_parallel_size` GPUs.

        Raises DataError where vLLM is not installed, or the model is one that `RewardModel.load` refuses to touch.
        """
        check_checkpoint(path)
        check_own_code(path, known_is_fine=False)
        try:
            from vllm import LLM
        except ImportError as error:
            raise DataError("engine vllm needs vLLM; run: pip install 'weakpref[vllm]'") from error
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        llm = LLM(
            model=str(path),
            runner="pooling",
            dtype="bfloat16" if bf16 else "float32",
            tensor_parallel_size=tensor_parallel_size,
            load_format="safetensors",
            trust_remote_code=False,
            enable_prefix_caching=True,
            enforce_eager=not torch.cuda.is_available(),  # compiling takes minutes on a CPU
        )
        return cls(llm, tokenizer, min(tokenizer.model_max_length, int(llm.model_config.max_model_len)))

    def score_ids(self, ids: Sequence[Ids], tokens: int = TOKENS) -> FloatArray:  # noqa: ARG002
        """Return the reward of each tokenised conversation, float64 (n,); vLLM makes batches as it sees fit.

        Conversations that start alike are sent side by side, so that its prefix cache can serve them. Its activation,
        a sigmoid, is off: rewards are logits.
        """
        from vllm import PoolingParams

        order = sorted(range(len(ids)), key=lambda row: ids[row].tolist())
        outputs = self.llm.classify(
            [{"prompt_token_ids": ids[row].tolist()} for row in order],
            pooling_params=PoolingParams(use_activation=False),
            use_tqdm=False,
        )
        rewards = np.empty(len(ids), dtype=np.float64)
        rewards[order] = [output.outputs.probs[0] for output in outputs]
        return rewards
