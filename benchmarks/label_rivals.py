"""Published label models behind the protocol of ours: `fit(votes, gold=None)` and `posterior(votes)`.

`pip install -e ".[rivals]" -c constraints.txt` installs them. All read votes only; gold labels serve those that take a
class balance, and `temperature`, which the benchmark fits on the gold rows of each. Class balance counts decided gold
labels; ties are left out. The packages are imported where they are used.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from labeling.majority import MajorityVote
from labeling.snorkel_model import SnorkelLabelModel
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]

PACKAGES = ("snorkel", "crowd-kit", "flyingsquid", "pgmpy", "cleanlab", "skweak", "spacy")
TINY = 1e-6
"""Probabilities are cut to [TINY, 1 - TINY] before their log-odds are multiplied; without temperature they are not."""
MAX_SLOPE = 10.0
SEED = 123  # snorkel draws one where none is given, so that two fits differ


class Model(Protocol):
    """A label model as the benchmark sees it."""

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self: ...

    def posterior(self, votes: VoteMatrix) -> FloatArray: ...


def class_balance(gold: npt.ArrayLike | None) -> float | None:
    """Return the share of A among the decided gold labels, each side one pseudo-count; None without any."""
    values = np.zeros(0) if gold is None else np.asarray(gold, dtype=np.float64)
    decided = values[~np.isnan(values) & (values != 0.5)]
    return float(((decided > 0.5).sum() + 1) / (len(decided) + 2)) if len(decided) else None


def temperature(p_a: FloatArray, gold: FloatArray) -> float:
    """Return the factor in [-10, 10] of the log-odds of p_a (n,) that has the least log-loss on gold (n,).

    It may be negative, so that a rival whose votes lean the wrong way can be turned round.
    """
    from scipy.optimize import minimize_scalar

    z = _log_odds(p_a)

    def loss(slope: float) -> float:
        return float(np.mean(np.logaddexp(0, slope * z) - gold * slope * z))

    return float(minimize_scalar(loss, bounds=(-MAX_SLOPE, MAX_SLOPE), method="bounded").x)


def tempered(p_a: FloatArray, slope: float) -> FloatArray:
    """Return p_a with its log-odds multiplied by the slope."""
    return _sigmoid(slope * _log_odds(p_a))


def _log_odds(p_a: FloatArray) -> FloatArray:
    p = np.clip(p_a, TINY, 1 - TINY)
    result: FloatArray = np.log(p) - np.log1p(-p)
    return result


def _sigmoid(z: FloatArray) -> FloatArray:
    result: FloatArray = np.exp(-np.logaddexp(0, -z))
    return result


class SmoothedShare:
    """The share of votes with one pseudo-vote a side, which is never 0 or 1."""

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002 - learns nothing
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        n_a, n_b = (votes.votes == 0).sum(axis=1), (votes.votes == 1).sum(axis=1)
        share: FloatArray = (n_a + 1) / (n_a + n_b + 2)
        return share


class Snorkel:
    """Snorkel 0.10 as it comes (100 epochs, learning rate 0.01, no l2), or with the class balance of the gold."""

    def __init__(self, balanced: bool = False) -> None:
        self.balanced = balanced

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        from snorkel.labeling.model import LabelModel

        p_a = class_balance(gold) if self.balanced else None
        balance = None if p_a is None else [p_a, 1 - p_a]
        self.model_ = LabelModel(cardinality=2, verbose=False)
        self.model_.fit(votes.to_snorkel(), class_balance=balance, seed=SEED, progress_bar=False)
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        return np.asarray(self.model_.predict_proba(votes.to_snorkel())[:, 0], dtype=np.float64)


class CrowdKit:
    """crowd-kit's MajorityVote, DawidSkene, OneCoinDawidSkene or GLAD, which score only the tasks they were fitted on.

    With `gold`, DawidSkene is given the decided gold labels as `true_labels`. Pairs nobody votes on have 0.5.
    """

    def __init__(self, name: str, gold: bool = False) -> None:
        self.name = name
        self.gold = gold

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        import crowdkit.aggregation

        model = getattr(crowdkit.aggregation, self.name)()
        frame = _long(votes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.gold and gold is not None:
                model.fit(frame, true_labels=_true_labels(gold, frame))
            else:
                model.fit(frame)
        probabilities = model.probas_.reindex(columns=[0, 1], fill_value=0.0)
        p_a = np.full(len(votes), 0.5)
        p_a[probabilities.index.to_numpy()] = probabilities[0].to_numpy()
        self.p_a_ = dict(zip(votes.pair_ids.tolist(), p_a.tolist(), strict=True))
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Look the pairs up; raises KeyError for pairs that were not fitted on."""
        return np.array([self.p_a_[pair_id] for pair_id in votes.pair_ids.tolist()])


class MMSR:
    """crowd-kit's MMSR; its skills are log-odds of being right, so P(A) is the sigmoid of their signed sum.

    The package itself only returns each label's share of the skills, which is no probability where skills are negative.
    """

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002 - takes none
        import crowdkit.aggregation

        model = crowdkit.aggregation.MMSR().fit(_long(votes))
        self.skills_ = model.skills_.reindex(range(len(votes.names)), fill_value=0.0).to_numpy(dtype=np.float64)
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        return _sigmoid(votes.signs @ self.skills_)


