"""Controls: what else would have come of the same effort, so that no gain is claimed that needs no self-labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augment.evolve_method import Ground
from augment.evolve_options import Control
from augment.evolve_training import export_kept, export_seed
from augment.self_labels import SelfLabels
from rm.config import RewardConfig

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effort:
    """What an iteration trained on, and how long the loop trained up to it."""

    labels: SelfLabels
    first: RewardConfig
    """How the reward model of iteration 0 was trained."""
    config: RewardConfig
    """How that of iteration n was."""
    steps: int
    """Optimizer steps of the reward models of iterations 0 to n, one after another: of members that are trained side by
    side one counts, and none of those that only label (ser+ws)."""
    n: int


def control(name: Control, effort: Effort, ground: Ground, out: Path, seed: int) -> tuple[Path, RewardConfig]:
    """Write what a control trains on to `out`; return it and how the control is trained.

    equal-steps: the seed alone, as in iteration 0 but for `effort.steps` steps. oracle: the same kept pairs with their
    true labels, where known. random: the same pairs, each label a coin flip.
    """
    if name == "equal-steps":
        whole = replace(effort.first, max_steps=effort.steps, patience=None)
        return export_seed(out, ground, seed), whole
    everywhere = np.ones(len(ground.pairs), dtype=np.bool_)
    relabelled = oracle(effort.labels, ground.hidden) if name == "oracle" else coins(effort, ground, seed)
    return export_kept(out, ground, relabelled, everywhere, seed), effort.config


def oracle(labels: SelfLabels, hidden: FloatArray) -> SelfLabels:
    """Return the labels with the true ones (n,) in place; pairs whose true label is unknown or a tie are left out."""
    known = labels.trained & ~np.isnan(hidden) & (hidden != 0.5)
    return replace(labels, trained=known, target=np.where(known, hidden, np.nan))


def coins(effort: Effort, ground: Ground, seed: int) -> SelfLabels:
    """Return the labels with a coin flip in place of each, whatever the order of the rows."""
    order = np.argsort(ground.pairs.pair_ids)
    flips = np.empty(len(order))
    flips[order] = np.random.default_rng([seed, effort.n]).integers(0, 2, len(order))
    return replace(effort.labels, target=np.where(effort.labels.trained, flips, np.nan))
