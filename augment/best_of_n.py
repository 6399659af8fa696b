"""Best-of-n: the candidate a reward model likes best; what more candidates buy, and what they cost in KL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augment.generate import check_candidates
from augment.policy_rewards import Ensemble
from augment.self_scores import usable
from labeling.errors import DataError
from labeling.files import replacing
from labeling.pairs import MESSAGES, prompt_id
from labeling.resampling import intervals

FloatArray = npt.NDArray[np.float64]

SCHEMA = pa.schema(
    [
        ("prompt", MESSAGES),
        ("prompt_id", pa.string()),
        ("response", pa.string()),
        ("sample", pa.int32()),
        ("model", pa.string()),
        ("reward", pa.float64()),
        ("reward_mean", pa.float64()),
        ("n", pa.int32()),
    ]
)
"""The best candidate of a prompt, its reward, the mean reward of those that are usable of all n there were, and n."""


@dataclass(frozen=True)
class BestOfN:
    """The best candidate of each prompt."""

    table: pa.Table
    """`SCHEMA`, in the order in which prompts first occur."""
    rewards: Sequence[FloatArray]
    """The rewards of each prompt's usable candidates."""
    n_unusable: int = 0
    """Candidates without a text, of white space alone, or with a NUL: they were not chosen from."""
    n_left_out: int = 0
    """Prompts without a usable candidate; they are not in the table."""

    def curve(self) -> list[dict[str, Any]]:
        """Return, for k = 1 up to the fewest candidates of a prompt, the mean reward of the best of k and its KL.

        The reward is the expectation over all choices of k of the usable candidates, or of all where there are fewer;
        `gain` is what it has over that of one. `reward_interval` and `gain_interval` [low, high] are their 95 %
        intervals over prompts (`labeling.resampling`), None where one prompt is all there is. The KL to the policy that
        drew them, in nats, is at most log k - (k - 1) / k (arXiv 2112.09332), and -log of the share of usable
        candidates more, for only these can be chosen; the mean over prompts.
        """
        drawn = self.table["n"].to_pylist()
        points = []
        for k in range(1, min(drawn) + 1):
            best, spent = [], []
            for rewards, n in zip(self.rewards, drawn, strict=True):
                some = min(k, len(rewards))
                reward = expected_best(rewards, some)
                best.append([reward, reward - expected_best(rewards, 1), 1.0])
                spent.append(math.log(some) - (some - 1) / some - math.log(len(rewards) / n))
            parts = np.array(best)
            means = parts.mean(axis=0)[:2].tolist()
            found = intervals(parts, lambda sums: sums[:, :2] / sums[:, 2:], np.arange(len(parts)))
            between = [None if np.isnan(pair).any() else pair.tolist() for pair in found]
            point = dict(zip(("reward", "gain"), means, strict=True))
            point |= dict(zip(("reward_interval", "gain_interval"), between, strict=True))
            points.append({"k": k, **point, "kl_at_most": float(np.mean(spent))})
        return points

    def write(self, path: str | Path) -> None:
        """Write the table as Parquet."""
        with replacing(path) as part:
            pq.write_table(self.table, part, compression="zstd")


def best_of_n(candidates: pa.Table, ensemble: Ensemble, n: int | None = None) -> BestOfN:
    """Return the candidate of highest mean reward for each prompt, among the usable ones of its first n (None = all).

    Of equal ones the first sample wins. A prompt without a usable one is left out. Raises DataError for a table that
    holds no candidates, prompts with fewer than n, or no usable candidate at all.
    """
    check_candidates(candidates)
    prompts, texts, samples, models = (
        candidates[name].to_pylist() for name in ("prompt", "response", "sample", "model")
    )
    can_win = usable(candidates)
    groups: dict[str, list[int]] = {}
    for row in sorted(range(len(texts)), key=lambda row: (samples[row], models[row])):
        groups.setdefault(prompt_id(prompts[row]), []).append(row)
    first = {name: groups[name][:n] for name in dict.fromkeys(map(prompt_id, prompts))}
    _check(list(first.values()), n)
    kept = {name: [row for row in members if can_win[row]] for name, members in first.items()}
    chosen = {name: members for name, members in kept.items() if members}
    used = [row for members in chosen.values() for row in members]
    if not used:
        raise DataError(
            f"none of {sum(map(len, first.values()))} candidates has a text to choose; expected one or more: generate "
            "others, with more max_tokens or another model"
        )
    found = ensemble.mean([prompts[row] for row in used], [texts[row] for row in used])
    reward = dict(zip(used, found.tolist(), strict=True))
    rows = []
    for name, members in chosen.items():
        best = max(members, key=lambda row: reward[row])
        mean = float(np.mean([reward[row] for row in members]))
        found_best = {"prompt": prompts[best], "prompt_id": name, "response": texts[best], "sample": samples[best]}
        figures = {"model": models[best], "reward": reward[best], "reward_mean": mean, "n": len(first[name])}
        rows.append(found_best | figures)
    rewards = [np.array([reward[row] for row in members]) for members in chosen.values()]
    n_unusable = sum(map(len, first.values())) - len(used)
    return BestOfN(pa.Table.from_pylist(rows, schema=SCHEMA), rewards, n_unusable, len(first) - len(chosen))


def expected_best(rewards: npt.ArrayLike, k: int) -> float:
    """Return the mean, over all choices of k of the n rewards, of the highest.

    Raises DataError unless 1 <= k <= n.

    >>> expected_best([1.0, 2.0, 6.0], 2)  # of 1 2, 1 6 and 2 6
    4.666666666666667
    """
    values = np.sort(np.asarray(rewards, dtype=np.float64))
    n = len(values)
    if not 1 <= k <= n:
        raise DataError(f"k is {k}; expected 1 to {n}, the number of rewards")
    # The i-th lowest (from 0) is best of C(i, k - 1) of C(n, k) choices. From the highest down, k / n, each share is
    # (i - k + 1) / i of that before: the binomials themselves overflow for n of about 1,000.
    i = np.arange(n - 1, 0, -1)
    p_best = k / n * np.cumprod(np.concatenate([[1.0], np.maximum(i - k + 1, 0) / i]))
    return float(values[::-1] @ p_best)


def _check(chosen: Sequence[Sequence[int]], n: int | None) -> None:
    if n is not None and n < 1:
        raise DataError(f"n is {n}; expected 1 or more, or none for all candidates")
    fewest = min(map(len, chosen), default=0)
    if fewest < (n or 1):
        raise DataError(f"a prompt has {fewest} candidates; expected {n or 1} or more: generate more, or lower n")
