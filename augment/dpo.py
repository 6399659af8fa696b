"""A policy trained by DPO on soft pairs, from itself as the reference, and saved as a plain model."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from augment.policies import chat_tokens, load_policy, need_rlhf, quiet_trl, save_policy
from augment.soft_dpo import soft_dpo_trainer
from labeling.errors import DataError, WeakprefWarning
from labeling.files import replacing
from labeling.llm import Conversation
from rm.options import option
from rm.seeding import seeded

if TYPE_CHECKING:
    from datasets import Dataset


UNTIMED = ("epoch", "total_flos", "train_runtime", "train_samples_per_second", "train_steps_per_second", "step_time")
"""What TRL logs that says nothing, or differs from run to run."""


@dataclass(frozen=True)
class PolicyConfig:
    """How a policy is trained; every field says in `metadata["help"]` what it is.

    Raises DataError for values out of range.
    """

    beta: float = option(
        "How strongly the policy is held to where it starts (DPO's beta; weight of the KL: grpo and rloo take 0).", 0.1
    )
    learning_rate: float = option("Peak learning rate of AdamW. LoRA wants 1e-5 to 1e-4.", 1e-6)
    final_learning_rate: float | None = option(
        "What the learning rate falls to, linearly (default: 0; self-reward srlm: a tenth of the peak).", None
    )
    epochs: float = option("Passes over the pairs or prompts.", 1.0)
    max_steps: int | None = option("Optimizer steps; overrides epochs.", None)
    batch_size: int = option("Pairs, or responses to be rewarded, per forward pass and device.", 4)
    gradient_accumulation: int = option("Forward passes per optimizer step.", 4)
    max_length: int = option("Tokens per conversation; longer ones lose their end.", 1024)
    lora_rank: int | None = option("Train adapters of this rank on all linear layers (default: all weights).", None)
    weights: Literal["float32", "bfloat16"] = option(
        "Numbers the weights are kept in while adapters are trained; bfloat16 (needs --lora-rank) halves their memory. "
        "Saved in float32 either way.",
        "float32",
    )
    bf16: bool = option("bfloat16 autocast.", False)
    gradient_checkpointing: bool = option("Recompute activations: less memory, about a third slower.", False)
    seed: int = option("Seed of the order, of adapters' first weights, and of sampling.", 0)

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise DataError(f"beta is {self.beta}, expected a number above 0, or 0 for grpo and rloo")
        for name in ("learning_rate", "epochs", "batch_size", "gradient_accumulation", "max_length"):
            if not getattr(self, name) > 0:
                raise DataError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if self.seed < 0:
            raise DataError(f"seed is {self.seed}, expected 0 or more")
        final = self.final_learning_rate
        if final is not None and not 0 <= final < self.learning_rate:
            raise DataError(
                f"final_learning_rate is {final}, expected 0 or more, and less than learning_rate, {self.learning_rate}"
            )
        for name in ("max_steps", "lora_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} is {value}, expected 1 or more, or none")
        if self.weights == "bfloat16" and self.lora_rank is None:
            raise DataError(
                "weights are bfloat16 and lora_rank is not set: bfloat16 has 3 digits, too few for steps of usual "
                "learning rates; set lora_rank, whose adapters are float32, or leave the weights in float32"
            )


@dataclass(frozen=True)
class SoftPairs:
    """n pairs of responses to their prompts, and how sure it is that the first is preferred."""

    prompts: Sequence[Conversation]
    chosen: Sequence[str]
    rejected: Sequence[str]
    p_chosen: Sequence[float]
    """q of the soft-pair objective, in [0, 1]."""
    weight: Sequence[float] | None = None
    """>= 0; scaled to a mean of 1. None = all alike."""
    chosen_ended: Sequence[bool] | None = None
    """Whether a response ended by itself (None = all did); one cut at a limit trains no end token."""
    rejected_ended: Sequence[bool] | None = None

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self) if self._given(field.name)}
        if len(set(lengths.values())) > 1:
            raise DataError(f"pairs have columns of different lengths ({lengths}); expected one value a pair in each")
        p = np.asarray(self.p_chosen, dtype=np.float64)
        if not ((p >= 0) & (p <= 1)).all():
            raise DataError("p_chosen has values outside [0, 1]; expected P(chosen preferred)")

    def __len__(self) -> int:
        return len(self.chosen)

    def _given(self, name: str) -> bool:
        return getattr(self, name) is not None


@dataclass(frozen=True)
class Trained:
    """What training a policy did."""

    folder: Path
    steps: int
    n_pairs: int
    """Pairs, or prompts, trained on."""
    n_too_long: int
    """Left out: their prompt alone fills `max_length`."""
    log: Sequence[Mapping[str, float]]
    """TRL's figures, one entry a logged step."""
    n_shortened: int = 0
    """DPO: responses that lost their end, for with their prompt they are longer than `max_length`."""
    n_left_over: int = 0
    """GRPO, RLOO: prompts an epoch leaves out, others each time, since they fill no whole step."""

    @property
    def last(self) -> Mapping[str, float]:
        """The last logged step."""
        return self.log[-1] if self.log else {}

    def facts(self) -> dict[str, Any]:
        """Return counts, and the first and last logged figures: what a ledger says of it."""
        ends = {"first": self.log[0], "last": self.log[-1]} if self.log else {}
        counts = {"n_trained": self.n_pairs, "n_too_long": self.n_too_long, "n_shortened": self.n_shortened}
        return {"steps": self.steps, **counts, "training": ends}


