"""Self-labels of an ensemble: the mean of several reward models where all agree, or CREAM's rate as every label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from augment.evolve_method import Ground
from augment.learning_status import Status
from augment.self_labels import SelfLabels
from labeling.antisymmetric import sigmoid
from labeling.consistency import clamped, pair_agreement

FloatArray = npt.NDArray[np.float64]
SoftLabel = Literal["mean", "consistency"]
SOFT_LABELS: tuple[SoftLabel, ...] = ("mean", "consistency")


@dataclass(frozen=True)
class Ensemble:
    """Reward models of several seeds label together; soft labels where all members prefer the same response.

    With the soft label "consistency" all pairs are kept, and the response that the members prefer in the mean has
    q = C, the members' consistency rate over the pool, no less than 0.5 (CREAM, arXiv 2410.12735). At 0.5 every label
    is a tie, which trains nothing: none is kept, and the loop has converged.
    """

    members: int = 3
    soft_label: SoftLabel = "mean"
    folds: int = 0
    first_vote: int = 1
    stops_early: bool = True

    def label(self, n: int, rewards: FloatArray | None, ground: Ground, history: Sequence[SelfLabels]) -> SelfLabels:  # noqa: ARG002
        """Label with the mean probability; the whole pool is labelled anew, nothing is carried over."""
        assert rewards is not None, "the members label with the models of the iteration before"
        margins = rewards[:, :, 0] - rewards[:, :, 1]
        each = sigmoid(margins)
        p_a = each.mean(axis=0)
        kept, target = ground.pool & (np.abs(np.sign(margins).sum(axis=0)) == len(margins)), p_a
        pairs = [(i, j) for i in range(len(margins)) for j in range(i)]
        agreement = [pair_agreement(margins[i], margins[j])[ground.pool].mean() for i, j in pairs]
        if self.soft_label == "consistency" and agreement:
            q, leaning = float(clamped(np.mean(agreement))), np.sign(margins.mean(axis=0))
            target = 0.5 + leaning * (q - 0.5)
            kept = ground.pool & (target != 0.5)
        return SelfLabels(
            p_a=p_a,
            margin=margins.mean(axis=0),
            spread=each.std(axis=0),
            trained=kept,
            target=np.where(kept, target, np.nan),
            weight=np.ones(len(p_a)),
            iteration=np.where(kept, n, 0).astype(np.int32),
            held_out=np.full(len(p_a), np.nan),
            status="" if kept.any() else Status.CONVERGED.value,
            facts={"members_consistency": float(np.mean(agreement)) if agreement else None},
        )