class FlyingSquid:
    """flyingsquid's triplet means, voters independent, as it comes or with the class balance of the gold.

    It imports pgmpy's MarkovModel, which pgmpy has renamed.
    """

    def __init__(self, balanced: bool = False) -> None:
        self.balanced = balanced

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        import pgmpy.models

        if "MarkovModel" not in vars(pgmpy.models):
            pgmpy.models.MarkovModel = pgmpy.models.DiscreteMarkovNetwork
        from flyingsquid.label_model import LabelModel

        p_a = class_balance(gold) if self.balanced else None
        self.model_ = LabelModel(len(votes.names))
        balance = None if p_a is None else np.array([1 - p_a, p_a])
        self.model_.fit(votes.signs.astype(np.int64), class_balance=balance)
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        p_a = self.model_.predict_proba(votes.signs.astype(np.int64))[:, 1]
        return np.where(np.isfinite(p_a), np.clip(p_a, 0, 1), 0.5)


class Crowdlab:
    """cleanlab's CROWDLAB; the classifier it wants is the smoothed share of votes.

    It scores the pairs it is given, so `posterior` runs it on the fitted pairs; those nobody votes on have 0.5.
    """

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002 - takes none
        from cleanlab.multiannotator import get_label_quality_multiannotator

        cast = (votes.votes >= 0).any(axis=1)
        speaks = (votes.votes >= 0).any(axis=0)  # it refuses annotators without a label
        labels = np.where(votes.votes < 0, np.nan, votes.votes.astype(np.float64))[np.ix_(cast, speaks)]
        share_a = SmoothedShare().posterior(votes)[cast]
        found = get_label_quality_multiannotator(
            labels, np.column_stack([share_a, 1 - share_a]),
            return_detailed_quality=False, return_annotator_stats=False, verbose=False,
        )["label_quality"]  # fmt: skip
        quality, label = found["consensus_quality_score"].to_numpy(), found["consensus_label"].to_numpy()
        p_a = np.full(len(votes), 0.5)
        p_a[cast] = np.where(label == 0, quality, 1 - quality)
        self.p_a_ = dict(zip(votes.pair_ids.tolist(), p_a.tolist(), strict=True))
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Look the pairs up; raises KeyError for pairs that were not fitted on."""
        return np.array([self.p_a_[pair_id] for pair_id in votes.pair_ids.tolist()])


class Skweak:
    """skweak's NaiveBayes on one observation a pair, without the spaCy documents around it.

    Voters get names of one length: skweak takes voters for copies where one's name begins or ends with another's. It
    gives zero probability to a label nobody voted for, its EM step does not normalise, and its first step overwrites a
    class balance given to it; all this is left as it is.
    """

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002 - see above
        from skweak.generative import NaiveBayes

        self.model_ = NaiveBayes("naive bayes", ["A", "B"])
        with _silence():
            self.model_._fit([self._frame(votes)])
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        cast = (votes.votes >= 0).any(axis=1)
        p_a = np.full(len(votes), 0.5)
        with _silence():
            p_a[cast] = self.model_.aggregate(self._frame(votes.take(cast)))["A"].to_numpy()
        return p_a

    def _frame(self, votes: VoteMatrix) -> pd.DataFrame:
        cast = (votes.votes >= 0).any(axis=1)
        return pd.DataFrame(votes.votes[cast].astype(np.int64), columns=[f"{j:04d}" for j in range(len(votes.names))])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Swallow what a rival prints and warns of."""
    nowhere = io.StringIO()
    printed = contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere)
    with printed[0], printed[1], warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _long(votes: VoteMatrix) -> pd.DataFrame:
    """Return one row a vote cast: task (row number), worker (column number), label (0 = A, 1 = B)."""
    task, worker = np.nonzero(votes.votes >= 0)
    return pd.DataFrame({"task": task, "worker": worker, "label": votes.votes[task, worker].astype(np.int64)})


def _true_labels(gold: npt.ArrayLike, frame: pd.DataFrame) -> pd.Series[Any]:
    values = np.asarray(gold, dtype=np.float64)
    decided = np.flatnonzero(~np.isnan(values) & (values != 0.5))
    decided = decided[np.isin(decided, frame["task"].to_numpy())]
    return pd.Series((values[decided] < 0.5).astype(np.int64), index=decided)


RIVALS: dict[str, Callable[[], Model]] = {
    "share of votes": MajorityVote,
    "share of votes, smoothed": SmoothedShare,
    "snorkel": Snorkel,
    "snorkel, class balance": lambda: Snorkel(balanced=True),
    "snorkel, l2 0.5": SnorkelLabelModel,
    "crowd-kit MajorityVote": lambda: CrowdKit("MajorityVote"),
    "crowd-kit DawidSkene": lambda: CrowdKit("DawidSkene"),
    "crowd-kit DawidSkene, true labels": lambda: CrowdKit("DawidSkene", gold=True),
    "crowd-kit OneCoinDawidSkene": lambda: CrowdKit("OneCoinDawidSkene"),
    "crowd-kit MMSR": MMSR,
    "crowd-kit GLAD": lambda: CrowdKit("GLAD"),
    "flyingsquid": FlyingSquid,
    "flyingsquid, class balance": lambda: FlyingSquid(balanced=True),
    "cleanlab crowdlab": Crowdlab,
    "skweak NaiveBayes": Skweak,
}

TRANSDUCTIVE = frozenset(
    {"crowd-kit MajorityVote", "crowd-kit DawidSkene", "crowd-kit DawidSkene, true labels",
     "crowd-kit OneCoinDawidSkene", "crowd-kit GLAD", "cleanlab crowdlab"}
)  # fmt: skip
"""They score only pairs they were fitted on: they get the votes of held-out pairs too, never their gold."""
SEES_LABELS = "crowd-kit DawidSkene, true labels"
"""Its posterior on gold rows is the gold itself, so that no temperature can be fitted there."""
READS_GOLD = frozenset({"snorkel, class balance", "flyingsquid, class balance", SEES_LABELS})
"""The others are the same whatever gold there is; these, without gold, are another row over again."""


def versions() -> dict[str, str]:
    """Return the version of every rival's package that is installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
