"""Reward models: trained from preference pairs with soft labels, scored, evaluated, handed to RLHF.

Names are imported when they are used, since torch and transformers take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rm.comparison import Comparison, compare
    from rm.config import RewardConfig
    from rm.evaluation import Evaluation, evaluate
    from rm.model import RewardModel, score
    from rm.trainer import train

__all__ = ["Comparison", "Evaluation", "RewardConfig", "RewardModel", "compare", "evaluate", "score", "train"]

_HOMES = {
    "Comparison": "rm.comparison",
    "Evaluation": "rm.evaluation",
    "RewardConfig": "rm.config",
    "RewardModel": "rm.model",
    "compare": "rm.comparison",
    "evaluate": "rm.evaluation",
    "score": "rm.model",
    "train": "rm.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rm' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
