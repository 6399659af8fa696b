"""An engine that answers nothing and asks nobody: run in a model's place, it tells what a run would take.

It has the model's name, so that a cache knows what is already answered, and its tokenizer; weights are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeling.chat_tokens import prompt_tokens
from labeling.llm import Completion, Conversation, FloatArray, Sampling


@dataclass(frozen=True)
class PlannedEngine:
    """A model that is not there. Whatever it says is as long as it may be, and cut."""

    model: str
    """The name the model's engine would have."""
    count: Callable[[Sequence[Conversation]], list[int]]
    """Counts the tokens of prompts as the model's engine would."""

    @classmethod
    def of_tokenizer(cls, model: str, tokenizer: Any) -> PlannedEngine:
        """Return the engine of a local model, by its tokenizer."""
        return cls(model, lambda prompts: [len(ids) for ids in prompt_tokens(tokenizer, prompts)])

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` texts of `sampling.max_tokens` words for each prompt, no two of them the same."""
        n = sampling.max_tokens
        samples = [Completion(f"{i} {'a ' * (n - 1)}", n, 0.0, "length") for i in range(sampling.n)]
        return [samples] * len(prompts)

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return equal log-probabilities (n, k)."""
        return np.full((len(prompts), len(choices)), -np.log(len(choices)))

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is, chat template included."""
        return self.count(prompts)
