"""The cache of answers, over an engine that answers by a rule and counts what it is asked."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from labeling.errors import DataError, WeakprefWarning
from labeling.llm import Completion, Conversation, FloatArray, Sampling, sample_seed
from labeling.llm_cache import CachedEngine

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(20)]
WARM = Sampling(n=3, temperature=1.0)


@dataclasses.dataclass
class RuleEngine:
    """Answers from a hash of the question; `asked` counts the answers given."""

    model: str = "rule@1"
    context: int | None = None
    asked: int = 0

    @property
    def source(self) -> str:
        return self.model

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        self.asked += len(prompts) * sampling.n
        return [
            [self._one(prompt, sampling, number) for number in range(sampling.first, sampling.first + sampling.n)]
            for prompt in prompts
        ]

    def _one(self, prompt: Conversation, sampling: Sampling, number: int) -> Completion:
        seed = sample_seed(prompt, sampling, number)
        return Completion(f"{seed} 🙂", seed % 7, float("nan") if seed % 2 else seed / 3, "stop")

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        self.asked += len(prompts)
        digests = [hashlib.sha256(str((prompt, choices)).encode()).digest() for prompt in prompts]
        return -np.array([[digest[i] / 7 for i in range(len(choices))] for digest in digests])

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        return [len(prompt[0]["content"]) for prompt in prompts]


def same(ours: list[list[Completion]], theirs: list[list[Completion]]) -> bool:
    """Equal, NaN for NaN."""
    return repr(ours) == repr(theirs)


def test_answers_are_those_of_the_engine_and_the_second_time_it_is_not_asked(tmp_path: Path) -> None:
    rule = RuleEngine()
    cached = CachedEngine(rule, tmp_path / "answers", chunk=3)
    for _ in range(2):
        assert same(cached.generate(PROMPTS, WARM), RuleEngine().generate(PROMPTS, WARM))
        np.testing.assert_array_equal(cached.choose(PROMPTS, ["A", "B"]), RuleEngine().choose(PROMPTS, ["A", "B"]))
    assert rule.asked == 80
    assert (cached.hits, cached.misses) == (80, 80)
    repeated = CachedEngine(RuleEngine(), tmp_path / "other")
    repeated.choose([PROMPTS[0]] * 4, ["A", "B"])
    assert (repeated.hits, repeated.misses) == (0, 1)  # what is asked once for four is no answer of the file
    again = CachedEngine(RuleEngine(), tmp_path / "answers")
    assert same(again.generate(PROMPTS, WARM), RuleEngine().generate(PROMPTS, WARM))
    assert (again.hits, again.misses) == (60, 0)
    assert cached.model == "rule@1"
    assert cached.count_tokens(PROMPTS[:2]) == [11, 11]


def test_only_new_prompts_and_further_samples_are_asked(tmp_path: Path) -> None:
    rule = RuleEngine()
    cached = CachedEngine(rule, tmp_path / "answers")
    cached.generate(PROMPTS[5:10], WARM)
    more = dataclasses.replace(WARM, n=4)
    assert same(cached.generate(PROMPTS, more), RuleEngine().generate(PROMPTS, more))
    assert rule.asked == 15 + 15 * 4 + 5
    cached.generate(PROMPTS, dataclasses.replace(WARM, n=2, first=2))
    assert rule.asked == 80


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_tokens": 9}, {"stop": ("x",)}]
)
def test_other_parameters_are_other_questions(tmp_path: Path, change: dict[str, object]) -> None:
    rule = RuleEngine()
    cached = CachedEngine(rule, tmp_path / "answers")
    cached.generate(PROMPTS, WARM)
    cached.generate(PROMPTS, dataclasses.replace(WARM, **change))  # type: ignore[arg-type]
    assert rule.asked == 120


def test_another_model_other_choices_and_another_role_are_other_questions(tmp_path: Path) -> None:
    rule, path = RuleEngine(), tmp_path / "answers"
    cached = CachedEngine(rule, path)
    cached.choose(PROMPTS, ["A", "B"])
    cached.choose(PROMPTS, ["B", "A"])
    assert rule.asked == 40
    cached.choose(
        [[{"role": "system", "content": turn["content"]} for turn in prompt] for prompt in PROMPTS], ["A", "B"]
    )
    assert rule.asked == 60
    other = RuleEngine(model="rule@2")
    CachedEngine(other, path).choose(PROMPTS, ["A", "B"])
    assert other.asked == 20


def test_a_prompt_that_stands_there_twice_is_asked_once(tmp_path: Path) -> None:
    rule = RuleEngine()
    found = CachedEngine(rule, tmp_path / "answers", chunk=3).choose(PROMPTS[:2] * 4, ["A", "B"])
    np.testing.assert_array_equal(found, RuleEngine().choose(PROMPTS[:2] * 4, ["A", "B"]))
    assert rule.asked == 2


def test_nothing_asked_gives_nothing(tmp_path: Path) -> None:
    cached = CachedEngine(RuleEngine(), tmp_path / "answers")
    assert cached.generate([], WARM) == []
    assert cached.choose([], ["A", "B"]).shape == (0, 2)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[-9, -9]"])
def test_a_damaged_row_is_named_and_asked_again(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "answers"
    CachedEngine(RuleEngine(), path).choose(PROMPTS, ["A", "B"])
    with sqlite3.connect(path) as file:
        file.execute("UPDATE answers SET value = CAST(? AS TEXT) WHERE rowid = 4", (damage,))
        key = file.execute("SELECT key FROM answers WHERE rowid = 4").fetchone()[0]
    file.close()
    rule = RuleEngine()
    with pytest.warns(WeakprefWarning, match=rf"answers: answer {key[:12]} is damaged"):
        found = CachedEngine(rule, path).choose(PROMPTS, ["A", "B"])
    np.testing.assert_array_equal(found, RuleEngine().choose(PROMPTS, ["A", "B"]))
    assert rule.asked == 1
    CachedEngine(rule, path).choose(PROMPTS, ["A", "B"])
    assert rule.asked == 1


@pytest.mark.parametrize("content", [b"no database" * 1000, b"PAR1"])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pairs.parquet"
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(DataError, match=r"pairs\.parquet is no cache .*nothing was touched: name another"):
            CachedEngine(RuleEngine(), path, read_only=read_only)
    assert path.read_bytes() == content
    with pytest.raises(DataError, match="is a folder, expected a file for the cache"):
        CachedEngine(RuleEngine(), tmp_path)
    assert [other.name for other in tmp_path.iterdir()] == ["pairs.parquet"]


def test_what_is_no_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"engine is 'gpt-x', expected an engine: TransformersEngine\(model\), "):
        CachedEngine("gpt-x", tmp_path / "answers")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_of_a_file_cut_short_the_readable_rows_are_kept(tmp_path: Path) -> None:
    path, many = tmp_path / "answers", [[{"role": "user", "content": f"{i}"}] for i in range(500)]
    CachedEngine(RuleEngine(), path).choose(many, ["A", "B"])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 4096 * 3 // 4 * 4096])
    rule = RuleEngine()
    with pytest.warns(WeakprefWarning, match=r"\d+ answers could be read"):
        cached = CachedEngine(rule, path)
    found = cached.choose(many, ["A", "B"])
    np.testing.assert_array_equal(found, RuleEngine().choose(many, ["A", "B"]))
    assert 0 < rule.asked < 500


def test_a_folder_that_is_not_there_and_a_foreign_database_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        CachedEngine(RuleEngine(), tmp_path / "none" / "answers")
    with pytest.raises(DataError, match="expected at least 1"):
        CachedEngine(RuleEngine(), tmp_path / "answers", chunk=0)
    with sqlite3.connect(tmp_path / "other") as file:
        file.execute("CREATE TABLE answers (question TEXT)")
    file.close()
    with pytest.raises(DataError, match=r"other: cannot serve as a cache of answers \(no such column"):
        CachedEngine(RuleEngine(), tmp_path / "other")


CHILD = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("rules", sys.argv[1])
rules = importlib.util.module_from_spec(spec); sys.modules["rules"] = rules; spec.loader.exec_module(rules)
class Slow(rules.RuleEngine):
    def choose(self, prompts, choices):
        time.sleep(0.005 * len(prompts))
        with open(sys.argv[3], "a") as log:
            log.write("".join(prompt[0]["content"] + "\\n" for prompt in prompts))
        return super().choose(prompts, choices)
prompts = [[{"role": "user", "content": f"Q{i}"}] for i in range(400)]
found = rules.CachedEngine(Slow(), sys.argv[2], chunk=8).choose(prompts, ["A", "B"])
pathlib.Path(sys.argv[4]).write_bytes(found.tobytes())
"""


