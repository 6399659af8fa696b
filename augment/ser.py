"""SER: a reward model labels the pool, its learning status says which labels it trains on next (arXiv 2411.00418)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.evolve_method import Ground
from augment.learning_status import Form, Status, Thresholds, amplified, keep, separated
from augment.reward_anchor import Anchor, preference, probabilities
from augment.self_labels import SelfLabels, carry_over, ever_kept

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ser:
    """Self-evolved reward learning: hard labels, filtered; no early stop but its own status."""

    form: Form = "paper"
    """"paper": the rule of the status, on the whole pool each time. "as_released": either rule, on what is left."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    anchor: Anchor = "pool"
    """What fixes the constant that rewards leave free."""
    members: int = 1
    folds: int = 0
    first_vote: int = 1
    stops_early: bool = False

    def label(self, n: int, rewards: FloatArray | None, ground: Ground, history: Sequence[SelfLabels]) -> SelfLabels:
        """Keep pairs by the status of the reward model's own probabilities; the higher reward is preferred."""
        assert rewards is not None, "SER labels with the reward model of the iteration before"
        p = probabilities(rewards[0], self.anchor, ground.seed, ground.pool)
        p_a = preference(rewards[0])
        left = ground.pool.copy()
        if self.form == "as_released":
            left &= ~ever_kept(history, len(left))
        kept = np.zeros(len(left), dtype=np.bool_)
        status = Status.CONVERGED
        if left.any():
            status, kept[left] = keep(p[left], self.thresholds, self.form)
        kept &= p_a != 0.5  # of equal rewards none is the higher
        status = status if kept.any() else Status.CONVERGED
        hard = (p_a > 0.5).astype(np.float64)
        counts: dict[str, Any] = {
            "n_pool": int(left.sum()),
            "n_separated": int(separated(p[left], self.thresholds).sum()),
            "n_amplified": int(amplified(p[left], self.thresholds).sum()),
            "n_new": int(kept.sum()),
        }
        return SelfLabels(
            p_a=p_a,
            margin=rewards[0, :, 0] - rewards[0, :, 1],
            spread=np.full(len(p_a), np.nan),
            weight=np.ones(len(p_a)),
            held_out=np.full(len(p_a), np.nan),
            status=status.value,
            facts=counts,
            **carry_over(kept, hard, n, history),
        )
