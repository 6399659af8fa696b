"""Comparing label models on the gold there is: each fitted on some folds' gold and scored on the others'."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from labeling.checks import checked_gold
from labeling.errors import DataError, GoldError, WeakprefError, WeakprefWarning
from labeling.figures import measure, row_log_loss
from labeling.folds import group_folds
from labeling.majority import MajorityVote
from labeling.metrics import log_loss
from labeling.protocol import Merger
from labeling.resampling import intervals
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MIN_GOLD = 10
"""Fewest gold pairs that are no tie to compare on."""
RESAMPLES = 400
"""Draws of an interval."""
METRICS = ("accuracy", "log_loss", "ece", "brier")
SHARE_OF_VOTES, BEST_VOTER = "share of votes", "best single voter"


class Comparison(pd.DataFrame):
    """A DataFrame that prints in one block, intervals beside the figures; else like any other."""

    def __str__(self) -> str:
        columns = {"accuracy": "accuracy", "log_loss": "log-loss", "behind": "behind", "ece": "ECE", "brier": "Brier"}
        shown = {title: [_text(self.loc[name], column) for name in self.index] for column, title in columns.items()}
        shown["seconds"] = ["-" if math.isnan(s) else f"{s:.2f}" for s in self["seconds"]]
        notes = [f"{name}: {note}" for name, note in self["note"].items() if note]
        return "\n".join([pd.DataFrame(shown, index=self.index).to_string(), *notes])

    __repr__ = __str__


class BestVoter:
    """The one voter that is right most often on gold, an abstention counting half, as sure as it was right there."""

    name_: str
    """The voter chosen."""
    confidence_: float
    """Share of its votes that are right, smoothed by a right and a wrong one; 0.5 or more."""

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        """Choose on the rows whose gold is no tie; without any, the first voter by name, with confidence 0.5."""
        labels = np.full(len(votes), np.nan) if gold is None else np.asarray(gold, dtype=np.float64)
        lean = np.sign(np.nan_to_num(labels - 0.5))
        right = ((votes.signs == lean[:, None]) & (lean != 0)[:, None]).sum(axis=0)
        wrong = ((votes.signs == -lean[:, None]) & (lean != 0)[:, None]).sum(axis=0)
        j = min(range(len(votes.names)), key=lambda j: (wrong[j] - right[j], votes.names[j]))
        self.name_ = votes.names[j]
        self.confidence_ = max(0.5, float((right[j] + 1) / (right[j] + wrong[j] + 2)))
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,): confidence for what it votes, 0.5 where it abstains."""
        signs = votes.select([self.name_]).signs[:, 0]
        return np.where(signs == 0, 0.5, np.where(signs > 0, self.confidence_, 1 - self.confidence_))


@dataclass(frozen=True)
class _Scored:
    """What cross-fitting one model gave."""

    p_a: FloatArray
    """P(A preferred) of each gold pair by the model that did not see its fold's gold, shape (n_gold,)."""
    loss: float
    """Log-loss, in nats."""
    seconds: float
    """Wall seconds of one fit with the posterior of the fold, median over folds."""
    note: str


def compare(
    votes: VoteMatrix, gold: npt.ArrayLike | None, models: Mapping[str, Callable[[], Merger]], n_folds: int = 5
) -> Comparison:
    """Return one row a label model, the lowest log-loss first, by cross-fitting on the gold pairs.

    gold, shape (n,), is P(A preferred), NaN where unlabelled. Each model is fitted on all votes with the gold of the
    other folds, and judged on the fold's; folds are whole groups. Two rows are always there: the share of votes, and
    the best single voter (of the built-in ones, `length` votes for the longer response).

    Columns: accuracy, log_loss, ece and brier, each with the 95 % interval over groups in _low and _high (that of
    ece leans high where gold is scarce, as ece does); behind: log-loss minus that of the first row on the same pairs,
    with its interval; seconds: of one fit; note: what the model said, or why it has no figures. The first of many rows
    looks a little better than it is: rely on a difference whose interval stays clear of 0.

    Raises GoldError where gold is missing, of one group, or fewer than MIN_GOLD decided pairs; DataError below 2 folds.
    """
    if n_folds < 2:
        raise DataError(f"n_folds is {n_folds}, expected 2 or more: one to judge on, the others to fit on; pass 5")
    if not isinstance(models, Mapping) or not all(callable(make) for make in models.values()):
        raise DataError("models must be a dict of names and classes, as {'label': LabelModel, 'coin': OneCoin}")
    labels = checked_gold(gold, votes)
    known = ~np.isnan(labels)
    groups = _groups(votes)[known]
    _check_enough(labels[known], groups)
    folds = group_folds(groups, n_folds)
    every: dict[str, Callable[[], Merger]] = {SHARE_OF_VOTES: MajorityVote, BEST_VOTER: BestVoter, **models}
    scored, failed = {}, {}
    for name, make in every.items():
        try:
            scored[name] = _cross_fitted(make, votes, labels, folds)
        except WeakprefError as error:
            failed[name] = " ".join(str(error).split())
    chosen = BestVoter().fit(votes, labels).name_
    scored[BEST_VOTER] = replace(scored[BEST_VOTER], note=f"on all gold it is {chosen}")
    ranked = sorted(scored, key=lambda name: scored[name].loss)
    rows = [_row(scored[name], scored[ranked[0]], labels[known], groups) for name in ranked]
    rows += [dict.fromkeys(rows[0], math.nan) | {"note": reason} for reason in failed.values()]
    return Comparison(rows, index=pd.Index([*ranked, *failed], name="label model"))


