"""The options of commands: they have the defaults of what they stand for in Python, and say what its fields say."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import pytest
import typer

from augment.align import Exploring
from augment.cli import app
from augment.commands import Voting
from augment.demo import DemoOptions
from augment.dpo import PolicyConfig
from augment.evolve_options import EvolveOptions
from augment.generate import SAMPLING
from augment.generation_commands import Growing, Prompting
from augment.judging import Asking
from augment.learning_status import Thresholds
from augment.models import ModelOptions
from augment.pair_candidates import Pairing
from augment.policy_commands import SelfRewardOptions
from augment.policy_rewards import Penalties
from augment.spending import SpendingOptions
from labeling.errors import DataError
from rm.config import RewardConfig
from rm.options import USAGE_ERROR, expanded, option
from rm.shares import Scoring

CONFIG = RewardConfig("minilm")
NAMED = {"tau_high": "high", "tau_low": "low", "tau_delta": "delta", "enough": "enough"}
"""Options of `evolve`, and the thresholds they stand for."""
MEANT = {
    "align": [Exploring(), Penalties(), PolicyConfig()],
    "best-of-n": [SAMPLING, ModelOptions()],
    "demo": [DemoOptions()],
    "eft": [ModelOptions()],
    "evolve": [CONFIG, EvolveOptions(CONFIG)],
    "generate": [SAMPLING, ModelOptions(), Prompting(), SpendingOptions()],
    "judge": [Asking(), ModelOptions(), SpendingOptions()],
    "label": [Voting()],
    "new-prompts": [Growing(), ModelOptions(), SpendingOptions()],
    "pair": [Pairing()],
    "score": [Scoring()],
    "self-reward": [SelfRewardOptions(), PolicyConfig(), ModelOptions()],
    "train": [CONFIG],
}
"""What the options of each command stand for."""


def options(command):
    """The options of a command, by name."""
    return {one.name: one for one in typer.main.get_command(app).commands[command].params}


@pytest.mark.parametrize("command", MEANT)
def test_a_command_without_options_does_what_python_does_without_arguments(command):
    shown = {name: str(getattr(one.default, "value", one.default)) for name, one in options(command).items()}
    for meant in MEANT[command]:
        values = {name: str(value) for name, value in vars(meant).items() if name in shown}
        assert values
        assert {name: shown[name] for name in values} == values


def test_the_thresholds_of_evolve_are_those_of_the_paper():
    shown = options("evolve")
    assert Thresholds(**{NAMED[name]: shown[name].default for name in NAMED}) == Thresholds()


def test_evolve_says_of_training_what_train_says():
    train, evolve = options("train"), options("evolve")
    for name in {one.name for one in fields(RewardConfig)} - {"mix", "seed"}:
        assert (evolve[name].opts, evolve[name].help) == (train[name].opts, train[name].help)
    assert "mix" not in evolve


@dataclass(frozen=True)
class Baking:
    """How bread is baked."""

    flour: str = field(metadata={"help": "Such as rye."})
    n: int = option("Loaves [each].", 2)
    shares: tuple[float, ...] | None = option("Of each flour.")
    steam: bool = option("Let steam in.", False)
    salt: float = option("In grams.", 10.0)


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ([], Baking("rye")),
        (["-n", "3", "--shares", "0.5,0.5", "--steam"], Baking("rye", 3, (0.5, 0.5), True)),
        (["--flour", "oat"], Baking("oat")),
    ],
)
def test_fields_come_in_as_options_and_reach_the_command_as_one_value(words, how):
    assert baked(*words) == [("gas", how, "hot")]


def test_what_a_group_of_options_cannot_use_is_refused():
    with pytest.raises(DataError, match="shares is 'half', expected numbers with commas between"):
        baked("--shares", "half")
    for words in (["--salt", "1"], ["--no-steam"]):
        with pytest.raises(USAGE_ERROR):
            baked(*words)


def baked(*words):
    """What a command of two arguments and a group was called with."""
    called = []

    def bake(oven: str, how: Baking, heat: str = "hot") -> None:
        called.append((oven, how, heat))

    small = typer.Typer()
    small.command()(expanded(bake, {"flour": "rye"}, without=("salt",)))
    small(["gas", *words], standalone_mode=False)
    return called