Note = Callable[[Trained, Path], None]
"""Told what training did and the folder it is saved in, before that gets its name."""


def train_dpo(
    start: str | Path,
    pairs: SoftPairs,
    config: PolicyConfig,
    out: str | Path,
    *,
    note: Note = lambda *_: None,
) -> Trained:
    """Train a policy by soft-pair DPO from the model `start`, which is also the reference; save it to the folder `out`.

    With `config.lora_rank` adapters are trained and merged into the start's weights in float32: what is saved is a
    plain model of float32 either way. `note` is told what was done, and the folder before it gets its name. Raises
    DataError without pairs that fit `max_length`, or without the extra `rlhf`.
    """
    need_rlhf()
    check_held(config)
    from trl import DPOConfig

    policy = load_policy(start, dtype=config.weights, device="cpu")  # the Trainer knows which GPU is this process's
    dataset, counts = token_pairs(policy.tokenizer, pairs, config.max_length, policy.end_tokens())
    reference = None if config.lora_rank else load_policy(start, dtype=config.weights, device="cpu").network
    with tempfile.TemporaryDirectory() as scratch, quiet_trl(), seeded(config.seed):
        trainer = soft_dpo_trainer()(
            policy.network.train(),
            ref_model=reference,
            args=told(DPOConfig, config, scratch, beta=config.beta, max_length=config.max_length),
            train_dataset=dataset,
            processing_class=policy.tokenizer,
            peft_config=lora(config),
        )
        run(trainer)
    return finish(trainer, start, policy.tokenizer, Path(out), counts, note)


def check_held(config: PolicyConfig) -> None:
    """Raise DataError for a beta of 0: DPO's margins are multiples of it."""
    if not config.beta:
        raise DataError("beta is 0, where no pair teaches DPO anything; expected a number above 0")


def token_pairs(
    tokenizer: Any, pairs: SoftPairs, max_length: int, ends: Collection[int] | None = None
) -> tuple[Dataset, dict[str, int]]:
    """Return pairs as the token ids the policy itself would write, and the counts of `Trained` that say what fits.

    `ends` are the tokens that its generation stops at, as in `chat_tokens`.
    """
    from datasets import Dataset

    asked, chosen = chat_tokens(tokenizer, pairs.prompts, pairs.chosen, pairs.chosen_ended, ends=ends)
    _, rejected = chat_tokens(tokenizer, pairs.prompts, pairs.rejected, pairs.rejected_ended, ends=ends)
    weight = np.ones(len(pairs)) if pairs.weight is None else np.asarray(pairs.weight, dtype=np.float64)
    used = [i for i, prompt in enumerate(asked) if len(prompt) < max_length and weight[i] > 0]
    n_too_long = sum(len(prompt) >= max_length for prompt in asked)
    if not used:
        raise DataError(
            f"none of {len(pairs)} pairs can be trained on ({n_too_long} with prompts of {max_length} tokens or more); "
            "expected pairs of positive weight that fit: raise max_length"
        )
    if n_too_long:
        text = f"{n_too_long} of {len(pairs)} pairs left out: their prompts fill max_length, {max_length} tokens"
        warnings.warn(text, WeakprefWarning, stacklevel=3)
    n_shortened = sum(len(asked[i]) + len(side[i]) > max_length for i in used for side in (chosen, rejected))
    if n_shortened:
        text = (
            f"{n_shortened} of {2 * len(used)} responses lose their end: with their prompts they are longer than "
            f"max_length, {max_length} tokens; raise max_length"
        )
        warnings.warn(text, WeakprefWarning, stacklevel=3)
    columns = {
        "prompt_ids": [asked[i] for i in used],
        "chosen_ids": [chosen[i] for i in used],
        "rejected_ids": [rejected[i] for i in used],
        "p_chosen": [float(pairs.p_chosen[i]) for i in used],
        "weight": (weight[used] / weight[used].mean()).tolist(),
    }
    counts = {"n_pairs": len(used), "n_too_long": n_too_long, "n_shortened": n_shortened}
    return Dataset.from_dict(columns), counts


