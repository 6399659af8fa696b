"""kill -9 of real runs at random moments: what is finished is not asked again, and the files end as if it never was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.models import CHUNKS

CHUNK = CHUNKS["openai"]
N_CHUNKS = 30
"""Chunks that are judged."""
N_GENERATED = 12
"""Chunks that are generated."""
MAIN = "import sys; from augment.cli import main; sys.exit(main())"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n = N_CHUNKS * CHUNK // 2
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Name a colour, number {i // 3}."}],
            "response_a": f"Blue {i}.",
            "response_b": f"A red car {i}.",
            "gold": float(i % 2),
        }
        for i in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows), "pairs.parquet")
    pq.write_table(
        pa.table({"prompt": [f"Name a colour, number {i}." for i in range(N_GENERATED * CHUNK)]}), "prompts.parquet"
    )
    return tmp_path


def start(arguments):
    return subprocess.Popen([sys.executable, "-c", MAIN, *arguments], stdout=subprocess.DEVNULL)


def n_rows(cache):
    with contextlib.suppress(sqlite3.OperationalError), closing(sqlite3.connect(cache)) as file:
        return file.execute("SELECT count(*) FROM answers").fetchone()[0]
    return 0


def n_parts(folder):
    return len([path for path in Path(folder).glob("*.parquet") if not path.name.startswith(".")])


def kill_at_random(server, command, kept, n, seed):
    """Start and kill the command n times, at random numbers of requests; check that none loses more than a chunk."""
    moments, finished, lost = random.Random(seed), 0, []
    for _ in range(n):
        before, held = len(server.requests), kept()
        child = start(command)
        after = moments.randrange(2 * CHUNK)
        while len(server.requests) - before < after and child.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(0.1)  # what was under way reaches the server
        lost.append(len(server.requests) - before - (kept() - held))
        finished = kept()
    assert finished >= CHUNK  # kills came at several stages
    assert max(lost) <= CHUNK
    return sum(lost)


def same_files(one, other):
    return all(Path(f"{one}{end}").read_bytes() == Path(f"{other}{end}").read_bytes() for end in ("", ".manifest.json"))


@pytest.mark.slow
def test_a_judge_killed_twenty_times_ends_as_if_it_never_was(folder, server):
    judge = ["judge", "pairs.parquet", "--engine", "openai", "--model", "m", "--base-url", server.url]
    killed = [*judge, "-o", "votes.parquet", "--cache", "answers"]
    lost = kill_at_random(server, killed, lambda: n_rows("answers"), 20, seed=0)
    assert not Path("votes.parquet").exists()
    assert start(killed).wait() == 0
    n_prompts = N_CHUNKS * CHUNK
    assert len(server.requests) == n_prompts + lost
    assert n_rows("answers") == n_prompts
    assert start([*judge, "-o", "straight.parquet"]).wait() == 0
    assert same_files("votes.parquet", "straight.parquet")


@pytest.mark.slow
def test_generation_killed_eight_times_ends_as_if_it_never_was(folder, server):
    generate = [
        "generate",
        "prompts.parquet",
        "--engine",
        "openai",
        "--model",
        "m",
        "--base-url",
        server.url,
        "-n",
        "1",
    ]
    killed = [*generate, "-o", "candidates.parquet"]
    lost = kill_at_random(server, killed, lambda: CHUNK * n_parts("candidates.parquet.parts"), 8, seed=1)
    assert not Path("candidates.parquet").exists()
    assert start(killed).wait() == 0
    assert len(server.requests) == N_GENERATED * CHUNK + lost
    assert start([*generate, "-o", "straight.parquet"]).wait() == 0
    assert same_files("candidates.parquet", "straight.parquet")
    assert not Path("candidates.parquet.parts").exists()
