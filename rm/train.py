"""`python -m rm.train`, for accelerate and torchrun: the command of `weakpref train`, in this process.

`rm.train` is also the name of the function that trains. Importing this module puts it in the function's place in the
package, so it is called like it.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    """A module that is called like the function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from rm.trainer import train

        return train(*args, **kwargs)


if __name__ == "__main__":
    from rm.command import main

    sys.exit(main())
sys.modules[__name__].__class__ = _Callable
