"""The rows a label model learns from without gold: all of them, counted, or a sample where they are too many.

A sample depends on what the rows say, never on their order, nor on which response comes first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labeling.patterns import Patterns, find_patterns, merged, name_order, oriented
from labeling.votes import Vote, VoteMatrix

FloatArray = npt.NDArray[np.float64]

MAX_ROWS = 1 << 15
"""Distinct rows of votes learned from."""
MAX_MARGIN_ROWS = 1 << 14
"""Rows with margins learned from: the standard error of a share of so many is 0.004."""
MAX_PATTERNS = 1 << 17
"""Distinct rows of votes kept while a stream is read."""


@dataclass(frozen=True)
class Sample:
    """Rows of votes that stand for many; voters in the order of their names."""

    signs: npt.NDArray[np.int8]
    """Shape (k, m): +1 = A, -1 = B, 0 = abstain."""
    margins: npt.NDArray[np.float32]
    """Shape (k, m): NaN = none."""
    counts: FloatArray
    """Shape (k,): how often each row was drawn; where all rows are kept, how many pairs read so."""
    exchanged: bool = False
    """Whether A and B were exchanged throughout, so that the same comes of votes and of exchanged votes."""

    def thinned(self, size: int) -> Sample:
        """Return `size` draws at even distances from the rows as they are ordered, or all rows if there are no more."""
        if len(self.counts) <= size:
            return self
        chosen, hits = even_draws(self.counts, size)
        return replace(self, signs=self.signs[chosen], margins=self.margins[chosen], counts=hits)


NOTHING = Sample(np.zeros((0, 0), np.int8), np.zeros((0, 0), np.float32), np.zeros(0))


class Collector:
    """Takes batches of votes and keeps what a label model learns from, in bounded memory."""

    def __init__(self) -> None:
        self._patterns: Patterns | None = None
        self._rows: Sample | None = None
        self._n = 0

    def add(self, votes: VoteMatrix) -> None:
        """Take in the rows of a batch."""
        if not len(votes):
            return
        if votes.has_margins:
            self._add_rows(_drawn(votes), len(votes))
            return
        found = find_patterns(votes)
        self._patterns = found if self._patterns is None else merged([self._patterns, found])
        if len(self._patterns.signs) > MAX_PATTERNS:
            self._patterns = _thinned(self._patterns, MAX_PATTERNS)

    def _add_rows(self, rows: Sample, n: int) -> None:
        """Join rows drawn from n to those drawn from all before, each in its share."""
        if self._rows is not None:
            old, new = self._n / len(self._rows.counts), n / len(rows.counts)
            both = _joined(self._rows, rows)
            weights = np.concatenate([np.full(len(self._rows.counts), old), np.full(len(rows.counts), new)])
            rows = replace(both, counts=weights).thinned(MAX_MARGIN_ROWS) if len(weights) > MAX_MARGIN_ROWS else both
            rows = replace(rows, counts=np.ones(len(rows.counts)))
        self._rows, self._n = rows, self._n + n

    def sample(self) -> Sample:
        """Return the rows kept, in an order and orientation of their own."""
        if self._patterns is None:
            return NOTHING if self._rows is None else _sorted(self._rows)
        if self._rows is None:
            return _unfolded(oriented(self._patterns)).thinned(MAX_ROWS)
        bare = _unfolded(self._patterns)
        kept = bare.thinned(MAX_ROWS)
        shares = kept.counts.sum() / bare.counts.sum(), self._rows.counts.sum() / self._n
        parts = zip((kept, self._rows), shares, strict=True)  # so that each stands for its share of all pairs
        first, second = (replace(part, counts=part.counts * (min(shares) / share)) for part, share in parts)
        return _sorted(_joined(first, second))


def _unfolded(patterns: Patterns) -> Sample:
    signs = np.stack([patterns.signs, -patterns.signs], axis=1).reshape(-1, patterns.signs.shape[1])
    counts = np.stack([patterns.forward, patterns.backward], axis=1).ravel()
    kept = counts > 0
    margins = np.broadcast_to(np.float32(np.nan), signs[kept].shape)
    return Sample(signs[kept], margins, counts[kept].astype(np.float64), patterns.exchanged)


def even_draws(counts: FloatArray, size: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return which rows `size` marks at even distances along their counts (k,) fall on, and how often."""
    upto = np.cumsum(counts)
    marks = (np.arange(size) + 0.5) * (upto[-1] / size)
    chosen, hits = np.unique(np.searchsorted(upto, marks), return_counts=True)
    return chosen, hits.astype(np.float64)


