"""What voters say of each other without any gold label: the model of their votes that explains them best.

Candidates are latent-class models (independent voters; pairs of differing difficulty; groups of copies; voters and data
that lean to one position) and, where voters give margins, a Gaussian model, with a confounder that all share or pairs
of differing difficulty. The likelihood, less a price for each parameter, chooses. The assumption that fixes the sign,
and which of two latent variables is the preference: voters are right more often than wrong, a group of copies counting
as one voter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit

from labeling.antisymmetric import bounded
from labeling.copies import independence
from labeling.latent_class import LatentClass
from labeling.latent_class_fit import fit_latent_class
from labeling.misfit import misfit
from labeling.shared_factor import SharedFactor, beside, fit_shared_factor, graded, improved, taken_for_y
from labeling.structure_search import best_latent_class, vote_table
from labeling.vote_rows import VoteRows, grade, leanings, strengths

FloatArray = npt.NDArray[np.float64]
SignArray = npt.NDArray[np.int8]

DOUBTFUL = 0.05
"""Unexplained agreement at which the model and the share of votes are trusted alike."""
SEARCH_ROWS = 2000
"""Rows on which structures are compared; the one chosen is fitted again on all."""
PREDICTED_ROWS = 1000
"""Rows on which models of votes and of margins are compared."""
OFTEN = 50
"""Votes, among the rows searched, from which on a voter's margins are modelled."""
LOPSIDED = 4.0
"""Standard errors by which votes for A and for B must differ in number before a voter counts as leaning."""
ONE_SIDED = 0.9
"""Net share of a voter's votes that goes to one position before its silence is read as an answer."""


@dataclass(frozen=True)
class Consensus:
    """The model chosen, and how far to trust it."""

    model: LatentClass | SharedFactor
    silence: SignArray
    """Shape (m,): what the silence of a one-sided voter says (-1 = B, +1 = A); 0 = nothing."""
    constant: npt.NDArray[np.bool_]
    """Shape (m,): voters that say the same of every pair, and so nothing."""
    misfit: float
    """Root mean square of the agreement of two voters that the model leaves unexplained, or that so few pairs cannot
    exclude, in (0, 1]."""
    trust: float
    """How much of the consensus is the model, in [0, 1]; the rest is the share of votes."""
    worth: FloatArray
    """Shape (m,): what each voter counts in the share of votes, in (0, 1]; below 1, it repeats others."""
    lopsided: bool
    """Whether A and B are told apart: a voter, or the preference, leans to one position."""
    converged: bool
    """Whether the likelihood reached its maximum."""

    def log_odds(self, signs: SignArray, scores: FloatArray | None) -> tuple[FloatArray, FloatArray]:
        """Return the log-odds of A by the model and by the share of votes, each (n,), of signs and scores (n, m).

        The model's are no surer than what it leaves unexplained allows: it might be an error that all share.
        """
        signs = answered(signs, self.silence, self.constant)
        limit = float(np.log(1 + 0.1 / self.misfit**2))
        return bounded(self._modelled(signs, scores), limit), self._share(signs, scores)

    def _share(self, signs: SignArray, scores: FloatArray | None) -> FloatArray:
        """Return log (1 + weight of what favours A) - log (1 + weight of what favours B), shape (n,)."""
        for_a, for_b = np.ones(len(signs)), np.ones(len(signs))
        for j, worth in enumerate(self.worth):
            graded = signs[:, j] if scores is None else grade(signs[:, j], scores[:, j])
            for_a += worth * np.maximum(graded, 0)
            for_b += worth * np.maximum(-graded, 0)
        result: FloatArray = np.log(for_a) - np.log(for_b)
        return result

    def _modelled(self, signs: SignArray, scores: FloatArray | None) -> FloatArray:
        if isinstance(self.model, SharedFactor):
            return self.model.log_odds(signs.astype(np.float64) if scores is None else leanings(signs, scores))
        return self.model.log_odds(signs, None if scores is None else strengths(signs, scores))


def answered(signs: SignArray, silence: SignArray, constant: npt.NDArray[np.bool_]) -> SignArray:
    """Return signs (n, m) with the abstentions of one-sided voters as what they say, and constant voters silent."""
    signs = np.where(signs == 0, silence, signs) if silence.any() else signs
    return np.where(constant, np.int8(0), signs) if constant.any() else signs


