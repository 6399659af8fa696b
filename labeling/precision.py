"""Precision matrix = sparse - low rank: who depends on whom directly, and what hidden factors explain."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from labeling.errors import WeakprefWarning

FloatArray = npt.NDArray[np.float64]

RHO = 0.3
"""Step size of ADMM; between 30 and 400 steps are enough on correlation matrices of votes."""
TOLERANCE = 1e-5
"""Largest change of an entry in the last step."""
MAX_ITERATIONS = 3000


def sparse_plus_low_rank(covariance: FloatArray, alpha: float, beta: float) -> tuple[FloatArray, FloatArray]:
    """Return S and L (m, m) such that S - L is the inverse of the covariance C (m, m), S sparse, L >= 0 of low rank.

    They minimise tr((S - L) C) - log det(S - L) + alpha |S off the diagonal|_1 + beta tr L (Chandrasekaran, Parrilo and
    Willsky 2012, eq. 1.2) by ADMM in two blocks: the three matrices S - L, S, L, and their projection onto each other
    (Ma, Xue and Zou 2013, section 3). Warns if that does not settle.
    """
    m = len(covariance)
    agreed = np.stack([np.eye(m), np.eye(m), np.zeros((m, m))])
    dual = np.zeros((3, m, m))
    for _ in range(MAX_ITERATIONS):
        r, s, low = agreed - dual
        parts = np.stack([_likely(r - covariance / RHO), _shrunk(s, alpha / RHO), _truncated(low, beta / RHO)])
        r, s, low = parts + dual
        gap = (r - s + low) / 3
        before, agreed = agreed, np.stack([r - gap, s + gap, low - gap])
        dual += parts - agreed
        move = max(np.abs(parts - agreed).max(), np.abs(agreed - before).max())
        if move < TOLERANCE:
            return parts[1], parts[2]
    warnings.warn(
        f"sparse_plus_low_rank did not settle in {MAX_ITERATIONS} steps: an entry of the precision matrix still moves "
        f"by {move:.1g} a step; leave out voters that repeat others",
        WeakprefWarning,
        stacklevel=2,
    )
    return parts[1], parts[2]


def _likely(a: FloatArray) -> FloatArray:
    """Return the matrix R that minimises RHO / 2 |R - A|^2 - log det R."""
    values, vectors = np.linalg.eigh(a)
    return _composed((values + np.sqrt(values**2 + 4 / RHO)) / 2, vectors)


def _shrunk(a: FloatArray, by: float) -> FloatArray:
    """Return the matrix with the entries off the diagonal moved towards 0."""
    moved: FloatArray = np.sign(a) * np.maximum(np.abs(a) - by, 0)
    np.fill_diagonal(moved, np.diag(a))
    return moved


def _truncated(a: FloatArray, by: float) -> FloatArray:
    """Return the matrix with the eigenvalues lowered, to 0 at least."""
    values, vectors = np.linalg.eigh(a)
    return _composed(np.maximum(values - by, 0), vectors)


def _composed(values: FloatArray, vectors: FloatArray) -> FloatArray:
    matrix: FloatArray = (vectors * values) @ vectors.T
    return matrix
