"""Which voters may repeat one another: groups of voters that agree beyond what a common preference explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

FloatArray = npt.NDArray[np.float64]
MAX_LEVELS = 5
"""Ways to group voters that are tried."""
Blocks = tuple[tuple[int, ...], ...]


def agreement(signs: FloatArray, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean product of the signs (k, m) of two voters where both vote, (m, m), and on how many pairs they do.

    `counts` (k,) is how many pairs a row stands for.
    """
    weighted = signs * counts[:, None]
    voted = (signs != 0).astype(np.float64)
    both = (voted * counts[:, None]).T @ voted
    return np.divide(weighted.T @ signs, both, out=np.zeros_like(both), where=both > 0), both


def common_factor(agree: FloatArray, both: FloatArray, iterations: int = 200) -> FloatArray:
    """Return b (m,) such that b_j b_k fits the off-diagonal agreement (m, m) in the least absolute deviation.

    Solved by iteratively reweighted least squares. A few pairs of copies agree far beyond the rest, and least absolute
    deviations leave such pairs to the residual.
    """
    off = ~np.eye(len(agree), dtype=bool)
    trust = off * np.sqrt(both / max(both.max(), 1.0))
    b = np.full(len(agree), np.sqrt(max(float(np.median(agree[off])), 0.01)))
    for _ in range(iterations):
        w = trust / np.maximum(np.abs(agree - np.outer(b, b)), 0.02)
        fitted = (w * agree) @ b / np.maximum(w @ b**2, 1e-9)
        moved: FloatArray = np.clip((b + fitted) / 2, -0.95, 0.95)
        if np.abs(moved - b).max() < 1e-7:
            return moved
        b = moved
    return b


def independence(leanings: FloatArray, counts: FloatArray) -> FloatArray:
    """Return one over the number of voters each voter stands for, shape (m,), in (0, 1]: 1 = it repeats nobody.

    `leanings` (k, m) are votes, or graded ones in [-1, 1]. Agreement of either sign beyond the common factor, and
    beyond 2.5 standard errors, is repetition.
    """
    m = leanings.shape[1]
    if m < 3:
        return np.ones(m)
    agree, both = _correlation(leanings, counts)
    b = common_factor(agree, both)
    explained = np.outer(b, b)
    noise = 2.5 / np.sqrt(np.maximum(both, 1)) + 0.02
    excess = np.clip((np.abs(agree - explained) - noise) / (1 - np.abs(explained)), 0, 1)
    np.fill_diagonal(excess, 0)
    result: FloatArray = 1 / (1 + excess.sum(axis=1))
    return result


def _correlation(leanings: FloatArray, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the uncentred correlation of leanings (k, m) where both are there, (m, m), and on how many pairs."""
    agree, both = agreement(leanings, counts)
    size = np.sqrt(np.where(agree.diagonal() > 0, agree.diagonal(), 1.0))
    correlation: FloatArray = agree / np.outer(size, size)
    return correlation, both


def candidate_blocks(signs: FloatArray, counts: FloatArray, leaning: Sequence[int] = ()) -> list[Blocks]:
    """Return a few ways to group voters: the levels of an average-linkage tree after which the next is farthest.

    The distance of two voters is one less their agreement beyond the common factor, as a share of what is left to agree
    on; agreement within four standard errors of the factor is none. No group at all is not among the answers. Voters
    that lean to one position agree for that reason alone: the mean of the `leaning` ones is taken off first.
    """
    m = signs.shape[1]
    if leaning:
        voted = signs != 0
        mean = (signs * counts[:, None]).sum(axis=0) / np.maximum((voted * counts[:, None]).sum(axis=0), 1)
        signs = np.where(voted & np.isin(np.arange(m), leaning), signs - mean, signs)
    if m < 4:
        return []
    agree, both = _correlation(signs, counts)
    b = common_factor(agree, both)
    explained = np.outer(b, b)
    excess = np.clip((agree - explained) / (1 - np.abs(explained)), 0, 1)
    excess[(agree - explained) * np.sqrt(both) < 4] = 0
    np.fill_diagonal(excess, 1)
    tree = linkage(squareform(1 - (excess + excess.T) / 2, checks=False), "average")
    groups: dict[int, tuple[int, ...]] = {j: (j,) for j in range(m)}
    levels: list[Blocks] = []
    distances = [float(distance) for *_, distance, _ in tree]
    for step, (left, right) in enumerate(tree[:, :2]):
        if distances[step] > 0.98:
            break
        groups[m + step] = tuple(sorted(groups.pop(int(left)) + groups.pop(int(right))))
        levels.append(tuple(sorted(group for group in groups.values() if len(group) > 1)))
    gaps = np.diff([*distances, 1.0])[: len(levels)]
    return [levels[i] for i in sorted(np.argsort(-gaps, kind="stable")[:MAX_LEVELS])]
