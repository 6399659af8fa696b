"""Logistic regression without intercept on antisymmetric evidence: swapping the responses mirrors the probability."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def sigmoid(logits: npt.ArrayLike) -> FloatArray:
    """Return 1 / (1 + exp(-z)), such that sigmoid(-z) is 1 - sigmoid(z) to the last bit.

    >>> z = np.linspace(-40, 40, 1001)
    >>> bool((sigmoid(-z) == 1 - sigmoid(z)).all())
    True
    """
    z = np.asarray(logits, dtype=np.float64)
    half = 1 / (1 + np.exp(-np.abs(z)))
    return np.where(z >= 0, half, 1 - half)


def fit_logistic(x: FloatArray, q: FloatArray, centre: FloatArray, penalty: FloatArray) -> FloatArray:
    """Return the weights w (k,) that minimise sum_i [q_i l(z_i) + (1 - q_i) l(-z_i)] + penalty / 2 * (w - centre)^2.

    z = x w, l(z) = -log sigmoid(z); x (n, k), q (n,) in [0, 1], centre and penalty (k,), penalty > 0. The objective is
    strictly convex; Newton's method with step halving.
    """
    w = centre.copy()
    loss = _loss(x, q, w, centre, penalty)
    for _ in range(100):
        p = sigmoid(x @ w)
        gradient = x.T @ (p - q) + penalty * (w - centre)
        step = np.linalg.solve(_curvature(x, w, penalty), gradient)
        scale = 1.0
        while (trial := _loss(x, q, w - scale * step, centre, penalty)) > loss and scale > 1e-6:
            scale /= 2
        w = w - scale * step
        if loss - trial < 1e-10 * max(1.0, abs(loss)):
            return w
        loss = trial
    return w


def log_evidence(x: FloatArray, q: FloatArray, w: FloatArray, centre: FloatArray, penalty: FloatArray) -> float:
    """Return the log marginal likelihood of what `fit_logistic` fitted, w, by Laplace's method, in nats.

    The penalty is a normal prior of mean `centre` and precision `penalty` (MacKay 1992, Neural Computation 4:720).
    """
    occam = (np.log(penalty).sum() - np.linalg.slogdet(_curvature(x, w, penalty))[1]) / 2
    return float(occam - _loss(x, q, w, centre, penalty))


def predictive_factor(x: FloatArray, w: FloatArray, penalty: FloatArray) -> float:
    """Return by what the logits x w shrink, in (0, 1], once it is allowed for that w is known only roughly.

    1 / sqrt(1 + pi / 8 v), v the mean over rows of the variance of x w under the normal posterior of w (MacKay 1992).
    """
    variance = np.einsum("ij,ji->i", x, np.linalg.solve(_curvature(x, w, penalty), x.T))
    return float(1 / np.sqrt(1 + np.pi / 8 * variance.mean()))


def _curvature(x: FloatArray, w: FloatArray, penalty: FloatArray) -> FloatArray:
    p = sigmoid(x @ w)
    curvature: FloatArray = (x.T * (p * (1 - p))) @ x + np.diag(penalty)
    return curvature


def _loss(x: FloatArray, q: FloatArray, w: FloatArray, centre: FloatArray, penalty: FloatArray) -> float:
    z = x @ w
    nll = q * np.logaddexp(0, -z) + (1 - q) * np.logaddexp(0, z)
    return float(nll.sum() + (penalty * (w - centre) ** 2).sum() / 2)


def bounded(logits: FloatArray, limit: float) -> FloatArray:
    """Return logits (n,) squeezed into (-limit, limit), next to unchanged up to half of it: an odd, monotone function.

    z / (1 + (z / limit)^8)^(1/8).
    """
    squared = (logits / limit) ** 2
    result: FloatArray = logits / (1 + (squared * squared) ** 2) ** 0.125
    return result
