"""Guards against confirmation drift: what self-labels do to themselves, measured in every iteration of a loop.

A loop that trains on its own labels can become surer without becoming better. Accuracy and calibration are measured
against hidden labels where there are any, and on watched pairs whose labels train nothing; drift in length needs none.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from augment.self_labels import SelfLabels
from labeling.consistency import pair_agreement
from labeling.errors import WeakprefWarning
from labeling.metrics import accuracy, ece, interval, log_loss

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Figure = float | int | None
CALIBRATION_WORSENED = "calibration-worsened"
"""Name of the alarm: the log-loss of watched pairs rose, beyond chance, above that of an earlier iteration."""
WORTH = 0.01
"""Nats: a rise that is surely there but smaller than this is no alarm."""
TINY = 1e-12


@dataclass(frozen=True)
class Watched:
    """Pairs with a label that trains nothing, and what a reward model that has not seen it says of them."""

    p_a: FloatArray
    """P(A preferred), shape (k,)."""
    gold: FloatArray
    """Their labels, shape (k,)."""
    groups: npt.NDArray[np.str_]
    """Their groups, shape (k,)."""

    def figures(self) -> dict[str, Figure]:
        """Return n, accuracy, log-loss (nats) and ECE, the names beginning with watched_."""
        found = {"accuracy": accuracy, "log_loss": log_loss, "ece": ece}
        return {"watched_n": len(self.gold)} | {
            f"watched_{name}": _number(metric(self.p_a, self.gold)) for name, metric in found.items()
        }

    def losses(self) -> FloatArray:
        """Return the log-loss of each pair, shape (k,), in nats."""
        p = np.clip(self.p_a, TINY, 1 - TINY)
        losses: FloatArray = -(self.gold * np.log(p) + (1 - self.gold) * np.log1p(-p))
        return losses


def alarms(now: Watched | None, before: Watched | None, iteration: int, rewards: bool = True) -> list[str]:
    """Return the names of the alarms that go off, each warned of; `before` is the best iteration so far.

    The alarm `CALIBRATION_WORSENED` goes off where the 95 % interval, over groups, of the rise in log-loss on the same
    watched pairs lies above `WORTH`. `rewards`: what is watched is a reward model, and no label model.
    """
    if now is None or before is None:
        return []
    rise = now.losses() - before.losses()
    low, _ = interval(lambda p, _: float(p.mean()), *_shifted(rise), now.groups)
    low = _unshifted(low, rise)
    if not low > WORTH:
        return []
    warnings.warn(
        f"{CALIBRATION_WORSENED}: in iteration {iteration} the log-loss of the {len(rise)} watched pairs is "
        f"{rise.mean():+.3f} nats above its best (95 % interval from {low:+.3f}); {_why(now, rewards)}",
        WeakprefWarning,
        stacklevel=2,
    )
    return [CALIBRATION_WORSENED]


def _why(watched: Watched, rewards: bool) -> str:
    """Say what a worse log-loss comes from: too sure, or too timid, as the hinge makes rewards that are no log-odds."""
    sure = float(np.maximum(watched.p_a, 1 - watched.p_a).mean())
    right = float(np.where(watched.p_a >= 0.5, watched.gold, 1 - watched.gold).mean())
    if sure < right:
        return f"it is less sure ({sure:.2f}) than it is right ({right:.2f}): " + (
            "if it is right as often as before, weakpref calibrate mends its scale" if rewards else "use more gold"
        )
    return "the loop confirms its own errors: use an earlier iteration, or more gold"


def label_figures(labels: SelfLabels, pool: BoolArray, hidden: FloatArray, longer: FloatArray) -> dict[str, Figure]:
    """Return how right the labels are: of the pool's pairs (mask, (n,)) whose true label `hidden` (n,) is known.

    label_* are of all of them, trained_* of those trained on; None without hidden labels. length_bias is of those
    trained on that differ in length (`longer` (n,), characters of A less those of B): the share of labels that prefer
    the longer response, less that of the true labels of the same pairs.
    """
    figures: dict[str, Figure] = {}
    for name, rows, p in (("label", pool, labels.p_a), ("trained", pool & labels.trained, labels.target)):
        known = rows & ~np.isnan(hidden) & ~np.isnan(p)
        for metric, measure in (("accuracy", accuracy), ("log_loss", log_loss), ("ece", ece)):
            figures[f"{name}_{metric}"] = _number(measure(p[known], hidden[known])) if known.any() else None
    decided = pool & labels.trained & ~np.isnan(labels.target) & (labels.target != 0.5) & (hidden != 0.5)
    decided &= ~np.isnan(hidden)
    share = _longer_share(labels.target, longer, decided) - _longer_share(hidden, longer, decided)
    return figures | {"length_bias": _number(share)}


def drift_figures(
    labels: SelfLabels, before: SelfLabels | None, pool: BoolArray, seed_gold: FloatArray, longer: FloatArray
) -> dict[str, Figure]:
    """Return what the labels did, without any hidden label.

    kept_share: pairs of the pool (mask, (n,)) trained on, of all. longer_share: those whose preferred response is the
    longer one, of those that differ in length; length_drift is that less the share among the seed's labels (`seed_gold`
    (n,), NaN elsewhere). reward_length_correlation is Pearson's, of the log-odds that A is preferred and `longer` (n,),
    characters of A less those of B: where a reward model alone labels, log-odds are its margin.
    margin_length_correlation is of the margin of the reward model that labels or votes, None where none does.
    consistency_rate is the share of the pool on which this iteration prefers what the one before did.
    """
    trained = pool & labels.trained
    share, among_gold = _longer_share(labels.target, longer, trained), _longer_share(seed_gold, longer, None)
    log_odds, voted = logit(np.clip(labels.p_a, TINY, 1 - TINY)), pool & ~np.isnan(labels.margin)
    return {
        "kept": int(trained.sum()),
        "kept_share": float(trained.sum() / max(pool.sum(), 1)),
        "longer_share": _number(share),
        "length_drift": _number(share - among_gold),
        "reward_length_correlation": _number(_correlation(log_odds[pool], longer[pool])),
        "margin_length_correlation": _number(_correlation(labels.margin[voted], longer[voted])),
        "consistency_rate": None if before is None else _agreement(labels, before, pool),
    }


def _agreement(labels: SelfLabels, before: SelfLabels, pool: BoolArray) -> float:
    return float(pair_agreement(labels.p_a[pool] - 0.5, before.p_a[pool] - 0.5).mean())


def _longer_share(label: FloatArray, longer: FloatArray, rows: BoolArray | None) -> float:
    known = ~np.isnan(label) & (label != 0.5) & (longer != 0)
    known = known if rows is None else known & rows
    return float(((label > 0.5) == (longer > 0))[known].mean()) if known.any() else math.nan


def _correlation(x: FloatArray, y: FloatArray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _shifted(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return values moved into [0, 1], as `interval` wants them, beside labels it needs but does not use."""
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, TINY), np.ones(len(values))


def _unshifted(value: float, values: FloatArray) -> float:
    return float(value * max(values.max() - values.min(), TINY) + values.min())


def _number(value: float) -> Figure:
    return None if math.isnan(value) else float(value)
