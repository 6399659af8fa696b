"""Training a reward model from the universal layout on transformers' Trainer: soft pairs, weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate.utils import DistributedType
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from labeling.errors import DataError, WeakprefWarning
from labeling.files import manifest, write_json
from rm.config import RewardConfig
from rm.handoff import hand_off
from rm.lora import Adapter, merged, with_lora
from rm.model import RewardModel, load_base, no_bars, warn_of_truncation
from rm.objectives import Objective
from rm.order import LengthGrouped, Shuffled
from rm.shared_prefix import accept_packed, cannot_pack, is_causal
from rm.sources import MixedPairs, input_hashes, training_pairs
from rm.steps import Part, Step, StepCollator, in_step, pair_rewards
from rm.token_cache import Counts

if TYPE_CHECKING:
    from peft import PeftModel

RUN = "run.json"
"""Beside the checkpoints: the config and data they belong to."""
TOKENS = "tokens"
"""Beside the checkpoints: the pairs as tokens."""
CPU_TOKEN_BUDGET = 2048
GPU_TOKEN_BUDGET = 16384


def train(
    data: str | Path | Sequence[str | Path],
    config: RewardConfig,
    *,
    out: str | Path,
    resume: bool = False,
    cache: str | Path | None = None,
) -> Path:
    """Train a reward model on folders or files in the universal layout and write it to `out`; returns `out`.

    `out` holds the model, its tokenizer, manifest.json, train_log.json and train_prompts.txt, ready for TRL, vLLM and
    transformers. A run with `save_steps` keeps checkpoints in `<out>.checkpoints` until it is finished; `resume`
    continues from the last one, or starts where there is none. Pairs are tokenised into memory-mapped files in `cache`,
    where later runs find them again, or in `<out>.checkpoints` if it is None. Raises DataError where the data cannot be
    trained on, `out` exists, or the checkpoints belong to other data or another config.
    """
    sources = [data] if isinstance(data, str | Path) else list(data)
    target = Path(out)
    checkpoints = target.with_name(f"{target.name}.checkpoints")
    run = {"config": _plain(dataclasses.asdict(config)), "inputs": input_hashes(sources)}
    _check_out(target, checkpoints, run, resume)
    with _seeded(config.seed):
        model, tokenizer = load_base(config.model, config.max_length)
        adapted = prepare(model, config)
        dataset = training_pairs(sources, tokenizer, config, Path(cache) if cache else checkpoints / TOKENS)
        warn_of_long_pairs(dataset.counts, config)
        trainer = PairTrainer(model, tokenizer.pad_token_id, dataset, config, checkpoints)
        if trainer.is_world_process_zero():
            write_json(checkpoints / RUN, run)
        with contextlib.nullcontext() if sys.stderr.isatty() else no_bars():
            trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints) if resume else None)
    if trainer.is_world_process_zero():
        adapter = Adapter.of(adapted) if adapted and config.keep_adapter else None
        model = (merged(adapted) if adapted else model).train(False)
        counts = dataclasses.asdict(dataset.counts) | {"steps": trainer.state.global_step}
        record = manifest("train", inputs=run["inputs"], seed=config.seed, counts=counts)
        record["config"] = run["config"] | {"model": Path(config.model).name}
        trained = RewardModel(model, tokenizer, config.max_length)
        hand_off(target, trained, dataset, record, log=trainer.state.log_history, adapter=adapter)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return target


class PairTrainer(Trainer):
    """transformers' Trainer with the soft-pair objective, normalised by the sum of weights of the whole step."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, model: PreTrainedModel, pad_token_id: int, dataset: MixedPairs, config: RewardConfig, checkpoints: Path
    ) -> None:
        self.config, self.pairs = config, dataset
        self.objective: Objective = config.loss
        self.packed = packs(model, config.max_length)
        arguments = training_arguments(config, len(dataset.mixture), checkpoints)
        if not self.packed and arguments.use_cpu and arguments.bf16:  # fused attention's backward is slow there
            model.set_attn_implementation("eager")
        budget = config.token_budget or (CPU_TOKEN_BUDGET if arguments.use_cpu else GPU_TOKEN_BUDGET)
        collator = StepCollator(budget, pad_token_id, self.packed, self.packed and is_causal(model))
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=cast("Any", collator),
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Shuffled:  # noqa: ARG002
        mixture = self.pairs.mixture
        if self.packed:
            return Shuffled(mixture, self.config.seed)
        step_size = self.args.train_batch_size * self.args.world_size
        return LengthGrouped(mixture, self.config.seed, self.pairs.lengths[:, :2].max(axis=1), step_size)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write a checkpoint's weights; with LoRA only those that learn, since the others are the base's."""
        if self.config.lora_r:
            model: Any = self.model
            learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            state = model.state_dict() if state_dict is None else state_dict
            state_dict = {name: tensor for name, tensor in state.items() if name in learning}
        super()._save(output_dir, state_dict)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return fused AdamW with the head at its own learning rate; biases and norms do not decay."""
        if self.optimizer is None:
            network: Any = self.model if model is None else model
            decaying = set(self.get_decay_parameter_names(network))
            groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((is_head(network, name), name in decaying), []).append(parameter)
            head_rate = self.config.head_learning_rate or self.config.learning_rate
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": head_rate if head else self.config.learning_rate,
                        "weight_decay": self.config.weight_decay if decays else 0.0,
                    }
                    for (head, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
                ],
                fused=True,
            )
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the next step and the sum of its weights over all devices."""
        steps = list(islice(epoch_iterator, num_batches))
        total = sum((step.weight.to(device) for step in steps), start=torch.zeros((), device=device))
        return steps, self.accelerator.gather(total).sum()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of a step, its gradients accumulated part by part and exchanged once."""
        model.train()
        step, losses = cast("Step", inputs), []
        if self.accelerator.distributed_type == DistributedType.FSDP:
            n_parts = torch.tensor([len(step.parts)], device=self.args.device)
            step = in_step(step, int(self.accelerator.gather(n_parts).max()))
        for part in step.parts:
            waits = part is not step.parts[-1]
            with self.accelerator.no_sync(model) if waits else contextlib.nullcontext():
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(model, part, num_items_in_batch=num_items_in_batch)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return a part's share of the step's loss: the weighted sum over its pairs / the step's sum of weights."""
        part: Part = inputs.to(self.args.device)
        chosen, rejected = pair_rewards(model, part)
        total = part.weight.sum() if num_items_in_batch is None else num_items_in_batch
        loss = self.objective(chosen, rejected, part.p_chosen, part.weight) / total
        loss = loss * self.args.world_size  # devices' gradients are averaged, so their sum needs this factor
        return (loss, (chosen, rejected)) if return_outputs else loss

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Return 0: transformers' estimate reads `input_ids`."""
        return 0


