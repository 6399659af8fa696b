"""Reward models: trained from preference pairs with soft labels, scored, evaluated, handed to RLHF.

Names are imported when they are used, since torch and transformers take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rm.benchmarks import Benchmark, run_benchmark
    from rm.calibration import TemperatureFit, calibrate, posterior
    from rm.comparison import Comparison, compare
    from rm.config import RewardConfig
    from rm.ensemble import Ensemble, average
    from rm.evaluation import Evaluation, evaluate
    from rm.model import RewardModel, score
    from rm.scoring import Scored, score_to
    from rm.shares import Scoring
    from rm.trainer import train
    from rm.verification import Verification, verify
    from rm.voter import RewardVoter

__all__ = [
    "Benchmark",
    "Comparison",
    "Ensemble",
    "Evaluation",
    "RewardConfig",
    "RewardModel",
    "RewardVoter",
    "Scored",
    "Scoring",
    "TemperatureFit",
    "Verification",
    "average",
    "calibrate",
    "compare",
    "evaluate",
    "posterior",
    "run_benchmark",
    "score",
    "score_to",
    "train",
    "verify",
]

_HOMES = {
    "Benchmark": "rm.benchmarks",
    "Comparison": "rm.comparison",
    "Ensemble": "rm.ensemble",
    "Evaluation": "rm.evaluation",
    "RewardConfig": "rm.config",
    "RewardModel": "rm.model",
    "RewardVoter": "rm.voter",
    "Scored": "rm.scoring",
    "Scoring": "rm.shares",
    "TemperatureFit": "rm.calibration",
    "Verification": "rm.verification",
    "average": "rm.ensemble",
    "calibrate": "rm.calibration",
    "compare": "rm.comparison",
    "evaluate": "rm.evaluation",
    "posterior": "rm.calibration",
    "run_benchmark": "rm.benchmarks",
    "score": "rm.model",
    "score_to": "rm.scoring",
    "train": "rm.trainer",
    "verify": "rm.verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rm' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
