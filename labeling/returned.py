"""What labeling and scoring functions return: checked, and brought to votes and margins."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from labeling.arrays import check_order
from labeling.errors import VoterError
from labeling.votes import Vote

EXPECTED = "Vote.A, Vote.B or Vote.ABSTAIN (0, 1, -1)"
FLOAT32_MAX = float(np.finfo(np.float32).max)

Votes = npt.NDArray[np.int8]
Margins = npt.NDArray[np.float32]


def as_vote(value: Any) -> int:
    """Return a row function's vote as 0, 1 or -1; raise VoterError if it is none (True, None and 7 are none)."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and -1 <= value <= 1:
        return int(value)
    raise VoterError(f"returned {shown(value)}; expected {EXPECTED}")


def as_votes(value: Any, n: int) -> Votes:
    """Return a batch function's votes as int8 (n,); raise VoterError on another shape, dtype or value."""
    check_order(value, "what it returned", VoterError)
    array = np.asarray(value)
    if array.shape != (n,):
        raise VoterError(f"returned {shown(value)} of shape {array.shape}; expected {n} votes, shape ({n},)")
    if array.dtype == np.object_:
        return np.array([as_vote(vote) for vote in array], dtype=np.int8)
    if array.dtype.kind not in "iu":
        nulls = " with nulls" if array.dtype.kind == "f" and np.isnan(array).any() else ""
        raise VoterError(f"returned votes of dtype {array.dtype}{nulls}; expected integers: {EXPECTED}")
    wrong = ~np.isin(array, (-1, 0, 1))
    if wrong.any():
        as_vote(array[wrong][0])
    return array.astype(np.int8)


def as_score(value: Any, response: str) -> float:
    """Return a row function's score, NaN for None; raise VoterError if it is infinite or no number."""
    if value is None:
        return math.nan
    if not isinstance(value, numbers.Real | np.bool_):
        raise VoterError(f"returned {shown(value)} for response {response}; expected a number, or None to abstain")
    if math.isinf(value):
        raise VoterError(f"scored response {response} {value}; expected a finite number, or None to abstain")
    return float(value)


def as_scores(value: Any, n: int, response: str) -> npt.NDArray[np.float64]:
    """Return a batch function's scores as float64 (n,), NaN where null; raise VoterError on anything else."""
    check_order(value, "what it returned", VoterError)
    array = np.asarray(value)
    if array.shape != (n,):
        raise VoterError(f"returned {shown(value)} of shape {array.shape}; expected {n} numbers, shape ({n},)")
    if array.dtype == np.object_:
        scores = [as_score(None if score is pd.NA else score, response) for score in array]
        return np.array(scores, dtype=np.float64)
    if array.dtype.kind not in "iufb":
        raise VoterError(f"returned scores of dtype {array.dtype} for response {response}; expected numbers")
    if np.isinf(array).any():
        as_score(array[np.isinf(array)][0], response)
    return array.astype(np.float64)


def as_margins(margins: npt.NDArray[np.float64]) -> Margins:
    """Return margins as float32; raise VoterError if one does not fit."""
    large = np.abs(margins) > FLOAT32_MAX
    if large.any():
        raise VoterError(f"margin {margins[large][0]} exceeds 32-bit floats ({FLOAT32_MAX:.1e}); rescale the score")
    return margins.astype(np.float32)


def signs_to_votes(margins: Margins) -> Votes:
    """Return votes int8 (n,): A where the margin is > 0, B where < 0, abstain at 0 and NaN."""
    return np.select([margins > 0, margins < 0], [Vote.A, Vote.B], Vote.ABSTAIN).astype(np.int8)


def shown(value: Any) -> str:
    """Return a value as errors quote it: its repr, cut to 60 characters, and its type."""
    value = value.item() if isinstance(value, np.generic) else value
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
