"""What servers of chat completions answer, read: texts, first tokens, refusals, errors, the pause they ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labeling.llm import Completion, FloatArray
from labeling.values import one_line

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

OF_THE_PROMPT = (400, 403, 422)
"""Statuses that may be about one prompt, where the message says so."""
REFUSES = re.compile(
    r"content[ _-]?(filter|polic|management)|responsible.?ai|moderation|input was flagged|invalid_prompt", re.IGNORECASE
)
"""What servers say of a prompt whose content they will never answer."""
TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|maximum model length|prompt is too long|input token count", re.IGNORECASE
)
"""What they say of a prompt that the model has no room for, its answer beside it."""
CONTEXT = re.compile(r"context length is (\d+)", re.IGNORECASE)
"""Where some say how many tokens that is."""
LONGEST_WAIT_S = 60.0


class RefusedError(Exception):
    """The server will not answer a prompt, whatever is asked of it."""

    def __init__(self, why: str, reason: str = "refused") -> None:
        """Take the server's words, and the `finish_reason` of the answer that is not given: refused or too_long."""
        super().__init__(why)
        self.reason = reason


class AnswerRefusedError(RefusedError):
    """The server refuses to give out this answer; another sample may be let pass."""

    def __init__(self, why: str, n_tokens: int | None) -> None:
        """Take the server's words, and the tokens it says that it wrote."""
        super().__init__(why)
        self.n_tokens = n_tokens


def first_token_scores(top: Mapping[str, float], choices: Sequence[str]) -> FloatArray:
    """Return log-probabilities (k,) of choices, from those of the likeliest first tokens.

    Tokens that start the same choice, white space around them aside, count together; one that starts several choices
    counts for none. A choice that is not there gets the least of them all; if none is there, all get the same.

    >>> first_token_scores({"A": -0.1, " A": -3.0, "B": -2.5}, ["A", "B", "C"]).round(3).tolist()
    [-0.046, -2.5, -3.0]
    """
    found = np.full(len(choices), -math.inf)
    for token, log_p in top.items():
        start = token.strip()
        meant = [i for i, choice in enumerate(choices) if start and choice.startswith(start)]
        if len(meant) == 1:
            found[meant[0]] = np.logaddexp(found[meant[0]], log_p)
    if np.isneginf(found).all():
        return np.zeros(len(choices))
    return np.where(np.isneginf(found), min(top.values()), found)


def refusal(error: openai.APIStatusError, max_tokens: int) -> RefusedError | None:
    """Return what an error says of its prompt: its content is refused for good, or it is too long; None for neither.

    Only its code and message are looked at: the rest of a server's answer may repeat the prompt. Where as many tokens
    of answer were asked for (`max_tokens`) as the model holds in all, no prompt is at fault.
    """
    message = error.body.get("message") if isinstance(error.body, Mapping) else ""
    said = f"{error.code} {error.type} {message}"
    if error.status_code not in OF_THE_PROMPT:
        return None
    if REFUSES.search(said):
        return RefusedError(one_line(error))
    holds = CONTEXT.search(said)
    if not TOO_LONG.search(said) or (holds and int(holds[1]) <= max_tokens):
        return None
    return RefusedError(one_line(error), "too_long")


def checked(answer: Any) -> ChatCompletion:
    """Return the answer; the client passes on any JSON it gets.

    Raises ValueError where there is no text in it, AnswerRefusedError where the server says that there will be none.
    """
    choices = getattr(answer, "choices", None)
    if not choices:
        raise ValueError("an answer without choices")
    message = getattr(choices[0], "message", None)
    if getattr(choices[0], "finish_reason", None) == "content_filter" or getattr(message, "refusal", None):
        why, usage = getattr(message, "refusal", None) or "content_filter", getattr(answer, "usage", None)
        raise AnswerRefusedError(why, getattr(usage, "completion_tokens", None))
    cut = getattr(choices[0], "finish_reason", None) == "length"  # before a reasoning model came to its answer
    if getattr(message, "content", None) is None and not (cut and message is not None):
        raise ValueError("a choice without text")
    checked: ChatCompletion = answer
    return checked


def completion(answer: ChatCompletion) -> Completion:
    """Return the text of a checked answer, its tokens as the server counts them, its log-probability where given."""
    choice = answer.choices[0]
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    n_tokens = answer.usage.completion_tokens if answer.usage else len(tokens)
    log_prob = sum(token.logprob for token in tokens) if tokens else math.nan
    return Completion(
        choice.message.content or "", n_tokens, log_prob, "length" if choice.finish_reason == "length" else "stop"
    )


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a server asks to wait, at most a minute; None where it names none."""
    try:
        return min(max(float(headers.get("retry-after", "")), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return None
