"""Agreement of a judge with gold prompt by prompt: the responses of a prompt ranked (arXiv 2401.10020, section 2.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.pairs import Pairs, prompt_id
from labeling.returned import Votes

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rankings:
    """Agreement by prompt, over the prompts that have a gold pair which is no tie."""

    n_prompts: int
    exact_match_share: float
    """Share of prompts on all of whose gold pairs the judge votes right."""
    five_best_share: float
    """Share of the responses scored 5 that lose no gold pair; NaN where none is scored 5."""
    spearman: float
    """Mean over prompts of the rank correlation of scores and gold; 0 where all scores are equal; NaN without any."""
    kendall: float
    """The same with Kendall's tau-b."""


@dataclass(frozen=True)
class _Prompt:
    right: list[bool]
    gold: dict[str, list[float]]
    """Gold of a response in each of its pairs: 1 = it won."""
    score: dict[str, float]


def rankings(scores: FloatArray, votes: Votes, pairs: Pairs) -> Rankings:
    """Return the agreement of scores (n, 2) in [0, 5], NaN = none, and votes (n,) with the gold of n pairs."""
    prompts = list(_by_prompt(scores, votes, pairs).values())
    fives = [min(prompt.gold[r]) >= 0.5 for prompt in prompts for r, score in prompt.score.items() if score == 5]
    correlations = [pair for prompt in prompts if (pair := _correlations(prompt)) is not None]
    spearman, kendall = zip(*correlations, strict=True) if correlations else ((), ())
    return Rankings(
        n_prompts=len(prompts),
        exact_match_share=_mean([all(prompt.right) for prompt in prompts]),
        five_best_share=_mean(fives),
        spearman=_mean(spearman),
        kendall=_mean(kendall),
    )


def _by_prompt(scores: FloatArray, votes: Votes, pairs: Pairs) -> dict[str, _Prompt]:
    found: dict[str, _Prompt] = {}
    gold = pairs.gold
    columns = (pairs.table[name].to_pylist() for name in ("prompt", "response_a", "response_b"))
    for i, (turns, a, b) in enumerate(zip(*columns, strict=True)):
        if math.isnan(gold[i]) or gold[i] == 0.5:
            continue
        prompt = found.setdefault(prompt_id(turns), _Prompt([], {}, {}))
        prompt.right.append(votes[i] == (0 if gold[i] > 0.5 else 1))
        for response, won, score in ((a, gold[i], scores[i, 0]), (b, 1 - gold[i], scores[i, 1])):
            prompt.gold.setdefault(response, []).append(float(won))
            prompt.score[response] = float(score)
    return found


def _correlations(prompt: _Prompt) -> tuple[float, float] | None:
    """Return Spearman and Kendall of the scores with the mean gold of each response; None where either says nothing."""
    from scipy.stats import kendalltau, spearmanr

    x = np.array(list(prompt.score.values()))
    y = np.array([np.mean(prompt.gold[response]) for response in prompt.score])
    x, y = x[~np.isnan(x)], y[~np.isnan(x)]
    if len(x) < 2 or np.ptp(y) == 0:
        return None
    if np.ptp(x) == 0:
        return 0.0, 0.0
    return float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic)


def _mean(values: object) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else math.nan
