"""Memory that models leave behind."""

from __future__ import annotations

import gc


def free_memory() -> None:
    """Give back what a step held: models sit in cycles, and torch keeps GPU memory that other processes want."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
