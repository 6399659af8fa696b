"""Dawid and Skene's label models (1979): each voter's error rates from agreement, by expectation maximisation.

Both run on distinct rows of votes with their counts. Voters are taken to err independently given the preferred
response, so that copies are counted as often as they come. Rows with gold keep it as their belief throughout. Agreement
alone cannot tell the preferred response from the other one: gold does, or the assumption at `sign_from_gold_`.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from labeling.antisymmetric import sigmoid
from labeling.checks import check_voters, checked_gold, gold_lead
from labeling.em import settled, share_of_votes, times, transposed, unlabelled
from labeling.errors import VotesError
from labeling.patterns import Patterns, find_patterns, name_order, oriented, row_sums
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class OneCoin:
    """One accuracy per voter, whichever response is preferred; both equally likely, and abstaining says nothing.

    Exchanging the responses of any rows mirrors just those rows' posterior, exactly.
    """

    names_: tuple[str, ...] = ()
    """The voters fitted on, m of them."""
    accuracy_: FloatArray
    """P(right | votes) of each voter, shape (m,), with one pseudo-vote right and one wrong."""
    weights_: FloatArray
    """Log-odds of the accuracies, shape (m,)."""
    sign_from_gold_: bool
    """Whether gold fixed the sign; if not, voters are assumed right more often than wrong: their weights sum to > 0."""
    iterations_: int
    """Steps taken."""

    def __init__(self, max_iterations: int = 10_000) -> None:
        self.max_iterations = max_iterations

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        """Learn accuracies from votes and gold (n,), P(A preferred) in [0, 1], NaN where unlabelled.

        Raises GoldError as `checked_gold` does, and VotesError below three voters without gold. Warns if not settled.
        """
        patterns = _patterns(votes, gold, "OneCoin")
        self.sign_from_gold_ = bool(patterns.lead.any())

        def leaning(accuracy: FloatArray) -> float:
            weights = _log_odds(accuracy)
            return float(_lead(patterns) @ times(patterns, weights) if self.sign_from_gold_ else weights.sum())

        accuracy, self.iterations_ = settled(
            lambda accuracy: one_coin_step(patterns, accuracy),
            _accuracy(patterns, unlabelled(patterns).sum(axis=0) * share_of_votes(patterns) / 2),
            lambda accuracy: 1 - accuracy, leaning, self.max_iterations, "OneCoin",
        )  # fmt: skip
        self.names_ = votes.names
        self.accuracy_ = accuracy[np.argsort(name_order(votes.names))]
        self.weights_ = _log_odds(self.accuracy_)
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in (0, 1); 0.5 where nobody votes. Raises VotesError for other voters."""
        check_voters(self.names_, votes)
        says = np.column_stack([self.weights_, -self.weights_, np.zeros(len(self.weights_))])
        return sigmoid(row_sums(votes, says))


def one_coin_step(patterns: Patterns, accuracy: FloatArray) -> FloatArray:
    """Return the accuracies (m,) that the beliefs under the given accuracies (m,) make likeliest, smoothed."""
    belief = np.tanh(times(patterns, _log_odds(accuracy)) / 2) / 2  # P(first response preferred) - 1/2
    return _accuracy(patterns, unlabelled(patterns).sum(axis=0) * belief)


def _accuracy(patterns: Patterns, lead: FloatArray) -> FloatArray:
    """Return (right + 1) / (votes + 2), (m,); `lead` (k,) is the sum of belief - 1/2 over the unlabelled rows."""
    cast = transposed(patterns, patterns.forward + patterns.backward, np.abs)
    right = cast / 2 + transposed(patterns, lead + _lead(patterns))
    return (right + 1) / (cast + 2)


