"""Consistency rates: how alike two models rank the same responses (CREAM, arXiv 2410.12735), prompt by prompt.

Rankings J and K of the same N responses come from two sets of rewards: of a policy and the policy before it (implicit
rewards), of two iterations of a reward model, of two members of an ensemble. A rate is in [0, 1]: 1 = the same ranking,
0 = the reverse, 0.5 = no better than chance. A high rate is not correctness: a model that stops moving has rate 1.
Report it beside the agreement with gold.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError, WeakprefWarning

FloatArray = npt.NDArray[np.float64]
StrArray = npt.NDArray[np.str_]
Kind = Literal["kendall", "spearman", "top-order"]


def kendall(j: npt.ArrayLike, k: npt.ArrayLike) -> float:
    """Return (tau + 1) / 2 in [0, 1], tau Kendall's tau-b of the rewards j and k (N,) of the same responses.

    Without ties that is the share of pairs of responses that both order alike. 0.5 where one of them ties all.

    >>> round(kendall([3, 2, 1], [3, 1, 2]), 4)
    0.6667
    """
    x, y = _order(j), _order(k)
    return _rate(float((x * y).sum()), float(np.abs(x).sum() * np.abs(y).sum()))


def spearman(j: npt.ArrayLike, k: npt.ArrayLike) -> float:
    """Return (rho + 1) / 2 in [0, 1], rho Spearman's correlation of ranks, tied responses sharing their mean rank.

    0.5 where one of them ties all.

    >>> spearman([3, 2, 1], [3, 1, 2])
    0.75
    """
    from scipy.stats import rankdata

    x, y = (rankdata(values) - (len(np.asarray(values)) + 1) / 2 for values in (j, k))
    return _rate(float(x @ y), float((x @ x) * (y @ y)))


def top_order(j: npt.ArrayLike, k: npt.ArrayLike) -> float:
    """Return 1 where j and k agree on the best and on the worst response, else 0.

    Where several tie for the best, or for the worst, their share in common counts (intersection by union), the two
    shares multiplied; 0.5 where j or k ties all.

    >>> top_order([5, 1, 3, 2], [9, 0, 2, 4]), top_order([5, 1, 3, 2], [9, 4, 2, 0])
    (1.0, 0.0)
    """
    x, y = np.asarray(j, dtype=np.float64), np.asarray(k, dtype=np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.5
    best = _in_common(x == x.max(), y == y.max())
    return best * _in_common(x == x.min(), y == y.min())


RATES: dict[Kind, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {
    "kendall": kendall,
    "spearman": spearman,
    "top-order": top_order,
}
"""Rates of one prompt by name."""


@dataclass(frozen=True)
class Rewards:
    """What one model gives to the responses of some prompts, one row a response, in any order."""

    prompt_ids: StrArray
    """Shape (n,): which prompt the response answers (`labeling.pairs.prompt_id`)."""
    candidates: npt.NDArray[np.int64] | StrArray
    """Shape (n,): which of the prompt's responses it is: its number, or a hash of its text."""
    values: FloatArray
    """Shape (n,): rewards, finite; only their order within a prompt matters."""

    def __post_init__(self) -> None:
        shapes = {np.shape(self.prompt_ids), np.shape(self.candidates), np.shape(self.values)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise DataError(
                f"prompt_ids, candidates and values have shapes {', '.join(map(str, sorted(shapes)))}; expected one "
                "(n,): a row a response"
            )
        if not np.isfinite(self.values).all():
            row = int(np.flatnonzero(~np.isfinite(self.values))[0])
            raise DataError(
                f"the reward in row {row} (prompt {self.prompt_ids[row]}) is {self.values[row]}, expected a finite "
                "number; leave out responses without one, from both models"
            )

    def by_prompt(self) -> dict[str, dict[str, float]]:
        """Return prompt -> candidate -> reward, prompts in the order they first come; raises DataError for repeats."""
        found: dict[str, dict[str, float]] = {}
        rows = zip(self.prompt_ids.tolist(), self.candidates.tolist(), self.values.tolist(), strict=True)
        for prompt, candidate, value in rows:
            rewards = found.setdefault(prompt, {})
            if str(candidate) in rewards:
                raise DataError(f"candidate {candidate} of prompt {prompt} has two rewards, expected one; drop repeats")
            rewards[str(candidate)] = value
        return found


@dataclass(frozen=True)
class Consistency:
    """Consistency rates of the prompts that both models ranked."""

    prompt_ids: StrArray
    """Shape (n,)."""
    rates: FloatArray
    """Shape (n,): C_j of each prompt, in [0, 1]."""
    n_unmatched: int = 0
    """Prompts that only one of the models has rewards for; left out."""
    n_single: int = 0
    """Prompts with one response, which nothing can be said of; left out."""

    @property
    def mean(self) -> float:
        """C: the mean over prompts, in [0, 1]."""
        return float(self.rates.mean())

    def of(self, prompt_ids: Sequence[str] | StrArray) -> FloatArray:
        """Return the rates of the named prompts, shape (k,), in their order, however many prompts were left out.

        Raises DataError for a prompt without a rate.
        """
        known = dict(zip(self.prompt_ids.tolist(), self.rates.tolist(), strict=True))
        missing = [str(prompt) for prompt in prompt_ids if str(prompt) not in known]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(prompt_ids)} prompts have no consistency rate, the first is {missing[0]}; "
                "expected prompts that both models ranked: take the mean, or leave these out"
            )
        return np.array([known[str(prompt)] for prompt in prompt_ids], dtype=np.float64)


