"""Rewards of many pairs in a file: budgets of tokens, several processes, and runs killed at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import rm.shares
from labeling.errors import DataError, WeakprefWarning
from labeling.pairs import Pairs
from labeling.parts import part_folder, remove_parts
from rm.batches import batches
from rm.handoff import save
from rm.model import RewardModel, load_base, score
from rm.scoring import Scoring, distinct_conversations, model_hashes, score_to
from rm.temperature import KEY

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
AsPairs = Callable[..., Pairs]
SMALL = Scoring(tokens=256, chunk=4)
SCRIPT = """
import sys
import pyarrow.parquet as pq
from labeling.pairs import Pairs
from rm.scoring import Scoring, score_to

def main():
    model, pairs, out, processes = sys.argv[1:]
    score_to(model, Pairs(pq.read_table(pairs), {}), out, Scoring(tokens=256, chunk=4, processes=int(processes)))

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module", params=["bert", "qwen3"])
def folder(request: pytest.FixtureRequest, bases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved reward model with random weights: an encoder, a decoder."""
    return _saved(bases[request.param], tmp_path_factory.mktemp("rm"))


@pytest.fixture(scope="module")
def decoder(bases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(bases["qwen3"], tmp_path_factory.mktemp("rm"))


def _saved(base: str, out: Path) -> Path:
    save(RewardModel(*load_base(base, 128), 128), out)
    return out


@pytest.fixture
def files(tmp_path: Path, conversations: Rows, as_pairs: AsPairs) -> Path:
    """A folder with pairs.parquet (42 pairs of 40 prompts) and a script that scores them."""
    rows = conversations(40)
    rows += [(rows[0][0], "another answer", "and one more"), (rows[1][0], rows[1][1], "no, never")]
    pq.write_table(as_pairs(rows).table, tmp_path / "pairs.parquet")
    (tmp_path / "run.py").write_text(SCRIPT)
    return tmp_path


def pairs_of(files: Path) -> Pairs:
    return Pairs(pq.read_table(files / "pairs.parquet"), {})


def forked(files: Path, model: Path, out: Path, pause: float = 0, **env: str) -> multiprocessing.Process:
    """Score in a copy of this process that pauses after each chunk: time to be killed in."""

    def work() -> None:
        os.environ.update(env)
        whole = rm.shares.score_part

        def slowly(*args: Any) -> None:
            whole(*args)
            with (files / f"by-{os.environ.get('RANK', '0')}").open("a") as log:
                log.write(f"{args[2].name}\n")
            time.sleep(pause)

        rm.shares.score_part = slowly
        score_to(model, pairs_of(files), out, SMALL)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def started(files: Path, model: Path, out: str, processes: int) -> subprocess.Popen:
    """Score in a process of its own, one thread a process, so that sums are taken in one order, as here."""
    root = Path(__file__).resolve().parents[2]
    arguments = [str(model), "pairs.parquet", out, str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "run.py", *arguments], cwd=files, env=environment)


def test_a_file_of_rewards_holds_what_score_returns(folder: Path, files: Path) -> None:
    made = score_to(folder, pairs_of(files), files / "rewards.parquet", SMALL)
    table = pq.read_table(files / "rewards.parquet")
    assert table.column_names == ["pair_id", "r_a", "r_b"]
    assert table["pair_id"].to_pylist() == pairs_of(files).pair_ids.tolist()
    expected = score(folder, pairs_of(files))
    np.testing.assert_allclose(np.column_stack([table["r_a"], table["r_b"]]), expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3
    assert made is not None
    assert (made.n_responses, made.n_distinct, made.n_truncated) == (84, 83, 0)
    assert not part_folder(files / "rewards.parquet").exists()


def test_no_batch_is_larger_than_the_budget_of_tokens(decoder: Path, files: Path) -> None:
    model, sizes = RewardModel.load(decoder), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    table = pairs_of(files).table
    model.score(table["prompt"].to_pylist(), table["response_a"].to_pylist(), tokens=300)
    assert len(sizes) > 3
    assert max(sizes) <= 300


def test_a_system_prompt_in_all_conversations_does_not_put_them_all_into_one_row(
    decoder: Path, conversations: Rows
) -> None:
    model, sizes = RewardModel.load(decoder), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    system = [{"role": "system", "content": "user assistant: sorry"}]
    rows = conversations(20)
    model.score([[*system, *row[0]] for row in rows], [row[1] for row in rows], tokens=300)
    assert max(sizes) <= 300


def test_packed_and_padded_rows_give_the_same_rewards(folder: Path, files: Path) -> None:
    model, table = RewardModel.load(folder), pairs_of(files).table
    prompts, responses = table["prompt"].to_pylist(), table["response_b"].to_pylist()
    assert model.packed
    padded = replace(model, packed=False).score(prompts, responses, tokens=500)
    np.testing.assert_allclose(model.score(prompts, responses, tokens=500), padded, atol=1e-5)


def test_a_row_over_the_budget_is_a_batch_by_itself() -> None:
    assert list(batches([5, 1, 2, 9], 8)) == [[1, 2], [0], [3]]
    assert list(batches([], 8)) == []


def test_conversations_are_scored_once_and_stand_with_those_of_their_prompt() -> None:
    hello, bye = [{"role": "user", "content": "Hello"}], [{"role": "user", "content": "Bye"}]
    distinct, rows = distinct_conversations([hello, bye, hello, hello], ["a", "a", "b", "a"])
    assert [(c[0]["content"], c[-1]["content"]) for c in distinct] == [("Hello", "a"), ("Hello", "b"), ("Bye", "a")]
    assert rows.tolist() == [0, 2, 1, 0]


def test_what_is_done_is_not_done_again(decoder: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = files / "rewards.parquet"
    score_to(decoder, pairs_of(files), out, SMALL)
    whole = out.read_bytes()
    monkeypatch.setattr(RewardModel, "load", lambda *_, **__: pytest.fail("the model was loaded again"))
    score_to(decoder, pairs_of(files), out, SMALL)
    assert out.read_bytes() == whole


def test_parts_of_another_run_are_refused(decoder: Path, files: Path, conversations: Rows, as_pairs: AsPairs) -> None:
    out = files / "rewards.parquet"
    process = forked(files, decoder, out, pause=30)
    _wait_for_parts(out, 1, process)
    _kill(process)
    with pytest.raises(DataError, match=r"holds a run with other conversations; expected parts of this run"):
        score_to(decoder, as_pairs(conversations(3)), out, SMALL)
    with pytest.raises(DataError, match=r"holds a run with other bf16"):
        score_to(decoder, pairs_of(files), out, Scoring(tokens=256, chunk=4, bf16=True))


def test_a_model_that_is_not_there_or_broken_claims_nothing(decoder: Path, files: Path) -> None:
    out = files / "rewards.parquet"
    with pytest.raises(DataError, match="decodr does not exist"):
        score_to(files / "decodr", pairs_of(files), out, SMALL)
    assert not part_folder(out).exists()
    broken = RewardModel.load(decoder)
    broken.model.score.weight.data[:] = np.nan
    save(broken, files / "broken")
    with pytest.raises(DataError, match=r"broken: the reward of a response to '.*' is nan \(4 of 4 are like it\)"):
        score_to(files / "broken", pairs_of(files), out, SMALL)
    assert not list(part_folder(out).glob("*.parquet"))
    shutil.rmtree(part_folder(out))
    score_to(decoder, pairs_of(files), out, SMALL)
    assert np.isfinite(pq.read_table(out)["r_a"].to_numpy()).all()


def test_parts_lose_their_name_before_they_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a kill could leave parts without the name of the run they are of, which another run would take for its own."""

    def killed(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    parts = part_folder(tmp_path / "out")
    parts.mkdir()
    (parts / "000000.parquet").touch()
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_parts(parts)
    assert not parts.exists()
    parts.mkdir()  # the next run's
    remove_parts(parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_killed_at_random_moments_goes_on_to_the_same_bytes(decoder: Path, files: Path) -> None:
    score_to(decoder, pairs_of(files), files / "straight.parquet", SMALL)
    out, draw, seen = files / "rewards.parquet", random.Random(0), {}
    n_kills = 0
    while True:
        process = forked(files, decoder, out, pause=0.02)
        enough = len(seen) + draw.randrange(3)
        while process.is_alive() and len(list(part_folder(out).glob("[0-9]*.parquet"))) < enough:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        if not process.is_alive():
            assert process.exitcode == 0
            break
        _kill(process)
        n_kills += 1
        if out.exists():  # it was clearing its parts away
            break
        parts = {path.name: path.stat().st_mtime_ns for path in part_folder(out).glob("[0-9]*.parquet")}
        assert {name: parts[name] for name in seen} == seen  # finished chunks are left as they are
        seen = parts
    assert n_kills > 2
    assert len(seen) > 2
    score_to(decoder, pairs_of(files), out, SMALL)
    assert out.read_bytes() == (files / "straight.parquet").read_bytes()
    assert not part_folder(out).exists()


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(decoder: Path, files: Path) -> None:
    score_to(decoder, pairs_of(files), files / "one.parquet", SMALL)
    assert started(files, decoder, "two.parquet", processes=2).wait() == 0
    assert (files / "one.parquet").read_bytes() == (files / "two.parquet").read_bytes()


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(decoder: Path, files: Path) -> None:
    process = started(files, decoder, "rewards.parquet", processes=2)
    children: list[int] = []
    while len(children) < 3 and process.poll() is None:  # two that score, and one that tracks what they share
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(children) == 3
    until = time.monotonic() + 300  # on a busy machine they may still be importing
    while any(_runs(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(_runs(pid) for pid in children)


@pytest.mark.slow
def test_the_processes_that_torchrun_starts_share_the_work(decoder: Path, files: Path) -> None:
    score_to(decoder, pairs_of(files), files / "one.parquet", SMALL)
    out = files / "shared.parquet"
    ranks = [forked(files, decoder, out, RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE="2") for i in range(2)]
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    assert (files / "one.parquet").read_bytes() == (files / "shared.parquet").read_bytes()
    done = [(files / f"by-{i}").read_text().split() for i in range(2)]
    assert abs(len(done[0]) - len(done[1])) <= 1
    assert not set(done[0]) & set(done[1])


def test_torchrun_and_processes_do_not_mix(decoder: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="torchrun has started 2 processes; expected processes 1, found 3"):
        score_to(decoder, pairs_of(files), files / "rewards.parquet", Scoring(processes=3))


def test_truncated_conversations_are_counted(decoder: Path, files: Path, as_pairs: AsPairs) -> None:
    long = [([{"role": "user", "content": "What is the capital of France? " * 20}], "Paris", "Rome")]
    for _ in range(2):  # made, and found made
        with pytest.warns(WeakprefWarning, match="2 of 2 conversations are longer than the model takes"):
            made = score_to(decoder, as_pairs(long), files / "rewards.parquet")
        assert made is not None
        assert made.n_truncated == 2


def test_bfloat16_changes_a_reward_a_little(folder: Path, files: Path) -> None:
    exact, rough = (score(folder, pairs_of(files), bf16=bf16) for bf16 in (False, True))
    assert 0 < np.abs(exact - rough).max() < 0.1 * np.ptp(exact)
    assert len(set(rough.ravel())) > 0.95 * len(set(exact.ravel()))  # the head is not rounded


def test_no_pairs_give_an_empty_file(decoder: Path, files: Path) -> None:
    made = score_to(decoder, pairs_of(files).take(np.zeros(42, dtype=bool)), files / "rewards.parquet")
    assert made is not None
    assert made.n_responses == pq.read_table(files / "rewards.parquet").num_rows == 0


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"processes": 0}, {"chunk": 0}, {"engine": "magic"}])
def test_options_out_of_range_are_named(wrong: dict[str, object]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(DataError, match=f"{name} is '?{value}'?, expected"):
        Scoring(**wrong)  # type: ignore[arg-type]


def _wait_for_parts(out: Path, n: int, process: multiprocessing.Process) -> None:
    while len(list(part_folder(out).glob("[0-9]*.parquet"))) < n:
        assert process.is_alive()
        time.sleep(0.01)


def _kill(process: multiprocessing.Process) -> None:
    process.kill()
    process.join()


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_temperature_changes_nothing_that_rewards_are_known_by_and_any_other_entry_does(
    decoder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "rm"
    shutil.copytree(decoder, model)
    before = model_hashes(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {KEY: {"temperature": 2.0}}))
    assert model_hashes(model) == before
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    assert {name for name, value in model_hashes(model).items() if before[name] != value} == {"config.json"}


@pytest.mark.slow
def test_a_hub_id_is_known_by_its_commit_too(decoder: Path, tmp_path: Path) -> None:
    """A cache as the hub's client lays it out, so that nothing is downloaded."""
    cache = tmp_path / "hub" / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(decoder, cache / "snapshots" / commit)
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / "main").write_text(commit)
        code = "from rm.scoring import model_hashes; print(model_hashes('owner/name'), model_hashes('owner/none'))"
        env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        known = {"hub": "owner/name", "commit": commit}, {"hub": "owner/none", "commit": ""}
        assert done.stdout.strip() == " ".join(map(str, known))