def start(tmp_path: Path, cache: str, log: str, out: str) -> subprocess.Popen[bytes]:
    paths = [str(tmp_path / name) for name in (cache, log, out)]
    return subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD, __file__, *paths])


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_it_never_was(tmp_path: Path) -> None:
    pause, kills, log = random.Random(0), 0, tmp_path / "log"
    while kills < 4:
        child, before = start(tmp_path, "answers", "log", "out"), n_lines(log)
        while n_lines(log) < before + 30 and child.poll() is None:
            time.sleep(0.005)
        time.sleep(pause.uniform(0, 0.05))
        if child.poll() is not None:
            break
        child.kill()
        child.wait()
        kills += 1
    assert start(tmp_path, "answers", "log", "out").wait() == 0
    assert start(tmp_path, "straight", "straight_log", "straight_out").wait() == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "straight_out").read_bytes()
    asked = log.read_text().splitlines()
    assert len(set(asked)) == 400
    assert len(asked) <= 400 + 8 * kills
    assert kills >= 1


@pytest.mark.slow
def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    children = [start(tmp_path, "answers", f"log{i}", f"out{i}") for i in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert len({(tmp_path / f"out{i}").read_bytes() for i in range(4)}) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CachedEngine(RuleEngine(), tmp_path / "answers").choose(PROMPTS, ["A", "B"]).shape == (20, 2)
