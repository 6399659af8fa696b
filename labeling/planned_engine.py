"""An engine that answers nothing and asks nobody: run in a model's place, it tells what a run would take.

It has the model's name, so that a cache knows what is already answered, and its tokenizer; weights are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeling.chat_tokens import check_lengths, prompt_tokens
from labeling.llm import Completion, Conversation, FloatArray, Sampling


@dataclass(frozen=True)
class PlannedEngine:
    """A model that is not there. Whatever it says is as long as it may be, and cut."""

    model: str
    """The name the model's engine would have."""
    count: Callable[[Sequence[Conversation]], list[int]]
    """Counts the tokens of prompts as the model's engine would."""
    context: int | None = None
    """Most tokens of a prompt and its answer together; None where that is not known."""
    server: str = ""
    """What the model's `source` says beside its name."""

    @property
    def source(self) -> str:
        """What cached answers of the model belong to."""
        return self.model + self.server

    @classmethod
    def of_tokenizer(cls, model: str, tokenizer: Any, context: int | None = None) -> PlannedEngine:
        """Return the engine of a local model, by its tokenizer."""
        return cls(model, lambda prompts: [len(ids) for ids in prompt_tokens(tokenizer, prompts)], context)

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` texts of `sampling.max_tokens` words for each prompt, no two of them the same.

        Raises DataError naming the first prompt that is too long for the model, as the model's engine would.
        """
        self._check(prompts, sampling.max_tokens)
        n = sampling.max_tokens
        samples = [Completion(f"{i} {'a ' * (n - 1)}", n, 0.0, "length") for i in range(sampling.n)]
        return [samples] * len(prompts)

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return equal log-probabilities (n, k). Raises DataError as `generate` does."""
        self._check(prompts, 1)
        return np.full((len(prompts), len(choices)), -np.log(len(choices)))

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is, chat template included."""
        return self.count(prompts)

    def _check(self, prompts: Sequence[Conversation], room: int) -> None:
        if self.context is not None:
            check_lengths(self.count(prompts), room, self.context, self.model)