def told(kind: Any, config: PolicyConfig, scratch: str, **settings: Any) -> Any:
    """Return TRL's config of a trainer, of the class `kind`, with what all trainers are told and its own `settings`."""
    made = kind(**_arguments(config, scratch), **settings)
    made._n_gpu = min(made.n_gpu, 1)  # TRL refuses to cut a batch up for all GPUs there are (DataParallel)
    return made


def _arguments(config: PolicyConfig, scratch: str) -> dict[str, Any]:
    """Return what all of TRL's trainers are told: linear decay, no checkpoints, no reports."""
    import torch

    return {
        **_schedule(config),
        "output_dir": scratch,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.learning_rate,
        "activation_checkpointing": config.gradient_checkpointing,
        "seed": config.seed,
        "bf16": config.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": not sys.stderr.isatty(),
    }


def _schedule(config: PolicyConfig) -> dict[str, Any]:
    if not config.final_learning_rate:
        return {"lr_scheduler_type": "linear"}
    return {
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"lr_end": config.final_learning_rate, "power": 1.0},
    }


def run(trainer: Any) -> None:
    """Train, without printing every logged step. Raises DataError where not one step was taken."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if not trainer.state.global_step:
        raise DataError(
            "training ended after 0 steps, so the policy is the one it started from; expected 1 or more: give more "
            "data, or lower batch_size or gradient_accumulation"
        )


def lora(config: PolicyConfig) -> Any:
    """Return peft's configuration of the adapters, or None where all weights are trained."""
    if config.lora_rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def finish(
    trainer: Any, start: str | Path, tokenizer: Any, out: Path, counts: Mapping[str, int], note: Note
) -> Trained:
    """Save what was trained from the model `start`, adapters merged, as a plain model folder in float32.

    `counts` are fields of `Trained`.
    """
    log = [{k: v for k, v in entry.items() if k not in UNTIMED} for entry in trainer.state.log_history[:-1]]
    done = Trained(folder=out, steps=trainer.state.global_step, log=log, **counts)
    if trainer.is_world_process_zero():
        network = merged(trainer.accelerator.unwrap_model(trainer.model), start)
        with replacing(out) as part:
            save_policy(network, tokenizer, part)
            note(done, part)
    trainer.accelerator.wait_for_everyone()
    return done


def merged(network: Any, start: str | Path) -> Any:
    """Return a network in float32 with its adapters, if it has any, added to the weights it started from.

    Weights kept in bfloat16 are read again from `start`: they have 3 digits, in which a small update would vanish.
    """
    import torch
    from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if not isinstance(network, PeftModel):
        return network
    if network.get_base_model().dtype == torch.float32:
        return network.merge_and_unload()
    found = get_peft_model_state_dict(network, save_embedding_layers=False)
    adapters = {name: value.cpu() for name, value in found.items()}
    exact = load_policy(start, dtype="float32", device="cpu").network
    with quiet_trl():
        exact = get_peft_model(exact, network.peft_config["default"], low_cpu_mem_usage=True)  # draws no first weights
    set_peft_model_state_dict(exact, adapters, low_cpu_mem_usage=True)
    return exact.merge_and_unload()
