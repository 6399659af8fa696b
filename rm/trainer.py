"""Training a reward model from the universal layout on transformers' Trainer: soft pairs, weights."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerState,
)

from labeling.errors import DataError, WeakprefWarning
from labeling.files import manifest, write_json
from rm.alone import alone
from rm.arguments import check_reports, tensorboard_folder, training_arguments
from rm.config import RewardConfig, resolve
from rm.handoff import hand_off
from rm.held_out import held_out_pairs, measure, split, warn_of_base
from rm.lora import Adapter, merged
from rm.model import RewardModel, load_base, no_bars, warn_of_truncation
from rm.objectives import Objective
from rm.order import LengthGrouped, OrderOfEpoch, Shuffled
from rm.run_folder import (
    RUN,
    STATE,
    check_asked,
    check_out,
    check_watched,
    checkpoint_folder,
    described,
    last_checkpoint,
    stopped,
)
from rm.seeding import seeded
from rm.shared_prefix import accept_packed, cannot_pack, is_causal
from rm.sources import MixedPairs, training_pairs
from rm.steps import Part, Step, StepCollator, in_step, pair_rewards
from rm.token_cache import Counts
from rm.trainable import is_head, prepare, rewards_as_computed
from rm.watching import RichProgress, Window, stop_broken

if TYPE_CHECKING:
    from peft import PeftModel

TOKENS = "tokens"
"""Beside the checkpoints: the pairs as tokens."""
SPLIT = "split"
"""Beside the checkpoints: the data in two parts, where a share of the prompts is held out."""
BROKEN = "broken_step_{}.json"
"""Beside the checkpoints: the pairs of the step, by process, in which numbers were no longer finite."""
CPU_TOKEN_BUDGET = 1024
GPU_TOKEN_BUDGET = 16384


def train(
    data: str | Path | Sequence[str | Path],
    config: RewardConfig,
    *,
    out: str | Path,
    resume: bool = False,
    cache: str | Path | None = None,
    held_out: str | Path | None = None,
) -> Path:
    """Train a reward model on folders or files in the universal layout and write it to `out`; returns `out`.

    `out` holds the model, its tokenizer, manifest.json, train_log.json and train_prompts.txt (with `patience` also
    stopping_prompts.txt, those that decided when to stop), ready for TRL, vLLM and transformers. A run
    with `save_steps` keeps checkpoints in `<out>.checkpoints` until it is finished; `resume`
    continues from the last one, or starts where there is none. Pairs are tokenised into memory-mapped files in `cache`,
    where later runs find them again, or in `<out>.checkpoints` if it is None. `held_out`, data of the same layout, or
    a share of the prompts (`eval_share`) is measured during training and not trained on. Raises DataError where the
    data cannot be trained on, `out` exists, or the checkpoints belong to other data or another config; GroupLeakError
    where a held-out prompt is trained on; WeakprefError where the loss or a gradient is not finite.
    """
    check_asked(data, config, held_out)
    check_watched(config, held_out)
    check_reports(config)
    sources = [data] if isinstance(data, str | Path) else list(data)
    checkpoints = checkpoint_folder(out)
    first = os.environ.get("RANK", "0") == "0"
    with alone(checkpoints) if first else contextlib.nullcontext():
        run = described(sources, config, held_out)
        if first:  # later processes may find what this one has begun
            check_out(Path(out), run, resume)
        _train(sources, config, Path(out), run, resume, cache, held_out)
    if first:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return Path(out)


def _train(
    sources: list[str | Path],
    config: RewardConfig,
    target: Path,
    run: dict[str, Any],
    resume: bool,
    cache: str | Path | None,
    held_out: str | Path | None,
) -> None:
    checkpoints = checkpoint_folder(target)
    with seeded(config.seed), tensorboard_folder(config, target.with_name(f"{target.name}.logs")):
        model, tokenizer = load_base(config.model, config.max_length)
        adapted = prepare(model, config)
        tokens = Path(cache) if cache else checkpoints / TOKENS
        if config.eval_share:
            sources[:], held_out = split(sources, config.eval_share, config.seed, checkpoints / SPLIT)
        dataset = training_pairs(sources, tokenizer, config, tokens)
        warn_of_long_pairs(dataset.counts, config)
        watched = None if held_out is None else held_out_pairs(held_out, dataset, tokenizer, config, tokens)
        if watched is not None:
            warn_of_base(watched.prompts(), resolve(config.model))
        trainer = PairTrainer(model, tokenizer, dataset, config, checkpoints, watched)
        if trainer.is_world_process_zero():
            write_json(checkpoints / RUN, run)
        with contextlib.nullcontext() if sys.stderr.isatty() else no_bars():
            trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints) if resume else None)
    if trainer.is_fsdp_enabled:
        model, adapted = gathered(trainer, config)
    if trainer.is_world_process_zero():
        adapter = Adapter.of(adapted) if adapted and config.keep_adapter else None
        model = (merged(adapted) if adapted else model).train(False)
        if trainer.is_fsdp_enabled:
            model = on_device(model, trainer.args.device)
        counts = dataclasses.asdict(dataset.counts) | {"steps": trainer.state.global_step}
        counts |= {} if watched is None else {"held_out": len(watched)}
        record = manifest("train", inputs=run["inputs"], seed=config.seed, counts=counts)
        record["config"] = run["config"] | {"model": Path(config.model).name}
        trained = RewardModel(model, tokenizer, config.max_length)
        stopping = () if watched is None or config.patience is None else watched.prompts()
        history = trainer.state.log_history
        base = Path(resolve(config.model))
        hand_off(target, trained, dataset, record, base=base, log=history, adapter=adapter, stopping=stopping)
    trainer.accelerator.wait_for_everyone()


class PairTrainer(Trainer):
    """transformers' Trainer with the soft-pair objective, normalised by the sum of weights of the whole step."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: MixedPairs,
        config: RewardConfig,
        checkpoints: Path,
        held_out: MixedPairs | None = None,
    ) -> None:
        self.config, self.pairs, self.tokenizer, self.held_out = config, dataset, tokenizer, held_out
        self.window, self.current = Window(), Step(())
        self.objective: Objective = config.loss
        self.packed = packs(model, config.max_length)
        arguments = training_arguments(config, len(dataset.mixture), checkpoints, held_out is not None)
        if not self.packed and arguments.use_cpu and arguments.bf16:  # fused attention's backward is slow there
            model.set_attn_implementation("eager")
        budget = config.token_budget or (CPU_TOKEN_BUDGET if arguments.use_cpu else GPU_TOKEN_BUDGET)
        collator = StepCollator(budget, tokenizer.pad_token_id, self.packed, self.packed and is_causal(model))
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=held_out,
            data_collator=cast("Any", collator),
        )
        if self.is_fsdp_enabled:
            rewards_as_computed(self.accelerator.state.fsdp_plugin)
        self.remove_callback(PrinterCallback)
        self.bar = RichProgress() if sys.stderr.isatty() else None
        if self.bar:
            self.add_callback(self.bar)
        self.order = self._order()
        self.add_callback(OrderOfEpoch(self.order))
        if config.patience is not None and held_out is not None:
            self.add_callback(EarlyStoppingCallback(config.patience))

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, and give the terminal back where that fails as well; a run that had stopped early stays stopped."""
        begun = resume_from_checkpoint
        if begun and not self.is_fsdp_enabled and stopped(begun):
            self.state = TrainerState.load_from_json(str(Path(begun) / STATE))
            if self.config.patience is None:
                return self._load_from_checkpoint(begun)
            if self.state.best_model_checkpoint:
                return self._load_best_model()
        try:
            return super().train(begun, *args, **kwargs)
        finally:
            if self.bar:
                self.bar.progress.stop()

    def _load_best_model(self) -> None:
        """Load the best weights from where the checkpoints are now: the state names the place they were written to."""
        best = Path(str(self.args.output_dir)) / Path(str(self.state.best_model_checkpoint)).name
        if not best.is_dir() and self.is_world_process_zero():  # other machines need not see the folder
            raise DataError(f"{best}, the best weights of the run, is gone; delete {best.parent} and train again")
        self.state.best_model_checkpoint = str(best)
        super()._load_best_model()

    def _get_train_sampler(self, train_dataset: Any = None) -> Shuffled:  # noqa: ARG002
        return self.order

    def _order(self) -> Shuffled:
        mixture = self.pairs.mixture
        step_size = self.args.train_batch_size * self.args.world_size
        filled = step_size if self.args.world_size > 1 else 1
        if self.packed:
            return Shuffled(mixture, self.config.seed, filled)
        return LengthGrouped(mixture, self.config.seed, self.pairs.lengths[:, :2].max(axis=1), step_size, filled)

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
        self.current = step
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
        loss = torch.stack(losses).sum()
        self._check_finite("the loss", loss)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        self._check_finite("the gradient", torch.as_tensor(norm))
        return norm

    def _check_finite(self, what: str, value: torch.Tensor) -> None:
        if not math.isfinite(value.item()):
            file = Path(str(self.args.output_dir)) / BROKEN.format(self.args.process_index)
            stop_broken(what, self.state.global_step + 1, self.current.pairs, self.tokenizer, file)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return a part's share of the step's loss: the weighted sum over its pairs / the step's sum of weights."""
        part: Part = inputs.to(self.args.device)
        chosen, rejected = pair_rewards(model, part)
        self.window.add(chosen, rejected, part)
        total = part.weight.sum() if num_items_in_batch is None else num_items_in_batch
        loss = self.objective(chosen, rejected, part.p_chosen, part.weight) / total
        loss = loss * self.args.world_size  # devices' gradients are averaged, so their sum needs this factor
        return (loss, (chosen, rejected)) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a line of the log what this process has seen since the last one."""
        if "loss" in logs:
            logs |= self.window.figures()
            self.window = Window()
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,  # noqa: ARG002
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return what `measure` says of the held-out pairs; every process measures all of them.

        The first process's figures are everybody's.
        """
        pairs = cast("MixedPairs", self.held_out if eval_dataset is None else eval_dataset)
        collator = cast("StepCollator", self.data_collator)
        with self.window.paused():
            found = measure(self.model, pairs, collator, self.compute_loss_context_manager)
        if self.args.world_size > 1:  # what decides when to stop must be the same everywhere, to the last digit
            found = broadcast_object_list([found])[0]
        figures = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if not self.config.lora_r:  # its checkpoints lack the base's weights on purpose
            super()._issue_warnings_after_load(load_result)

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Return 0: transformers' estimate reads `input_ids`."""
        return 0


def gathered(trainer: PairTrainer, config: RewardConfig) -> tuple[PreTrainedModel, PeftModel | None]:
    """Return the sharded model whole, and peft's wrapper; only the first process gets what was learned."""
    state = trainer.accelerator.get_state_dict(trainer.model)
    with seeded(config.seed):
        model, _ = load_base(config.model, config.max_length)
        adapted = prepare(model, config)
    if trainer.is_world_process_zero():
        model.load_state_dict(state)
    return model, adapted


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Return a model on the device, or on the CPU if it does not fit: some hundred responses take it long there."""
    try:
        model.to(device)  # type: ignore[arg-type]
    except torch.OutOfMemoryError:
        model.to("cpu")  # type: ignore[arg-type]
    return model


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
