"""Candidates scored by the policy itself: by its judge prompt (self-rewarding) or its implicit rewards (CREAM)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augment.implicit_rewards import Over, ResponseLogProbs, implicit_rewards
from augment.pair_candidates import mean_score
from labeling.consistency import RATES, Consistency, Kind, Rewards, clamped, consistency
from labeling.llm import Engine, Sampling
from labeling.pairs import prompt_id, prompt_text
from labeling.rubric_judge import RubricJudge

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Candidates, one score each, and what was counted on the way."""

    scores: FloatArray
    """(n,), more is better; NaN where there is none."""
    counts: Mapping[str, object]


def judged(table: pa.Table, engine: Engine, sampling: Sampling | None) -> Scored:
    """Return the mean of the grades, 0 to 5, that a model gives each candidate in `sampling.n` answers (METHODS 4).

    Answers that end in no score are dropped and counted; a candidate without any gets NaN. Without sampling, a grade is
    the mean of the digits by their probabilities: every candidate has one. `n_judge_cut` candidates were graded with a
    text cut in the middle, `n_judge_too_long` were not, for they did not fit.
    """
    rows = usable(table)
    texts = table["response"].filter(pa.array(rows))
    questions = [prompt_text(prompt) for prompt in table["prompt"].filter(pa.array(rows)).to_pylist()]
    # Each response stands beside itself: the judge takes pairs, and grades equal ones once.
    rows_of = [str(i) for i in range(len(texts))]
    asked = pa.table({"pair_id": rows_of, "prompt": questions, "response_a": texts, "response_b": texts})
    scores = np.full(len(table), np.nan)
    counts = dict.fromkeys(("n_samples", "n_unparsed", "n_judge_cut", "n_judge_too_long"), 0)
    if rows.any():
        verdicts = RubricJudge(engine, sampling=sampling).judge(asked)
        scores[rows] = verdicts.scores[:, 0]
        counts |= {"n_samples": verdicts.n_samples, "n_unparsed": verdicts.n_unparsed}
        counts |= {"n_judge_cut": verdicts.n_cut, "n_judge_too_long": verdicts.abstained["too_long"]}
    return Scored(scores, counts | {"score_histogram": histogram(scores), "n_unscored": int(np.isnan(scores).sum())})


def ranked(table: pa.Table, log_p: ResponseLogProbs, reference: ResponseLogProbs | None, over: Over) -> Scored:
    """Return the implicit rewards of candidates (J or K of METHODS 3); NaN where a response cannot be paired."""
    rewards = implicit_rewards(log_p, reference, over)
    return Scored(np.where(usable(table), rewards, np.nan), {"reward_mean": _mean(rewards[usable(table)])})


def usable(table: pa.Table) -> BoolArray:
    """Return (n,): whether a candidate has a text that can be paired."""
    texts = table["response"].to_pylist()
    return np.array([bool(text and text.strip() and "\0" not in text) for text in texts], dtype=np.bool_)


def agreement(table: pa.Table, j: FloatArray, k: FloatArray) -> dict[Kind, Consistency]:
    """Return how alike two rewards (n,) rank the candidates of each prompt, a response counting once; NaN is left out.

    Prompts without two different responses have no rate; where all are such, nothing is returned.
    """
    ours, theirs = rankings(table, np.stack([j, k]))
    if len(np.unique(ours.prompt_ids)) == len(ours.prompt_ids):
        return {}
    return {kind: consistency(ours, theirs, kind) for kind in RATES}


def rankings(table: pa.Table, rewards: FloatArray) -> list[Rewards]:
    """Return the rewards (m, n) of n candidates as m rankings of the same responses, a response counting once.

    Drawn several times, it has its mean reward, as in pairs. What has no reward from one of the m is left out of all.
    """
    prompts, texts = map(prompt_id, table["prompt"].to_pylist()), table["response"].to_pylist()
    known = np.asarray(np.isfinite(rewards).all(axis=0))
    drawn: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(prompts, texts, strict=True)):
        if known[row]:
            drawn.setdefault(key, []).append(row)
    # Numbers in place of the texts, which in an array would all be as wide as the longest.
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    names = np.array([prompt for prompt, _ in drawn], dtype=np.str_)
    responses = np.array([number[text] for _, text in drawn], dtype=np.int64)
    means = [np.array([mean_score(values[rows]) for rows in drawn.values()]) for values in rewards]
    return [Rewards(names, responses, values) for values in means]


def soft_label(rates: Consistency, prompt_ids: npt.NDArray[np.str_], per_prompt: bool) -> tuple[FloatArray, int]:
    """Return q for the pair of each named prompt (n,): C or its own C_j, not below 0.5; and how many were raised to it.

    A warning tells of these, too.
    """
    found = rates.of(prompt_ids) if per_prompt else np.array([rates.mean])
    q = np.broadcast_to(clamped(found), len(prompt_ids)).copy()
    return q, int(np.broadcast_to(found < 0.5, len(q)).sum())


def histogram(scores: FloatArray) -> dict[str, int]:
    """Return how many scores lie nearest to 0, 1, ..., 5; a half goes up.

    >>> histogram(np.array([4.0, 3.5, 3.4, float("nan")]))
    {'0': 0, '1': 0, '2': 0, '3': 1, '4': 2, '5': 0}
    """
    counted = Counter(np.floor(scores[~np.isnan(scores)] + 0.5).astype(int).tolist())
    return {str(grade): counted[grade] for grade in range(6)}


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else float("nan")
