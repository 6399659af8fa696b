"""Which pairs come when: a new order every epoch, from seed and epoch alone, of one set or of several mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler
from transformers import TrainerCallback

from labeling.errors import DataError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mixture:
    """How many pairs of each set an epoch holds.

    >>> Mixture.of([100, 10], None), Mixture.of([100, 10], (0.5, 0.5))
    (Mixture(sizes=(100, 10), drawn=(100, 10)), Mixture(sizes=(100, 10), drawn=(55, 55)))
    """

    sizes: tuple[int, ...]
    """Pairs there are in each set."""
    drawn: tuple[int, ...]
    """Pairs an epoch takes from each."""

    @classmethod
    def of(cls, sizes: Sequence[int], shares: Sequence[float] | None) -> Mixture:
        """Return the mixture in which set k makes up shares[k] of an epoch as long as all sets together.

        Without shares an epoch holds every pair once. Raises DataError where shares do not fit the sets.
        """
        if shares is None:
            return cls(tuple(sizes), tuple(sizes))
        if len(shares) != len(sizes) or min(shares) <= 0:
            raise DataError(f"mix is {tuple(shares)}, expected {len(sizes)} shares above 0: one for each set of pairs")
        ends = np.rint(np.cumsum(shares) / np.sum(shares) * sum(sizes)).astype(int)
        drawn = tuple(np.diff(ends, prepend=0).tolist())
        if 0 in drawn:
            k = drawn.index(0)
            raise DataError(
                f"mix is {tuple(shares)}, and of set {k} ({sizes[k]:,} pairs) not one would be drawn in an epoch of "
                f"{sum(sizes):,} pairs; give it a larger share, or leave it out"
            )
        return cls(tuple(sizes), drawn)

    def __len__(self) -> int:
        return sum(self.drawn)

    def epoch(self, seed: int, epoch: int) -> Rows:
        """Return the pairs of an epoch in their order, as rows of all sets one after the other.

        A set is gone through in passes, each in an order of its own; an epoch takes up where the last one ended, so a
        pair comes again only when all others of its set have come.
        """
        starts = np.cumsum([0, *self.sizes[:-1]])
        parts = [
            start + _passes(size, epoch * drawn, drawn, [seed, k])
            for k, (start, size, drawn) in enumerate(zip(starts, self.sizes, self.drawn, strict=True))
        ]
        return np.random.default_rng([seed, epoch]).permutation(np.concatenate(parts))


def _passes(size: int, first: int, n: int, seed: list[int]) -> Rows:
    """Return places first ... first + n - 1 of an endless run of shuffled passes over `size` rows."""
    passes = range(first // size, -(-(first + n) // size))
    rows = [np.random.default_rng([*seed, number]).permutation(size) for number in passes]
    return np.concatenate([*rows, np.empty(0, dtype=np.int64)])[first - passes.start * size :][:n]


class Shuffled(Sampler[int]):
    """The rows of each epoch's mixture, in their order, and fillers up to a multiple of `multiple`.

    A filler is a row's number plus that of all rows: a pair of weight 0, so that several processes have equally many
    pairs and none counts twice.
    """

    def __init__(self, mixture: Mixture, seed: int, multiple: int = 1) -> None:
        self.mixture, self.seed, self.epoch, self.multiple = mixture, seed, 0, multiple

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.mixture) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        rows = self.rows().tolist()
        yield from rows
        yield from [sum(self.mixture.sizes) + rows[-1]] * (len(self) - len(rows))

    def rows(self) -> Rows:
        """Return the epoch's rows."""
        return self.mixture.epoch(self.seed, self.epoch)


class LengthGrouped(Shuffled):
    """The same, with pairs of similar length in one optimizer step, for models whose batches are padded.

    Pairs are sorted within windows of `WINDOW` steps, and the steps shuffled again. The order does not depend on how a
    step is split into batches.
    """

    WINDOW = 16

    def __init__(self, mixture: Mixture, seed: int, lengths: Rows, step_size: int, multiple: int = 1) -> None:
        super().__init__(mixture, seed, multiple)
        self.lengths, self.step_size = lengths, step_size

    def rows(self) -> Rows:
        """Return the epoch's rows."""
        order = super().rows()
        window = self.step_size * self.WINDOW
        windows = [order[start : start + window] for start in range(0, len(order), window)]
        sorted_order = np.concatenate([rows[np.argsort(self.lengths[rows], kind="stable")] for rows in windows])
        full = len(order) // self.step_size
        steps = np.split(sorted_order[: full * self.step_size], max(full, 1))
        generator = np.random.default_rng([self.seed, self.epoch, 1])
        shuffled = [steps[i] for i in generator.permutation(len(steps))]
        rest = sorted_order[full * self.step_size :]  # an incomplete step comes last, or it would shift the others
        return np.concatenate([*shuffled, rest])


class OrderOfEpoch(TrainerCallback):
    """Tells an order which epoch begins: of a resumed one, several processes' data loaders do not."""

    def __init__(self, order: Shuffled) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Set the epoch."""
        self.order.set_epoch(int(state.epoch or 0))
