"""Language-model engines: what judges and generation ask of a model, whichever runs it.

An engine generates texts, and scores the choices of a closed question by their log-probabilities. Engines are
`TransformersEngine` (embedded, CPU or GPU), `OpenAIEngine` (any OpenAI-compatible server) and `VLLMEngine`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from labeling.errors import DataError
from labeling.pairs import Message

FloatArray = npt.NDArray[np.float64]
Conversation = Sequence[Message]
"""Turns of a chat, the last of the user; the engine applies the model's chat template."""


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn.

    Raises DataError for values out of range.
    """

    n: int = 1
    """Samples per prompt."""
    temperature: float = 0.0
    """0 = greedy."""
    top_p: float = 1.0
    max_tokens: int = 256
    """Most tokens of one sample."""
    stop: tuple[str, ...] = ()
    """Texts that end a sample; they are not part of it."""
    seed: int = 0
    """Sample i of a prompt depends on the seed, on i and on the prompt, not on the prompts beside it."""
    first: int = 0
    """Number of the first sample: `n=2, first=4` draws samples 4 and 5, so that more can be drawn later."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1:
            raise DataError(f"n is {self.n} and max_tokens {self.max_tokens}; expected 1 or more of each")
        if not (self.temperature >= 0 and 0 < self.top_p <= 1):
            raise DataError(
                f"temperature is {self.temperature} and top_p {self.top_p}; expected a temperature of 0 or more, and a "
                "top_p above 0, at most 1"
            )


@dataclass(frozen=True)
class Completion:
    """One sampled text."""

    text: str
    n_tokens: int
    """Tokens the model wrote, its end token included."""
    log_prob: float
    """Sum of those tokens' log-probabilities under the model (temperature 1, no top_p); NaN where none are given."""
    finish_reason: str
    """stop (the model ended it, or a stop text did), length (it was cut at max_tokens); or, where there is no text,
    refused (by a server that will not answer the prompt) or too_long (the prompt, for the model)."""

    @classmethod
    def none(cls, reason: str) -> Completion:
        """Return what stands for an answer that was not given, refused or too_long."""
        return cls("", 0, math.nan, reason)

    @property
    def given(self) -> bool:
        """Whether the model wrote it, be it an empty text."""
        return self.finish_reason not in ("refused", "too_long")


class Engine(Protocol):
    """Something that runs one language model."""

    @property
    def model(self) -> str:
        """Name and revision of the model."""

    @property
    def source(self) -> str:
        """What a cached answer belongs to: the model, and the server that runs it where there is one."""

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its answer together; None where that is not known."""

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order."""

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return log-probabilities (n, k) of the k choices as answers to each prompt, renormalised over them.

        A choice is scored as the start of the assistant's turn; NaN where a server will not answer the prompt. Raises
        DataError if one choice is the start of another.
        """

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is, chat template included."""


def check_engine(engine: object) -> None:
    """Raise DataError for anything but an engine."""
    if not any(callable(getattr(engine, name, None)) for name in ("generate", "choose")):
        raise DataError(
            f"engine is {engine!r}, expected an engine: TransformersEngine(model), OpenAIEngine(model, base_url) or "
            "VLLMEngine(model)"
        )


def fitting(prompts: Sequence[Conversation], engine: Engine, max_tokens: int) -> list[bool]:
    """Return which prompts leave the model room for `max_tokens` of answer; all do where its context is not known."""
    if engine.context is None:
        return [True] * len(prompts)
    return [length + max_tokens <= engine.context for length in engine.count_tokens(prompts)]


def sample_seed(prompt: Conversation, sampling: Sampling, number: int) -> int:
    """Return the seed in [0, 2^48) of sample `number` of a prompt, whatever stands beside it.

    >>> sample_seed([{"role": "user", "content": "Hi"}], Sampling(), 0)
    94176189126966
    """
    text = json.dumps([sampling.seed, number, turns(prompt)], ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def turns(prompt: Conversation) -> list[list[str]]:
    """Return a conversation as [role, content] lists, as it enters hashes."""
    return [[turn["role"], turn["content"]] for turn in prompt]


def renormalised(scores: FloatArray) -> FloatArray:
    """Return log-probabilities (n, k) over the k choices alone, from their log-probabilities among all answers."""
    return np.asarray(log_softmax(scores, axis=1), dtype=float)
