"""Row-wise voters in processes."""

from __future__ import annotations

import importlib
import importlib.util
import operator
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from augment.commands import voters_of
from labeling.apply import apply
from labeling.errors import VoterError, WeakprefWarning
from labeling.pairs import Pair, Pairs
from labeling.voters import labeling_function, scoring_function
from labeling.votes import Vote, VoteMatrix
from labeling.workers import pack

MakePairs = Callable[..., Pairs]
MODULE = importlib.import_module("labeling.apply")  # labeling.apply itself is the function


@labeling_function
def prefers_questions(pair: Pair) -> Vote:
    a, b = "?" in pair.response_a, "?" in pair.response_b
    return Vote.ABSTAIN if a == b else (Vote.A if a else Vote.B)


@labeling_function(batch=True)
def longer(pairs: pd.DataFrame) -> Any:
    return np.where(pairs["response_a"].str.len() > pairs["response_b"].str.len(), 0, 1)


@scoring_function
def n_words(prompt: str, response: str) -> float | None:
    return None if "sorry" in response else len(response.split())


def assert_same(one: VoteMatrix, other: VoteMatrix) -> None:
    np.testing.assert_array_equal(one.votes, other.votes, strict=True)
    np.testing.assert_array_equal(one.margins, other.margins, strict=True)
    np.testing.assert_array_equal(one.pair_ids, other.pair_ids)
    assert (one.names, one.errors) == (other.names, other.errors)


