"""New prompts: a model continues a list of examples; what is unfit, or like others, is left out and counted."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from augment.contamination import words
from augment.progress import progress_bar
from labeling.errors import DataError, WeakprefWarning
from labeling.llm import Completion, Conversation, Engine, Sampling, fitting
from labeling.pairs import question

KEYWORDS = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to", "video", "audio", "music", "flowchart", "diagram",
)  # fmt: skip
"""Words of requests that a model of text cannot serve (Self-Instruct's list)."""

SAMPLING = Sampling(temperature=0.6, top_p=0.9, max_tokens=512)
"""Temperature and top-p of self-rewarding models (arXiv 2401.10020)."""

NUMBERED = re.compile(
    r"^[^\w\n]*(?:(?:task|example|request|prompt)[^\S\n]*)?(\d{1,6})[^\S\n]*[.:)](?!\d)\s*",
    re.IGNORECASE | re.MULTILINE,
)
"""How an item of the list begins, on one line: what stands before the number cannot be read in two ways, which would
take minutes where a model writes nothing but line ends."""

MOST_ITEMS = 100
"""A number further than this above that of the request is a year, or another part of a prompt."""


@dataclass(frozen=True)
class PromptFilter:
    """Which new prompts are kept; the defaults are those of Self-Instruct (arXiv 2212.10560)."""

    max_rouge: float = 0.7
    """ROUGE-L (F1) with every seed and every prompt kept before must be below it, in (0, 1]."""
    min_words: int = 4
    max_words: int = 150
    keywords: tuple[str, ...] = KEYWORDS
    """A prompt that has one of them, as whole words in any case, is left out."""


@dataclass(frozen=True)
class FewShot:
    """How the model is asked."""

    n_seeds: int = 6
    """Examples from the seeds in one request."""
    n_new: int = 2
    """Examples from the new prompts kept so far, where there are some; else from the seeds."""
    batch: int = 16
    """Requests the engine gets at a time."""
    max_requests: int | None = None
    """Most requests, new prompts found or not; None = 4 for each new prompt asked for, and one batch."""
    seed: int = 0
    """Seed of the choice of examples, 0 or more."""


@dataclass(frozen=True)
class NewPrompts:
    """What `new_prompts` found."""

    prompts: tuple[Conversation, ...]
    """Each of one user turn."""
    left_out: Mapping[str, int]
    """Why texts of the model were left out, and how many."""
    n_requests: int
    n_tokens: int
    """Tokens the model wrote."""


def new_prompts(
    seed_prompts: Sequence[Conversation],
    engine: Engine,
    n: int,
    *,
    how: FewShot = FewShot(),
    keep: PromptFilter = PromptFilter(),
    sampling: Sampling = SAMPLING,
    avoid: Sequence[Conversation] = (),
    progress: bool = False,
) -> NewPrompts:
    """Return up to n new prompts, written by a model that was shown eight of the old ones (Self-Instruct).

    Of a seed only the last user turn is shown. No new prompt is like a seed, another new one or one to `avoid`. The
    same seeds, model and settings give the same prompts; to go on after a kill, pass a `CachedEngine`. Fewer than n
    come with a WeakprefWarning that counts what was left out and why.

    Raises DataError for no seeds, n below 1, or settings out of range.
    """
    seeds, known = ([" ".join((question(prompt) or "").split()) for prompt in given] for given in (seed_prompts, avoid))
    _check(seeds, n, how, keep)
    pool, left_out, kept = Pool(keep, [*seeds, *known]), Counter[str](), list[str]()
    rng, n_requests, n_tokens = np.random.default_rng(how.seed), 0, 0
    most = 4 * n + how.batch if how.max_requests is None else how.max_requests
    with progress_bar("New prompts", progress) as watch:
        watch(wanted=n)
        while len(kept) < n and n_requests < most:
            size = min(how.batch, most - n_requests)
            drawn = [_examples(seeds, kept, how, rng) for _ in range(size)]
            shown = [_fitting(examples, engine, sampling.max_tokens) for examples in drawn]
            # Another seed for every batch: few seeds mean that the same request comes again.
            answers = engine.generate([*map(request, shown)], replace(sampling, seed=sampling.seed + n_requests))
            before, written = len(kept), sum(completion.n_tokens for samples in answers for completion in samples)
            asked = zip(shown, answers, strict=True)
            found = ((completion, len(examples) + 1) for examples, samples in asked for completion in samples)
            for text, cut in (item for completion, first in found for item in items(completion, first)):
                reason = "enough were found before" if len(kept) >= n else pool.refuse(text, cut)
                kept += [] if reason else [text]
                left_out.update([reason] if reason else [])
            n_requests, n_tokens = n_requests + size, n_tokens + written
            watch(done=len(kept) - before, tokens=written)
    if len(kept) < n:
        _warn(len(kept), n, n_requests, left_out)
    prompts = tuple([{"role": "user", "content": text}] for text in kept)
    return NewPrompts(prompts, dict(sorted(left_out.items())), n_requests, n_tokens)


def request(examples: Sequence[str]) -> Conversation:
    """Return what a model is asked to continue a list of prompts with.

    >>> request(["Name a river."])[0]["content"].splitlines()[-2:]
    ['Task 1: Name a river.', 'Task 2:']
    """
    asked = (
        "Below are tasks that people gave to an assistant. Add new tasks to the list, each of another kind and topic, "
        "each on a line of its own and numbered like those given. Write only the tasks, no answers."
    )
    listed = "".join(f"Task {i}: {text}\n" for i, text in enumerate(examples, start=1))
    return [{"role": "user", "content": f"{asked}\n\n{listed}Task {len(examples) + 1}:"}]


def items(completion: Completion, first: int) -> Iterator[tuple[str, bool]]:
    """Yield the prompts in what a model wrote, white space collapsed, and whether each was cut at the end.

    What stands before the first number is an introduction, unless that number follows `first`, the one that the request
    ended with, and no colon leads up to it: then it is the prompt of that number. Without any number, the whole text
    is one prompt.
    """
    text = completion.text
    starts = [found for found in NUMBERED.finditer(text) if int(found[1]) <= first + MOST_ITEMS]
    ends = [found.start() for found in starts[1:]] + [len(text)]
    bodies = [text[found.end() : end] for found, end in zip(starts, ends, strict=False)]
    before = text[: starts[0].start()] if starts else text
    if not starts or (int(starts[0][1]) == first + 1 and before.strip()[-1:] not in ("", ":", "：")):
        bodies = [before, *bodies]
    for i, body in enumerate(bodies):
        yield " ".join(body.split()), completion.finish_reason == "length" and i == len(bodies) - 1


class Pool:
    """Seeds and kept prompts, and what keeps another from joining them."""

    def __init__(self, keep: PromptFilter, seeds: Sequence[str]) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self.keep = keep
        self._keywords = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in keep.keywords) or r"(?!)", re.I)
        self._scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        self._members = [(text, Counter(words(text))) for text in seeds]

    def refuse(self, text: str, cut: bool = False) -> str:
        """Return why a text is left out, or '' after taking it in."""
        bag = Counter(words(text))
        n = bag.total()
        if cut:
            return "cut at max_tokens"
        if not is_storable(text):
            return "of characters that no file holds"
        if not n:
            return "no words"
        if n < self.keep.min_words:
            return f"under {self.keep.min_words} words"
        if n > self.keep.max_words:
            return f"over {self.keep.max_words} words"
        if self._keywords.search(text):
            return "a keyword"
        if any(self._alike(text, bag, other, theirs) for other, theirs in self._members):
            return f"ROUGE-L of {self.keep.max_rouge} or more with a seed or a kept prompt"
        self._members.append((text, bag))
        return ""

    def _alike(self, text: str, bag: Counter[str], other: str, theirs: Counter[str]) -> bool:
        # A common subsequence has at most the words the two have in common: most pairs need no more than this.
        if 2 * (bag & theirs).total() < self.keep.max_rouge * (bag.total() + theirs.total()):
            return False
        return bool(self._scorer.score(other, text)["rougeL"].fmeasure >= self.keep.max_rouge)


