"""Judge data (EFT): a model's own gradings that agree with human rankings, to train it as a judge (2401.10020)."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labeling.errors import DataError
from labeling.files import replacing
from labeling.judge_prompts import load_template
from labeling.llm import Conversation, Engine, Sampling
from labeling.pairs import MESSAGES, Pairs, prompt_id, prompt_text
from labeling.rubric_judge import RubricJudge, parse_score
from labeling.truncation import Texts, fit_prompts, prompt_room

SCHEMA = pa.schema(
    [("messages", MESSAGES), ("prompt_id", pa.string()), ("response", pa.string()), ("score", pa.int32())]
)
"""A grading: the judge's prompt and the model's answer, as TRL's SFTTrainer reads it; what was graded, and how."""

Win = tuple[str, str]
"""A response that people preferred, and the one it was preferred to."""


@dataclass(frozen=True)
class Grading:
    """One answer of a model that was asked to grade one response."""

    prompt_id: str
    response: str
    sample: int
    """Which of the answers about this response it is."""
    asked: Conversation
    text: str
    score: int | None
    """0 to 5; None where the answer ends in no score."""


@dataclass(frozen=True)
class Eft:
    """Judge data, and what was left out on the way."""

    items: Sequence[Grading]
    counts: Mapping[str, Any]

    def write(self, path: str | Path) -> None:
        """Write the items as Parquet, `SCHEMA`."""
        rows = [
            {
                "messages": [
                    *item.asked,
                    {"role": "assistant", "content": item.text.encode("utf-8", "replace").decode()},
                ],
                "prompt_id": item.prompt_id,
                "response": item.response,
                "score": item.score,
            }
            for item in self.items
        ]
        with replacing(path) as part:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part, compression="zstd")


def build_eft(
    pairs: Pairs, engine: Engine, sampling: Sampling, *, most_per_score: int | None = None, seed: int = 0
) -> Eft:
    """Let a model grade the responses of pairs with gold, `sampling.n` times each; return the gradings worth learning.

    Ties say nothing and are left out, and so are prompts whose labels contradict each other (A > B > C > A), which no
    grading agrees with: they are counted, as are gradings that repeat another word for word. Long prompts are cut as
    in `grade`, and counted. Raises DataError where no pair has a gold label that is no tie, all prompts are
    contradictory, or no grading agrees with people.
    """
    _check_most(most_per_score)
    decided = ~np.isnan(pairs.gold) & (pairs.gold != 0.5)
    if not decided.any():
        raise DataError(f"none of {len(pairs)} pairs says which response is better; pass pairs with a gold column")
    labelled, questions = _ranked(pairs.take(decided))
    wins = {name: found for name, found in labelled.items() if not contradictory(found)}
    if not wins:
        raise DataError(
            f"the labels of each of {len(labelled)} prompts contradict each other (A > B > C > A), so that no grading "
            "can agree with them; expected prompts that order their responses: correct the labels, or pass more pairs"
        )
    gradings, n_cut, n_too_long = grade(wins, questions, engine, sampling)
    agreeing = agree_with_people(gradings, wins)
    if not agreeing:
        raise DataError(
            f"none of {len(gradings)} gradings orders the responses of its prompt as people did "
            f"({sum(g.score is None for g in gradings)} end in no score; {n_too_long} responses were too long to "
            "grade); expected some: a larger model, more samples"
        )
    different = distinct(agreeing)
    kept = flatten(different, most_per_score, seed)
    counts = {
        "contradictory": len(labelled) - len(wins),
        "gradings": len(gradings),
        "unparsed": sum(g.score is None for g in gradings),
        "agreeing": len(agreeing),
        "repeated": len(agreeing) - len(different),
        "kept": len(kept),
        "cut": n_cut,
        "too_long": n_too_long,
        "scores_before": _histogram(different),
        "scores": _histogram(kept),
    }
    return Eft(kept, counts)


