"""A reward model that votes on pairs like any other voter: its margin is the difference of its rewards, in log-odds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from labeling.errors import WeakprefWarning
from labeling.pairs import prompt_id
from labeling.returned import as_margins, signs_to_votes
from labeling.voters import Ballot
from rm.evaluation import trained_prompts
from rm.model import RewardModel
from rm.provenance import trained_on_made_labels
from rm.temperature import temperature_of


@dataclass(frozen=True)
class RewardVoter:
    """A reward model as a voter for `labeling.apply`, made by `RewardVoter.load`.

    Its margin is (r_a - r_b) / temperature, > 0 favours A: log-odds, where the model was calibrated (`rm.calibrate`).
    A constant added to all its rewards cancels. It votes for the response with the higher reward, and abstains where
    both are equal.
    """

    model: RewardModel
    name: str
    temperature: float
    """Above 0."""
    self_label: bool
    """Whether it learned from labels that a label model made: `LabelModel` then lets only gold give it weight."""
    trained: frozenset[str] = frozenset()
    """Hashes of the prompts it was trained on."""

    columnar = True

    @classmethod
    def load(cls, path: str | Path, name: str | None = None, *, self_label: bool | None = None) -> RewardVoter:
        """Load a reward model from a directory (or a hub id); its name is rm:<directory> unless given.

        `self_label` is what its manifest says of its training labels; where that says nothing, False, unless given.
        """
        made = trained_on_made_labels(path) if self_label is None else self_label
        return cls(
            RewardModel.load(path),
            name or f"rm:{Path(path).name}",
            temperature_of(path),
            bool(made),
            frozenset(trained_prompts(path)),
        )

    def vote(self, table: pa.Table) -> Ballot:
        """Vote on n rows of `Pairs.voter_table()`; warns where prompts were trained on, since it remembers them."""
        prompts = table["messages"].to_pylist()
        self._warn(prompts)
        responses = table["response_a"].to_pylist() + table["response_b"].to_pylist()
        a, b = self.model.score(prompts + prompts, responses).reshape(2, -1)
        margins = as_margins((a - b) / self.temperature)
        return Ballot(signs_to_votes(margins), margins)

    def _warn(self, prompts: list[list[dict[str, str]]]) -> None:
        seen = np.array([prompt_id(prompt) in self.trained for prompt in prompts], dtype=np.bool_)
        if seen.any():
            warnings.warn(
                f"{self.name} was trained on the prompts of {int(seen.sum()):,} of {len(seen):,} pairs it votes on: "
                "its votes there are memory, and gold labels there make it look better than it is; train it on other "
                "prompts, or take the gold of these pairs out",
                WeakprefWarning,
                stacklevel=3,
            )