@pytest.mark.slow
def test_closures_and_lambdas_vote_the_same_in_processes(make_pairs: MakePairs) -> None:
    secret = {"yes", "no"}
    lock_free = types.SimpleNamespace(bonus=3)

    def helper(text: str) -> int:
        return len(secret & set(text.split())) + lock_free.bonus

    @labeling_function
    def by_secret(pair: Pair) -> int:
        return -1 if helper(pair.response_a) == helper(pair.response_b) else 1

    lambdas = [
        labeling_function(lambda pair: 0 if pair.response_a < pair.response_b else 1, name="alphabet"),
        scoring_function(lambda prompt, response: helper(response) / 7, name="share"),
    ]
    pairs = make_pairs(101)
    panel = [by_secret, *lambdas, prefers_questions, longer, n_words]
    alone = apply(panel, pairs, workers=1)
    assert_same(apply(panel, pairs, workers=2), alone)
    assert_same(apply(panel, pairs, workers=3), alone)
    assert_same(apply(panel, pairs), alone)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_functions_of_a_file_that_cannot_be_imported_vote_in_processes(
    make_pairs: MakePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    code = """
        from labeling.voters import labeling_function
        LIMIT = 12
        def size(text): return len(text)
        @labeling_function
        def short(pair): return 0 if size(pair.response_a) < LIMIT else -1
    """
    path = tmp_path / "my_lfs.py"
    path.write_text("\n".join(line[8:] for line in code.splitlines()))
    spec = importlib.util.spec_from_file_location("my_lfs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if known:
        monkeypatch.setitem(sys.modules, "my_lfs", module)
    spec.loader.exec_module(module)
    pairs = make_pairs(40)
    assert_same(apply([module.short], pairs, workers=2), apply([module.short], pairs, workers=1))


def test_a_file_of_voters_takes_its_neighbours_along_into_processes(make_pairs: MakePairs, tmp_path: Path) -> None:
    (tmp_path / "limits_of_mine.py").write_text("LIMIT = 12\n")
    (tmp_path / "sizes_of_mine.py").write_text(
        "import limits_of_mine\ndef small(text): return len(text) < limits_of_mine.LIMIT\n"
    )
    (tmp_path / "my_lfs.py").write_text(
        "from labeling import labeling_function\nfrom sizes_of_mine import small\n"
        "@labeling_function\ndef short(pair): return 0 if small(pair.response_a) else -1\n"
    )
    voters, pairs = voters_of(tmp_path / "my_lfs.py"), make_pairs(40)
    assert_same(apply(voters, pairs, workers=2), apply(voters, pairs, workers=1))


def test_a_file_of_voters_finds_its_neighbours_when_its_functions_run(make_pairs: MakePairs, tmp_path: Path) -> None:
    (tmp_path / "lazy_of_mine.py").write_text("def small(limit, text): return len(text) < limit\n")
    (tmp_path / "held_of_mine.py").write_text("def large(limit, text): return len(text) > limit\n")
    (tmp_path / "my_lazy_lfs.py").write_text(
        "from functools import partial\nfrom labeling import labeling_function\nimport held_of_mine\n"
        "RULES = {'large': partial(held_of_mine.large, 20)}\ndel held_of_mine\n"
        "@labeling_function\ndef long(pair): return 0 if RULES['large'](pair.response_a) else -1\n"
        "@labeling_function\ndef short(pair):\n"
        "    import lazy_of_mine\n    return 0 if lazy_of_mine.small(12, pair.response_a) else -1\n"
    )
    pairs = make_pairs(40)
    apply([n_words], pairs, workers=2)  # the processes are there before the file is
    voters = voters_of(tmp_path / "my_lazy_lfs.py")
    alone = apply(voters, pairs, workers=1)
    assert ((alone.votes == 0).any(axis=0) & (alone.votes == -1).any(axis=0)).all()
    assert_same(apply(voters, pairs, workers=2), alone)


@pytest.mark.slow
def test_a_module_of_an_editable_install_is_imported_by_the_workers(tmp_path: Path) -> None:
    """Its lock could not be sent. What .pth files do for every process, sitecustomize does here."""
    (tmp_path / "source").mkdir()
    files = {
        "sitecustomize.py": "import __editable___edited_of_mine_finder",
        "__editable___edited_of_mine_finder.py": """
import sys, importlib.util, pathlib
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        file = pathlib.Path(__file__).parent / "source" / f"{name}.py"
        return importlib.util.spec_from_file_location(name, file) if file.exists() else None
sys.meta_path.append(Finder)
""",
        "source/edited_of_mine.py": """
import threading
LOCK = threading.Lock()
def size(prompt, text):
    with LOCK:
        return len(text)
""",
        "script.py": """
import pyarrow as pa, edited_of_mine
from labeling.apply import apply
from labeling.pairs import SCHEMA, Pairs
from labeling.voters import scoring_function
row = {"prompt": [], "response_b": "", "gold": None, "annotator_votes": None, "group": "", "source": ""}
rows = [{**row, "pair_id": str(i), "response_a": "x" * i} for i in range(8)]
pairs = Pairs(pa.Table.from_pylist(rows, schema=SCHEMA), {})
print(apply([scoring_function(edited_of_mine.size)], pairs, workers=2).votes.ravel().tolist())
""",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    places = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    here = {**os.environ, "PYTHONPATH": places}
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, env=here)
    assert done.stderr == ""
    assert done.stdout.strip() == "[-1, 0, 0, 0, 0, 0, 0, 0]"


def test_standard_modules_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "my_os_lfs.py").write_text(
        "import io, os\nfrom os.path import basename\nfrom labeling import labeling_function, scoring_function\n"
        "@labeling_function\ndef path(pair): return 0 if os.sep in basename(pair.response_a) else -1\n"
        "@scoring_function\ndef lines(prompt, response): return len(io.StringIO(response).readlines())\n"
    )
    assert len(pack(voters_of(tmp_path / "my_os_lfs.py"))) < 20_000
    assert pack([scoring_function(operator.eq)])


def test_a_module_that_only_this_process_can_find_is_sent(
    make_pairs: MakePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hooked_of_mine.py").write_text("def size(prompt, text): return len(text)\n")

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            file = tmp_path / f"{name}.py"
            return importlib.util.spec_from_file_location(name, file) if file.exists() else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    voter = scoring_function(importlib.import_module("hooked_of_mine").size)
    assert_same(apply([voter], make_pairs(20), workers=2), apply([voter], make_pairs(20), workers=1))


@pytest.mark.slow
def test_functions_of_a_script_vote_in_processes_without_a_main_guard(tmp_path: Path) -> None:
    script = """
        import pyarrow as pa
        from labeling.apply import apply
        from labeling.pairs import SCHEMA, Pairs
        from labeling.voters import labeling_function
        K = 3
        def helper(text): return len(text) > K
        @labeling_function
        def wide(pair): return 0 if helper(pair.response_a) else 1
        row = {"prompt": [], "response_b": "", "gold": None, "annotator_votes": None, "group": "", "source": ""}
        rows = [{**row, "pair_id": str(i), "response_a": "x" * i} for i in range(8)]
        print(apply([wide], Pairs(pa.Table.from_pylist(rows, schema=SCHEMA), {}), workers=2).votes.ravel().tolist())
    """
    path = tmp_path / "script.py"
    path.write_text("\n".join(line[8:] for line in script.splitlines()))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[1, 1, 1, 1, 0, 0, 0, 0]"
    assert done.stderr == ""


class AwkwardError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


@pytest.mark.slow
def test_an_exception_that_cannot_be_pickled_still_arrives_by_its_text(make_pairs: MakePairs) -> None:
    @labeling_function
    def awkward(pair: Pair) -> int:
        raise AwkwardError(3, "out of cheese")

    @labeling_function
    def locked(pair: Pair) -> int:
        error = ValueError("held")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(VoterError, match=r"row 0 .*: raised AwkwardError: 3: out of cheese") as caught:
        apply([awkward], make_pairs(10), workers=2)
    assert "out of cheese" in repr(caught.value.__cause__)
    with pytest.raises(VoterError, match=r"row 0 .*: raised ValueError: held") as caught:
        apply([locked], make_pairs(10), workers=2)
    assert "ValueError: held" in str(caught.value.__cause__)


@pytest.mark.slow
def test_a_function_that_cannot_be_sent_is_named_or_kept_here(
    make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()

    @labeling_function
    def locked(pair: Pair) -> int:
        with lock:
            return 0

    pairs = make_pairs(40)
    with pytest.raises(
        VoterError, match=r"voter 'locked' cannot be sent to worker processes \(cannot pickle.*workers=1"
    ):
        apply([prefers_questions, locked], pairs, workers=2)
    monkeypatch.setattr(MODULE, "WORTHWHILE_S", 0)
    monkeypatch.setattr(MODULE, "PROBE_S", 1e-9)
    monkeypatch.setattr(MODULE, "cpu_count", lambda: 2)
    with pytest.warns(WeakprefWarning, match="voter 'locked' cannot be sent.*Voting in this process") as warned:
        votes = apply([locked], pairs)
    assert warned[0].filename == __file__
    assert (votes.votes == 0).all()


@pytest.mark.slow
def test_long_work_is_spread_over_processes_by_itself(make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "WORTHWHILE_S", 0)
    monkeypatch.setattr(MODULE, "PROBE_S", 1e-9)
    monkeypatch.setattr(MODULE, "cpu_count", lambda: 2)
    here = os.getpid()
    elsewhere = labeling_function(lambda pair: int(os.getpid() != here), name="elsewhere")
    votes = apply([elsewhere, n_words], make_pairs(50)).votes[:, 0]
    assert votes[1:].tolist() == [1] * 49  # the first may have been the probe


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_with_a_way_out(make_pairs: MakePairs) -> None:
    dies = labeling_function(lambda pair: os._exit(3), name="dies")
    with pytest.raises(VoterError, match=r"a worker process died, perhaps for want of memory; pass workers=1"):
        apply([dies], make_pairs(10), workers=2)
    assert_same(apply([n_words], make_pairs(10), workers=2), apply([n_words], make_pairs(10)))


def running(group: int) -> list[str]:
    """Return the processes of a group that are alive, as /proc has them."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return [" ".join(field) for field in fields if field[2] == str(group) and field[0] != "Z"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see which processes are left")
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to this process", "to its workers too"])
def test_interrupting_stops_at_once_and_leaves_no_process(tmp_path: Path, send: Callable[[int, int], None]) -> None:
    script = """
        import time, pyarrow as pa
        from labeling.apply import apply
        from labeling.pairs import SCHEMA, Pairs
        from labeling.voters import labeling_function
        row = {"prompt": [], "response_b": "", "gold": None, "annotator_votes": None, "group": "", "source": ""}
        rows = [{**row, "pair_id": str(i), "response_a": "x" * i} for i in range(100)]
        def slow(pair):
            open(f"started{pair.pair_id}", "w").close()
            time.sleep(30)
            return 0
        apply([labeling_function(slow)], Pairs(pa.Table.from_pylist(rows, schema=SCHEMA), {}), workers=2)
    """
    path = tmp_path / "script.py"
    path.write_text("\n".join(line[8:] for line in script.splitlines()))
    child = subprocess.Popen([sys.executable, path], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("started*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    begin = time.monotonic()
    send(child.pid, signal.SIGINT)
    try:
        _, stderr = child.communicate(timeout=25)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise
    assert b"KeyboardInterrupt" in stderr
    assert time.monotonic() - begin < 20
    while running(child.pid) and time.monotonic() - begin < 20:
        time.sleep(0.1)
    assert running(child.pid) == []
