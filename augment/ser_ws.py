"""ser+ws: the reward model is one voter among labeling functions and judges, cross-fitted and anchored on the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from augment.choose import choose
from augment.evolve_method import Ground
from augment.evolve_training import room_beside
from augment.self_labels import SelfLabels
from labeling.errors import VotesError
from labeling.label_model import LabelModel
from labeling.votes import Vote, VoteMatrix

FloatArray = npt.NDArray[np.float64]
RM, SEED_RM = "rm", "seed-rm"
"""Names of reward models among the voters: that of the iteration before, and that of the seed alone."""


@dataclass(frozen=True)
class SerWs:
    """Weak supervision with a reward model in it: soft labels and weights, the pool labelled anew each time.

    Iteration 1 has the votes alone; from 2 on the reward model of the iteration before votes too. It learned from the
    other voters, so the label model gives it weight on gold only (`LabelModel.self_labels`). With `seed_votes` that of
    the seed votes from iteration 1 on, as a voter like others: it learned from gold alone. All margins are of models
    that saw neither that pair nor its group.
    """

    folds: int = 3
    budget: int | None = None
    """Pairs a training sees: the seed and draws from the surer half of the others (`choose`); None = all of them."""
    seed: int = 0
    """Seed of those draws."""
    seed_votes: bool = False
    """Whether the seed's reward model votes; if not, iteration 1 has the labels of the voters alone."""
    members: int = 1
    stops_early: bool = True

    @property
    def first_vote(self) -> int:
        """The first iteration in which a reward model votes."""
        return 1 if self.seed_votes else 2

    def label(self, n: int, rewards: FloatArray | None, ground: Ground, history: Sequence[SelfLabels]) -> SelfLabels:
        """Merge all votes into a posterior; a pair's weight is how sure it is, |2 p - 1|."""
        if ground.votes is None:
            raise VotesError("ser+ws needs votes on the pairs; pass voters, or votes of judges")
        votes: VoteMatrix = ground.votes
        names: list[str] = []
        margin = np.full(len(ground.pairs), np.nan) if rewards is None else rewards[0, :, 0] - rewards[0, :, 1]
        witness = margin if n == 1 else history[0].margin
        if not np.isnan(witness).all():
            votes = beside(votes, SEED_RM, witness)
        if n > 1:
            votes, names = beside(votes, RM, margin), [RM]
        model = LabelModel(names).fit(votes, ground.pairs.gold)
        p_a = model.posterior(votes)
        kept = ground.pool & (p_a != 0.5)
        if self.budget is not None:
            room = room_beside(ground, self.budget)
            kept &= choose(ground.pairs, p_a, int(ground.seed.sum()) + room, seed=self.seed)
        found = None if model.calibration_ is None else model.calibration_.figures()
        return SelfLabels(
            p_a=p_a,
            margin=margin,
            spread=np.full(len(p_a), np.nan),
            trained=kept,
            target=np.where(kept, p_a, np.nan),
            weight=np.abs(2 * p_a - 1),
            iteration=np.where(kept, n, 0).astype(np.int32),
            held_out=_held_out(model, votes),
            facts={
                "structure": model.structure_,
                "rm_weight": _weight(model, votes, RM),
                "seed_rm_weight": _weight(model, votes, SEED_RM),
                "calibration": found,
            },
        )


def beside(votes: VoteMatrix, name: str, margin: FloatArray) -> VoteMatrix:
    """Return votes (n, m) with one more voter, which prefers by the sign of its margin (n,); NaN or 0 = abstains."""
    if name in votes.names:
        raise VotesError(f"a voter is called {name}, which is kept for the loop's own reward model; rename it")
    said = np.where(margin > 0, Vote.A, np.where(margin < 0, Vote.B, Vote.ABSTAIN)).astype(np.int8)
    return replace(
        votes,
        votes=np.column_stack([votes.votes, said]),
        margins=np.column_stack([votes.margins, margin.astype(np.float32)]),
        names=(*votes.names, name),
    )


def _held_out(model: LabelModel, votes: VoteMatrix) -> FloatArray:
    """Return P(A preferred) (n,) of the pairs with gold, each by a model that saw no gold of its group; else NaN."""
    judged = {} if model.calibration_ is None else model.calibration_.by_pair()
    return np.array([judged.get(name, np.nan) for name in votes.pair_ids.tolist()], dtype=np.float64)


def _weight(model: LabelModel, votes: VoteMatrix, name: str) -> float | None:
    """Return the log-odds a vote of this voter alone adds; None where it did not vote."""
    return float(model.weights_[votes.names.index(name)]) if name in votes.names else None
