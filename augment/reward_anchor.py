"""From rewards to probabilities: Bradley-Terry leaves a constant free, so every probability here says what fixes it.

sigmoid(r) of a single reward has no meaning under a pairwise loss: rewards r and r + c fit alike. Either rewards are
centred first, or only the difference of a pair's two rewards is used. Adding a constant to all rewards changes nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from labeling.antisymmetric import sigmoid
from labeling.errors import DataError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Anchor = Literal["pool", "seed", "margin"]
ANCHORS: tuple[Anchor, ...] = ("pool", "seed", "margin")


def probabilities(rewards: FloatArray, anchor: Anchor, seed: BoolArray, pool: BoolArray) -> FloatArray:
    """Return SER's p_1 and p_2 of each pair, shape (n, 2), in [0, 1], from rewards (n, 2) of responses A and B.

    "pool" and "seed" are sigmoid(r_i - c), c the mean reward of the responses to be labelled (`pool`, (n,)), or those
    with a seed label (`seed`, (n,)); watched pairs are neither. "margin" is sigmoid(r_a - r_b) and its complement.
    Raises DataError where nothing is there to centre on.
    """
    if anchor not in ANCHORS:
        raise DataError(f"anchor is {anchor!r}, expected one of {', '.join(ANCHORS)}")
    if anchor == "margin":
        p_a = preference(rewards)
        return np.column_stack([p_a, 1 - p_a])
    centred_on = rewards[seed if anchor == "seed" else pool]
    if not len(centred_on):
        raise DataError(f"no pair of the {anchor} has rewards to centre on; pass anchor='margin'")
    return sigmoid(rewards - centred_on.mean())


def preference(rewards: FloatArray) -> FloatArray:
    """Return P(A preferred) = sigmoid(r_a - r_b), shape (n,), of rewards (n, 2)."""
    return sigmoid(rewards[:, 0] - rewards[:, 1])
