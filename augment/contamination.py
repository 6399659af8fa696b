"""Contamination: how much of each prompt stands word for word in the held-out prompts of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts written without spaces (Thai, Lao, Burmese, Khmer, kana, Chinese): each character counts as a word."""

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def words(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation.

    >>> words("Don't panic: 42 你好!")
    ['don', 't', 'panic', '42', '你', '好']
    """
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class Contamination:
    """How much of n prompts is found in held-out prompts; made by `contamination`."""

    shares: npt.NDArray[np.float64]
    """Shape (n,): share of a prompt's n-grams of words, in [0, 1], that some held-out prompt holds too."""
    nearest: npt.NDArray[np.int64]
    """Shape (n,): the first held-out prompt that holds the rarest of them, -1 where none holds any."""
    n_words: int
    """Words of an n-gram."""
    n_held_out: int
    prompts: tuple[str, ...]

    def report(self, limit: float) -> dict[str, Any]:
        """Return the figures as JSON takes them, with the ten worst prompts; `limit` in [0, 1] as in `check`."""
        worst = [i for i in np.argsort(-self.shares, kind="stable")[:10].tolist() if self.shares[i] > 0]
        return {
            "n_words": self.n_words,
            "n_prompts": len(self.shares),
            "n_held_out": self.n_held_out,
            "n_touched": int((self.shares > 0).sum()),
            "limit": limit,
            "n_over_limit": int((self.shares > limit).sum()),
            "mean_share": round(float(self.shares.mean()), 6) if len(self.shares) else 0.0,
            "worst": [
                {"row": i, "share": round(float(self.shares[i]), 6), "held_out_row": int(self.nearest[i])}
                for i in worst
            ],
        }

    def check(self, limit: float) -> None:
        """Raise DataError, naming the worst, if a prompt shares more than `limit` (in [0, 1]) of its n-grams."""
        check_limit(limit)
        over = int((self.shares > limit).sum())
        if over:
            i = int(self.shares.argmax())
            raise DataError(
                f"{over:,} of {len(self.shares):,} prompts share more than {limit:.0%} of their {self.n_words}-word "
                f"sequences with the {self.n_held_out:,} held-out prompts, the worst is row {i} "
                f"({self.shares[i]:.0%}, held-out row {self.nearest[i]}): {self.prompts[i][:80]!r}; expected none: "
                "leave these prompts out, or raise the limit"
            )


def check_limit(limit: float) -> None:
    """Raise DataError for a share of n-grams that is none."""
    if not 0 <= limit <= 1:
        raise DataError(f"max_overlap is {limit:g}; expected a share in [0, 1], such as 0.5 for half")


def contamination(prompts: Sequence[str], held_out: Sequence[str], *, n_words: int = 8) -> Contamination:
    """Return which share of each prompt's sequences of `n_words` words also occurs in the held-out prompts.

    Case, punctuation and white space do not count (`words`). A prompt with fewer words is one sequence, found only in a
    held-out prompt of just these words. Eight words follow the test of PaLM (arXiv 2204.02311), which calls a text
    contaminated from a share of 0.7. Raises DataError for n_words below 1, or no held-out prompts.

    >>> prompts, held_out = ["Name three big rivers of Europe, please."], ["name THREE big rivers of Europe"]
    >>> contamination(prompts, held_out, n_words=3).shares
    array([0.8])
    """
    if n_words < 1 or not len(held_out):
        raise DataError(f"n_words is {n_words}, with {len(held_out)} held-out prompts; expected 1 or more of each")
    holders: dict[tuple[str, ...], tuple[int, int]] = {}  # how many held-out prompts hold a sequence, and the first
    for row, text in enumerate(held_out):
        for gram in set(_grams(text, n_words)):
            count, first = holders.get(gram, (0, row))
            holders[gram] = (count + 1, first)
    found = [_share(list(_grams(text, n_words)), holders) for text in prompts]
    return Contamination(
        np.array([share for share, _ in found], dtype=np.float64),
        np.array([row for _, row in found], dtype=np.int64),
        n_words,
        len(held_out),
        tuple(prompts),
    )


def _grams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    tokens = words(text)
    if tokens:
        yield from (tuple(tokens[i : i + n]) for i in range(max(len(tokens) - n, 0) + 1))


def _share(grams: Sequence[tuple[str, ...]], holders: Mapping[tuple[str, ...], tuple[int, int]]) -> tuple[float, int]:
    found = [holders[gram] for gram in grams if gram in holders]
    return (len(found) / len(grams), min(found)[1]) if found else (0.0, -1)
