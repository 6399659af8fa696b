"""`python -m rm.train` in shards over CPUs that says how many of the rewards it trains on are numbers of bfloat16."""

from __future__ import annotations

import sys
from typing import Any

import torch
from accelerate.state import AcceleratorState

from rm import trainer
from rm.command import main
from rm.steps import pair_rewards


def counted(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, rejected = pair_rewards(*args)
    rewards = torch.cat([chosen, rejected]).detach()
    sys.stdout.write(f"rounded {int((rewards == rewards.bfloat16()).sum())} of {len(rewards)};\n")  # in one piece
    sys.stdout.flush()
    return chosen, rejected


if __name__ == "__main__":
    from fsdp_on_cpu import sharded

    trainer.pair_rewards = counted
    AcceleratorState.__init__ = sharded  # type: ignore[method-assign]
    sys.exit(main())
