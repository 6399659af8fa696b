"""What is seen of training while it runs: running figures, a progress bar, and what is saved when numbers break."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase, TrainerCallback

from labeling.errors import WeakprefError
from labeling.files import write_json
from rm.steps import Part

TIMED = ("pairs_per_s", "tokens_per_s")
"""Figures that differ from run to run, so that no file keeps them."""


@dataclass
class Window:
    """What this process has seen since the last line of the log."""

    chosen: list[torch.Tensor] = field(default_factory=list)
    rejected: list[torch.Tensor] = field(default_factory=list)
    p_chosen: list[torch.Tensor] = field(default_factory=list)
    weight: list[torch.Tensor] = field(default_factory=list)
    n_tokens: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, chosen: torch.Tensor, rejected: torch.Tensor, part: Part) -> None:
        """Remember the rewards of a part's pairs, each of shape (n,), without waiting for a GPU to compute them."""
        self.chosen.append(chosen.detach())
        self.rejected.append(rejected.detach())
        self.p_chosen.append(part.p_chosen)
        self.weight.append(part.weight)
        self.n_tokens += part.rows.input_ids.numel()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what is done meanwhile out of the seconds that speed is measured by."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.began += time.perf_counter() - began

    def figures(self) -> dict[str, float]:
        """Return accuracy on pairs that are no tie, mean and spread of the rewards, pairs and tokens per second.

        Pairs of weight 0 are there to fill a step, and left out. Empty where nothing was seen.
        """
        if not self.chosen or not (real := torch.cat(self.weight) > 0).any():
            return {}
        chosen, rejected, q = (
            torch.cat(each)[real].float().cpu().numpy() for each in (self.chosen, self.rejected, self.p_chosen)
        )
        rewards, seconds = np.concatenate([chosen, rejected]), time.perf_counter() - self.began
        decided = q != 0.5
        right = (chosen > rejected)[decided] == (q > 0.5)[decided]
        return {
            **({"accuracy": float(right.mean())} if decided.any() else {}),
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "pairs_per_s": len(q) / seconds,
            "tokens_per_s": self.n_tokens / seconds,
        }


class RichProgress(TrainerCallback):
    """A progress bar on a terminal's stderr: steps, loss, speed, time left."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Show the bar, by the first process."""
        if state.is_world_process_zero:
            self.task = self.progress.add_task("training", total=state.max_steps, completed=state.global_step, said="")
            self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Move the bar."""
        if state.is_world_process_zero:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Show the last figures."""
        if state.is_world_process_zero and logs:
            self.progress.update(self.task, said=said(logs, args.world_size))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Leave the bar as it is."""
        self.progress.stop()


def said(logs: dict[str, float], n_processes: int = 1) -> str:
    """Return the figures of a log line in words.

    >>> said({"loss": 0.61234, "pairs_per_s": 12.34, "tokens_per_s": 4567.8}, 2)
    'loss 0.612, 25 pairs/s, 9,136 tokens/s'
    """
    words = [f"{name.replace('_', ' ')} {logs[name]:.3f}" for name in ("loss", "eval_log_loss") if name in logs]
    words += [f"{n_processes * logs[name]:,.0f} {name.split('_')[0]}/s" for name in TIMED if name in logs]
    return ", ".join(words)


def stop_broken(
    what: str, step: int, pairs: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, file: Path
) -> None:
    """Write the pairs of a step to `file` and raise WeakprefError: `what` (loss, gradient) is not finite."""
    rows = [
        {side: tokenizer.decode(pair[side]) for side in ("chosen", "rejected")}
        | {name: float(pair[name]) for name in ("p_chosen", "weight")}
        for pair in pairs
    ]
    write_json(file, {"step": step, "what": what, "pairs": rows})
    raise WeakprefError(
        f"{what} is not finite in step {step}, so training stops; its {len(rows)} pairs are in {file}: look there for "
        "broken text, or lower learning_rate"
    )