class DawidSkene:
    """Rates per voter and preferred response (votes A, votes B, abstains), and how often A is preferred.

    Voters may lean to one response. Abstaining speaks where it fits better that a voter does it more often when one
    response is preferred (`speaks_`), so that a row where nobody votes gets what the silence and the class balance say
    instead of 0.5. Exchanging the responses of all rows gives exactly 1 - p.
    """

    names_: tuple[str, ...] = ()
    """The voters fitted on, m of them."""
    balance_: float
    """P(A preferred) before any vote."""
    confusion_: FloatArray
    """Shape (m, 2, 3): P(votes A, votes B, abstains | A preferred), then given B. Two pseudo-pairs that answer as the
    voter does on the whole keep them off 0, so that an answer never seen says nothing."""
    accuracy_: FloatArray
    """P(right | votes) of each voter, shape (m,)."""
    speaks_: BoolArray
    """Whose abstaining says something, shape (m,)."""
    sign_from_gold_: bool
    """Whether gold fixed the sign; if not, voters are assumed right more often than wrong: the log-odds between a vote
    for A and one for B sum to > 0 over the voters."""
    iterations_: int
    """Steps taken."""

    def __init__(self, max_iterations: int = 10_000) -> None:
        self.max_iterations = max_iterations

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        """Learn rates and balance from votes and gold (n,), P(A preferred) in [0, 1], NaN where unlabelled.

        Raises GoldError as `checked_gold` does, and VotesError below three voters without gold. Warns if not settled.
        """
        patterns = oriented(_patterns(votes, gold, "DawidSkene"))
        self.sign_from_gold_ = bool(patterns.lead.any())
        speaks = np.zeros(len(votes.names), dtype=bool)
        share = share_of_votes(patterns) / 2
        joint = _joint(_answers(patterns, np.stack([0.5 + share, 0.5 - share])), speaks)
        self.iterations_ = 0
        while True:
            joint, steps = self._settled(patterns, joint, speaks)
            self.iterations_ += steps
            more = speaks | speaking(_answers(patterns, _belief(patterns, joint)))
            if (more == speaks).all():
                break
            speaks = more
        self.names_ = votes.names
        self._keep(joint, speaks, patterns.exchanged)
        return self

    def _settled(self, patterns: Patterns, start: FloatArray, speaks: BoolArray) -> tuple[FloatArray, int]:
        def leaning(joint: FloatArray) -> float:
            base, says = _says(joint)
            if self.sign_from_gold_:
                return float((patterns.lead * _logits(patterns, base, says)).sum())
            return float((says[:, 0] - says[:, 1]).sum())

        return settled(
            lambda joint: dawid_skene_step(patterns, joint, speaks), start,
            lambda joint: joint[::-1], leaning, self.max_iterations, "DawidSkene",
        )  # fmt: skip

    def _keep(self, joint: FloatArray, speaks: BoolArray, exchanged: bool) -> None:
        """Keep what was learned, with the voters in the order given and the responses as they came."""
        base, says = _says(joint)
        if exchanged:
            base, says, joint = -base, -says[:, [1, 0, 2]], joint[::-1][:, :, [1, 0, 2]]
        back = np.argsort(name_order(self.names_))
        joint, self.speaks_ = joint[:, back], speaks[back]
        self._base, self._says = base, says[back]
        prefer_a, prefer_b = joint[:, 0, 0] + joint[:, 0, 1] + joint[:, 0, 2]  # A and B alike, to the last bit
        self.balance_ = float(prefer_a / (prefer_a + prefer_b))
        self.confusion_ = (joint / joint.sum(axis=2, keepdims=True)).transpose(1, 0, 2)
        right = joint[0, :, 0] + joint[1, :, 1]
        self.accuracy_ = right / (right + joint[0, :, 1] + joint[1, :, 0])

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in (0, 1). Raises VotesError for other voters than those fitted."""
        check_voters(self.names_, votes)
        return sigmoid(row_sums(votes, self._says, self._base))


def dawid_skene_step(patterns: Patterns, joint: FloatArray, speaks: BoolArray) -> FloatArray:
    """Return P(preferred response, voter's answer), (2, m, 3), under the beliefs that the given ones lead to."""
    return _joint(_answers(patterns, _belief(patterns, joint)), speaks)


def speaking(answers: FloatArray) -> BoolArray:
    """Return for whom two rates of abstaining fit better than one (BIC), (m,); `answers` (2, m, 3) are counts."""
    answered = np.stack([answers[:, :, :2].sum(axis=2), answers[:, :, 2]])
    total = answered.sum(axis=0)
    expected = answered.sum(axis=1)[:, None] * total / total.sum(axis=0)
    ratio = np.divide(answered, expected, out=np.ones_like(answered), where=(answered > 0) & (expected > 0))
    gain = 2 * (answered * np.log(ratio)).sum(axis=(0, 1))
    return np.asarray(gain > np.log(total.sum(axis=0)))


def _belief(patterns: Patterns, joint: FloatArray) -> FloatArray:
    """Return P(A preferred) of the forward and the backward rows, (2, k)."""
    return sigmoid(_logits(patterns, *_says(joint)))


def _says(joint: FloatArray) -> tuple[float, FloatArray]:
    """Return the log-odds of A before any vote and what each voter's answer (A, B, abstains) adds, (m, 3)."""
    log_share = np.log(joint.sum(axis=2))
    base = log_share[0] - log_share[1]
    return float(base[0]), np.log(joint[0]) - np.log(joint[1]) - base[:, None]


def _logits(patterns: Patterns, base: float, says: FloatArray) -> FloatArray:
    """Return the log-odds of A for the forward and the backward rows, (2, k)."""
    either = times(patterns, (says[:, 0] + says[:, 1]) / 2 - says[:, 2], np.abs) + (base + says[:, 2].sum())
    first = times(patterns, (says[:, 0] - says[:, 1]) / 2)
    return np.stack([either + first, either - first])


def _answers(patterns: Patterns, belief: FloatArray) -> FloatArray:
    """Return how often each voter votes A, votes B and abstains where A or B is preferred, (2, m, 3).

    `belief` (2, k) is P(A preferred) of the unlabelled forward and backward rows; the others keep their gold.
    """
    prefer_a = unlabelled(patterns) * belief + patterns.labelled / 2 + patterns.lead
    prefer_b = np.stack([patterns.forward, patterns.backward]) - prefer_a
    counts = np.stack([_counted(patterns, prefer_a), _counted(patterns, prefer_b)])
    return (counts + counts[::-1][:, :, [1, 0, 2]]) / 2 if patterns.symmetric else counts


def _counted(patterns: Patterns, rows: FloatArray) -> FloatArray:
    cast = transposed(patterns, rows[0] + rows[1], np.abs)
    lead = transposed(patterns, rows[0] - rows[1])
    counts: FloatArray = np.column_stack([(cast + lead) / 2, (cast - lead) / 2, rows.sum() - cast])
    return np.maximum(counts, 0.0)  # rounding can leave -1e-10 of an answer never given


def _joint(answers: FloatArray, speaks: BoolArray) -> FloatArray:
    """Return the smoothed P(preferred response, answer), (2, m, 3), from counts; alike abstaining unless it speaks."""
    n_preferred = answers.sum(axis=2, keepdims=True)
    n = n_preferred.sum(axis=0)
    usual = (answers.sum(axis=0) + 1 / 3) / (n + 1)
    cast = answers[:, :, :2].sum(axis=2, keepdims=True)
    abstains = answers[:, :, 2:].sum(axis=0) / n
    scale = np.divide(n_preferred * (1 - abstains), cast, out=np.zeros_like(cast), where=cast > 0)
    alike = np.concatenate([answers[:, :, :2] * scale, n_preferred * abstains], axis=2)
    counts = np.where(speaks[:, None], answers, alike)
    joint: FloatArray = (counts + 2 * (n_preferred + 1) / (n + 2) * usual) / (n + 2)
    return joint


def _patterns(votes: VoteMatrix, gold: npt.ArrayLike | None, model: str) -> Patterns:
    labels = checked_gold(gold, votes)
    patterns = find_patterns(votes, None if gold is None else gold_lead(labels))
    if len(votes.names) < 3 and not patterns.lead.any():
        raise VotesError(
            f"{model} needs 3 voters or more without gold, found {len(votes.names)}: agreement of two does not tell "
            f"which is right; add voters or gold labels, or use MajorityVote"
        )
    return patterns


def _lead(patterns: Patterns) -> FloatArray:
    """Return the sum of P(first response preferred) - 1/2 over the labelled rows, (k,)."""
    lead: FloatArray = patterns.lead[0] - patterns.lead[1]
    return lead


def _log_odds(accuracy: FloatArray) -> FloatArray:
    odds: FloatArray = np.log(accuracy) - np.log1p(-accuracy)
    return odds
