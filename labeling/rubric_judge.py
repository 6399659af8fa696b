"""A model that grades each response by itself, from 0 to 5; the margin of a pair is the difference of the grades."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeling.errors import DataError
from labeling.judge_prompts import Template, criterion_unseen, load_template
from labeling.llm import Conversation, Engine, Sampling, check_engine
from labeling.pairs import Pairs, asked_of, ids_of
from labeling.returned import Votes, signs_to_votes
from labeling.truncation import ANSWER_TOKENS, Texts, fit_prompts, prompt_room
from labeling.verdicts import Cost, Verdicts, agreement
from labeling.voters import Ballot

FloatArray = npt.NDArray[np.float64]

DIGITS = ("0", "1", "2", "3", "4", "5")
SCORE_LINE = re.compile(r"\W*Score:[\s*]*([0-5])(?:\s*/\s*5)?[.*\s]*")
"""The whole last line of a graded answer; emphasis by asterisks, "/5" and a full stop are let pass."""
THREE_SAMPLES = Sampling(n=3, temperature=0.7, top_p=0.9, max_tokens=300)


@dataclass(frozen=True)
class RubricJudge:
    """A voter: a model gives each response up to five points that add up, the mean of some samples (METHODS 4).

    Equal responses to equal requests are graded once. A sample that ends in no score is dropped and counted; a response
    without any score makes the judge abstain. Self-rewarding language models, arXiv 2401.10020.
    """

    engine: Engine = field(repr=False)
    criteria: Mapping[str, float] = field(default_factory=dict)
    """Criteria in words, each graded from 0 to 5, and their weights (> 0); empty = the rubric of five points."""
    name: str = "rubric_judge"
    template: str | Path | None = None
    """Jinja file in place of templates/rubric.jinja (criterion.jinja with criteria); it sees question, response,
    reference (or none), criterion, and closed: whether a digit alone is asked for."""
    sampling: Sampling | None = THREE_SAMPLES
    """How graded answers are drawn; None = none is: the score is the mean of the digits by their probabilities."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Reference answers by pair_id, shown with the response where there is one."""
    max_prompt_tokens: int = 2048
    """Longer prompts are cut in the middle of the response (`labeling.truncation`), and so are those that leave no room
    for the answer in what the model holds."""

    def __post_init__(self) -> None:
        if any(not 0 < weight < math.inf for weight in self.criteria.values()):
            raise DataError(f"criteria have the weights {list(self.criteria.values())}; expected numbers above 0")
        check_engine(self.engine)
        named = ("", "", "") if self.references else ("", "")
        prompts = self._prompts(named)  # a template that cannot be used is refused here, not after the first pairs
        if self.criteria and any(prompt in self._prompts(named, [""]) for prompt in prompts):
            raise criterion_unseen(self.template)

    @property
    def columnar(self) -> bool:
        """True: responses are graded together."""
        return True

    def vote(self, table: pa.Table) -> Ballot:
        """Vote on n rows of `Pairs.voter_table()`."""
        return self.judge(table).ballot()

    def judge(self, table: pa.Table | Pairs) -> Verdicts:
        """Return votes on n pairs, or rows of `Pairs.voter_table()`, with the scores, counts and cost."""
        start = time.perf_counter()
        table = asked_of(table)
        items, place = distinct(self._items(table))
        answer = ANSWER_TOKENS if self.sampling is None else self.sampling.max_tokens
        most = prompt_room(self.engine, self.max_prompt_tokens, answer)
        fitted = fit_prompts(items, self._prompts, self.engine, most)
        asked = np.flatnonzero(~fitted.too_long)
        prompts = [prompt for i in asked for prompt in fitted.prompts[i]]
        grades, counts = self._grades(prompts)
        item_scores = np.full(len(items), np.nan)
        weights = np.array([*self.criteria.values()] or [1.0])
        item_scores[asked] = grades.reshape(len(asked), len(weights)) @ (weights / weights.sum())
        scores = item_scores[place].reshape(-1, 2)
        too_long, cut = (marks[place[::2]] | marks[place[1::2]] for marks in (fitted.too_long, fitted.cut))
        votes, margins, abstained = compare_scores(scores, too_long)
        n_prompts, tokens = counts.n_samples or len(prompts), int(fitted.n_tokens[asked].sum())
        unknown = np.full(table.num_rows, np.nan)
        return Verdicts(
            self.name, votes, margins, abstained,
            Cost(n_prompts, tokens, counts.n_tokens, time.perf_counter() - start), unknown, unknown,
            scores, counts.n_samples, counts.n_unparsed, counts.agreement, int((cut & ~too_long).sum()),
            {"kind": "rubric", "model": self.engine.model, "criteria": "; ".join(self.criteria) or "five points"},
            ids_of(table),
        )  # fmt: skip

    @cached_property
    def _template(self) -> Template:
        return load_template("criterion" if self.criteria else "rubric", self.template)

    def _items(self, table: pa.Table) -> list[Texts]:
        """Return (question, response) or (question, response, reference), A then B of each pair."""
        columns = (table[name].to_pylist() for name in ("pair_id", "prompt", "response_a", "response_b"))
        items: list[Texts] = []
        for pair_id, question, a, b in zip(*columns, strict=True):
            reference = (self.references[pair_id],) if pair_id in self.references else ()
            items += [(question, response, *reference) for response in (a, b)]
        return items

    def _prompts(self, texts: Texts, criteria: Sequence[str] | None = None) -> list[Conversation]:
        """Return the prompts that grade one response: one a criterion."""
        named = dict(zip(("question", "response", "reference"), texts, strict=False))
        values = {"reference": None, "closed": self.sampling is None}
        asked = list(self.criteria) or [""] if criteria is None else criteria
        return [self._template(named, values | {"criterion": text}) for text in asked]

    def _grades(self, prompts: Sequence[Conversation]) -> tuple[FloatArray, _Counts]:
        """Return a score a prompt, in [0, 5], NaN where there is none, and what was drawn."""
        if not prompts:
            return np.empty(0), _Counts()
        if self.sampling is None:
            probabilities = np.exp(self.engine.choose(prompts, DIGITS))
            return probabilities @ np.arange(6.0) / probabilities.sum(axis=1), _Counts()
        samples = self.engine.generate(prompts, self.sampling)
        parsed = [[parse_score(sample.text) for sample in drawn] for drawn in samples]
        scores = [[score for score in row if score is not None] for row in parsed]
        means = np.array([np.mean(row) if row else np.nan for row in scores])
        n, n_parsed = sum(map(len, parsed)), sum(map(len, scores))
        n_tokens = sum(sample.n_tokens for drawn in samples for sample in drawn)
        return means, _Counts(n, n - n_parsed, n_tokens, agreement(np.array(parsed, dtype=float)))