class _Words:
    """The tokenizer ROUGE is given: its own knows only a to z, and would find all other scripts alike or empty."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def is_storable(text: str) -> bool:
    """Return whether a text can be a prompt in a file: no NUL character, no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _examples(seeds: Sequence[str], kept: Sequence[str], how: FewShot, rng: np.random.Generator) -> list[str]:
    n_new = min(how.n_new, len(kept))
    n_seeds = min(how.n_seeds + how.n_new - n_new, len(seeds))
    chosen = [seeds[i] for i in rng.choice(len(seeds), n_seeds, replace=False)]
    chosen += [kept[i] for i in rng.choice(len(kept), n_new, replace=False)] if n_new else []
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _fitting(examples: list[str], engine: Engine, max_tokens: int) -> list[str]:
    """Return as many of the examples as the model has room for beside its answer, the longest left out first."""
    while len(examples) > 1 and not fitting([request(examples)], engine, max_tokens)[0]:
        longest = max(range(len(examples)), key=lambda i: len(examples[i]))
        examples = [*examples[:longest], *examples[longest + 1 :]]
    return examples


def _check(seeds: Sequence[str], n: int, how: FewShot, keep: PromptFilter) -> None:
    if not seeds or not all(seeds):
        empty = f"seed {seeds.index('')} has no user turn with a text" if seeds else "there are no seed prompts"
        raise DataError(f"{empty}; expected one or more, each with a question: leave the others out")
    if n < 1 or how.batch < 1 or how.n_seeds < 1 or how.n_new < 0 or how.seed < 0:
        raise DataError(
            f"n is {n} and how is {how}; expected 1 or more new prompts, seeds shown and requests a batch, and a seed "
            "of 0 or more"
        )
    if not 0 < keep.max_rouge <= 1 or not 0 < keep.min_words <= keep.max_words:
        raise DataError(
            f"max_rouge is {keep.max_rouge}, expected it in (0, 1]; min_words {keep.min_words} and max_words "
            f"{keep.max_words}, expected 1 or more and no fewer"
        )


def _warn(found: int, n: int, n_requests: int, left_out: Mapping[str, int]) -> None:
    each = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items())) or "nothing"
    text = (
        f"{found:,} of {n:,} new prompts after {n_requests:,} requests; left out: {each}; give more seeds, a larger "
        "model, a higher temperature or FewShot(max_requests=...)"
    )
    warnings.warn(text, WeakprefWarning, stacklevel=3)
