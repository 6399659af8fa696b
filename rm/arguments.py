"""The config in the words of transformers' Trainer."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from labeling.errors import DataError
from rm.config import RewardConfig

TENSORBOARD = "TENSORBOARD_LOGGING_DIR"
"""Environment variable that transformers reads."""


def training_arguments(
    config: RewardConfig, n_pairs: int, checkpoints: Path, evaluates: bool = False
) -> TrainingArguments:
    """Return the config in the Trainer's words: linear decay, fused AdamW, no model card."""
    often = "no" if not evaluates else "epoch" if config.eval_steps is None else "steps"
    stops = evaluates and config.patience is not None
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
        save_strategy=often if stops else "no" if config.save_steps is None else "steps",
        save_steps=(config.eval_steps if stops else config.save_steps) or 500,
        save_total_limit=1,
        eval_strategy=often,
        eval_steps=config.eval_steps,
        load_best_model_at_end=stops,
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model="eval_log_loss" if evaluates else None,
        greater_is_better=False if evaluates else None,
        ddp_find_unused_parameters=False,
        logging_steps=config.logging_steps,
        report_to=reports(config),
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # or one process would cut packed rows up for all GPUs (DataParallel)
    step_size = arguments.train_batch_size * arguments.world_size
    steps = config.max_steps or math.ceil(config.epochs * math.ceil(n_pairs / step_size))
    warm = steps * config.warmup_share
    arguments.warmup_steps = 0 if warm < 1 else math.ceil(warm)  # the first step of a warm-up learns nothing
    return arguments


def reports(config: RewardConfig) -> list[str]:
    """Return where the log goes, by the names that transformers knows."""
    return [name.strip() for name in config.report_to.split(",") if name.strip()] or ["none"]


def check_reports(config: RewardConfig) -> None:
    """Raise DataError where the log is to go where nothing takes it, or to a package that is not installed."""
    for name in reports(config):
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(["none", "all", *sorted(INTEGRATION_TO_CALLBACK)])
            raise DataError(f"report_to is {config.report_to!r}, and nothing is called {name!r}; known are {known}")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (ImportError, RuntimeError) as error:
            raise DataError(f"report_to is {config.report_to!r}: {error}; or leave {name} out") from None


@contextlib.contextmanager
def tensorboard_folder(config: RewardConfig, folder: Path) -> Iterator[None]:
    """Have TensorBoard's files written to `folder`, where they are asked for and the environment names no other."""
    ours = "tensorboard" in reports(config) and TENSORBOARD not in os.environ
    if ours:
        os.environ[TENSORBOARD] = str(folder)
    try:
        yield
    finally:
        if ours:
            del os.environ[TENSORBOARD]


def computes_in_bf16() -> bool:
    """Return whether this machine's GPU, or CPU where there is none, has bfloat16 arithmetic (AMX, AVX-512 BF16)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