@dataclass(frozen=True)
class _Counts:
    n_samples: int = 0
    n_unparsed: int = 0
    n_tokens: int = 0
    agreement: float = math.nan


def parse_score(text: str) -> int | None:
    """Return the score that an answer's last line gives, 0 to 5, or None: what it quotes farther up is no score.

    >>> parse_score("It says Score: 5, but it is off the point.\\nScore: 1"), parse_score("Score: 7"), parse_score("5")
    (1, None, None)
    """
    lines = text.strip().splitlines()
    match = SCORE_LINE.fullmatch(lines[-1]) if lines else None
    return int(match.group(1)) if match else None


def compare_scores(scores: FloatArray, too_long: npt.NDArray[np.bool_]) -> tuple[Votes, FloatArray, dict[str, int]]:
    """Return votes, margins and reasons to abstain from the scores of A and B, shape (n, 2)."""
    # Weighted means of the same grades can differ by rounding, which is no preference.
    margins = np.round(scores[:, 0] - scores[:, 1], 9) + 0.0
    abstained = {
        "too_long": int(too_long.sum()),
        "no_score": int((np.isnan(margins) & ~too_long).sum()),
        "equal_scores": int((margins.astype(np.float32) == 0).sum()),
    }
    return signs_to_votes(margins.astype(np.float32)), margins, abstained


def distinct(items: Sequence[Texts]) -> tuple[list[Texts], npt.NDArray[np.int64]]:
    """Return the distinct items in order of first appearance, and the place among them of each of the n items."""
    place = {item: k for k, item in enumerate(dict.fromkeys(items))}
    return list(place), np.array([place[item] for item in items], dtype=np.int64)