def _thinned(patterns: Patterns, size: int) -> Patterns:
    """Return at most `size` patterns with the rows each then stands for, forward and backward in proportion."""
    total = (patterns.forward + patterns.backward).astype(np.float64)
    chosen, hits = even_draws(total, size)
    rows = hits * (total.sum() / size) / total[chosen]
    forward, backward = (
        np.rint(rows * side[chosen]).astype(np.int64) for side in (patterns.forward, patterns.backward)
    )
    none = np.broadcast_to(np.int64(0), (2, len(chosen)))
    return Patterns(patterns.names, patterns.signs[chosen], forward, backward, none, none.astype(np.float64))


def _drawn(votes: VoteMatrix) -> Sample:
    """Return the rows of a matrix, or MAX_MARGIN_ROWS of them at even distances in the order of their hash."""
    order = name_order(votes.names)
    if len(votes) > MAX_MARGIN_ROWS:
        ranked = np.argsort(_row_hashes(votes, order), kind="stable")
        votes = votes.take(
            ranked[((np.arange(MAX_MARGIN_ROWS) + 0.5) * (len(votes) / MAX_MARGIN_ROWS)).astype(np.int64)]
        )
    return Sample(votes.signs[:, order], votes.margins[:, order], np.ones(len(votes)))


def _sorted(sample: Sample) -> Sample:
    """Return the rows in the order of what they say once turned, then of which way they stand.

    If the first voter with unequally many votes for A and for B has more for B, A and B are exchanged.
    """
    net = sample.counts @ sample.signs
    exchanged = bool(net.any() and net[np.flatnonzero(net)[0]] < 0)
    way = np.int8(-1 if exchanged else 1)
    signs, margins = way * sample.signs, way * sample.margins
    turn = first_sign(signs, margins)
    keys = [turn, *(np.nan_to_num(margins) * turn[:, None]).T, *(signs * turn[:, None]).T]
    order = np.lexsort(keys)
    return Sample(signs[order], margins[order], sample.counts[order], exchanged)


def first_sign(signs: npt.NDArray[np.int8], margins: npt.NDArray[np.float32]) -> FloatArray:
    """Return the first vote of each row, shape (n,), or where nobody votes its first margin; 0 = neither."""
    rows = np.arange(len(signs))
    vote = signs[rows, (signs != 0).argmax(axis=1)]
    leans = np.nan_to_num(margins)
    margin = np.sign(leans[rows, (leans != 0).argmax(axis=1)])
    first: FloatArray = np.where(vote != 0, vote, margin).astype(np.float64)
    return first


def _row_hashes(votes: VoteMatrix, order: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return a number (n,) that depends on what a row says, not on its place nor on the order of its responses."""
    total = np.zeros(len(votes), dtype=np.uint64)
    mirrored = np.zeros(len(votes), dtype=np.uint64)
    for j in order:
        vote = votes.votes[:, j]
        margin = votes.margins[:, j].astype(np.float32) + np.float32(0)  # no negative zero
        for sums, sign in ((total, 1), (mirrored, -1)):
            said = np.where(vote == Vote.ABSTAIN, 0, 1 + (vote == (Vote.A if sign > 0 else Vote.B)))
            bits = (sign * margin + np.float32(0)).view(np.uint32).astype(np.uint64)
            bits[np.isnan(margin)] = 0
            sums += said.astype(np.uint64) << np.uint64(32)
            sums += bits
            sums ^= sums >> np.uint64(29)
            sums *= np.uint64(0x9E3779B97F4A7C15)
    mixed = total + mirrored
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    # A row and its mirror stand in an order that is the same when all rows are mirrored.
    net = (votes.votes == Vote.A).sum(axis=0)[order] - (votes.votes == Vote.B).sum(axis=0)[order]
    backward = bool(net.any() and net[np.flatnonzero(net)[0]] < 0)
    later = (total > mirrored) != backward
    keys: npt.NDArray[np.uint64] = (mixed & ~np.uint64(1)) | later.astype(np.uint64)
    return keys


def _joined(first: Sample, second: Sample) -> Sample:
    return Sample(
        np.concatenate([first.signs, second.signs]),
        np.concatenate([first.margins, second.margins]),
        np.concatenate([first.counts, second.counts]),
    )