def packs(model: PreTrainedModel, max_length: int) -> bool:
    """Teach a model packed rows and return True, or warn, naming architecture and reason, that it cannot have them."""
    reason = cannot_pack(model, max_length)
    if reason is None:
        accept_packed(model)
    else:
        warnings.warn(f"{reason}; conversations are padded, and prompts encoded twice", WeakprefWarning, stacklevel=2)
    return reason is None


def warn_of_long_pairs(counts: Counts, config: RewardConfig) -> None:
    """Say how many conversations were longer than max_length and what became of them."""
    if config.on_long == "truncate":
        warn_of_truncation(counts.long_conversations, 2 * counts.pairs, config.max_length)
    elif counts.dropped_long_pairs:
        warnings.warn(
            f"{counts.dropped_long_pairs} pairs are dropped: a conversation is longer than {config.max_length} tokens; "
            "raise max_length, or truncate them",
            WeakprefWarning,
            stacklevel=3,
        )


def training_arguments(config: RewardConfig, n_pairs: int, checkpoints: Path) -> TrainingArguments:
    """Return the config in the Trainer's words: linear decay, fused AdamW, no reports, no model card."""
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=config.batch_size * config.gradient_accumulation,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        activation_checkpointing=config.gradient_checkpointing,
        seed=config.seed,
        bf16=computes_in_bf16() if config.bf16 is None else config.bf16,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        save_strategy="no" if config.save_steps is None else "steps",
        save_steps=config.save_steps or 500,
        save_total_limit=1,
        logging_steps=10,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    step_size = arguments.train_batch_size * arguments.world_size
    steps = config.max_steps or math.ceil(config.epochs * math.ceil(n_pairs / step_size))
    arguments.warmup_steps = math.ceil(steps * config.warmup_share)
    return arguments


