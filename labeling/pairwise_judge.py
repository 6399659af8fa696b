"""A model that says which of two responses is better: asked in both orders, its log-odds averaged."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

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
from labeling.votes import Vote

FloatArray = npt.NDArray[np.float64]

CRITERION = (
    "Better is what answers the request more correctly, more completely and more clearly, and does no harm. "
    "Length, tone and order of appearance count for nothing."
)
MOST_LOG_ODDS = 30.0
"""Log-odds are cut to this size: certainty of a model is no certainty."""


@dataclass(frozen=True)
class PairwiseJudge:
    """A voter: a model is asked which response is better, with either shown first.

    The margin is the mean of the two log-odds of A, which removes what the model adds for being shown first (METHODS 5;
    RLAIF, arXiv 2309.00267). The vote is its sign where both orders agree.

    >>> from labeling import apply, heuristics                                                    # doctest: +SKIP
    >>> votes = apply([*heuristics(), PairwiseJudge(engine)], pairs)                              # doctest: +SKIP
    """

    engine: Engine = field(repr=False)
    criterion: str = CRITERION
    """What makes a response better, in a sentence or two."""
    name: str = "pairwise_judge"
    template: str | Path | None = None
    """Jinja file in place of templates/pairwise.jinja; it sees stage, criterion, question, response_a, response_b."""
    on_flip: Literal["abstain", "keep"] = "abstain"
    """Where the better response changes with the order the vote abstains; "keep" keeps its margin, "abstain" none. In
    a label model the two were a tie (SmolLM2-135M, docs/judges.md); "abstain" says nothing where nothing is known."""
    reasoning: Sampling | None = None
    """How the model reasons before its verdicts, whose log-odds are averaged; None = it answers at once."""
    max_prompt_tokens: int = 2048
    """Longer prompts are cut in the middle of their responses (`labeling.truncation`), and so are those that leave no
    room for reasoning and answer in what the model holds; reasoning comes on top."""

    def __post_init__(self) -> None:
        if self.on_flip not in ("abstain", "keep"):
            raise DataError(f'on_flip is {self.on_flip!r}; expected "abstain" or "keep"')
        check_engine(self.engine)
        shown = self._whole()  # a template that cannot be used is refused here, not after the first pairs
        if self.criterion != CRITERION and shown == replace(self, criterion=CRITERION)._whole():
            raise criterion_unseen(self.template)

    @property
    def columnar(self) -> bool:
        """True: pairs are asked together."""
        return True

    def vote(self, table: pa.Table) -> Ballot:
        """Vote on n rows of `Pairs.voter_table()`."""
        return self.judge(table).ballot()

    def judge(self, table: pa.Table | Pairs) -> Verdicts:
        """Return votes on n pairs, or rows of `Pairs.voter_table()`, with both orders' log-odds, counts and cost."""
        start = time.perf_counter()
        table = asked_of(table)
        fitted = fit_prompts(texts_of(table), self._prompts, self.engine, self._most_tokens())
        asked = np.flatnonzero(~fitted.too_long)
        prompts = [prompt for i in asked for prompt in fitted.prompts[i]]
        log_odds, read, written, alike = self._log_odds(prompts)
        orders = np.full((table.num_rows, 2), np.nan)
        orders[asked] = log_odds.reshape(-1, 2) * (1, -1)
        votes, margins, abstained = decide(orders, fitted.too_long, self.on_flip)
        n_prompts = len(prompts) * (1 if self.reasoning is None else 2 * self.reasoning.n)
        cost = Cost(n_prompts, int(fitted.n_tokens[asked].sum()) + read, written, time.perf_counter() - start)
        return Verdicts(
            self.name, votes, margins, abstained, cost, orders[:, 0], orders[:, 1],
            scores=np.full((table.num_rows, 2), np.nan), sample_agreement=alike,
            n_cut=int((fitted.cut & ~fitted.too_long).sum()),
            notes={"kind": "pairwise", "model": self.engine.model, "criterion": self.criterion}, pair_ids=ids_of(table),
        )  # fmt: skip

    @cached_property
    def _template(self) -> Template:
        return load_template("pairwise", self.template)

    def _prompts(self, texts: Texts) -> list[Conversation]:
        """Return the prompts of a question and two responses, in both orders."""
        question, a, b = texts
        values = {"criterion": self.criterion, "stage": "ask" if self.reasoning is None else "reason"}
        shown = ({"question": question, "response_a": x, "response_b": y} for x, y in ((a, b), (b, a)))
        return [self._template(texts, values) for texts in shown]

    def _whole(self) -> list[Conversation]:
        """Return all that is asked of a pair of empty texts."""
        prompts = self._prompts(("", "", ""))
        return prompts if self.reasoning is None else [self._followed(prompt, "") for prompt in prompts]

    def _followed(self, prompt: Conversation, reasoning: str) -> Conversation:
        """Return a prompt, what the model reasoned and the question for its verdict."""
        ask = self._template({}, {"criterion": self.criterion, "stage": "verdict"})
        text = reasoning.encode("utf-8", "replace").decode()  # a lone surrogate can neither be sent nor hashed
        return [*prompt, {"role": "assistant", "content": text}, *ask]

    def _most_tokens(self) -> int:
        """Return the most tokens of a prompt, such that reasoning, the question for the verdict and it fit as well."""
        if self.reasoning is None:
            return prompt_room(self.engine, self.max_prompt_tokens, ANSWER_TOKENS)
        prompt = self._prompts(("", "", ""))[0]
        before, after = self.engine.count_tokens([prompt, self._followed(prompt, "")])
        behind = self.reasoning.max_tokens + after - before + ANSWER_TOKENS
        return prompt_room(self.engine, self.max_prompt_tokens, behind)

    def _log_odds(self, prompts: Sequence[Conversation]) -> tuple[FloatArray, int, int, float]:
        """Return the log-odds of the letter A, shape (n,), the tokens read beside `prompts`, and written, and how far
        verdicts on one prompt agree. Samples that a server does not give count for nothing."""
        if not prompts:
            return np.empty(0), 0, 0, math.nan
        if self.reasoning is None:
            return letter_log_odds(self.engine, prompts), 0, 0, math.nan
        drawn = self.engine.generate(prompts, self.reasoning)
        answered = np.array([[sample.given for sample in samples] for samples in drawn])
        followed = [self._followed(prompts[i], drawn[i][number].text) for i, number in np.argwhere(answered)]
        each = np.full(answered.shape, np.nan)
        if followed:
            each[answered] = letter_log_odds(self.engine, followed)
        written = sum(sample.n_tokens for samples in drawn for sample in samples)
        means = np.full(len(prompts), np.nan)
        known = ~np.isnan(each).all(axis=1)
        means[known] = np.nanmean(each[known], axis=1)
        return means, sum(self.engine.count_tokens(followed)), written, agreement(np.sign(each))


