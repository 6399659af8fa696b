"""What cross-fitting on gold showed of a label model: figures, their intervals, and the pairs behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.figures import measure
from labeling.metrics import accuracy, ece, log_loss

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 400
"""Draws of the bootstrap behind an interval."""


@dataclass(frozen=True)
class Calibration:
    """How good the posterior is on gold pairs, each scored by a model that saw no gold of its group."""

    p_a: FloatArray
    """P(A preferred) of the gold pairs, shape (n,)."""
    gold: FloatArray
    """Their labels, shape (n,)."""
    groups: npt.NDArray[np.str_] | None
    """Their groups, shape (n,); None = every pair its own."""
    pair_ids: npt.NDArray[np.str_] | None = None
    """Their pair ids, shape (n,): the order is no matter of the input's. None where nobody gave any."""

    def by_pair(self) -> dict[str, float]:
        """Return P(A preferred) of each gold pair by its id; none where nobody gave any."""
        return {} if self.pair_ids is None else dict(zip(self.pair_ids.tolist(), self.p_a.tolist(), strict=True))

    @property
    def n_gold(self) -> int:
        """Number of gold pairs."""
        return len(self.gold)

    @property
    def accuracy(self) -> float:
        """Accuracy in [0, 1]; NaN if every gold label is a tie."""
        return accuracy(self.p_a, self.gold)

    @property
    def log_loss(self) -> float:
        """Log-loss in nats."""
        return log_loss(self.p_a, self.gold)

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1]; biased upwards for few pairs."""
        return ece(self.p_a, self.gold)

    def figures(self) -> dict[str, float | int]:
        """Return the figures with 95 % intervals that take whole groups as the units drawn."""
        found = measure(self.p_a, self.gold, self.groups, resamples=RESAMPLES)
        return {"n_gold": self.n_gold} | found.spans(("accuracy", "log_loss", "ece"))
