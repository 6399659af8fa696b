"""Snorkel's label model (the real package) behind the protocol of the label models."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from labeling.checks import check_voters
from labeling.errors import VotesError
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]


class SnorkelLabelModel:
    """Snorkel 0.10's LabelModel as weak supervision for reward models sets it up (arXiv 2410.20869; METHODS `paper`).

    Cardinality 2, balance 0.5 / 0.5, 100 epochs, learning rate 0.01, l2 0.5, seed 123. It reads votes only: margins and
    gold labels are ignored, as in the paper. Snorkel applies l2 twice: as a centred penalty and as Adam's weight decay.
    """

    names_: tuple[str, ...] = ()
    """The voters it was fitted on."""

    def __init__(self, n_epochs: int = 100, learning_rate: float = 0.01, l2: float = 0.5, seed: int = 123) -> None:
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.l2 = l2
        self.seed = seed

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002 - Snorkel reads none
        """Fit Snorkel's model on the votes; raises VotesError below three voters, which it cannot identify."""
        from snorkel.labeling.model import LabelModel as Snorkel

        if len(votes.names) < 3:
            raise VotesError(
                f"Snorkel needs 3 voters or more, found {len(votes.names)}; use LabelModel or MajorityVote"
            )
        self.names_ = votes.names
        self.model_: Any = Snorkel(cardinality=2, verbose=False)
        with _generators_kept():
            self.model_.fit(
                votes.to_snorkel(),
                class_balance=[0.5, 0.5],
                n_epochs=self.n_epochs,
                lr=self.learning_rate,
                l2=self.l2,
                seed=self.seed,
                progress_bar=False,
            )
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in [0, 1]; 0.5 where nobody votes."""
        check_voters(self.names_, votes)
        p_a = np.asarray(self.model_.predict_proba(votes.to_snorkel())[:, 0], dtype=np.float64)
        silent = (votes.signs == 0).all(axis=1)
        return np.where(silent, 0.5, p_a)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Restore the global generators afterwards: Snorkel seeds Python's, numpy's and torch's."""
    from snorkel.labeling.model.label_model import torch  # Snorkel's: labeling itself imports none

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
