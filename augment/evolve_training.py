"""What one training of a loop takes and leaves: the pairs exported, the reward model, its rewards and figures."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from augment.evolve_method import Ground
from augment.export import ExportOptions, export
from augment.self_labels import SelfLabels
from labeling.antisymmetric import sigmoid
from labeling.errors import WeakprefWarning
from labeling.metrics import accuracy, ece, log_loss
from labeling.pairs import Pairs
from rm.config import RewardConfig
from rm.memory import free_memory

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def members(folder: Path, n: int) -> list[Path]:
    """Return where the n reward models of an iteration lie: rm, rm-1, rm-2, ..."""
    return [folder / ("rm" if i == 0 else f"rm-{i}") for i in range(n)]


def export_seed(out: Path, ground: Ground, seed: int, rows: BoolArray | None = None) -> Path:
    """Write the pairs of the seed, or those of them in `rows` (n,), with their gold label."""
    pairs = ground.pairs.take(ground.seed if rows is None else ground.seed & rows)
    return export(out, pairs, np.full(len(pairs), np.nan), options=ExportOptions(seed=seed))


def decided(ground: Ground, rows: BoolArray, labels: SelfLabels | None) -> bool:
    """Return whether the seed, or what labels train on, has a label among `rows` (n,) that is no tie: can train."""
    found = ground.seed & (ground.pairs.gold != 0.5)
    if labels is not None:
        found |= labels.trained & (labels.target != 0.5)
    return bool((found & rows).any())


def export_kept(out: Path, ground: Ground, labels: SelfLabels, rows: BoolArray, seed: int) -> Path:
    """Write the seed and the pairs that labels train on, those of `rows` (n,), each with the round its label is of.

    Labels of a reward model have the origin self; those of voters alone, weak.
    """
    kept = np.flatnonzero((ground.seed | labels.trained) & rows)
    rounds = np.maximum(labels.iteration[kept], 1)
    origin = "weak" if np.isnan(labels.margin).all() else "self"
    return export(
        out,
        ground.pairs.take(kept),
        labels.target[kept],
        None if ground.votes is None else ground.votes.take(kept),
        weights=np.where(ground.seed, 1.0, labels.weight)[kept],
        iterations=rounds,
        options=ExportOptions(origin, int(rounds.max()), seed=seed),
    )


def within_budget(trained: BoolArray, ground: Ground, budget: int | None, seed: int) -> BoolArray:
    """Return the pairs (n,) to train on beside the seed: all, or as many drawn of them as a training has room for.

    A training of few steps over many pairs would otherwise hardly see the seed.
    """
    rows = np.flatnonzero(trained)
    room = len(rows) if budget is None else room_beside(ground, budget)
    if len(rows) <= room:
        return trained
    rows = rows[np.argsort(ground.pairs.pair_ids[rows])]  # no order of the rows changes what is drawn
    chosen = np.zeros(len(trained), dtype=np.bool_)
    chosen[np.random.default_rng(seed).choice(rows, room, replace=False)] = True
    return chosen


def room_beside(ground: Ground, budget: int) -> int:
    """Return for how many pairs a training that sees `budget` pairs has room beside the seed: half of it at least."""
    return max(budget - int(ground.seed.sum()), budget // 2)


def train(data: Path, config: RewardConfig, out: Path, processes: int = 1, *, first: bool = False) -> Path:
    """Train a reward model, from its last checkpoint where there is one, spread over so many processes.

    Only the `first` of a loop warns of conversations that lose their beginning: every other would say the same.
    """
    import rm

    if processes > 1:
        from rm.command import arguments
        from rm.launch import spread

        free_memory()
        spread(processes, "rm.launched", arguments([data], out, True, config), quiet=True)
        return out
    with warnings.catch_warnings():
        if not first:
            warnings.filterwarnings("ignore", ".*lost their beginning", WeakprefWarning)
        try:
            return rm.train(data, config, out=out, resume=True)
        finally:
            free_memory()


def rewards_of(model: Path, pairs: Pairs, processes: int = 1, file: Path | None = None) -> FloatArray:
    """Return the rewards of both responses of each pair, shape (n, 2).

    They are written to `file`, if it is named: scoring that was killed goes on from what is done.
    """
    import rm

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.filterwarnings("ignore", ".*lost their beginning", WeakprefWarning)
        file = file or Path(scratch) / "rewards.parquet"
        rm.score_to(model, pairs, file, rm.Scoring(processes=processes))
        free_memory()
        table = pq.read_table(file)
    return np.column_stack([table["r_a"].to_numpy(), table["r_b"].to_numpy()])


def mean_preference(models: list[Path], pairs: Pairs, processes: int = 1) -> FloatArray:
    """Return P(A preferred), shape (n,): the mean over reward models of sigmoid(r_a - r_b)."""
    rewards = np.stack([rewards_of(model, pairs, processes) for model in models])
    mean: FloatArray = sigmoid(rewards[:, :, 0] - rewards[:, :, 1]).mean(axis=0)
    return mean


def held_out_figures(models: list[Path], test: Pairs | None, processes: int = 1) -> dict[str, float | int | None]:
    """Return n, accuracy, log-loss and ECE on the labelled test pairs, the names beginning with test_."""
    names = ("accuracy", "log_loss", "ece")
    if test is None:
        return {"test_n": 0} | {f"test_{name}": None for name in names}
    p_a = mean_preference(models, test, processes)
    values = (metric(p_a, test.gold) for metric in (accuracy, log_loss, ece))
    return {"test_n": int((~np.isnan(test.gold)).sum())} | {
        f"test_{name}": value for name, value in zip(names, values, strict=True)
    }
