"""The temperature of a reward model: by what margins are divided before they are log-odds. Raw rewards stay raw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig

FloatArray = npt.NDArray[np.float64]

KEY = "weakpref"
"""Entry of config.json that holds what `rm.calibrate` found; other libraries pass over it."""


def settings_of(model: str | Path) -> dict[str, Any]:
    """Return what `rm.calibrate` wrote into the config of a reward model (directory or hub id); {} where it did not."""
    config: dict[str, Any] = PretrainedConfig.get_config_dict(model)[0]
    return dict(config.get(KEY) or {})


def temperature_of(model: str | Path) -> float:
    """Return the temperature in the config of a reward model, above 0; 1 where it was not calibrated."""
    return float(settings_of(model).get("temperature", 1.0))


def probability(rewards: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Return P(A preferred), shape (n,), of rewards (n, 2) of response A and B: sigmoid((r_a - r_b) / temperature).

    >>> probability(np.array([[2.0, 2.0], [np.log(3), 0.0]])).round(2).tolist()
    [0.5, 0.75]
    """
    return sigmoid((rewards[:, 0] - rewards[:, 1]) / temperature)


def sigmoid(h: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-h)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -h))
