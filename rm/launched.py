"""`python -m rm.launched`: `python -m rm.train` that ends with the process that launched it."""

from __future__ import annotations

import sys

from rm.command import main
from rm.launch import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()
    sys.exit(main())