def learn_consensus(rows: VoteRows) -> Consensus:
    """Return the consensus of rows in a fixed order and orientation."""
    voted = (np.abs(rows.signs) * rows.counts[:, None]).sum(axis=0)
    net = (rows.signs * rows.counts[:, None]).sum(axis=0)
    leaning = np.abs(net) > LOPSIDED * np.sqrt(np.maximum(voted, 1))
    total = rows.counts.sum()
    one_sided = leaning & (np.abs(net) > ONE_SIDED * voted) & (voted < 0.98 * total)
    constant = leaning & (np.abs(net) > ONE_SIDED * voted) & ~one_sided
    silence = np.where(one_sided, -np.sign(net), 0).astype(np.int8)
    lopsided = bool((leaning & ~constant).any())
    signs = answered(rows.signs, silence, constant)
    rows = replace(rows, signs=signs, scores=np.where(constant, 0.0, rows.scores))
    if not lopsided:
        rows = rows.turned()
    sloped = tuple(int(j) for j in np.flatnonzero((rows.strengths > 0).any(axis=0)))
    few = rows.part(SEARCH_ROWS)
    best = best_latent_class(few, sloped, tuple(int(j) for j in np.flatnonzero(leaning & ~constant)))
    gaussian = None if lopsided else _shared_factor(few)
    if gaussian is not None and _predictability(gaussian.model, few) > _predictability(best.model, few):
        model: LatentClass | SharedFactor
        model, converged = gaussian.improved(rows.leanings)
    else:
        last = fit_latent_class(vote_table(rows, best.model.structure.sloped), best.model.structure, best.model.vector)
        model, converged = last.model, last.converged
    left, at_least = misfit(model, rows)
    trust = 1 / (1 + (at_least / DOUBTFUL) ** 4)
    worth = np.where(constant, 0.0, independence(few.graded, few.counts))
    return Consensus(model, silence, constant, left, trust, worth, lopsided, converged)


@dataclass(frozen=True)
class _Gaussian:
    """The Gaussian model of all voters."""

    model: SharedFactor
    core: npt.NDArray[np.bool_] | None
    """Shape (m,): the voters that say what the preference is; None = all."""

    def improved(self, leanings: FloatArray) -> tuple[SharedFactor, bool]:
        """Return the model fitted on all rows of leanings (n, m), and whether it reached its maximum."""
        if self.core is None:
            return improved(self.model, leanings, 200)
        signal, shared, noise = (part[self.core] for part in (self.model.signal, self.model.shared, self.model.noise))
        own = SharedFactor(signal, shared, noise, self.model.difficulty)
        found, converged = improved(own, leanings[:, self.core], 200)
        return beside(found, leanings, self.core), converged


def _shared_factor(rows: VoteRows) -> _Gaussian | None:
    """Return the Gaussian model if three voters or more vote often enough, and most votes come with a margin."""
    voted = rows.signs != 0
    often = voted.sum(axis=0) >= OFTEN
    if often.sum() < 3 or (rows.scores[voted] != 0).mean() < 0.5:
        return None
    found = fit_shared_factor(rows.leanings[:, often])
    signal, shared, noise = np.zeros(len(often)), np.zeros(len(often)), np.ones(len(often))
    signal[often], shared[often], noise[often] = found.signal, found.shared, found.noise
    model = SharedFactor(signal, shared, noise, found.difficulty)
    core = often & graded(np.where(voted, rows.scores, 0.0), rows.leanings)
    if not (taken_for_y(model, rows.leanings) & often & ~core).any():
        return _Gaussian(model, None)
    if core.sum() < 3:
        return None
    return _Gaussian(beside(fit_shared_factor(rows.leanings[:, core]), rows.leanings, core), core)


def _predictability(model: LatentClass | SharedFactor, rows: VoteRows) -> float:
    """Return the mean log-probability of a vote given the pair's other votes and all strengths (Besag 1975)."""
    rows = rows.part(PREDICTED_ROWS)

    def log_p(turned: FloatArray) -> FloatArray:
        if isinstance(model, SharedFactor):
            return model.log_density(rows.leanings * turned)
        return model.log_evidence((rows.signs * turned).astype(np.int8), rows.strengths)

    as_said = log_p(np.ones(rows.signs.shape[1]))
    total = 0.0
    for j in range(rows.signs.shape[1]):
        other = np.where(np.arange(rows.signs.shape[1]) == j, -1.0, 1.0)
        voted = rows.signs[:, j] != 0
        total += float((rows.counts * log_expit(as_said - log_p(other)))[voted].sum())
    return total / float((rows.counts[:, None] * (rows.signs != 0)).sum())
