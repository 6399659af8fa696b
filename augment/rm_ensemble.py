"""Self-labels of an ensemble: the mean of several reward models, kept where all of them agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augment.evolve_method import Ground
from augment.learning_status import Status
from augment.self_labels import SelfLabels
from labeling.antisymmetric import sigmoid
from labeling.consistency import pair_agreement

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """Reward models of several seeds label together; soft labels where all members prefer the same response."""

    members: int = 3
    folds: int = 0
    first_vote: int = 1
    stops_early: bool = True

    def label(self, n: int, rewards: FloatArray | None, ground: Ground, history: Sequence[SelfLabels]) -> SelfLabels:  # noqa: ARG002
        """Label with the mean probability; the whole pool is labelled anew, nothing is carried over."""
        assert rewards is not None, "the members label with the models of the iteration before"
        margins = rewards[:, :, 0] - rewards[:, :, 1]
        each = sigmoid(margins)
        p_a = each.mean(axis=0)
        kept = ground.pool & (np.abs(np.sign(margins).sum(axis=0)) == len(margins))
        pairs = [(i, j) for i in range(len(margins)) for j in range(i)]
        agreement = [pair_agreement(margins[i], margins[j])[ground.pool].mean() for i, j in pairs]
        return SelfLabels(
            p_a=p_a,
            margin=margins.mean(axis=0),
            spread=each.std(axis=0),
            trained=kept,
            target=np.where(kept, p_a, np.nan),
            weight=np.ones(len(p_a)),
            iteration=np.where(kept, n, 0).astype(np.int32),
            status="" if kept.any() else Status.CONVERGED.value,
            facts={"members_consistency": float(np.mean(agreement)) if agreement else None},
        )
