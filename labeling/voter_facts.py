"""What a fitted label model says of its voters: accuracy, dependence, and in words what its posterior rests on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeling.calibration import Calibration
from labeling.consensus import Consensus
from labeling.copies import agreement
from labeling.sample import Sample
from labeling.shared_factor import SharedFactor

FloatArray = npt.NDArray[np.float64]


FEW_GOLD = 30
"""Gold pairs below which a model says that they are too few."""
FEW_VOTES = 20.0
"""Pairs both vote on at which dependence is believed by half."""


def voter_facts(sample: Sample, p_a: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return P(right | vote), (m,), as the posterior p_a (k,) of the rows has it, and the dependence of voters, (m, m).

    Dependence is agreement beyond that of voters of their accuracies that err independently, as a share of the most
    there could be: 1 = copies, 0 = independent, below 0 = they avoid each other.
    """
    signs = sample.signs.astype(np.float64)
    n_votes = sample.counts @ np.abs(signs)
    lead = (sample.counts * (2 * p_a - 1)) @ signs
    skill = np.divide(lead, n_votes, out=np.full(len(n_votes), np.nan), where=n_votes > 0)
    agree, both = agreement(signs, sample.counts)
    explained = np.nan_to_num(np.outer(skill, skill))
    room = np.where(agree >= explained, 1 - explained, 1 + explained)
    seen = both / (both + FEW_VOTES)  # a few pairs on which both vote show nothing
    dependence = seen * np.divide(agree - explained, room, out=np.zeros_like(agree), where=room > 1e-9)
    np.fill_diagonal(dependence, 1.0)
    return (1 + skill) / 2, np.clip(dependence, -1, 1)


def in_words(
    consensus: Consensus, names: Sequence[str], calibration: Calibration | None, telling: int, max_logit: float
) -> tuple[str, str]:
    """Return which model of the votes was chosen, and what the posterior rests on: `telling` gold pairs, for one."""
    structure = _structure(consensus, names)
    deaf = [name for name, constant in zip(names, consensus.constant, strict=True) if constant]
    if deaf:
        structure += f"; not heard, since they say the same of every pair: {', '.join(deaf)}"
    return structure, _assumption(consensus, calibration, telling, max_logit)


def _structure(consensus: Consensus, names: Sequence[str]) -> str:
    model = consensus.model
    if isinstance(model, SharedFactor):
        shared = "a confounder" if model.confounded else "nothing but the preference"
        differing = "" if model.difficulty == "alike" else "; pairs of differing difficulty"
        return f"margins that share {shared}{differing}"
    parts = [f"copies of a common source: {', '.join(names[j] for j in block)}" for block in model.structure.blocks]
    if model.structure.varied:
        parts.append("pairs of differing difficulty")
    leaning = [names[j] for j in model.structure.biased]
    if leaning:
        parts.append(f"voters that lean to one position: {', '.join(leaning)}")
    if model.structure.uneven:
        parts.append("one position preferred more often")
    return "; ".join(parts) or "voters that err independently"


def _assumption(consensus: Consensus, calibration: Calibration | None, telling: int, max_logit: float) -> str:
    surest = (
        f"never surer than {1 / (1 + np.exp(-max_logit)):.3f} (agreement is explained up to {consensus.misfit:.3f})"
    )
    if calibration is None:
        if isinstance(consensus.model, SharedFactor) and not consensus.model.confounded:
            turned = "whatever margins share is taken for the preference; "
        elif isinstance(consensus.model, SharedFactor):
            turned = "which of two things that margins share is the preference follows from their shape alone; "
        elif consensus.model.structure.blocks:
            turned = "votes fit as well if the copies are right and the others repeat a source; "
        else:
            turned = ""
        return (
            "without cross-fitted gold: voters are right more often than wrong, copies counting as one voter, and no "
            f"error is shared by all; {turned}{_unchecked(consensus)}{surest}"
        )
    idle = calibration.n_gold - telling
    few = f", {idle} of them ties or without a vote" if idle else ""
    few += ", too few to calibrate or to check by" if telling < FEW_GOLD else ""
    return f"anchored on {calibration.n_gold} gold pairs{few}, which stand for the pairs to be labelled; {surest}"


def _unchecked(consensus: Consensus) -> str:
    """Return a warning where no agreement could be checked (`misfit`)."""
    return "too few voters vote on the same pairs for anything to be checked; " if consensus.misfit == 1.0 else ""
