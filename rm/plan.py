"""What a training run will do, before it does: tokens, what packing and sharing save, steps, memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from labeling.errors import DataError
from rm.arguments import check_reports, computes_in_bf16
from rm.checkpoint import check_checkpoint, check_own_code
from rm.config import RewardConfig, resolve
from rm.held_out import held_out_pairs, split
from rm.model import check_positions, quiet_loading
from rm.order import LengthGrouped, Shuffled
from rm.packing import fill_rows
from rm.run_folder import check_asked, check_watched
from rm.shared_prefix import cannot_pack, is_causal
from rm.sources import MixedPairs, training_pairs
from rm.steps import fill_padded
from rm.template import repaired
from rm.token_cache import Counts
from rm.trainable import prepare
from rm.trainer import CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET

GIB = 1 << 30
PROBE = 64
"""Tokens on which activations are counted."""


@dataclass(frozen=True)
class Plan:
    """What a training run will do. Tokens are those of one epoch."""

    counts: Counts
    """What became of the rows."""
    pairs: int
    """Pairs an epoch takes."""
    steps: int
    """Optimizer steps of one device's run."""
    forwards: int
    """Forward passes of the first epoch on one device."""
    tokens_padded: int
    """What batches of batch_size pairs in random order, padded to the longest, would compute."""
    tokens_apart: int
    """Tokens of all conversations."""
    tokens: int
    """Tokens that are computed: what a pair shares once, or with the padding where it must be."""
    held_out: int | None
    """Pairs measured during training; None where none are to be."""
    packed: bool
    """Whether rows are packed."""
    reason: str | None
    """Why they are not."""
    parameters: int
    trained: int
    """Parameters that learn: all but what is frozen, or stands under LoRA's updates."""
    weights_bytes: int
    """All weights, and the gradients and AdamW's two moments of those that learn."""
    activations_bytes: int | None
    """Estimate for the largest forward pass; None where it cannot be made for the architecture."""

    def lines(self) -> list[str]:
        """Return what there is to say, one thing a line."""
        kept = self.activations_bytes
        activations = "no estimate" if kept is None else f"about {kept / GIB:.2f} GiB"
        counts = self.counts
        how = "packed, nothing padded" if self.packed else f"padded ({self.reason})"
        held_out = [] if self.held_out is None else [f"held out     {self.held_out:,} pairs, of other prompts"]
        return [
            f"pairs        {self.pairs:,} an epoch, of {counts.rows:,} rows ({counts.skipped_zero_weight:,} without "
            f"weight, {counts.dropped_long_pairs:,} dropped as too long)",
            *held_out,
            f"truncation   {counts.long_conversations:,} conversations longer than max_length",
            f"tokens       {self.tokens:,} an epoch, {how}",
            f"padding      {_share(self.tokens_apart, self.tokens_padded)} of the {self.tokens_padded:,} tokens that "
            "batches in random order would hold",
            f"sharing      {_share(min(self.tokens, self.tokens_apart), self.tokens_apart)} of the "
            f"{self.tokens_apart:,} tokens that conversations hold",
            f"steps        {self.steps:,} optimizer steps, about {self.forwards:,} forward passes an epoch",
            f"memory       {self.weights_bytes / GIB:.2f} GiB for {self.parameters:,} weights, and gradients and "
            f"moments of {self.trained:,}; "
            f"{activations} for activations",
        ]


def plan(
    data: str | Path | Sequence[str | Path],
    config: RewardConfig,
    *,
    cache: str | Path | None = None,
    held_out: str | Path | None = None,
) -> Plan:
    """Return what `train` with the same arguments will do on one device; tokenises the data, loads no weights.

    Raises DataError where the data or the config cannot be used, GroupLeakError where a held-out prompt is trained on.
    """
    check_asked(data, config, held_out)
    check_watched(config, held_out)
    check_reports(config)
    sources = [data] if isinstance(data, str | Path) else list(data)
    model, tokenizer = _outline(config)
    with tempfile.TemporaryDirectory() as folder:
        if config.eval_share:
            sources[:], held_out = split(sources, config.eval_share, config.seed, Path(folder) / "split")
        tokens = Path(cache or folder)
        pairs = training_pairs(sources, tokenizer, config, tokens)
        watched = None if held_out is None else len(held_out_pairs(held_out, pairs, tokenizer, config, tokens))
        return _plan(pairs, config, model, watched)


