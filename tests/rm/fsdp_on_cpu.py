"""`python -m rm.train` with accelerate's FSDP2 over CPU processes: accelerate itself shards over accelerators only.

What is changed is accelerate's answer to which kind of run this is; sharding, gathering and saving are the real ones.
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from rm.command import main

original = AcceleratorState.__init__


def sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        if self.mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self.mixed_precision)


if __name__ == "__main__":  # looking for doctests imports this file
    AcceleratorState.__init__ = sharded  # type: ignore[method-assign]
    sys.exit(main())
