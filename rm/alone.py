"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from labeling.errors import DataError

LOCK = ".lock"
"""Held while a process works in the folder."""


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold a folder, made where it is missing; what was made is removed again if nothing else came into it.

    Whoever is killed lets go of it. Raises DataError where another process holds it.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file; expected a folder, or none yet: choose another name")
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{path}: another process is at work there; wait until it has ended, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            (path / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.rmdir()