def computes_in_bf16() -> bool:
    """Return whether this machine's GPU, or CPU where there is none, has bfloat16 arithmetic (AMX, AVX-512 BF16)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def prepare(model: PreTrainedModel, config: RewardConfig) -> PeftModel | None:
    """Set dropout to 0, freeze what is not trained, and put LoRA's adapters in where asked for; returns peft's wrapper.

    In place: `model` is what is trained, with or without adapters.
    """
    disable_dropout(model)
    freeze(model, config.freeze_layers)
    adapted = with_lora(model, heads(model), config) if config.lora_r else None
    fix_constant(model)
    return adapted


def heads(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules that a base model may lack, so that their first weights are random."""
    names = {name.split(".")[0] for name, _ in model.named_parameters() if is_head(model, name)}
    return sorted(names | {"pooler" for name, _ in model.named_modules() if name.endswith(".pooler")})


def is_head(model: torch.nn.Module, parameter: str) -> bool:
    """Return whether a parameter belongs to the score head: to no part of the base model."""
    return not parameter.removeprefix("module.").startswith(f"{getattr(model, 'module', model).base_model_prefix}.")


def fix_constant(model: PreTrainedModel) -> None:
    """Keep the score's bias as it is: no difference of rewards depends on it, its gradient is rounding error."""
    for name, module in model.named_modules():
        last = isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
        if last and is_head(model, name) and module.bias is not None:
            module.bias.requires_grad_(False)


def disable_dropout(model: torch.nn.Module) -> None:
    """Set all dropout to 0: two responses must be compared under the same network."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def freeze(model: PreTrainedModel, n_layers: int) -> None:
    """Keep the embeddings and the `n_layers` lowest layers as they are; 0 keeps nothing.

    Raises DataError where there are fewer layers.
    """
    if not n_layers:
        return
    layers = layers_of(model)
    if n_layers > len(layers):
        raise DataError(f"freeze_layers is {n_layers}, but the model has {len(layers)} layers")
    embeddings = getattr(model.base_model, "embeddings", model.get_input_embeddings())
    for module in (embeddings, *layers[:n_layers]):
        module.requires_grad_(False)


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the model's transformer layers, lowest first: its longest module list."""
    lists = [module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=torch.nn.ModuleList())


def _check_out(target: Path, checkpoints: Path, run: dict[str, Any], resume: bool) -> None:
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise DataError(f"{target} already exists; delete it or pass another out")
    if not (checkpoints / RUN).is_file():
        return
    if not resume:
        raise DataError(f"{checkpoints} holds an unfinished run; pass resume=True to continue it, or delete it")
    begun = json.loads((checkpoints / RUN).read_text(encoding="utf-8"))
    changed = [key for key in run["config"] if begun["config"].get(key) != run["config"][key]]
    changed += ["data"] if begun["inputs"] != run["inputs"] else []
    if changed:
        raise DataError(
            f"{checkpoints} belongs to another run ({', '.join(changed)} differ); resume with the config and data it "
            "began with, or delete it"
        )


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _last_checkpoint(checkpoints: Path) -> str | None:
    if not checkpoints.is_dir():
        return None
    found: str | None = get_last_checkpoint(str(checkpoints))  # type: ignore[no-untyped-call]
    return found


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Restore the global random states afterwards: transformers seeds and draws from them."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
