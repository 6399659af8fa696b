"""One process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labeling.errors import DataError
from rm.alone import LOCK, alone

HOLD = """
import sys, time
from rm.alone import alone
with alone(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(DataError, match=r"run: another process is at work there; wait until it has ended"),
            alone(folder),
        ):
            pass
        other.send_signal(signal.SIGKILL)
    with alone(folder):
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_what_is_held_leaves_nothing_behind_and_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "a" / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "a" / "run").exists()
    (tmp_path / "mine").mkdir()
    with alone(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file"), alone(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_training_and_a_loop_under_way_are_not_begun_a_second_time(tmp_path: Path) -> None:
    import pandas as pd

    from augment.evolve import evolve
    from augment.evolve_options import EvolveOptions
    from labeling import read_pairs
    from rm import RewardConfig, train

    config = RewardConfig("minilm")
    with alone(tmp_path / "rm.checkpoints"), pytest.raises(DataError, match="another process is at work there"):
        train(tmp_path / "nothing", config, out=tmp_path / "rm")
    rows = [{"prompt": f"q{i}", "response_a": "yes", "response_b": "no", "gold": float(i % 2)} for i in range(40)]
    with alone(tmp_path / "run"), pytest.raises(DataError, match="another process is at work there"):
        evolve(read_pairs(pd.DataFrame(rows)), tmp_path / "run", EvolveOptions(config, method="ser+ws", gold=20))


def test_a_lock_that_was_removed_by_its_holder_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened before its holder ended, locked after: the folder has another by then, or none."""
    flock, once = fcntl.flock, iter([True])

    def removed_meanwhile(file: int, how: int) -> None:
        if next(once, False):
            (tmp_path / "run" / LOCK).unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with alone(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()
        with pytest.raises(DataError, match="another process is at work there"), alone(tmp_path / "run"):
            pass


def test_without_locks_and_without_leave_to_write_it_says_so_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(error: OSError) -> Any:
        def refused(*_: Any) -> None:
            raise error

        return refused

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse(OSError(errno.ENOLCK, "no locks")))
        with alone(tmp_path / "run"):
            pass
    monkeypatch.setattr(os, "open", refuse(PermissionError(errno.EACCES, "not yours")))
    with pytest.raises(DataError, match=r"nothing can be written there .*not yours"), alone(tmp_path / "run"):
        pass
