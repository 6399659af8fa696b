"""The label model: votes, margins and a few gold labels into a calibrated probability that A is preferred."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from labeling.anchor import Anchor, fit_anchor, gold_rows, held_out_logits
from labeling.antisymmetric import bounded, sigmoid
from labeling.calibration import Calibration
from labeling.checks import check_fitted, check_voters, gold_lead
from labeling.consensus import Consensus, learn_consensus
from labeling.errors import VotesError, WeakprefWarning
from labeling.evidence import EvidenceCurve, fit_curve
from labeling.explain import Explanation, explain
from labeling.latent_class import LatentClass, Structure
from labeling.learned import Learned, max_logit
from labeling.patterns import name_order
from labeling.sample import Collector, Sample
from labeling.shared_factor import SharedFactor
from labeling.stored import store, stored_values
from labeling.vote_batches import Votes, labelled_rows, vote_batches
from labeling.vote_rows import VoteRows
from labeling.voter_facts import in_words, voter_facts
from labeling.votes import Vote, VoteMatrix, signs_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BATCH = 1 << 16
"""Rows given a posterior at a time."""
MAX_TABLE = 1 << 20
"""Up to so many possible rows of votes, each is given its posterior once and looked up."""


class LabelModel:
    """Merge votes into P(A preferred), anchored on the gold labels there are.

    A consensus is learned from all rows: of several models of how votes come about (independent voters, copies of one
    another, pairs of differing difficulty, a confounder that margins share, voters that lean to one position), the one
    that explains the votes best; where it leaves agreement unexplained, the share of votes takes its place. Gold labels
    correct its log-odds linearly, as far as they bear it out. The posterior is never surer than gold and agreement
    allow: its log-odds are bounded by log(1 + n_gold + max(9, 0.1 / misfit^2)), of gold that is no tie and has a vote.

    Exchanging the responses of all pairs (votes exchanged, margins negated, gold 1 - gold) gives exactly 1 - p; the
    order of rows and voters changes nothing. The consensus is learned from at most 32,768 distinct rows of votes, or
    16,384 rows with margins, drawn at even distances; the anchor from all gold rows. Which rows are drawn of a longer
    stream depends on its batches.
    """

    names_: tuple[str, ...] = ()
    """The voters fitted on, m of them."""
    learned_: Learned
    """The parameters."""
    accuracy_: FloatArray
    """Shape (m,): P(a vote is right), in [0, 1], as the posterior has it; NaN for a voter that never votes."""
    weights_: FloatArray
    """Shape (m,): log-odds that a vote of this voter alone adds, at its median margin; negative: it misleads.

    Half the difference between a vote for A and one for B."""
    dependence_: FloatArray
    """Shape (m, m), in [-1, 1]: agreement of two voters beyond what the preference explains; 1 = copies."""
    calibration_: Calibration | None
    """Cross-fitted quality on the gold pairs. None without gold, or if all gold pairs are of one group."""
    max_logit_: float
    """Bound of the log-odds."""
    structure_: str
    """Which model of the votes was chosen, in words."""
    assumption_: str
    """What the posterior rests on, in words; without gold, what fixes its sign."""

    def __init__(self, self_labels: Sequence[str] = ()) -> None:
        """Name in `self_labels` the voters trained on labels of a label model (a reward model in a loop, say).

        They agree with the other voters because they learned from them, so the consensus does not listen to them: only
        gold pairs can give them weight. Reward models declare themselves (`VoteMatrix.self_labels`). Their margins on
        gold pairs must come from models that did not train on those.
        """
        self.self_labels = (self_labels,) if isinstance(self_labels, str) else tuple(self_labels)

    def fit(self, votes: Votes, gold: npt.ArrayLike | None = None) -> Self:
        """Learn from all rows, and from gold (n,), P(A preferred) in [0, 1], NaN where unlabelled.

        `votes` may also be an iterable of batches of the same voters, read once in bounded memory, or the path of a
        file of `write_votes`, whose gold column is used if `gold` is None.

        Raises GoldError for gold of another shape, outside [0, 1], or of one class only, and VotesError without rows.
        """
        collector, labelled = Collector(), []
        names: tuple[str, ...] = ()
        learned: set[str] = set(self.self_labels)
        for batch, labels in vote_batches(votes, gold):
            if names:
                check_voters(names, batch)
            names = batch.names
            learned.update(batch.self_labels)
            collector.add(batch)
            known = ~np.isnan(labels)
            if known.any():
                labelled.append((batch.take(known), labels[known]))
        sample = collector.sample()
        if not len(sample.counts):
            raise VotesError("nothing to learn from: no batch of votes holds a row; apply voters to some pairs")
        anchored = labelled_rows(labelled)
        heard = _heard(names, sorted(learned))
        self.names_ = names
        self._learn(sample, heard)
        telling = 0 if anchored is None else self._anchor(*anchored)
        self._describe(sample, telling)
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in (0, 1); raises VotesError for other voters than those fitted.

        It is 0.5 where nobody votes, unless the votes showed that A and B differ (`learned_.consensus.lopsided`).
        """
        return sigmoid(self.log_odds(votes))

    def log_odds(self, votes: VoteMatrix) -> FloatArray:
        """Return log P(A preferred) - log P(B preferred), shape (n,), within `max_logit_`."""
        check_voters(self.names_, votes)
        order = name_order(self.names_)
        has_margins = votes.has_margins
        table = None if has_margins or 3 ** len(order) > min(len(votes), MAX_TABLE) else self._table()
        out = np.empty(len(votes))
        for start in range(0, len(votes), BATCH):
            rows = slice(start, start + BATCH)
            if table is not None:
                codes = (votes.votes[rows][:, order].astype(np.float64) + 1) @ _places(len(order))
                out[rows] = table[codes.astype(np.int64)]
            else:
                margins = votes.margins[rows][:, order] if has_margins else None
                out[rows] = self.learned_.log_odds(signs_of(votes.votes[rows][:, order]), margins)
        return out

    def explain(self, votes: VoteMatrix, i: int | str) -> Explanation:
        """Return what each voter adds to the posterior of row i, or of the pair with that id."""
        return explain(self, votes, i)

    def save(self, path: str | Path) -> None:
        """Write the fitted model as JSON, to be read with `LabelModel.load`."""
        check_fitted(self.names_)
        store(path, {name: getattr(self, name) for name in STORED}, TYPES)

    @classmethod
    def load(cls, path: str | Path) -> LabelModel:
        """Return the model that `save` wrote, the same to the last bit; raises VotesError for any other file."""
        stored = stored_values(path, STORED, TYPES)
        model = cls()
        for name in STORED:
            setattr(model, name, stored[name])
        return model

    def _learn(self, sample: Sample, heard: IntArray) -> None:
        """Learn the consensus of the rows among the voters heard."""
        m = len(self.names_)
        curves = tuple(fit_curve(column) for column in sample.margins.T)
        scores = np.stack([curve.scores(x) for curve, x in zip(curves, sample.margins.T, strict=True)], axis=1)
        consensus = learn_consensus(VoteRows(sample.signs[:, heard], scores[:, heard], sample.counts))
        if not consensus.converged:
            warnings.warn(
                "LabelModel: the likelihood of the votes was still rising when the steps ran out; the consensus is "
                "approximate: look for voters that hardly ever vote and leave them out",
                WeakprefWarning,
                stacklevel=3,
            )
        agreed = np.array([consensus.trust, 1 - consensus.trust])
        anchor = Anchor(agreed, np.zeros(m), np.zeros(m), 0.0)
        self.calibration_ = None
        self.max_logit_ = max_logit(0, consensus.misfit)
        exchanged = consensus.lopsided and sample.exchanged
        self.learned_ = Learned(curves, heard, consensus, anchor, exchanged, self.max_logit_)

    def _anchor(self, gold: VoteMatrix, labels: FloatArray) -> int:
        """Correct the consensus by the labelled rows; return how many are no tie and have a vote."""
        learned, order = self.learned_, name_order(self.names_)
        trust, lopsided = learned.consensus.trust, learned.consensus.lopsided
        signs, scores = learned.way * gold.signs[:, order], learned.way * learned.scores(gold.margins[:, order])
        agreed = np.stack(learned.agreed(signs, scores), axis=1)
        q = 0.5 + learned.way * gold_lead(labels)
        rows, rank = gold_rows(agreed, signs.astype(np.float64), scores, q, gold.groups, gold.pair_ids)
        telling = int(((labels != 0.5) & (gold.votes != Vote.ABSTAIN).any(axis=1)).sum())
        self.max_logit_ = max_logit(telling, learned.consensus.misfit)
        self.learned_ = replace(learned, anchor=fit_anchor(rows, trust, lopsided), max_logit=self.max_logit_)
        held_out = held_out_logits(rows, trust, lopsided)
        if len(held_out):
            if not lopsided:
                held_out[~rows.signs.any(axis=1)] = 0.0
            p_a = sigmoid(learned.way * rows.side * bounded(held_out, self.max_logit_))
            groups = None if gold.groups is None else gold.groups[rank]
            self.calibration_ = Calibration(p_a, labels[rank], groups, gold.pair_ids[rank])
        return telling

    def _describe(self, sample: Sample, telling: int) -> None:
        """Set what is learned of each voter, in the order of `names_`."""
        order, m = name_order(self.names_), len(self.names_)
        back = np.argsort(order)
        way = -1 if sample.exchanged else 1
        logits = self.learned_.log_odds((way * sample.signs).astype(np.int8), way * sample.margins)
        accuracy, dependence = voter_facts(sample, sigmoid(way * logits))
        self.accuracy_, self.dependence_ = accuracy[back], dependence[np.ix_(back, back)]
        margins = np.full((m, m), np.nan, np.float32)
        np.fill_diagonal(margins, [curve.median for curve in self.learned_.curves])
        alone = np.eye(m, dtype=np.int8)
        says_a, says_b = self.learned_.log_odds(alone, margins), self.learned_.log_odds(-alone, -margins)
        self.weights_ = ((says_a - says_b) / 2)[back]
        heard = [self.names_[order[j]] for j in self.learned_.heard]
        learned = self.learned_.consensus, heard
        self.structure_, self.assumption_ = in_words(*learned, self.calibration_, telling, self.max_logit_)

    def _table(self) -> FloatArray:
        """Return the log-odds of every possible row of votes without margins, in the order of their codes."""
        m = len(self.names_)
        codes = np.arange(3**m)
        signs = np.empty((len(codes), m), dtype=np.int8)
        for j, place in enumerate(_places(m).astype(np.int64)):
            signs[:, j] = np.array([0, 1, -1])[codes // place % 3]
        return self.learned_.log_odds(signs, None)


def _heard(voters: Sequence[str], self_labels: Sequence[str]) -> IntArray:
    """Return which voters, in the order of their names, the consensus listens to."""
    names = sorted(voters)
    unknown = set(self_labels) - set(names)
    if unknown:
        raise VotesError(f"self_labels names {', '.join(sorted(unknown))}, but the voters are {', '.join(names)}")
    heard = np.array([j for j, name in enumerate(names) if name not in self_labels], dtype=np.int64)
    if not len(heard):
        raise VotesError("every voter is among self_labels, so that nobody is left to agree; add other voters")
    return heard


STORED = (
    "self_labels", "names_", "learned_", "accuracy_", "weights_", "dependence_", "calibration_", "max_logit_",
    "structure_", "assumption_",
)  # fmt: skip
"""What is saved of a model."""
TYPES = (
    Learned, EvidenceCurve, Consensus, LatentClass, Structure, SharedFactor, Anchor, Calibration,
)  # fmt: skip
"""What it is made of."""


def _places(m: int) -> FloatArray:
    """Return what the vote of each voter is worth in the code of a row, (m,)."""
    return np.power(3.0, np.arange(m, dtype=np.float64))
