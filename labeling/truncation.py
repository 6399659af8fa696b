"""Over-long texts cut in the middle by a stated rule, so that every prompt fits the model.

The rule: of a text that is cut, equally many characters stay at its beginning and its end, and a mark between them says
how many were left out. All responses of a prompt are cut to the same number of characters, so the longest loses first
and equal ones lose equally; it is the largest number at which the prompt fits (to 2 %). Where `LEAST_CHARS` of each
response do not fit either, the question is cut likewise. What still does not fit is too long, and left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.llm import Conversation, Engine

LEAST_CHARS = 20
"""A text is never cut below so many characters."""
CHARS_PER_TOKEN = 16
"""Texts are first cut to so many characters for each token there is room for, so that megabytes are not counted."""
ANSWER_TOKENS = 8
"""Room for the answer to a closed question, a letter or a digit, and for a count that is off by a few tokens."""

Texts = tuple[str, ...]
"""Question first, then the responses."""
Render = Callable[[Texts], Sequence[Conversation]]
"""The prompts one tuple of texts is shown in, always equally many."""
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fitted:
    """n tuples of texts that fit their prompts."""

    texts: list[Texts]
    """As they are to be shown."""
    prompts: list[Sequence[Conversation]]
    """The prompts they are shown in."""
    cut: BoolArray
    """Shape (n,): whether any text was cut."""
    too_long: BoolArray
    """Shape (n,): whether the prompts do not fit for all that."""
    n_tokens: IntArray
    """Shape (n,): tokens of all prompts of the tuple."""


def fit_prompts(texts: Sequence[Texts], render: Render, engine: Engine, max_tokens: int) -> Fitted:
    """Cut the middle of texts where a prompt would exceed `max_tokens`, the chat template's tokens included."""
    if not texts:
        return Fitted([], [], np.zeros(0, dtype=bool), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))
    most = CHARS_PER_TOKEN * max_tokens
    result = [tuple(cut_middle(text, most) for text in row) for row in texts]
    prompts = [render(row) for row in result]
    tokens = _tokens(prompts, engine)
    over = np.flatnonzero(tokens.max(axis=1) > max_tokens)
    uncut = list(result)

    def fits(rows: list[Texts]) -> BoolArray:
        fitting: BoolArray = _tokens([render(row) for row in rows], engine).max(axis=1) <= max_tokens
        return fitting

    for shorten in (_shorten_responses, _shorten_question):
        for row in over.tolist():  # what is cut anew says how much of the whole text is left out
            question = uncut[row][0] if shorten is _shorten_responses else texts[row][0]
            result[row] = (question, *texts[row][1:])
        over = _shortened(result, over, shorten, fits, most)
    for row in over.tolist():
        result[row] = uncut[row]
    shortened = [i for i, row in enumerate(result) if row != uncut[i]]
    for i in shortened:
        prompts[i] = render(result[i])
    if shortened:
        tokens[shortened] = _tokens([prompts[i] for i in shortened], engine)
    changed = np.array([before != after for before, after in zip(texts, result, strict=True)], dtype=bool)
    too_long = np.zeros(len(result), dtype=bool)
    too_long[over] = True
    return Fitted(result, prompts, changed, too_long, tokens.sum(axis=1, dtype=np.int64))


def prompt_room(engine: Engine, max_tokens: int, behind: int) -> int:
    """Return the most tokens a prompt may have: `max_tokens`, or fewer where the model holds fewer.

    `behind` tokens of what comes after the prompt, the answer included, have to fit beside it.
    """
    return max_tokens if engine.context is None else max(0, min(max_tokens, engine.context - behind))


def cut_middle(text: str, max_chars: int) -> str:
    """Return a text of at most `max_chars` characters as it is, of a longer one its two ends and a mark between them.

    >>> cut_middle("abcdefghij", 4)
    'ab\\n[... 6 characters left out ...]\\nij'
    """
    if len(text) <= max_chars:
        return text
    tail = max_chars // 2
    head = max_chars - tail
    return f"{text[:head]}\n[... {len(text) - max_chars:,} characters left out ...]\n{text[len(text) - tail :]}"


def _shorten_responses(texts: Texts, max_chars: int) -> Texts:
    return (texts[0], *(cut_middle(text, max_chars) for text in texts[1:]))


def _shorten_question(texts: Texts, max_chars: int) -> Texts:
    return (cut_middle(texts[0], max_chars), *(cut_middle(text, LEAST_CHARS) for text in texts[1:]))


def _shortened(
    texts: list[Texts],
    over: IntArray,
    shorten: Callable[[Texts, int], Texts],
    fits: Callable[[list[Texts]], BoolArray],
    most: int,
) -> IntArray:
    """Shorten the rows `over` in place, by bisection on the up to `most` characters of a text that stay.

    Return those that do not fit.
    """
    if not len(over):
        return over
    low = np.full(len(over), LEAST_CHARS)
    possible = fits([shorten(texts[i], LEAST_CHARS) for i in over])
    rows, low = over[possible], low[possible]
    high = np.array([min(max(map(len, texts[i])), most) for i in rows], dtype=np.int64)
    while (open_ := np.flatnonzero(high - low > np.maximum(low // 50, 1))).size:
        middle = (low[open_] + high[open_]) // 2
        good = fits([shorten(texts[rows[k]], int(m)) for k, m in zip(open_, middle, strict=True)])
        low[open_[good]], high[open_[~good]] = middle[good], middle[~good]
    for i, chars in zip(rows, low, strict=True):
        texts[i] = shorten(texts[i], int(chars))
    return over[~possible]


def _tokens(prompts: Sequence[Sequence[Conversation]], engine: Engine) -> IntArray:
    """Return the tokens of each of the k prompts of n tuples, shape (n, k)."""
    counts = engine.count_tokens([prompt for row in prompts for prompt in row])
    return np.array(counts, dtype=np.int64).reshape(len(prompts), -1)
