"""Pairs held out of training, by prompt: split off, and what the model in training makes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerBase

from labeling import metrics
from labeling.errors import DataError, GroupLeakError, WeakprefWarning
from labeling.files import replacing
from labeling.pairs import prompt_id
from rm.config import RewardConfig
from rm.data import conversations, read_rows, training_files
from rm.provenance import TRAIN_PROMPTS, hashes
from rm.sources import MixedPairs, training_pairs
from rm.steps import StepCollator, pair_rewards

BATCH = 64
"""Pairs cut into forward passes together."""


def split(sources: Sequence[str | Path], share: float, seed: int, folder: Path) -> tuple[list[Path], Path]:
    """Write all pairs of about a `share` of the prompts to `folder`/held_out.parquet, and the others beside it.

    Whether a prompt is held out follows from the prompt and the seed alone, so that it is on the same side in every
    source and run. Returns a file for each source, and the held-out one. Raises DataError where a side is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / f"train-{number}.parquet" for number in range(len(sources))]
    held_out, counts = folder / "held_out.parquet", [0, 0]
    with contextlib.ExitStack() as stack:
        held_writer = _Writer(stack, held_out)
        for source, path in zip(sources, kept, strict=True):
            writer = _Writer(stack, path)
            for rows in (chunk for file in training_files(source) for chunk in read_rows(file)):
                is_held = np.array(
                    [_lot(prompt_id(turns[:-1]), seed) < share for turns in conversations(rows["chosen"])]
                )
                for where, mask in ((writer, ~is_held), (held_writer, is_held)):
                    where.write(rows.filter(pa.array(mask)))
                counts[0] += int((~is_held).sum())
                counts[1] += int(is_held.sum())
    if not all(counts):
        raise DataError(
            f"eval_share is {share}, which holds {counts[1]} of {sum(counts)} pairs out; "
            "pass another share, or held_out pairs"
        )
    return kept, held_out


class _Writer:
    """A Parquet file that begins with its first chunk, and gets its name when it is complete."""

    def __init__(self, stack: contextlib.ExitStack, path: Path) -> None:
        self.stack, self.part = stack, stack.enter_context(replacing(path))
        self.writer: Any = None

    def write(self, rows: pa.Table) -> None:
        """Append rows."""
        if self.writer is None:
            self.writer = self.stack.enter_context(pq.ParquetWriter(self.part, rows.schema, compression="zstd"))
        self.writer.write_table(rows)


def _lot(prompt: str, seed: int) -> float:
    """Return a number in [0, 1) that a prompt draws once and for all."""
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:8], "big") / 2**64


def held_out_pairs(
    source: str | Path, dataset: MixedPairs, tokenizer: PreTrainedTokenizerBase, config: RewardConfig, tokens: Path
) -> MixedPairs:
    """Return the held-out pairs, tokenised as those trained on; raises GroupLeakError where a prompt is in both."""
    pairs = training_pairs([source], tokenizer, dataclasses.replace(config, mix=None, gold_weight=1.0), tokens)
    check_apart(dataset.prompts(), pairs.prompts())
    return pairs


def check_apart(trained: Sequence[str], held_out: Sequence[str]) -> None:
    """Raise GroupLeakError where a held-out prompt is trained on; both are hashes of prompts."""
    leaked = set(trained) & set(held_out)
    if leaked:
        raise GroupLeakError(
            f"{len(leaked)} of {len(held_out)} held-out prompts are trained on too, the first has the hash "
            f"{min(leaked)}: leave them out of one of the two, or let eval_share split the data"
        )


def warn_of_base(held_out: Sequence[str], base: str | Path) -> None:
    """Warn where the model that training starts from was itself trained on held-out prompts, hashes of them."""
    known = hashes(Path(base) / TRAIN_PROMPTS) & set(held_out)
    if known:
        text = (
            f"{len(known):,} of {len(held_out):,} held-out prompts were trained on by {base}, where this training "
            "starts: figures on them, and what stops by them, come out too good; hold out others"
        )
        warnings.warn(text, WeakprefWarning, stacklevel=2)


@torch.no_grad()
def measure(model: Any, pairs: MixedPairs, collator: StepCollator, autocast: Any) -> dict[str, float]:
    """Return log-loss (nats), accuracy, ECE, mean and spread of the rewards on held-out pairs, by their soft labels.

    Log-loss and ECE compare sigmoid(r_chosen - r_rejected) with p_chosen; accuracy counts pairs that are no tie.
    """
    was_training = model.training
    model.eval()
    collected: list[torch.Tensor] = []
    for start in range(0, len(pairs), BATCH):
        step = collator([pairs[i] for i in range(start, min(start + BATCH, len(pairs)))])
        for part in step.to(next(model.parameters()).device).parts:
            with autocast():
                chosen, rejected = pair_rewards(model, part)
            collected.append(torch.stack([chosen.double(), rejected.double(), part.p_chosen.double()]).cpu())
    model.train(was_training)
    chosen, rejected, q = torch.cat(collected, dim=1).numpy()
    return figures(chosen, rejected, q)


def figures(chosen: Any, rejected: Any, q: Any) -> dict[str, float]:
    """Return the figures of `measure` for rewards and soft labels, float64 (n,) each."""
    p = np.exp(-np.logaddexp(0.0, -(chosen - rejected)))
    rewards = np.concatenate([chosen, rejected])
    return {
        "log_loss": float(metrics.log_loss(p, q)),
        "accuracy": float(metrics.accuracy(p, q)),
        "ece": float(metrics.ece(p, q)),
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
    }
