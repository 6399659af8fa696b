"""What asking a language model costs: counted as it is asked, priced, and stopped before a limit is exceeded."""

from __future__ import annotations

import csv
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from labeling.errors import BudgetError, DataError
from labeling.llm import Completion, Conversation, Engine, FloatArray, Sampling

T = TypeVar("T")
PRICE_COLUMNS = ("input", "output")
"""What a price table says of a model: USD per million tokens."""


@dataclass(frozen=True)
class Usage:
    """What was, or would be, asked of a model."""

    n_requests: int = 0
    """Samples drawn and closed questions asked; of a server every request sent, failed tries too."""
    prompt_tokens: int = 0
    """Tokens read, a prompt counting once for every request."""
    output_tokens: int = 0
    """Tokens written; one for a closed question."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.n_requests + other.n_requests,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return self + Usage(-other.n_requests, -other.prompt_tokens, -other.output_tokens)


@dataclass(frozen=True)
class Price:
    """What a model costs, in USD per million tokens, each 0 or more."""

    input: float
    output: float

    def __post_init__(self) -> None:
        for value in (self.input, self.output):
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise DataError(f"a price is {value!r}; expected USD per million tokens, 0 or more")

    def of(self, usage: Usage) -> float:
        """Return the cost in USD.

        >>> Price(input=2.0, output=8.0).of(Usage(1, 500_000, 250_000))
        3.0
        """
        return (self.input * usage.prompt_tokens + self.output * usage.output_tokens) / 1e6


FREE = Price(0.0, 0.0)
"""A model that runs here."""


@dataclass(frozen=True)
class Limits:
    """What a run may take."""

    max_requests: float = math.inf
    max_cost: float = math.inf
    """USD."""

    def __post_init__(self) -> None:
        if not self.max_requests >= 0 or not self.max_cost >= 0:
            raise DataError(
                f"max_requests is {self.max_requests} and max_cost {self.max_cost}; expected 0 or more of each"
            )


class Watch(Protocol):
    """Told how far a run is."""

    def __call__(self, *, wanted: int = 0, done: int = 0, tokens: int = 0) -> None:
        """Take note of so many more answers wanted, so many more at hand, so many more tokens read and written."""


def unwatched(*, wanted: int = 0, done: int = 0, tokens: int = 0) -> None:
    """Take no note of anything."""


def unlimited(sent: Usage, more: Usage) -> None:
    """Let every request through."""


class Meter:
    """Counts every request of an engine that may send several for one answer, as `OpenAIEngine` may."""

    def __init__(self, most: int = 1) -> None:
        self.sent = Usage()
        """All requests so far, whatever came of them; one under way counts as if it were as long as it may be."""
        self.allow: Callable[[Usage, Usage], None] = unlimited
        """Raises BudgetError where, with so much sent, no more than that may be."""
        self.most = self._most = most
        """Requests that a closed question may take, as far as is known: `most` until `once` is told of the first."""
        self._several = False
        self._lock = threading.Lock()

    def send(self, most: Usage) -> None:
        """Take note of a request before it is sent. Raises BudgetError where it must not be."""
        with self._lock:
            self.allow(self.sent, most)
            self.sent += most

    def settle(self, most: Usage, took: Usage) -> None:
        """Take note of what a request took in the end."""
        with self._lock:
            self.sent += took - most

    def once(self) -> None:
        """Take note that a question took one request: so will others, until one took more."""
        with self._lock:
            self.most = self._most if self._several else 1

    def several(self) -> None:
        """Take note that a question took several requests."""
        with self._lock:
            self._several, self.most = True, self._most


class BudgetedEngine:
    """An engine that counts what another one is asked, and raises BudgetError before a limit would be exceeded.

    A call is let through if it keeps to the limits should every answer be as long, and every closed question take as
    many requests, as it may. Tokens are those of the engine's `count_tokens`: exact for local models, an estimate for a
    server. With the engine's `meter`, tries that failed are counted too, and none is sent that would exceed a limit:
    the call that needs it ends in BudgetError, and what it had asked is lost.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits = Limits(),
        price: Price | None = None,
        *,
        meter: Meter | None = None,
        watch: Watch = unwatched,
    ) -> None:
        """Take `meter` of an engine that may send several requests for one answer.

        Raises DataError where a limit on the cost is set and no price is known.
        """
        if price is None and limits.max_cost < math.inf:
            raise DataError(
                f"max_cost is {limits.max_cost:g} USD, but no price of {engine.model} is known; give a price table or "
                "prices, in USD per million tokens read and written"
            )
        self.engine, self.limits, self.price, self.watch = engine, limits, price, watch
        self.usage = Usage()
        """What was asked so far."""
        self.n_questions = 0
        """Closed questions among it."""
        self._meter = meter
        self._counted: dict[int, int] = {}

    @property
    def model(self) -> str:
        """Name and revision of the engine's model."""
        return self.engine.model

    @property
    def source(self) -> str:
        """What a cached answer belongs to: the model, and its server."""
        return self.engine.source

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its answer together; None where that is not known."""
        return self.engine.context

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order. Raises BudgetError before a limit is exceeded."""
        most = self.most(prompts, sampling)

        def used(answers: list[list[Completion]]) -> Usage:
            written = sum(sample.n_tokens for samples in answers for sample in samples)
            return Usage(most.n_requests, most.prompt_tokens, written)

        return self._asked(most, lambda: self.engine.generate(prompts, sampling), used)

    def most(self, prompts: Sequence[Conversation], sampling: Sampling) -> Usage:
        """Return what drawing samples takes if each is as long as it may be."""
        n = len(prompts) * sampling.n
        return Usage(n, sampling.n * sum(self.count_tokens(prompts)), n * sampling.max_tokens)

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return log-probabilities (n, k) of the k choices. Raises BudgetError before a limit is exceeded."""
        n, tokens, each = len(prompts), sum(self.count_tokens(prompts)), self._meter.most if self._meter else 1
        longest = max(len(choice.encode()) for choice in choices)
        most = Usage(n * each, tokens * each, n * (1 + longest * (each - 1)))
        scores = self._asked(most, lambda: self.engine.choose(prompts, choices), lambda _: Usage(n, tokens, n))
        self.n_questions += n
        return scores

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is; each is counted once."""
        keys = [hash(tuple((turn["role"], turn["content"]) for turn in prompt)) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._counted}
        if new:
            self._counted |= dict(zip(new, self.engine.count_tokens(list(new.values())), strict=True))
        return [self._counted[key] for key in keys]

    def _asked(self, most: Usage, ask: Callable[[], T], used: Callable[[T], Usage]) -> T:
        """Return what `ask` does, counted: by the meter, also where it fails, or without one as `used` says."""
        self._check(self.usage, most)
        if self._meter is None:
            answers = ask()
            self._add(used(answers))
            return answers
        start, before = self.usage, self._meter.sent
        self._meter.allow = lambda sent, more: self._check(start + sent - before, more)
        try:
            return ask()
        finally:
            self._add(self._meter.sent - before)

    def _check(self, made: Usage, more: Usage) -> None:
        after, limits = made + more, self.limits
        if after.n_requests > limits.max_requests:
            raise BudgetError(
                f"stopped before the limit of {limits.max_requests:,} requests: {made.n_requests:,} were made in this "
                f"run, the next step takes {more.n_requests:,}"
            )
        if self.price is not None and self.price.of(after) > limits.max_cost:
            raise BudgetError(
                f"stopped before the limit of {limits.max_cost:g} USD: this run cost {self.price.of(made):.4f} "
                f"({made.n_requests:,} requests), the next step costs up to {self.price.of(more):.4f}"
            )

    def _add(self, asked: Usage) -> None:
        self.usage += asked
        self.watch(tokens=asked.prompt_tokens + asked.output_tokens)


def read_prices(path: str | Path) -> dict[str, Price]:
    """Return the prices by model in a file: JSON {model: {"input": 2.5, "output": 10}}, or CSV model,input,output.

    USD per million tokens. Raises DataError naming what is missing or no price.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        rows = _rows(text, Path(path).suffix.lower())
        return {model: Price(*(float(row[name]) for name in PRICE_COLUMNS)) for model, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected prices in USD per million tokens, as JSON {{model: {{input, output}}}} or CSV with the "
            f"columns model, input, output; found {type(error).__name__}: {error}"
        ) from None


def _rows(text: str, suffix: str) -> Mapping[str, Any]:
    if suffix == ".csv":
        return {row["model"]: row for row in csv.DictReader(text.splitlines())}
    rows: Mapping[str, Any] = dict(json.loads(text).items())
    return rows
