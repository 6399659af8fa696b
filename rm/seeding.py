"""Seeds that leave the caller's random numbers alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and restore all global random states afterwards: transformers seeds and draws from them."""
    import torch

    states = random.getstate(), np.random.get_state()
    gpus = torch.cuda.device_count()
    mine = [int(os.environ.get("LOCAL_RANK", "0")) % gpus] if gpus else []  # left to itself it warns of the others
    with torch.random.fork_rng(mine):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