def texts_of(table: pa.Table) -> list[Texts]:
    """Return prompt and responses of n rows of `Pairs.voter_table()`."""
    return list(zip(*(table[name].to_pylist() for name in ("prompt", "response_a", "response_b")), strict=True))


def letter_log_odds(engine: Engine, prompts: Sequence[Conversation]) -> FloatArray:
    """Return the log-odds of A against B as the answer, shape (n,), cut to `MOST_LOG_ODDS`; NaN if there is none."""
    log_probs = engine.choose(prompts, ["A", "B"])
    with np.errstate(invalid="ignore"):  # both impossible: NaN
        odds: FloatArray = np.clip(log_probs[:, 0] - log_probs[:, 1], -MOST_LOG_ODDS, MOST_LOG_ODDS)
    return odds


def decide(
    orders: FloatArray, too_long: npt.NDArray[np.bool_], on_flip: Literal["abstain", "keep"]
) -> tuple[Votes, FloatArray, dict[str, int]]:
    """Return votes, margins and reasons to abstain from the log-odds of A in both orders, shape (n, 2).

    Reasons: too_long (nothing was asked), no_answer (such as to a prompt that a server refuses), flipped (each order
    names another response), tie.
    """
    margins = orders.mean(axis=1)
    flipped = orders[:, 0] * orders[:, 1] < 0
    votes = np.where(flipped, Vote.ABSTAIN, signs_to_votes(margins.astype(np.float32))).astype(np.int8)
    abstained = {
        "too_long": int(too_long.sum()),
        "no_answer": int((np.isnan(margins) & ~too_long).sum()),
        "flipped": int(flipped.sum()),
        "tie": int(((margins.astype(np.float32) == 0) & ~flipped).sum()),
    }
    return votes, np.where(flipped & (on_flip == "abstain"), np.nan, margins), abstained
