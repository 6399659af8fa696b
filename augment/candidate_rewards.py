"""Reward models on the same candidates: how alike iterations of one, or members of an ensemble, rank them (CREAM)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augment.generate import check_candidates
from augment.policy_rewards import Ensemble
from augment.self_scores import rankings, usable
from labeling.consistency import Consistency, Kind, consistency, ensemble_consistency
from labeling.errors import DataError

if TYPE_CHECKING:
    from rm.model import RewardModel

FloatArray = npt.NDArray[np.float64]


def candidate_rewards(models: Sequence[RewardModel], candidates: pa.Table) -> FloatArray:
    """Return rewards (m, n) of n candidates, as `augment.generate` writes them, under m reward models.

    NaN where a candidate has no text to score. Raises DataError for no models, or a table that holds no candidates.

    >>> from types import SimpleNamespace
    >>> from labeling.pairs import MESSAGES
    >>> prompt = [{"role": "user", "content": "Name a river."}]
    >>> columns = {"prompt": pa.array([prompt] * 4, MESSAGES), "response": ["Rhine", "Po", "", "Seine"]}
    >>> table = pa.table(columns | {"sample": pa.array(range(4), pa.int32()), "model": ["m"] * 4})
    >>> long = SimpleNamespace(score=lambda prompts, texts: np.array([float(len(text)) for text in texts]))
    >>> late = SimpleNamespace(score=lambda prompts, texts: np.array([float(ord(text[0])) for text in texts]))
    >>> rewards = candidate_rewards([long, late], table)
    >>> rewards.tolist()
    [[5.0, 2.0, nan, 5.0], [82.0, 80.0, nan, 83.0]]
    >>> round(between_members(table, rewards).mean, 3)
    0.908
    """
    check_candidates(candidates)
    if not models:
        raise DataError("there are no reward models; expected one or more")
    rows = usable(candidates)
    prompts, texts = (candidates[name].filter(pa.array(rows)).to_pylist() for name in ("prompt", "response"))
    rewards = np.full((len(models), len(candidates)), np.nan)
    if rows.any():
        rewards[:, rows] = Ensemble(models).scores(prompts, texts)
    return rewards


def between_iterations(candidates: pa.Table, rewards: FloatArray, kind: Kind = "kendall") -> list[Consistency]:
    """Return how alike each model and the one before it rank the candidates of a prompt: m - 1 rates, in order.

    `rewards` (m, n) are those of the iterations of one reward model. A candidate without a reward is left out, equal
    responses to a prompt count once. Raises DataError for fewer than two models, or where no prompt has two responses.
    """
    if len(rewards) < 2:
        raise DataError(f"there are rewards of {len(rewards)} iterations, expected two or more to compare")
    return [consistency(before, after, kind) for before, after in pairwise(rankings(candidates, rewards))]


def between_members(candidates: pa.Table, rewards: FloatArray, kind: Kind = "kendall") -> Consistency:
    """Return the mean rate over all pairs of members of an ensemble, by prompt; as `between_iterations` otherwise."""
    return ensemble_consistency(rankings(candidates, rewards), kind)
