"""What training minimises: losses of a Bradley-Terry margin and a soft label, as pure functions.

Notation: h = r_chosen - r_rejected is the margin (a logit), q = P(chosen preferred) in [0, 1], l(h) = -log sigmoid(h).
All tensors have shape (n,). For each, exchanging the responses, (h, q) -> (-h, 1 - q), changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid, relu

from labeling.errors import DataError


def bradley_terry(h: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return q l(h) + (1 - q) l(-h) per pair; the minimum over h lies at logit(q), q = 1 is plain Bradley-Terry.

    >>> round(bradley_terry(torch.tensor([0.0]), torch.tensor([0.7])).item(), 4)
    0.6931
    """
    return -(q * logsigmoid(h) + (1 - q) * logsigmoid(-h))


def hinge(h: torch.Tensor, q: torch.Tensor, delta: float) -> torch.Tensor:
    """Return q max(0, delta - h) + (1 - q) max(0, delta + h) per pair; for q = 1 SER's loss (arXiv 2411.00418).

    The minimum lies at h = delta for any q above 1/2: the margin says which is preferred, not how surely.
    """
    return q * relu(delta - h) + (1 - q) * relu(delta + h)


def label_smoothing(h: torch.Tensor, q: torch.Tensor, e: float) -> torch.Tensor:
    """Return Bradley-Terry with (1 - e) q + e (1 - q) in place of q: labels are wrong in a share e of cases.

    For q = 1 that is (1 - e) l(h) + e l(-h): conservative DPO (cDPO), and CREAM with consistency rate 1 - e.
    """
    return bradley_terry(h, (1 - e) * q + e * (1 - q))


def unbiased(h: torch.Tensor, q: torch.Tensor, e: float) -> torch.Tensor:
    """Return [(1 - e) L(h) - e L(-h)] / (1 - 2e), L the soft Bradley-Terry loss (robust DPO, arXiv 2403.00409).

    Over labels that are flipped with probability e it has the clean loss as its expectation. It has no lower bound
    where q lies outside [e, 1 - e]: few epochs, or margins grow without end.
    """
    return ((1 - e) * bradley_terry(h, q) - e * bradley_terry(-h, q)) / (1 - 2 * e)


def geometric(h: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return l((2q - 1) h) per pair (GDPO, arXiv 2409.06691): unsure pairs have a small gradient, ties none.

    q = 1 is plain Bradley-Terry. For any q above 1/2 the loss falls for ever: margins say how sure only by being early.
    """
    return -logsigmoid((2 * q - 1) * h)


def ipo(h: torch.Tensor, q: torch.Tensor, tau: float) -> torch.Tensor:
    """Return q (h - m)^2 + (1 - q) (h + m)^2, m = 1 / (2 tau) (IPO, arXiv 2310.12036, equation 17 over labels).

    Up to a constant that is (h - (2q - 1) m)^2, so the minimum over h lies at (2q - 1) m and margins are bounded by m.
    With tau = 1/4 that is the tangent of logit(q) at q = 1/2, so that sigmoid(h) stays near q for unsure pairs.
    """
    m = 1 / (2 * tau)
    return q * (h - m) ** 2 + (1 - q) * (h + m) ** 2


@dataclass(frozen=True)
class Loss:
    """A loss by name: its function of h, q and, where it has one, its parameter."""

    function: Callable[..., torch.Tensor]
    parameter: str = ""
    """Name of the parameter; empty where there is none."""
    default: float = 0.0
    above: float = 0.0
    """The parameter lies above this, ..."""
    below: float = float("inf")
    """... and below this."""


LOSSES = {
    "bradley-terry": Loss(bradley_terry),
    "geometric": Loss(geometric),
    "hinge": Loss(hinge, "delta", 1.0),
    "ipo": Loss(ipo, "tau", 0.25),
    "label-smoothing": Loss(label_smoothing, "e", 0.1, below=0.5),
    "unbiased": Loss(unbiased, "e", 0.1, below=0.5),
}
"""The losses by the name that `RewardConfig.objective` takes."""


@dataclass(frozen=True)
class Objective:
    """What a step of training minimises, before it is divided by the step's sum of weights.

    Raises DataError for a name that is not in LOSSES, or a parameter it does not take.
    """

    name: str = "bradley-terry"
    parameter: float | None = None
    """The loss's own parameter; None = its default."""
    center_rewards: float = 0.0
    """Coefficient of (r_chosen + r_rejected)^2, which pulls the mean reward to 0 (arXiv 2312.09244, as in TRL)."""

    def __post_init__(self) -> None:
        loss = LOSSES.get(self.name)
        if loss is None:
            raise DataError(f"objective is {self.name!r}, expected one of {', '.join(LOSSES)}")
        if self.parameter is None:
            return
        if not loss.parameter:
            raise DataError(f"objective_parameter is {self.parameter}, but {self.name} has none; leave it out")
        if not loss.above < self.parameter < loss.below:
            bounds = f"above {loss.above:g}" + (f" and below {loss.below:g}" if loss.below < float("inf") else "")
            raise DataError(
                f"objective_parameter is {self.parameter}, expected {loss.parameter} of {self.name} {bounds}"
            )

    def pair_losses(self, h: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Return the loss of each pair, shape (n,), without weights and centring."""
        loss = LOSSES[self.name]
        if not loss.parameter:
            return loss.function(h, q)
        return loss.function(h, q, loss.default if self.parameter is None else self.parameter)

    def __call__(
        self, chosen: torch.Tensor, rejected: torch.Tensor, q: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted sum over the pairs, a scalar: divided by the sum of weights it is the batch's loss."""
        losses = self.pair_losses(chosen - rejected, q)
        if self.center_rewards:
            losses = losses + self.center_rewards * (chosen + rejected) ** 2
        return (weight * losses).sum()
