"""Reward functions for TRL's GRPO and RLOO: reward models, less a penalty on length or on their disagreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError
from labeling.llm import Conversation
from labeling.pairs import prompt_id
from rm.options import option

if TYPE_CHECKING:
    from rm.model import RewardModel

FloatArray = npt.NDArray[np.float64]
RewardFunction = Callable[..., list[float]]

TOKENS = 100
"""Tokens that the penalty on length is per."""


@dataclass(frozen=True)
class Penalties:
    """What is taken off the reward; 0 = nothing.

    Raises DataError for negative ones, and for what is no finite number.
    """

    length_penalty: float = option("grpo, rloo: reward a response loses per 100 of its tokens.", 0.0)
    uncertainty_penalty: float = option(
        "grpo, rloo: reward lost per standard deviation among the reward models (2310.02743 takes the variance).", 0.0
    )

    def __post_init__(self) -> None:
        given = (self.length_penalty, self.uncertainty_penalty)
        if not all(0 <= penalty < math.inf for penalty in given):
            raise DataError(f"penalties are {given[0]} and {given[1]}; expected finite numbers, 0 or more")


class Ensemble:
    """One reward model or several that score the same responses; what was scored last is kept.

    Rewards are divided by their member's temperature, as in `rm.Ensemble`: log-odds, where the members were calibrated
    (`rm.calibrate`). `names` are what an error calls the members (default: their numbers, from 0); temperatures not
    given are 1.
    """

    def __init__(
        self,
        members: Sequence[RewardModel],
        names: Sequence[str] | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> None:
        self.members = members
        self.names = names or [f"reward model {i}" for i in range(len(members))]
        self.temperatures = temperatures or [1.0] * len(members)
        self._last: tuple[tuple[Any, ...], FloatArray] = ((), np.empty((0, 0)))

    @classmethod
    def load(cls, folders: Sequence[str | Path]) -> Ensemble:
        """Load reward models and their temperatures. Raises DataError for none."""
        if not folders:
            raise DataError("no reward model is named; expected one directory or more, as `weakpref train` writes them")
        from rm.model import RewardModel
        from rm.temperature import temperature_of

        members = [RewardModel.load(folder) for folder in folders]  # first: it says what is wrong with a folder
        return cls(members, [str(folder) for folder in folders], [temperature_of(folder) for folder in folders])

    def scores(self, prompts: Sequence[Conversation], responses: Sequence[str]) -> FloatArray:
        """Return the rewards (m, n) of n responses under m members, at their temperatures, all finite.

        Raises DataError naming a member and the first prompt to which it gives a reward that is not.
        """
        from rm.model import check_finite

        key = (tuple(map(prompt_id, prompts)), tuple(responses))
        if key != self._last[0]:
            found = np.stack([member.score(prompts, responses) for member in self.members])
            for name, rewards in zip(self.names, found, strict=True):
                check_finite(rewards, prompts, name)
            self._last = key, found / np.array(self.temperatures)[:, None]
        return self._last[1]

    def mean(self, prompts: Sequence[Conversation], responses: Sequence[str]) -> FloatArray:
        """Return the mean reward (n,) over the members."""
        return np.asarray(self.scores(prompts, responses).mean(axis=0))

    def disagreement(self, prompts: Sequence[Conversation], responses: Sequence[str]) -> FloatArray:
        """Return the standard deviation (n,) among the members, each centred on its mean for the prompt.

        Bradley-Terry leaves each member a constant per prompt, which is no disagreement. UWO (arXiv 2310.02743) takes
        the variance of rewards that are not centred.
        """
        groups = [prompt_id(prompt) for prompt in prompts]
        return np.asarray(centred(self.scores(prompts, responses), groups).std(axis=0))


def centred(scores: FloatArray, groups: Sequence[str]) -> FloatArray:
    """Return scores (m, n) less each row's mean over the columns of the same group.

    >>> centred(np.array([[1.0, 3.0, 5.0]]), ["p", "p", "q"]).tolist()
    [[-1.0, 1.0, 0.0]]
    """
    _, place = np.unique(groups, return_inverse=True)
    counts = np.bincount(place)
    return np.stack([row - (np.bincount(place, row) / counts)[place] for row in scores])


def reward_functions(ensemble: Ensemble, penalties: Penalties | None = None) -> list[RewardFunction]:
    """Return functions whose sum is the reward, each logged by TRL under its own name.

    Raises DataError for an uncertainty penalty with a single reward model.
    """
    penalties = penalties or Penalties()
    if penalties.uncertainty_penalty and len(ensemble.members) < 2:
        raise DataError("one reward model does not disagree with itself; name two or more, or leave the penalty out")

    def reward(prompts: list[Conversation], completions: list[Any], **_: Any) -> list[float]:
        return [float(value) for value in ensemble.mean(prompts, texts(completions))]

    def uncertainty_penalty(prompts: list[Conversation], completions: list[Any], **_: Any) -> list[float]:
        spread = ensemble.disagreement(prompts, texts(completions))
        return [-penalties.uncertainty_penalty * float(value) for value in spread]

    def length_penalty(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [-penalties.length_penalty * len(ids) / TOKENS for ids in completion_ids]

    functions: list[RewardFunction] = [reward]
    functions += [uncertainty_penalty] if penalties.uncertainty_penalty else []
    functions += [length_penalty] if penalties.length_penalty else []
    return functions


def texts(completions: Sequence[Any]) -> list[str]:
    """Return the responses in completions as TRL gives them: texts, or turns of the assistant."""
    return [one if isinstance(one, str) else "".join(turn["content"] for turn in one) for one in completions]
