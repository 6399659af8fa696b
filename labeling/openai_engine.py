"""The HTTP engine: any server that speaks OpenAI's chat completions, through the `openai` client (extra `openai`).

>>> from labeling.openai_engine import OpenAIEngine
>>> engine = OpenAIEngine("gpt-4o-mini", requests_per_minute=500)  # key from OPENAI_API_KEY  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from labeling.budget import Meter, Usage
from labeling.errors import DataError, EngineError, WeakprefWarning
from labeling.llm import Completion, Conversation, FloatArray, Sampling, renormalised, sample_seed
from labeling.server_answers import (
    AnswerRefusedError,
    RefusedError,
    asked_wait,
    checked,
    completion,
    first_token_scores,
    refusal,
)
from labeling.values import one_line

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

T = TypeVar("T")
TOP = 20
"""Likeliest first tokens asked for: the most that OpenAI and vLLM give."""
FIRST_WORD = re.compile(r"\W*(\w+)")
"""The word a verdict begins with: "Based on ..." is no B."""
NAME_CHARS = 80
"""As much of a prompt is named in messages."""
OPENAI = "https://api.openai.com/v1"
"""The server where none is named."""
RETRIED = (408, 409, 429)
"""Statuses worth another try, beside 500 and above."""
NOT_GIVEN = {
    "refused": ("refuses it", "it gets no answer, and neither does any other prompt refused like that"),
    "kept back": (
        "keeps an answer back", "it counts for nothing, and a prompt of which none is given out has no answer"
    ),
    "too_long": (
        "has no room for it beside its answer",
        "it gets no answer, and neither does any other as long: let judges cut texts sooner (max_prompt_tokens), or "
        "ask for shorter answers (max_tokens)",
    ),
}  # fmt: skip
"""What is said of answers that a server does not give: what it does, and what then."""


@dataclass(frozen=True)
class OpenAIEngine:
    """A model behind an OpenAI-compatible server; several questions are under way at once."""

    model: str
    """The server's name of the model. Name a dated version: a cached answer belongs to this name on this server."""
    base_url: str | None = None
    """Such as http://localhost:8000/v1; without it, OPENAI_BASE_URL or OpenAI."""
    api_key: str | None = None
    """Without it, OPENAI_API_KEY."""
    concurrency: int = 16
    """Most requests under way at once."""
    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf
    """Counted as estimated prompt tokens plus the most tokens of the answer."""
    attempts: int = 6
    """Most tries of one request; a budget counts each."""
    timeout_s: float = 120.0
    backoff_s: float = 1.0
    """Longest pause after the first failed try; doubled after each further one, up to a minute."""
    verdicts: int = 8
    """Samples per closed question where the server gives no log-probabilities."""
    seed: int = 0
    """Of those samples."""
    meter: Meter = field(init=False, repr=False, compare=False)
    """Of all requests sent, for a `BudgetedEngine`."""
    _pace: Pace = field(init=False, repr=False, compare=False)
    _no_log_probs: threading.Event = field(init=False, repr=False, compare=False, default_factory=threading.Event)
    """Set once the server refused log-probabilities of texts: they are not asked for again."""
    _warned: Any = field(init=False, repr=False, compare=False)
    """Taken once something of their kind was warned of: each kind of answer that a server does not give."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "meter", Meter(1 + self.verdicts))
        object.__setattr__(self, "_warned", {kind: threading.Lock() for kind in NOT_GIVEN})
        object.__setattr__(self, "_pace", Pace(self.requests_per_minute, self.tokens_per_minute))

    @property
    def source(self) -> str:
        """What a cached answer belongs to: the model on its server, and how verdicts are sampled, if not as usual."""
        server = server_name(self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        unusual = (self.verdicts, self.seed) != (OpenAIEngine.verdicts, OpenAIEngine.seed)
        return f"{self.model} at {server}" + unusual * f", {self.verdicts} verdicts of seed {self.seed}"

    @property
    def context(self) -> None:
        """None: a server does not say how many tokens a prompt and its answer may have."""

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order; how far a seed is kept is the server's matter.

        A prompt whose content the server refuses has empty texts, `finish_reason` refused, one that is too long for
        it likewise, too_long; the first of each is warned of. Raises EngineError naming the first request that failed
        for good.
        """
        numbers = range(sampling.first, sampling.first + sampling.n)
        asked, names = [(row, number) for row in range(len(prompts)) for number in numbers], prompt_names(prompts)

        def ask(place: tuple[int, int]) -> Completion:
            row, number = place
            settings, name = _settings(prompts[row], sampling, number), f"{names[row]}, sample {number}"
            with_log_probs = {} if self._no_log_probs.is_set() else {"logprobs": True}
            try:
                try:
                    return completion(self._answer(prompts[row], with_log_probs | settings, name))
                except _NoLogProbsError:
                    self._no_log_probs.set()
                    return completion(self._answer(prompts[row], settings, name))
            except RefusedError as error:
                return Completion.none(error.reason)

        done = self._side_by_side(ask, asked)
        return [done[i : i + sampling.n] for i in range(0, len(done), sampling.n)]

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return log-probabilities (n, k) of the k choices, renormalised over them.

        From the log-probabilities of the answer's first token; a choice not among the likeliest 20 gets the least of
        them. Where the server gives none, from shares of sampled answers, half a vote added to each choice. A prompt
        answered by no choice at all gets 1/k each, one that the server refuses, or that is too long for it, NaN; the
        first is warned of. Raises DataError if one choice is the start of another, EngineError naming the first request
        that failed for good.
        """
        for number, choice in enumerate(choices):
            if any(other.startswith(choice) for i, other in enumerate(choices) if i != number):
                raise DataError(f"choice {choice!r} is the start of another, or is there twice; word them differently")

        names = prompt_names(prompts)

        def ask(row: int) -> FloatArray:
            settings = {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": TOP}
            try:
                with contextlib.suppress(_NoLogProbsError):
                    answer = self._answer(prompts[row], settings, names[row]).choices[0]
                    first = answer.logprobs.content if answer.logprobs else None
                    if first and first[0].top_logprobs:
                        self.meter.once()
                        return first_token_scores({top.token: top.logprob for top in first[0].top_logprobs}, choices)
                return self._sampled_scores(prompts[row], choices, names[row])
            except RefusedError:
                return np.full(len(choices), math.nan)

        scores = self._side_by_side(ask, range(len(prompts)))
        return renormalised(np.array(scores, dtype=float).reshape(len(prompts), len(choices)))

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return an estimate of each prompt's tokens, rather high: a third of its bytes, and eight a turn."""
        return [sum(len(turn["content"].encode()) // 3 + 8 for turn in prompt) for prompt in prompts]

    def _sampled_scores(self, prompt: Conversation, choices: Sequence[str], name: str) -> FloatArray:
        """Return log shares (k,) of sampled verdicts; one whose answer is refused counts for none, NaN if all are."""
        self.meter.several()
        sampling = Sampling(temperature=1.0, max_tokens=max(len(choice.encode()) for choice in choices), seed=self.seed)
        votes, n_refused = np.full(len(choices), 0.5), 0
        for number in range(self.verdicts):
            settings = _settings(prompt, sampling, number)
            try:
                verdict = completion(self._answer(prompt, settings, f"{name}, verdict {number}"))
            except AnswerRefusedError:
                n_refused += 1
            else:
                word = FIRST_WORD.match(verdict.text)
                votes += [word is not None and word[1] == choice for choice in choices]
        if n_refused == self.verdicts:
            return np.full(len(choices), math.nan)
        return np.asarray(np.log(votes / votes.sum()), dtype=float)

    def _answer(self, prompt: Conversation, settings: Mapping[str, Any], name: str) -> ChatCompletion:
        """Return the server's answer, a text at least in it; asked again after failures that may pass.

        Raises _NoLogProbsError where the server refuses log-probabilities, RefusedError where it refuses the prompt
        or this answer to it, EngineError where it gives no usable answer.
        """
        import openai

        for attempt in range(self.attempts):
            wait: float | None = None
            try:
                return self._sent(prompt, settings)
            except RefusedError as error:
                self._warn_of_refusal(name, error)
                raise
            except openai.APIStatusError as error:
                if error.status_code == 400 and "logprobs" in settings and "logprob" in str(error).lower():
                    raise _NoLogProbsError from error
                if refused := refusal(error, int(settings["max_tokens"])):
                    self._warn_of_refusal(name, refused)
                    raise refused from error
                if error.status_code < 500 and error.status_code not in RETRIED:
                    raise EngineError(
                        f"{name}: {self.model} refuses it ({one_line(error)}); mend it and start again"
                    ) from error
                failure, wait = one_line(error), asked_wait(error.response.headers)
            except (openai.APIError, ValueError) as error:  # time-outs, cut connections, answers that are no JSON
                failure = f"{type(error).__name__}: {one_line(error)}"
            if attempt + 1 < self.attempts:
                time.sleep(random.uniform(0.5, 1) * self.backoff_s * 2**attempt if wait is None else wait)
        raise EngineError(
            f"{name}: no usable answer from {self.model} in {self.attempts} tries; the last failure was {failure}; "
            "start again later (a CachedEngine keeps what is done), with lower limits or more attempts"
        )

    def _warn_of_refusal(self, name: str, error: RefusedError) -> None:
        kind = "kept back" if isinstance(error, AnswerRefusedError) else error.reason
        if self._warned[kind].acquire(blocking=False):
            what, then = NOT_GIVEN[kind]
            text = f"{name}: {self.model} {what} ({one_line(error)}); {then}; where there is no answer, judges abstain"
            warnings.warn(text, WeakprefWarning, stacklevel=2)

    def _sent(self, prompt: Conversation, settings: Mapping[str, Any]) -> ChatCompletion:
        """Return the answer to one request. One that ends in an error counts as a request without tokens; an answer
        without use, or kept back with no word of its length, may be as long as it may: it counts as such."""
        import openai

        most = Usage(1, self.count_tokens([prompt])[0], int(settings["max_tokens"]))
        self._pace.wait(most.prompt_tokens + most.output_tokens)
        self.meter.send(most)
        took = most
        try:
            answer = checked(self._ask(prompt, settings))
            took = Usage(1, most.prompt_tokens, completion(answer).n_tokens)
            return answer
        except openai.APIStatusError:
            took = Usage(1)
            raise
        except AnswerRefusedError as error:
            if error.n_tokens is not None:
                took = Usage(1, most.prompt_tokens, error.n_tokens)
            raise
        finally:
            self.meter.settle(most, took)

    def _ask(self, prompt: Conversation, settings: Mapping[str, Any]) -> ChatCompletion:
        messages: Any = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
        answer: ChatCompletion = self._client.chat.completions.create(model=self.model, messages=messages, **settings)
        return answer

    @cached_property
    def _client(self) -> openai.OpenAI:
        try:
            import openai
        except ImportError as error:
            raise DataError("OpenAIEngine needs the openai client; run: pip install 'weakpref[openai]'") from error
        client = openai.OpenAI(api_key=self.api_key, base_url=self.base_url, timeout=self.timeout_s, max_retries=0)
        weakref.finalize(self, client.close)  # or its connections stay open until the server ends them
        return client

    def _side_by_side(self, ask: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Return ask(item) for each item, in order, `concurrency` at once; after a failure no further one is begun."""
        _ = self._client  # made once, before the threads
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(ask, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _NoLogProbsError(Exception):
    """The server refuses log-probabilities."""


class Pace:
    """Lets requests through evenly, at most so many, and so many tokens, a minute."""

    def __init__(self, requests_per_minute: float, tokens_per_minute: float) -> None:
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, tokens: int) -> None:
        """Wait for the turn of a request of so many tokens."""
        gap = 60 * max(1 / self.requests_per_minute, tokens / self.tokens_per_minute)
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + gap
        time.sleep(max(0.0, turn - time.monotonic()))


def server_name(url: str) -> str:
    """Return a server's address, spelled one way: without credentials, a query, a usual port, a slash at the end.

    >>> server_name("HTTPS://me:secret@API.Example.com:443/v1/?key=secret")
    'https://api.example.com/v1'
    """
    parts = urlsplit(url.strip())
    host = parts.netloc.rpartition("@")[2].lower()
    host = host.removesuffix(":443" if parts.scheme == "https" else ":80")
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def prompt_names(prompts: Sequence[Conversation]) -> list[str]:
    """Return how messages name each prompt: by the words with which it begins to differ from the others, if there are
    any, or else by its last words.

    >>> prompt_names([[{"role": "user", "content": f"Grade this: {text} Thank you."}] for text in ("Red", "Rust")])
    ["prompt ...'Red Thank you.'...", "prompt ...'Rust Thank you.'..."]
    """
    texts = [" ".join(" ".join(turn["content"] for turn in prompt).split()) for prompt in prompts]
    if len(set(texts)) < 2:
        return [f"prompt ...{text[-NAME_CHARS:]!r}" for text in texts]
    first, last = min(texts), max(texts)
    alike = sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], zip(first, last, strict=False)))
    start = max(first.rfind(" ", 0, alike) + 1, alike - NAME_CHARS // 4)  # not every script has blanks
    return [f"prompt ...{text[start:][:NAME_CHARS]!r}..." for text in texts]


def _settings(prompt: Conversation, sampling: Sampling, number: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sample_seed(prompt, sampling, number),
    }
    return settings | ({"stop": list(sampling.stop)} if sampling.stop else {})
