"""Batches by a budget of tokens: rows of similar length together, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

TOKENS = 16384
"""Tokens of one forward pass, padding included."""


def batches(lengths: Sequence[int], budget: int = TOKENS) -> Iterator[list[int]]:
    """Yield rows in batches, shortest first, whose padded size is at most `budget`; a longer row is one by itself.

    >>> list(batches([5, 1, 2, 9], budget=8))
    [[1, 2], [0], [3]]
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[row] > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