def check_training(config: RewardConfig) -> None:
    """Raise DataError where `train` would refuse a config or its base model whatever the data; loads no weights."""
    check_watched(config, None)
    check_reports(config)
    _outline(config)


def _outline(config: RewardConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model that is trained, its parameters on the device "meta", and its tokenizer."""
    path = resolve(config.model)
    check_checkpoint(path)
    check_own_code(path, known_is_fine=True)
    with quiet_loading(), torch.device("meta"):
        try:
            tokenizer = repaired(AutoTokenizer.from_pretrained(path, trust_remote_code=False))
            settings = AutoConfig.from_pretrained(path, num_labels=1, trust_remote_code=False)
        except OSError as error:
            raise DataError(f"model {config.model!r} cannot be read as a directory or from the hub: {error}") from None
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(settings)  # type: ignore[no-untyped-call]
        check_positions(config.model, model, config.max_length)
        prepare(model, config)
    return model, tokenizer


def _plan(pairs: MixedPairs, config: RewardConfig, model: PreTrainedModel, held_out: int | None) -> Plan:
    reason = cannot_pack(model, config.max_length)
    causal = reason is None and is_causal(model)
    step_size = config.batch_size * config.gradient_accumulation
    budget = config.token_budget or (GPU_TOKEN_BUDGET if torch.cuda.is_available() else CPU_TOKEN_BUDGET)
    lengths = pairs.lengths[Shuffled(pairs.mixture, config.seed).rows()]
    if reason is None:
        computed = lengths[:, :2].sum(axis=1) - causal * lengths[:, 2]
        steps = [computed[start : start + step_size].tolist() for start in range(0, len(computed), step_size)]
        forwards = [sum(step[i] for i in row) for step in steps for row in fill_rows(step, budget)]
    else:
        longest = pairs.lengths[:, :2].max(axis=1)
        order = LengthGrouped(pairs.mixture, config.seed, longest, step_size).rows()
        steps = [longest[order[start : start + step_size]].tolist() for start in range(0, len(order), step_size)]
        forwards = [2 * len(row) * step[row[0]] for step in steps for row in fill_padded(step, budget)]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Plan(
        counts=pairs.counts,
        pairs=len(lengths),
        steps=config.max_steps or math.ceil(config.epochs * math.ceil(len(lengths) / step_size)),
        forwards=len(forwards),
        tokens_padded=_padded(lengths, step_size),
        tokens_apart=int(lengths[:, :2].sum()),
        tokens=sum(forwards),
        held_out=held_out,
        packed=reason is None,
        reason=reason,
        parameters=parameters,
        trained=trained,
        weights_bytes=4 * parameters + 12 * trained,
        activations_bytes=activation_bytes(model, max(forwards), config),
    )


def activation_bytes(model: PreTrainedModel, n_tokens: int, config: RewardConfig) -> int | None:
    """Return what a forward pass of n_tokens keeps for its backward pass, in bytes, attention's scores left out.

    Counted on `PROBE` tokens of the architecture itself, a model on the device "meta", where nothing is computed. None
    where that cannot be done: DeBERTa wants another mask, mixtures of experts look at what is computed.
    """
    kept: list[torch.UntypedStorage] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage())
        return tensor

    ids = torch.zeros(1, PROBE, dtype=torch.int64, device="meta")
    mask = torch.zeros(1, 1, PROBE, PROBE, device="meta")
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.train().base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    except (RuntimeError, NotImplementedError):
        return None
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    found = {storage._cdata: storage.nbytes() for storage in kept if storage._cdata not in weights}
    per_token = sum(found.values()) / PROBE
    settings = model.config.get_text_config()
    if config.gradient_checkpointing:  # one layer's, and the input of each
        per_token = per_token / settings.num_hidden_layers + hidden[0, 0].nbytes * settings.num_hidden_layers
    return int(n_tokens * per_token * (0.5 if (computes_in_bf16() if config.bf16 is None else config.bf16) else 1))


def _padded(lengths: npt.NDArray[np.int64], step_size: int) -> int:
    longest = lengths[:, :2].max(axis=1)
    batches = [longest[start : start + step_size] for start in range(0, len(longest), step_size)]
    return int(sum(2 * len(batch) * batch.max() for batch in batches))


def _share(smaller: int, larger: int) -> str:
    return f"{1 - smaller / max(larger, 1):.0%}"