def grade(
    wins: Mapping[str, Sequence[Win]], questions: Mapping[str, str], engine: Engine, sampling: Sampling
) -> tuple[list[Grading], int, int]:
    """Return `sampling.n` gradings of each response that won or lost, by the rubric of five points.

    As in `RubricJudge`, a prompt that is too long is cut in the middle of the response, and a response whose prompt
    does not fit for all that is not graded: how many these are, cut and not graded, comes second and third.
    """
    template = load_template("rubric")

    def render(texts: Texts) -> list[Conversation]:
        question, response = texts
        return [template({"question": question, "response": response}, {"reference": None, "closed": False})]

    items = [
        (name, response)
        for name, pairs in wins.items()
        for response in dict.fromkeys(text for win in pairs for text in win)
    ]
    room = prompt_room(engine, RubricJudge.max_prompt_tokens, sampling.max_tokens)
    fitted = fit_prompts([(questions[name], response) for name, response in items], render, engine, room)
    kept = np.flatnonzero(~fitted.too_long).tolist()
    asked = [fitted.prompts[i][0] for i in kept]
    answers = engine.generate(asked, sampling) if asked else []
    gradings = [
        Grading(*items[i], number, conversation, answer.text, parse_score(answer.text))
        for i, conversation, samples in zip(kept, asked, answers, strict=True)
        for number, answer in enumerate(samples)
    ]
    return gradings, int((fitted.cut & ~fitted.too_long).sum()), len(items) - len(kept)


def agree_with_people(gradings: Sequence[Grading], wins: Mapping[str, Sequence[Win]]) -> list[Grading]:
    """Return the gradings of those rounds that score every winner of a prompt above the response it beat.

    A round is one sample number of a prompt: one grading of each of its responses. A response without a score, or an
    equal score, disagrees.
    """
    rounds: dict[tuple[str, int], dict[str, Grading]] = defaultdict(dict)
    for grading in gradings:
        rounds[grading.prompt_id, grading.sample][grading.response] = grading
    kept = []
    for (name, _), found in rounds.items():
        scores = {response: grading.score for response, grading in found.items()}
        if all(_above(scores.get(won), scores.get(lost)) for won, lost in wins[name]):
            kept += list(found.values())
    return kept


def contradictory(wins: Sequence[Win]) -> bool:
    """Return whether no order of the responses has every winner above what it beat.

    >>> contradictory([("a", "b"), ("b", "c")]), contradictory([("a", "b"), ("b", "c"), ("c", "a")])
    (False, True)
    """
    order: TopologicalSorter[str] = TopologicalSorter()
    for won, lost in wins:
        order.add(lost, won)
    try:
        order.prepare()
    except CycleError:
        return True
    return False


def distinct(gradings: Sequence[Grading]) -> list[Grading]:
    """Return the gradings, the first of those that say the same of the same response: copies teach nothing more."""
    first: dict[tuple[str, str, str], Grading] = {}
    for grading in gradings:
        first.setdefault((grading.prompt_id, grading.response, grading.text), grading)
    return list(first.values())


def flatten(gradings: Sequence[Grading], most_per_score: int | None = None, seed: int = 0) -> list[Grading]:
    """Return at most so many gradings of each score, in their order; which ones is drawn by a seeded hash.

    Default: the mean count of the scores that occur, rounded up, so that frequent scores lose and rare ones stay.
    """
    _check_most(most_per_score)
    counted = Counter(grading.score for grading in gradings)
    most = most_per_score or -(-len(gradings) // max(len(counted), 1))
    drawn = sorted(gradings, key=lambda grading: _lot(grading, seed))
    place: Counter[int | None] = Counter()
    kept = set()
    for grading in drawn:
        place[grading.score] += 1
        if place[grading.score] <= most:
            kept.add(id(grading))
    return [grading for grading in gradings if id(grading) in kept]


def _check_most(most_per_score: int | None) -> None:
    if most_per_score is not None and most_per_score < 1:
        raise DataError(f"most_per_score is {most_per_score}; expected 1 or more, or none")


def _above(won: int | None, lost: int | None) -> bool:
    return won is not None and lost is not None and won > lost


def _lot(grading: Grading, seed: int) -> bytes:
    text = f"{seed} {grading.prompt_id} {grading.sample} {grading.response}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _ranked(pairs: Pairs) -> tuple[dict[str, list[Win]], dict[str, str]]:
    """Return who won against whom, and the question, by prompt."""
    wins: dict[str, list[Win]] = defaultdict(list)
    questions = {}
    columns = (pairs.table[name].to_pylist() for name in ("prompt", "response_a", "response_b"))
    for (prompt, a, b), gold in zip(zip(*columns, strict=True), pairs.gold.tolist(), strict=True):
        name = prompt_id(prompt)
        questions[name] = prompt_text(prompt)
        wins[name].append((a, b) if gold > 0.5 else (b, a))
    return dict(wins), questions


def _histogram(gradings: Sequence[Grading]) -> dict[str, int]:
    counted = Counter(grading.score for grading in gradings)
    return {str(score): counted[score] for score in range(6)}
