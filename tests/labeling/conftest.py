"""Pairs to vote on, and a language model that answers by a rule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from labeling.chat_tokens import check_lengths
from labeling.llm import Completion, Conversation, FloatArray, Sampling
from labeling.openai_engine import OpenAIEngine
from labeling.pairs import SCHEMA, Pairs, pair_id
from labeling.vote_rows import VoteRows
from labeling.votes import VoteMatrix
from tests.labeling.odd_server import Script, serving

WORDS = ("yes", "no", "why?", "perhaps", "42", "sorry", "**bold**", "naïve", "数", "🙂")


def _make_pairs(n: int, seed: int = 0) -> Pairs:
    """Return n pairs of random words, four of them sharing a group; gold is 0, 1, a tie or missing."""
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        prompt = [{"role": "user", "content": f"Question {i // 4}?"}]
        a, b = (f"{side}{i} " + " ".join(draw.choice(WORDS, draw.integers(1, 9))) for side in "ab")
        row = {"pair_id": pair_id(prompt, a, b), "prompt": prompt, "response_a": a, "response_b": b}
        gold = draw.choice([0.0, 1.0, 0.5, 0.8, np.nan])
        row |= {"gold": None if np.isnan(gold) else gold, "annotator_votes": None, "group": f"g{i // 4}", "source": "s"}
        rows.append(row)
    return Pairs(pa.Table.from_pylist(rows, schema=SCHEMA), {})


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., Pairs]:
    return _make_pairs


FENCE = re.compile(r"<<<BEGIN ([A-Z ]+) ([0-9a-f]{10})>>>\n(.*?)\n<<<END \1 \2>>>", re.S)


@dataclass
class ScriptedEngine:
    """Chooses by scores that a rule gives for the texts shown as data, by title; writes what another rule says.

    Four characters are a token. What it was asked is kept; what does not fit its context is refused.
    """

    rule: Callable[[dict[str, str]], Sequence[float]] = lambda texts: (0.0, 0.0)
    writes: Callable[[dict[str, str], int], str] = lambda texts, sample: ""
    model: str = "scripted@1"
    context: int | None = None
    asked: list[Conversation] = field(default_factory=list)

    @property
    def source(self) -> str:
        return self.model

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        self._take(prompts, 1)
        scores = np.array([self.rule(self.shown(prompt)) for prompt in prompts], dtype=float).reshape(-1, len(choices))
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        self._take(prompts, sampling.max_tokens)
        texts = [[self.writes(self.shown(prompt), i) for i in range(sampling.n)] for prompt in prompts]
        return [[Completion(text, len(text.split()), math.nan, "stop") for text in row] for row in texts]

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        return [sum(len(turn["content"]) // 4 + 1 for turn in prompt) for prompt in prompts]

    def _take(self, prompts: Sequence[Conversation], room: int) -> None:
        if self.context is not None:
            check_lengths(self.count_tokens(prompts), room, self.context, self.model)
        self.asked += prompts

    @staticmethod
    def shown(prompt: Conversation) -> dict[str, str]:
        """Return the texts a prompt shows between its fences, by title."""
        return {title: text for title, _, text in FENCE.findall(prompt[0]["content"])}

    @staticmethod
    def by_quality(bias: float = 0.0) -> Callable[[dict[str, str]], Sequence[float]]:
        """Prefer the response with more of the word "good", and what is shown first by `bias` log-odds."""
        return lambda texts: (texts["RESPONSE A"].count("good") - texts["RESPONSE B"].count("good") + bias, 0.0)


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedEngine]:
    return ScriptedEngine


def _pairs_of(rows: Sequence[tuple[str, str, str, float | None]]) -> Pairs:
    """Return pairs of (question, response_a, response_b, gold); the question is the group."""
    records = []
    for question, a, b, gold in rows:
        prompt = [{"role": "user", "content": question}]
        record = {"pair_id": pair_id(prompt, a, b), "prompt": prompt, "response_a": a, "response_b": b, "gold": gold}
        records.append(record | {"annotator_votes": None, "group": question, "source": "s"})
    return Pairs(pa.Table.from_pylist(records, schema=SCHEMA), {})


@pytest.fixture(scope="session")
def pairs_of() -> Callable[..., Pairs]:
    return _pairs_of


def _simulate(n=400, accuracies=(0.8, 0.7, 0.65, 0.6, 0.5), coverage=0.8, margins=False, seed=0, groups=4):
    """Voters, named out of order, independent given the preference; with margins they lean further when right."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, n).astype(float)
    m = len(accuracies)
    right = rng.random((n, m)) < np.array(accuracies)
    vote = np.where(right, 1 - gold[:, None], gold[:, None]).astype(np.int8)
    size = np.where(right, rng.gamma(4, 1, (n, m)), rng.gamma(2, 1, (n, m)))
    margin = np.where(vote == 0, size, -size).astype(np.float32)
    silent = rng.random((n, m)) > coverage
    vote[silent] = -1
    margin[silent | (not margins)] = np.nan
    names = tuple(f"{'vw'[j // 10]}{(7 * j + 3) % 10}" for j in range(m))
    ids = np.array([f"p{i}" for i in range(n)])
    return VoteMatrix(vote, margin, names, ids, np.array([f"g{i // groups}" for i in range(n)])), gold


@pytest.fixture(scope="session")
def simulate():
    return _simulate


def _some_gold(gold, n_gold, seed=0):
    """Labels (n,) of which all but some are unknown."""
    labels = np.full(len(gold), np.nan)
    rows = np.random.default_rng(seed).choice(len(gold), n_gold, replace=False)
    labels[rows] = gold[rows]
    return labels


@pytest.fixture(scope="session")
def some_gold():
    return _some_gold


def _coins(accuracies, n=10_000, seed=0):
    """Signs (n, m) of voters that err independently, and the preference (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1, 1], n)
    right = rng.random((n, len(accuracies))) < np.array(accuracies)
    return np.where(right, y[:, None], -y[:, None]).astype(np.int8), y


@pytest.fixture(scope="session")
def coins():
    return _coins


def _rows_of(signs, scores=None):
    """Distinct rows, counted; rows with scores as they are."""
    if scores is not None:
        return VoteRows(signs, scores, np.ones(len(signs)))
    distinct, counts = np.unique(signs, axis=0, return_counts=True)
    return VoteRows(distinct, np.zeros(distinct.shape), counts.astype(float))


@pytest.fixture(scope="session")
def rows_of():
    return _rows_of


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[OpenAIEngine, Script]]]:
    with serving() as begin:
        yield begin


@pytest.fixture
def quality_pairs(pairs_of):
    """A better, B better, equal, A much better."""
    return pairs_of(
        [
            ("q1", "good good", "bad", 1.0),
            ("q2", "bad", "good", 0.0),
            ("q3", "good a", "good b", 0.5),
            ("q4", "good " * 6, "bad", 1.0),
        ]
    )
