"""SER's learning status, and which self-labelled pairs each status keeps (arXiv 2411.00418)."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Form = Literal["paper", "as_released"]
FORMS: tuple[Form, ...] = ("paper", "as_released")


class Status(enum.StrEnum):
    """What the reward model can be taught by its own labels."""

    SEPARATE = "separate"
    """It tells good from bad responses: learn from pairs with one of each."""
    AMPLIFY = "amplify"
    """It no longer does, but sees differences: learn from pairs that differ much."""
    CONVERGED = "converged"
    """Too few pairs of either kind: stop."""


@dataclass(frozen=True)
class Thresholds:
    """What counts as good, bad and different, and how many such pairs are enough."""

    high: float = 0.55
    """tau_high: a response is good above it."""
    low: float = 0.45
    """tau_low: a response is bad below it."""
    delta: float = 0.3
    """tau_delta: least |p_1 - p_2| of pairs that differ much."""
    enough: int | float = 600
    """Fewest pairs for a status: a number (the paper: about 600 on HH), or a share of the pool below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1 or not 0 <= self.delta <= 1 or not self.enough > 0:
            raise DataError(
                f"low, high, delta and enough are {self.low}, {self.high}, {self.delta} and {self.enough}; expected "
                "0 <= low <= high <= 1, delta in [0, 1] and enough above 0"
            )

    def least(self, n: int) -> float:
        """Return the fewest pairs that are enough in a pool of n."""
        if self.enough >= 1:
            return self.enough
        return max(1, math.ceil(round(self.enough * n, 9)))  # 0.07 * 100 is a little above 7


def separated(p: FloatArray, t: Thresholds) -> BoolArray:
    """Return which pairs (n,) have one response above tau_high and the other below tau_low; p has shape (n, 2)."""
    apart: BoolArray = (p.max(axis=1) > t.high) & (p.min(axis=1) < t.low)
    return apart


def amplified(p: FloatArray, t: Thresholds) -> BoolArray:
    """Return which pairs (n,) have |p_1 - p_2| >= tau_delta; p has shape (n, 2)."""
    differ: BoolArray = np.abs(p[:, 0] - p[:, 1]) >= t.delta
    return differ


def learning_status(p: FloatArray, t: Thresholds) -> Status:
    """Return the status that probabilities p (n, 2) of the pool's responses show."""
    least = t.least(len(p))
    if separated(p, t).sum() >= least:
        return Status.SEPARATE
    return Status.AMPLIFY if amplified(p, t).sum() >= least else Status.CONVERGED


def keep(p: FloatArray, t: Thresholds, form: Form = "paper") -> tuple[Status, BoolArray]:
    """Return the status and which pairs (n,) are kept to train on.

    "paper" applies the rule of the status. "as_released" keeps what either rule would, however few: it calls itself
    converged only when that is nothing, and else by what there is one pair of.
    """
    if form not in FORMS:
        raise DataError(f"form is {form!r}, expected one of {', '.join(FORMS)}")
    if form == "as_released":
        kept = separated(p, t) | amplified(p, t)
        return learning_status(p, replace(t, enough=1)), kept
    status = learning_status(p, t)
    rules = {Status.SEPARATE: separated, Status.AMPLIFY: amplified}
    return status, rules[status](p, t) if status in rules else np.zeros(len(p), dtype=np.bool_)
