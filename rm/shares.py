"""Who scores which conversations: one process, several, or those that torchrun started; each chunk becomes a file."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from labeling.errors import DataError, WeakprefError
from labeling.files import replacing
from labeling.pairs import Message
from labeling.parts import is_part
from rm.batches import TOKENS
from rm.data import tokenise
from rm.model import RewardModel, check_finite
from rm.packing import Ids

FloatArray = npt.NDArray[np.float64]
Conversations = Sequence[Sequence[Message]]
ENGINES = ("transformers", "vllm")


@dataclass(frozen=True)
class Scoring:
    """How many responses are scored."""

    engine: Literal["transformers", "vllm"] = "transformers"
    bf16: bool = False
    """Compute in bfloat16: faster, and only two or three digits of a reward are right."""
    tokens: int = TOKENS
    """Tokens of one forward pass."""
    processes: int = 1
    """Processes that share the work, each with a GPU of its own where there are GPUs."""
    chunk: int = 512
    """Conversations in a file of what is done: all that a killed run has to do again, in each process."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise DataError(f"engine is {self.engine!r}, expected {' or '.join(ENGINES)}")
        for name in ("tokens", "processes", "chunk"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def record(self) -> Mapping[str, Any]:
        """Return what rewards depend on: all but the number of processes."""
        return {"engine": self.engine, "bf16": self.bf16, "tokens": self.tokens, "chunk": self.chunk}


class Scorer(Protocol):
    """What scores token ids: a `RewardModel`, or one run by vLLM."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer saved with the model."""

    @property
    def max_length(self) -> int:
        """Tokens per conversation."""

    def score_ids(self, ids: Sequence[Ids], tokens: int = TOKENS) -> FloatArray:
        """Return the reward of each tokenised conversation, float64 (n,)."""


def load_scorer(model: str | Path, how: Scoring) -> Scorer:
    """Load a reward model into the engine that is to score."""
    if how.engine == "vllm":
        from rm.vllm_scorer import VLLMScorer

        return VLLMScorer.load(model, bf16=how.bf16)
    return RewardModel.load(model, bf16=how.bf16)


def rank_and_world() -> tuple[int, int]:
    """Return which of how many processes this is, as torchrun says; 0 of 1 without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def finish(model: str | Path, how: Scoring, parts: Path, conversations: Conversations, *, progress: bool) -> None:
    """Score what is not scored yet into the folder of parts.

    Under torchrun every process takes its share, and the first waits for all.
    """
    rank, world = rank_and_world()
    if world > 1 and how.processes > 1:
        raise DataError(f"torchrun has started {world} processes; expected processes 1, found {how.processes}")
    chunks = [conversations[start : start + how.chunk] for start in range(0, len(conversations), how.chunk)]
    paths = [parts / f"{i:06d}.parquet" for i in range(len(chunks))]
    left = [i for i in range(len(chunks)) if not is_part(paths[i], len(chunks[i]))]
    with bar(progress and rank == 0, len(conversations)) as advance:
        advance(len(conversations) - sum(len(chunks[i]) for i in left))
        if how.processes > 1 and len(left) > 1:
            for i in _spread(model, how, [(paths[i], chunks[i]) for i in left]):
                advance(len(chunks[left[i]]))
        elif mine := [i for i in left if i % world == rank]:
            scorer = load_scorer(model, how) if world == 1 else _load_of_rank(model, how)
            for i in mine:
                score_part(scorer, how, paths[i], chunks[i], str(model))
                advance(len(chunks[i]))
    while rank == 0 and not all(is_part(paths[i], len(chunks[i])) for i in left):
        time.sleep(0.2)  # torchrun stops all processes when one fails


def read_parts(parts: Path) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the rewards of all conversations, float64 (n,), and whether each was truncated, bool (n,)."""
    files = sorted(parts.glob("[0-9]*.parquet"))
    if not files:
        return np.empty(0), np.empty(0, dtype=np.bool_)
    table = pa.concat_tables([pq.read_table(file) for file in files])
    return table["reward"].to_numpy(), table["truncated"].to_numpy()


def score_part(scorer: Scorer, how: Scoring, path: Path, conversations: Conversations, model: str) -> None:
    """Score one chunk and write its file; nothing is there before all of it is, and every reward finite."""
    tokenised = tokenise(scorer.tokenizer, conversations, scorer.max_length)
    rewards = scorer.score_ids(tokenised.ids, how.tokens)
    check_finite(rewards, [turns[:-1] for turns in conversations], model)
    with replacing(path) as part:
        pq.write_table(pa.table({"reward": rewards, "truncated": tokenised.truncated}), part)


def _spread(model: str | Path, how: Scoring, tasks: Sequence[tuple[Path, Conversations]]) -> Iterator[int]:
    """Score chunks in processes of their own; yield the number of each as it is done."""
    context = multiprocessing.get_context("spawn")  # a fork cannot use a GPU
    ranks: SimpleQueue[int] = context.SimpleQueue()
    n = min(how.processes, len(tasks))
    for rank in range(n):
        ranks.put(rank)
    pool = ProcessPoolExecutor(n, context, _begin_worker, (ranks, n))
    try:
        numbers = {pool.submit(_work, str(model), how, *task): i for i, task in enumerate(tasks)}
        for done in as_completed(numbers):
            done.result()
            yield numbers[done]
    except BrokenProcessPool:
        raise WeakprefError(
            f"one of {n} scoring processes was killed, perhaps for want of memory; run it again to go on from what is "
            "done, with fewer processes or tokens"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(ranks: SimpleQueue[int], n: int) -> None:
    """Take a device, and end with the process that started this one, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    take_device(ranks.get(), n)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


@functools.cache
def _scorer(model: str, how: Scoring) -> Scorer:
    return load_scorer(model, how)


def _work(model: str, how: Scoring, path: Path, conversations: Conversations) -> None:
    score_part(_scorer(model, how), how, path, conversations, model)


def _load_of_rank(model: str | Path, how: Scoring) -> Scorer:
    local = os.environ.get("LOCAL_RANK", os.environ["RANK"])
    take_device(int(local), int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])))
    return load_scorer(model, how)


def take_device(rank: int, n: int) -> None:
    """Let this process, of n on this machine, see one GPU only; without GPUs, let it use its share of the cores.

    To be called before anything runs on a GPU.
    """
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if count := torch.cuda.device_count():
        devices = shown.split(",") if shown else [str(i) for i in range(count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank % len(devices)]
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // n))


@contextmanager
def bar(shown: bool, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many conversations are scored, and the time left, if `shown`; yield what takes note of more."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not shown:
        yield lambda _: None
        return
    columns = (TextColumn("Conversations"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda n: progress.advance(task, n)