def consistency(j: Rewards, k: Rewards, kind: Kind = "kendall") -> Consistency:
    """Return how alike two models rank the responses of each prompt, matched by prompt and candidate.

    Prompts that one model lacks, and those with a single response, are left out and counted. Raises DataError where the
    models saw different responses to a prompt, or no prompt is left.

    >>> prompts, numbers = np.array(["p", "p", "q", "q"]), np.array([0, 1, 0, 1])
    >>> first = Rewards(prompts, numbers, np.array([0.3, 0.1, 0.0, 2.0]))
    >>> second = Rewards(prompts, numbers, np.array([9.0, 1.0, 0.5, 0.1]))
    >>> found = consistency(first, second)
    >>> found.mean, found.of(["q"]).tolist()
    (0.5, [0.0])
    """
    if kind not in RATES:
        raise DataError(f"kind is {kind!r}, expected one of {', '.join(RATES)}")
    first, second = j.by_prompt(), k.by_prompt()
    shared = [prompt for prompt in first if prompt in second]
    for prompt in shared:
        if first[prompt].keys() != second[prompt].keys():
            raise DataError(
                f"the models ranked {len(first[prompt])} and {len(second[prompt])} responses of prompt {prompt}, not "
                "the same ones; expected rewards of the same responses from both"
            )
    ranked = [prompt for prompt in shared if len(first[prompt]) > 1]
    if not ranked:
        raise DataError(
            f"no prompt has two or more responses that both models ranked ({len(first)} and {len(second)} prompts, "
            f"{len(shared)} in common); expected one at least"
        )
    rates = [RATES[kind](*_aligned(first[prompt], second[prompt])) for prompt in ranked]
    n_unmatched = len(first) + len(second) - 2 * len(shared)
    return Consistency(np.array(ranked), np.array(rates), n_unmatched, len(shared) - len(ranked))


def ensemble_consistency(members: Sequence[Rewards], kind: Kind = "kendall") -> Consistency:
    """Return the mean rate of each prompt over all pairs of members; all must have ranked the same prompts."""
    if len(members) < 2:
        raise DataError(f"there are {len(members)} members, expected two or more to compare")
    found = [consistency(j, k, kind) for j, k in combinations(members, 2)]
    rates = np.mean([each.of(found[0].prompt_ids) for each in found], axis=0)
    return Consistency(found[0].prompt_ids, rates, found[0].n_unmatched, found[0].n_single)


def pair_agreement(margins_j: npt.ArrayLike, margins_k: npt.ArrayLike) -> FloatArray:
    """Return for each pair (n,) 1 where both margins r_a - r_b prefer the same response, 0 where not, 0.5 for a tie.

    The rate of a ranking of two; its mean is the consistency rate of reward models on pairs.

    >>> pair_agreement([1.5, -0.2, 0.0], [0.1, 0.3, 2.0]).tolist()
    [1.0, 0.0, 0.5]
    """
    agreement: FloatArray = (np.sign(np.asarray(margins_j)) * np.sign(np.asarray(margins_k)) + 1) / 2
    return agreement


def clamped(rates: npt.ArrayLike, what: str = "consistency rate") -> FloatArray:
    """Return rates cut to [0.5, 1]; warns of those below 0.5, which would train on flipped labels.

    The soft-pair objective C l(h) + (1 - C) l(-h) prefers the rejected response where C < 0.5.
    """
    values = np.asarray(rates, dtype=np.float64)
    if np.isnan(values).any() or ((values < 0) | (values > 1)).any():
        raise DataError(f"{what} is {values.min():.3g} to {values.max():.3g}, expected rates in [0, 1]")
    low = values < 0.5
    if low.any():
        warnings.warn(
            f"{what} is below 0.5 in {int(low.sum())} of {values.size} cases (lowest {values.min():.3f}) and was "
            "raised to 0.5: the models disagree more than chance, so their labels teach nothing there",
            WeakprefWarning,
            stacklevel=2,
        )
    return np.clip(values, 0.5, 1.0)


def _order(values: npt.ArrayLike) -> FloatArray:
    """Return the sign of the difference of each pair of responses, shape (N (N - 1) / 2,)."""
    x = np.asarray(values, dtype=np.float64)
    upper = np.triu_indices(len(x), 1)
    order: FloatArray = np.sign(x[upper[0]] - x[upper[1]])
    return order


def _rate(product: float, squares: float) -> float:
    """Return (correlation + 1) / 2; 0.5 where one side is constant."""
    if squares == 0:
        return 0.5
    return float(np.clip((product / np.sqrt(squares) + 1) / 2, 0.0, 1.0))


def _in_common(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def _aligned(first: dict[str, float], second: dict[str, float]) -> tuple[list[float], list[float]]:
    return list(first.values()), [second[candidate] for candidate in first]
