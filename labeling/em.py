"""Expectation maximisation on patterns of votes: the loop, and the products that its steps are made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from labeling.errors import WeakprefWarning
from labeling.patterns import IntArray, Patterns

FloatArray = npt.NDArray[np.float64]
Reading = Callable[[FloatArray], FloatArray]

TOLERANCE = 1e-7
"""Largest change of a parameter in the last step."""
BLOCK = 1 << 14
"""Patterns multiplied at a time, so that no floating-point copy of all signs is needed."""


def settled(
    step: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    other_way: Callable[[FloatArray], FloatArray],
    leaning: Callable[[FloatArray], float],
    max_iterations: int,
    model: str,
) -> tuple[FloatArray, int]:
    """Return parameters that a step does not move, and the number of steps; warns, naming the model, if there are none.

    Agreement fits as well with the responses' roles exchanged: where `leaning` is below 0, the `other_way` is taken.
    """
    now, turned = start, False
    for steps in range(1, max_iterations + 1):
        before, now = now, step(now)
        if np.abs(now - before).max() < TOLERANCE:
            if turned or leaning(now) >= 0:
                return now, steps
            now, turned = other_way(now), True
    warnings.warn(
        f"{model} did not settle in {max_iterations} steps: a parameter still moves by "
        f"{np.abs(now - before).max():.1g} a step; pass a larger max_iterations, or add voters or gold",
        WeakprefWarning,
        stacklevel=3,
    )
    return (now if turned or leaning(now) >= 0 else other_way(now)), max_iterations


def unlabelled(patterns: Patterns) -> IntArray:
    """Return how many forward and backward rows have no gold, (2, k)."""
    rows: IntArray = np.stack([patterns.forward, patterns.backward]) - patterns.labelled
    return rows


def share_of_votes(patterns: Patterns) -> FloatArray:
    """Return votes for the first response minus votes against it, over the votes cast, (k,), in [-1, 1]."""
    ones = np.ones(len(patterns.names))
    return times(patterns, ones) / np.maximum(times(patterns, ones, np.abs), 1)


def times(patterns: Patterns, weights: FloatArray, reading: Reading = np.positive) -> FloatArray:
    """Return reading(signs) @ weights, (k,), for weights (m,)."""
    product = np.empty(len(patterns.signs))
    for rows, signs in _blocks(patterns):
        product[rows] = reading(signs) @ weights
    return product


def transposed(patterns: Patterns, rows: npt.ArrayLike, reading: Reading = np.positive) -> FloatArray:
    """Return reading(signs).T @ rows, (m,), for numbers of rows (k,)."""
    counts = np.asarray(rows, dtype=np.float64)
    product = np.zeros(len(patterns.names))
    for block, signs in _blocks(patterns):
        product += counts[block] @ reading(signs)
    return product


def _blocks(patterns: Patterns) -> Iterator[tuple[slice, FloatArray]]:
    for start in range(0, len(patterns.signs), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, patterns.signs[rows].astype(np.float64)
