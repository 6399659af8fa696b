"""Training a reward model from the universal layout on transformers' Trainer: soft pairs, weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from labeling.errors import DataError
from labeling.files import manifest, sha256, write_json
from rm.config import RewardConfig
from rm.data import Collator, LengthGrouped, PairDataset, read_training, training_files
from rm.handoff import hand_off
from rm.lora import Adapter, merged, with_lora
from rm.model import RewardModel, load_base, no_bars, warn_of_truncation
from rm.objectives import Objective

if TYPE_CHECKING:
    from peft import PeftModel

RUN = "run.json"
"""Beside the checkpoints: the config and data they belong to."""


def train(data: str | Path, config: RewardConfig, *, out: str | Path, resume: bool = False) -> Path:
    """Train a reward model on a folder or file in the universal layout and write it to `out`; returns `out`.

    `out` holds the model, its tokenizer, manifest.json, train_log.json and train_prompts.txt, ready for TRL, vLLM and
    transformers. A run with `save_steps` keeps checkpoints in `<out>.checkpoints` until it is finished; `resume`
    continues from the last one, or starts where there is none. Raises DataError where the data cannot be trained on,
    `out` exists, or the checkpoints belong to other data or another config.
    """
    target = Path(out)
    checkpoints = target.with_name(f"{target.name}.checkpoints")
    run = {"config": dataclasses.asdict(config), "inputs": {file.name: sha256(file) for file in training_files(data)}}
    _check_out(target, checkpoints, run, resume)
    training = read_training(data, config.gold_weight)
    with _seeded(config.seed):
        model, tokenizer = load_base(config.model, config.max_length)
        adapted = prepare(model, config)
        dataset = PairDataset(tokenizer, training.table, config.max_length)
        warn_of_truncation(dataset.n_truncated, 2 * len(dataset), config.max_length)
        trainer = PairTrainer(model, tokenizer.pad_token_id, dataset, config, checkpoints)
        if trainer.is_world_process_zero():
            _begin(checkpoints, run, config)
        with contextlib.nullcontext() if sys.stderr.isatty() else no_bars():
            trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints) if resume else None)
    if trainer.is_world_process_zero():
        adapter = Adapter.of(adapted) if adapted and config.keep_adapter else None
        model = (merged(adapted) if adapted else model).train(False)
        counts = {
            "pairs": len(dataset),
            "gold": training.n_gold,
            "skipped_zero_weight": training.n_unweighted,
            "truncated_conversations": dataset.n_truncated,
            "steps": trainer.state.global_step,
        }
        record = manifest("train", inputs=run["inputs"], seed=config.seed, counts=counts)
        record["config"] = run["config"] | {"model": Path(config.model).name}
        trained = RewardModel(model, tokenizer, config.max_length)
        hand_off(target, trained, training.table, record, log=trainer.state.log_history, adapter=adapter)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return target


class PairTrainer(Trainer):
    """transformers' Trainer with the soft-pair objective, normalised by the sum of weights of the whole step."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, model: PreTrainedModel, pad_token_id: int, dataset: PairDataset, config: RewardConfig, checkpoints: Path
    ) -> None:
        self.config = config
        self.objective: Objective = config.loss
        self.lengths = dataset.lengths
        arguments = training_arguments(config, len(dataset), checkpoints)
        if arguments.use_cpu and arguments.bf16:  # fused attention's backward takes half of the step there
            model.set_attn_implementation("eager")
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=Collator(pad_token_id),
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:  # noqa: ARG002
        step_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGrouped(self.lengths, step_size, self.config.seed)

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
        """Return the batches of one step and the sum of their weights over all devices."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        total = sum((batch["weight"].sum() for batch in batches), start=torch.zeros(())).to(device)
        return batches, self.accelerator.gather(total).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's share of the step's loss: the weighted sum over its pairs / the step's sum of weights."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        chosen, rejected = outputs.logits[:, 0].float().chunk(2)
        weight = inputs["weight"]
        total = weight.sum() if num_items_in_batch is None else num_items_in_batch
        loss = self.objective(chosen, rejected, inputs["p_chosen"], weight) / total
        loss = loss * self.args.world_size  # devices' gradients are averaged, so their sum needs this factor
        return (loss, outputs) if return_outputs else loss


def training_arguments(config: RewardConfig, n_pairs: int, checkpoints: Path) -> TrainingArguments:
    """Return the config in the Trainer's words: linear decay, fused AdamW, no reports, no model card."""
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
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
    step_size = arguments.train_batch_size * config.gradient_accumulation * arguments.world_size
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


def _begin(checkpoints: Path, run: dict[str, Any], config: RewardConfig) -> None:
    if config.save_steps:
        write_json(checkpoints / RUN, run)
    else:
        checkpoints.rmdir()  # made by the Trainer, and of no use


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
