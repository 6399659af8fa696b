"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from labeling.errors import DataError

LOCK = ".weakpref.lock"
"""Held while a process works in the folder."""


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, and removed again then if nothing else came into it.

    Whoever is killed lets go of it. On a file system without locks nothing is held. Raises DataError where another
    process holds it, or nothing can be written there.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file; expected a folder, or none yet: choose another name")
    made = not path.exists()
    file = _held(path)
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)
        os.close(file)
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()


def _held(path: Path) -> int:
    """Return the lock of a folder, open and ours."""
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # whoever made the folder has just removed it
            continue
        except PermissionError as error:
            raise DataError(f"{path}: nothing can be written there ({error}); choose another folder") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise DataError(
                f"{path}: another process is at work there; wait until it has ended, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            return file
        if _is_at(path / LOCK, file):  # whoever held it before may have removed it meanwhile
            return file
        os.close(file)


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