def _groups(votes: VoteMatrix) -> npt.NDArray[np.str_]:
    """Return the group of each pair, shape (n,); without groups its id, and without ids its place."""
    if votes.groups is not None:
        return votes.groups
    return votes.pair_ids if (votes.pair_ids != "").all() else np.arange(len(votes)).astype(np.str_)


def _check_enough(gold: FloatArray, groups: npt.NDArray[np.str_]) -> None:
    decided = int((gold != 0.5).sum())
    way_out = "label some pairs (50 tell apart models that differ much, 500 those that differ little) and vote again"
    if not len(gold):
        raise GoldError(
            f"no gold label: label models are compared on pairs whose preferred response is known; {way_out}. "
            "Votes are merged without gold too: fit LabelModel"
        )
    if decided < MIN_GOLD:
        raise GoldError(f"{decided} gold labels are no tie, expected {MIN_GOLD} or more to compare on; {way_out}")
    if len(np.unique(groups)) < 2:
        raise GoldError(
            f"all {len(gold)} gold pairs are of the group {groups[0]}, expected 2 groups or more, to fit on some and "
            "judge on others; label pairs of other groups"
        )


def _cross_fitted(make: Callable[[], Merger], votes: VoteMatrix, labels: FloatArray, folds: IntArray) -> _Scored:
    rows = np.flatnonzero(~np.isnan(labels))
    p_a = np.empty(len(rows))
    n_folds = int(folds.max()) + 1
    seconds = []
    with _notes() as notes:
        for fold in range(n_folds):
            held_out = rows[folds == fold]
            visible = labels.copy()
            visible[held_out] = np.nan
            begin = time.perf_counter()
            p_a[folds == fold] = make().fit(votes, visible).posterior(votes.take(held_out))
            seconds.append(time.perf_counter() - begin)
    note = notes[0] + (f" (and {len(notes) - 1} more notes)" if len(notes) > 1 else "") if notes else ""
    return _Scored(p_a, log_loss(p_a, labels[rows]), float(np.median(seconds)), note)


@contextmanager
def _notes() -> Iterator[list[str]]:
    """Gather what is warned about on purpose, each once, instead of once a fold; other warnings pass."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WeakprefWarning)
        yield found
    for warning in caught:
        if not issubclass(warning.category, WeakprefWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif str(warning.message) not in found:
            found.append(str(warning.message))


def _row(scored: _Scored, best: _Scored, gold: FloatArray, groups: npt.NDArray[np.str_]) -> dict[str, float | str]:
    row: dict[str, float | str] = {**measure(scored.p_a, gold, groups, resamples=RESAMPLES).spans(METRICS)}
    gap = row_log_loss(scored.p_a, gold) - row_log_loss(best.p_a, gold)
    parts = np.column_stack([gap, np.ones(len(gap))])
    [[low, high]] = intervals(parts, lambda sums: sums[:, :1] / sums[:, 1:], groups, resamples=RESAMPLES)
    row |= {"behind": float(gap.mean()), "behind_low": float(low), "behind_high": float(high)}
    return row | {"seconds": scored.seconds, "note": scored.note}


def _text(row: pd.Series, column: str) -> str:
    sign = "+" if column == "behind" else ""
    value, low, high = (f"{row[name]:{sign}.3f}" for name in (column, f"{column}_low", f"{column}_high"))
    if math.isnan(row[column]):
        return "-"
    if column == "behind" and row["behind_low"] == row["behind_high"] == 0:
        return "best"
    return value if math.isnan(row[f"{column}_low"]) else f"{value} [{low}, {high}]"
