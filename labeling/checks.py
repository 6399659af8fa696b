"""What all label models check: gold that fits the votes, and the voters they were fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeling.arrays import as_labels
from labeling.errors import GoldError, VotesError
from labeling.pairs import check_range
from labeling.votes import VoteMatrix, check_votes

FloatArray = npt.NDArray[np.float64]

GOLD_STEPS = 1 << 20
"""Gold leads are multiples of one over this, so that sums of them are exact and no order of rows can matter."""


def checked_gold(gold: npt.ArrayLike | None, votes: VoteMatrix) -> FloatArray:
    """Return gold as an array (n,), all NaN for None.

    Raises VotesError without rows or voters, and GoldError for gold of another shape, outside [0, 1] or of one class.
    """
    check_votes(votes)
    n = len(votes)
    if not n or not votes.names:
        raise VotesError(f"nothing to learn from: {n} rows and {len(votes.names)} voters; apply voters to some pairs")
    values = np.full(n, np.nan) if gold is None else as_labels(gold)
    if values.shape != (n,):
        raise GoldError(f"gold has shape {values.shape}, expected ({n},): one a row of votes, NaN = unlabelled")
    check_range(values)
    decided = values[~np.isnan(values) & (values != 0.5)]
    if len(decided) and (np.all(decided > 0.5) or np.all(decided < 0.5)):
        raise GoldError(
            f"all {len(decided)} gold labels prefer response {'A' if decided[0] > 0.5 else 'B'}: a voter that always "
            f"says so would look perfect; exchange the responses of about half of the pairs (read_pairs does so for "
            f"chosen/rejected data), label more pairs, or fit without gold"
        )
    return values


def needed_gold(gold: npt.ArrayLike | None, votes: VoteMatrix, model: str) -> FloatArray:
    """Return what `checked_gold` does; raises GoldError if no row is labelled, since `model` learns from gold alone."""
    values = checked_gold(gold, votes)
    if np.isnan(values).all():
        raise GoldError(
            f"{model} learns from gold labels alone and found none among {len(votes)} rows; label some pairs, or use "
            f"a model that learns from agreement: LabelModel, OneCoin or DawidSkene"
        )
    return values


def gold_lead(gold: FloatArray) -> FloatArray:
    """Return gold - 0.5, shape (n,), in [-0.5, 0.5], in steps of 2^-20; 1 - gold gives exactly the negative.

    >>> gold_lead(np.array([1.0, 0.5, 0.2, np.nan])).round(5).tolist()
    [0.5, 0.0, -0.3, nan]
    """
    size = np.maximum(gold, 1 - gold) - 0.5
    lead: FloatArray = np.where(gold < 0.5, -1.0, 1.0) * np.rint(size * GOLD_STEPS) / GOLD_STEPS
    return lead


def check_fitted(fitted: Sequence[str]) -> None:
    """Raise VotesError unless the model was fitted, which its voters' names show."""
    if not fitted:
        raise VotesError("the label model was not fitted; call fit(votes, gold) before posterior(votes)")


def check_voters(fitted: Sequence[str], votes: VoteMatrix) -> None:
    """Raise VotesError unless the model was fitted, on these voters in this order."""
    check_fitted(fitted)
    check_votes(votes)
    if votes.names != tuple(fitted):
        raise VotesError(
            f"the label model was fitted on the voters {', '.join(fitted)}, found {', '.join(votes.names)}; "
            f"apply the same voters, in this order (votes.select)"
        )
