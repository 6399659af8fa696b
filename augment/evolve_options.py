"""How a loop of self-improvement runs: one frozen dataclass, whose field texts are also the command line's help."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from augment.evolve_method import Method
from augment.learning_status import FORMS, Form, Thresholds
from augment.reward_anchor import ANCHORS, Anchor
from augment.rm_ensemble import SOFT_LABELS, Ensemble, SoftLabel
from augment.ser import Ser
from augment.ser_ws import SerWs
from labeling.errors import DataError
from rm.config import RewardConfig

MethodName = Literal["ser", "ser+ws", "ensemble"]
Loss = Literal["preset", "hinge", "objective"]
Control = Literal["equal-steps", "oracle", "random"]
METHODS: tuple[MethodName, ...] = ("ser", "ser+ws", "ensemble")
LOSSES: tuple[Loss, ...] = ("preset", "hinge", "objective")
CONTROLS: tuple[Control, ...] = ("equal-steps", "oracle", "random")


@dataclass(frozen=True)
class EvolveOptions:
    """How a loop runs; every field says in `metadata["help"]` what it is. Raises DataError for values out of range."""

    config: RewardConfig = field(metadata={"help": "How every reward model of the loop is trained."})
    method: MethodName = field(default="ser+ws", metadata={"help": "What labels the pool: ser, ser+ws or ensemble."})
    preset: Form = field(default="paper", metadata={"help": "SER as in its paper, or as_released by its authors."})
    gold: int | float | None = field(
        default=None,
        metadata={
            "help": "Labels that stay visible: a number of pairs, or a share below 1 (default: every label there is)."
        },
    )
    iterations: int = field(default=3, metadata={"help": "Most rounds of self-labelling."})
    anchor: Anchor = field(
        default="pool", metadata={"help": "SER: rewards centred on the pool's or the seed's mean, or their margin."}
    )
    thresholds: Thresholds = field(
        default_factory=Thresholds, metadata={"help": "SER: when a response is good, bad, and pairs are enough."}
    )
    loss: Loss = field(
        default="preset",
        metadata={
            "help": "SER: loss from iteration 1 on: preset (paper: hinge), hinge, or objective, as for the seed."
        },
    )
    folds: int = field(
        default=3, metadata={"help": "ser+ws: parts of the pool, each labelled by a model trained without its groups."}
    )
    seed_votes: bool = field(
        default=False,
        metadata={"help": "ser+ws: the seed's reward model votes, too, from the first iteration on."},
    )
    members: int = field(default=3, metadata={"help": "ensemble: reward models, one seed each."})
    soft_label: SoftLabel = field(
        default="mean",
        metadata={"help": "ensemble: the members' mean where all agree, or CREAM's consistency rate for every pair."},
    )
    watch_share: float = field(
        default=0.2,
        metadata={
            "help": "Share of the seed, by group, that trains nothing and is watched; ser+ws cross-fits instead."
        },
    )
    controls: tuple[Control, ...] = field(
        default=(), metadata={"help": "Rows to compare with: equal-steps, oracle, random."}
    )
    processes: int = field(
        default=1,
        metadata={
            "help": "Processes that train and score, one a GPU: an optimizer step sees so many times batch_size pairs."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the choice of labels, of splits and of training."})

    def __post_init__(self) -> None:
        for name, kind in (("config", RewardConfig), ("thresholds", Thresholds)):
            if not isinstance(getattr(self, name), kind):
                raise DataError(f"{name} is {getattr(self, name)!r}, expected a {kind.__name__}")
        if self.config.seed not in (0, self.seed):
            raise DataError(
                f"config.seed is {self.config.seed} and seed, that of the whole run, {self.seed}; pass seed alone"
            )
        allowed: dict[str, tuple[str, ...]] = {"method": METHODS, "preset": FORMS, "anchor": ANCHORS}
        allowed |= {"loss": LOSSES, "soft_label": SOFT_LABELS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise DataError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(values)}")
        unknown = [name for name in self.controls if name not in CONTROLS]
        if unknown:
            raise DataError(f"control {unknown[0]!r} is unknown, expected some of {', '.join(CONTROLS)}")
        for name, least in (("iterations", 1), ("folds", 2), ("members", 2), ("processes", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if not 0 <= self.watch_share < 1:
            raise DataError(f"watch_share is {self.watch_share}, expected a share in [0, 1)")

    @property
    def pairs_a_step(self) -> int:
        """Pairs that an optimizer step sees."""
        return self.config.batch_size * self.config.gradient_accumulation * self.processes

    @property
    def budget(self) -> int | None:
        """Pairs that a training of `max_steps` sees; None where epochs are counted."""
        c = self.config
        return None if c.max_steps is None else c.max_steps * self.pairs_a_step

    def rule(self) -> Method:
        """Return the method."""
        if self.method == "ser":
            return Ser(self.preset, self.thresholds, self.anchor)
        if self.method == "ensemble":
            return Ensemble(self.members, self.soft_label)
        return SerWs(self.folds, self.budget, self.seed, self.seed_votes)

    def trainer(self, n: int) -> RewardConfig:
        """Return how the reward models of iteration n are trained: SER's paper has a hinge from iteration 1 on."""
        config = replace(self.config, seed=self.seed)
        hinge = self.loss == "hinge" or (self.loss == "preset" and self.preset == "paper")
        if n == 0 or self.method != "ser" or not hinge or config.objective == "hinge":
            return config
        return replace(config, objective="hinge", objective_parameter=None)
