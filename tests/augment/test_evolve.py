"""The loop on a tiny random model: what a run leaves, that it goes on where it was killed, controls, guards, stops."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from augment import EvolveOptions, evolve
from augment.cli import main
from augment.evolve import plan
from augment.evolve_run import claim
from augment.learning_status import Thresholds
from labeling import apply, gold_sample, heuristics, read_pairs, split_by_group
from labeling.errors import DataError, GoldError, GroupLeakError, VotesError, WeakprefWarning
from rm import RewardConfig

WORKER = Path(__file__).with_name("evolve_worker.py")


def frame(n=60):
    """Pairs whose longer response is preferred nine times in ten, two pairs a prompt."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        long, short = f"reply {i} " + "more words " * int(rng.integers(2, 5)), f"reply {i}."
        a_long, right = rng.random() < 0.5, rng.random() < 0.9
        sides = {"response_a": long if a_long else short, "response_b": short if a_long else long}
        rows.append({"prompt": f"question {i // 2}?", **sides, "gold": float(a_long == right)})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def pairs():
    """Pairs to evolve on, and pairs to test on."""
    return split_by_group(read_pairs(frame()), 0.2, seed=0)


@pytest.fixture
def options(tiny):
    config = RewardConfig(model=tiny, max_steps=2, batch_size=12, learning_rate=1e-3, max_length=64)
    easy = Thresholds(high=0.5, low=0.5, delta=0.0, enough=1)
    return EvolveOptions(config=config, gold=16, iterations=2, folds=2, members=2, thresholds=easy)


def ledger(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def exported(folder):
    return pq.read_table(next((folder / "data").glob("*.parquet"))).to_pandas()


@pytest.mark.slow
def test_a_run_leaves_its_config_labels_kept_pairs_models_and_one_row_an_iteration(pairs, options, tmp_path):
    known, test = pairs
    found = evolve(known, tmp_path / "run", replace(options, method="ser", controls=("oracle",)), test=test)
    rows = ledger(tmp_path / "run")
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert rows == found.rows
    assert found.model == tmp_path / "run" / "iteration-2" / "rm"
    assert (found.model / "model.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["method"] == "ser"
    for n in (1, 2):
        labels = pq.read_table(tmp_path / "run" / f"iteration-{n}" / "self_labels.parquet").to_pandas()
        assert labels["pair_id"].tolist() == known.pair_ids.tolist()
        kept = exported(tmp_path / "run" / f"iteration-{n}" / "kept")
        assert set(zip(kept["origin"], kept["iteration"], strict=True)) <= {("gold", 0), ("self", 1), ("self", n)}
        assert (kept["origin"] == "gold").sum() == rows[n]["seed"]
        assert (kept["origin"] == "self").sum() == rows[n]["kept"] > 0
        assert kept.loc[kept["origin"] == "self", "gold"].isna().all()
        assert rows[n]["controls"]["oracle"]["test_n"] == len(test)
        assert {"label_accuracy", "label_ece", "length_drift", "reward_length_correlation"} <= rows[n].keys()
    assert (rows[1]["consistency_rate"], rows[2]["consistency_rate"] is None) == (None, False)
    assert rows[0]["watched_n"] > 0
    config = json.loads((found.model / "manifest.json").read_text())["config"]
    assert (config["objective"], config["max_steps"]) == ("hinge", 2)


@pytest.mark.slow
def test_a_loop_announces_its_trainings_and_says_once_how_many_conversations_lose_their_beginning(
    pairs, options, tmp_path
):
    said = Console(file=StringIO(), width=200)
    short = replace(options, method="ser", config=replace(options.config, max_length=12), controls=("random",))
    with pytest.warns(WeakprefWarning, match=r"longer than 12 tokens and lost their beginning") as warned:
        found = evolve(pairs[0], tmp_path / "run", short, console=said)
    assert sum("lost their beginning" in str(warning.message) for warning in warned) == 1
    assert all(row["long_conversations"] > 0 for row in found.rows)
    lines = said.file.getvalue().splitlines()
    assert [line.split("]")[0] for line in lines] == [f"[{k}/5" for k in (1, 2, 3, 4, 5)]
    assert [line.split(": ")[0].split("] ")[1] for line in lines] == [f"iteration {n}" for n in (0, 1, 1, 2, 2)]
    assert [line.endswith("control random") for line in lines] == [False, False, True, False, True]


@pytest.mark.slow
def test_weak_supervision_crossfits_and_removes_the_models_of_the_parts(pairs, options, tmp_path):
    known, test = pairs
    found = evolve(
        known, tmp_path / "run", replace(options, seed_votes=True, controls=("equal-steps", "random")), test=test
    )
    first = exported(tmp_path / "run" / "iteration-1" / "kept")
    assert set(first["origin"]) == {"gold", "self"}
    assert not list((tmp_path / "run").rglob("folds"))
    for n in (1, 2):
        labels = pq.read_table(tmp_path / "run" / f"iteration-{n}" / "self_labels.parquet")
        assert labels["margin"].null_count == 0
        assert found.rows[n]["watched_n"] == found.rows[0]["seed"] == 16
    assert (found.rows[1]["facts"]["seed_rm_weight"] is None, found.rows[1]["facts"]["rm_weight"]) == (False, None)
    assert None not in (found.rows[2]["facts"]["seed_rm_weight"], found.rows[2]["facts"]["rm_weight"])
    assert found.rows[1]["controls"]["equal-steps"]["steps"] == 4  # two for the seed's model, two for the next
    assert found.rows[1]["controls"]["random"]["steps"] == 2
    assert found.rows[1]["held_out_log_loss"] == found.rows[1]["facts"]["calibration"]["log_loss"]


@pytest.mark.slow
def test_without_the_seeds_vote_the_first_labels_are_the_voters_alone(pairs, options, tmp_path):
    found = evolve(pairs[0], tmp_path / "run", options)
    first = exported(tmp_path / "run" / "iteration-1" / "kept")
    assert set(first["origin"]) == {"gold", "weak"}
    labels = [pq.read_table(tmp_path / "run" / f"iteration-{n}" / "self_labels.parquet") for n in (1, 2)]
    assert [table["margin"].null_count for table in labels] == [len(pairs[0]), 0]
    assert [row["facts"].get("seed_rm_weight") for row in found.rows[1:]] == [None, None]


@pytest.mark.slow
def test_a_part_without_gold_outside_of_it_is_not_labelled_by_the_seed(pairs, options, tmp_path):
    """All gold is of one group: no model can be trained without the part it lies in."""
    known = pairs[0]
    group = next(g for g in known.groups if known.gold[known.groups == g].tolist() in ([0.0, 1.0], [1.0, 0.0]))
    gold = np.where(known.groups == group, known.gold, np.nan)
    with pytest.warns(WeakprefWarning, match="all 2 are of one group"):
        evolve(known.with_gold(gold), tmp_path / "run", replace(options, gold=None, iterations=1, seed_votes=True))
    labels = pq.read_table(tmp_path / "run" / "iteration-1" / "self_labels.parquet").to_pandas()
    unlabelled = known.groups[labels["margin"].isna().to_numpy()]
    assert group in unlabelled
    assert 0 < len(unlabelled) < len(known)


@pytest.mark.slow
def test_the_model_that_labels_a_pair_was_not_trained_on_its_group(pairs, options, tmp_path, monkeypatch):
    from augment import evolve_round

    trained, scored = {}, {}

    def train(data, config, out, *_, **__):
        trained[out] = set(exported(data)["question"])
        return real_train(data, config, out)

    def rewards_of(model, some, *_):
        scored[model] = set(some.questions.to_pylist())
        return real_rewards(model, some)

    real_train, real_rewards = evolve_round.train, evolve_round.rewards_of
    monkeypatch.setattr(evolve_round, "train", train)
    monkeypatch.setattr(evolve_round, "rewards_of", rewards_of)
    evolve(pairs[0], tmp_path / "run", replace(options, seed_votes=True))
    parts = [model for model in scored if "folds" in model.parts]
    assert len(parts) == 4
    for n in (1, 2):
        those = [scored[model] for model in parts if f"iteration-{n}" in model.parts]
        assert set().union(*those) == set(pairs[0].questions.to_pylist())
    assert not any(scored[model] & trained[model] for model in parts)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ser", "ser+ws", "ensemble"])
def test_no_hidden_label_and_no_test_label_changes_what_a_run_labels_trains_and_names(method, pairs, options, tmp_path):
    known, test = pairs
    asked = replace(options, method=method, watch_share=0.0 if method == "ser+ws" else 0.3)
    visible = gold_sample(known, asked.gold, asked.seed)
    others = known.with_gold(np.where(visible, known.gold, 1 - known.gold)), test.with_gold(1 - test.gold)
    found = [evolve(each[0], tmp_path / str(n), asked, test=each[1]) for n, each in enumerate((pairs, others))]
    assert (found[0].best, found[0].stopped) == (found[1].best, found[1].stopped)
    runs = [tmp_path / str(n) for n in (0, 1)]
    kinds = [f"iteration-*/{name}" for name in ("self_labels.parquet", "rm/model.safetensors", "kept/data/*.parquet")]
    made = [{path.relative_to(run): path.read_bytes() for kind in kinds for path in run.glob(kind)} for run in runs]
    assert made[0] == made[1]
    assert Path("iteration-1/self_labels.parquet") in made[0]
    figures = [[row["test_accuracy"] for row in each.rows if row["steps"]] for each in found]
    assert figures[0] == pytest.approx([1 - accuracy for accuracy in figures[1]])


@pytest.fixture
def worker(tiny):
    """A process that begins a loop in a folder and names the process that runs it (`evolve_worker.py`)."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, str(WORKER), tiny],
        env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()


def begin(worker, case, out):
    worker.stdin.write(f"{case}|{out}\n")
    worker.stdin.flush()
    return int(worker.stdout.readline())


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def written(folder):
    # os.walk passes over a folder that the run renames meanwhile; rglob raises.
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ser+ws", "ser, paper", "ser, as_released", "ensemble", "ensemble, consistency"])
def test_a_run_killed_at_random_moments_ends_with_the_same_ledger_and_labels(worker, tmp_path, case):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begin(worker, case, whole)
    assert worker.stdout.readline() == "0\n"
    moments, statuses = random.Random(0), []
    for _ in range(4):
        before, process = written(killed), begin(worker, case, killed)
        enough, deadline = before + moments.randrange(1, 12), time.monotonic() + moments.uniform(0.0, 1.0)
        while alive(process) and (written(killed) < enough or time.monotonic() < deadline):
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        statuses.append(worker.stdout.readline())
    assert statuses.count(f"{signal.SIGKILL.value}\n") > 1  # one that was done before is done
    assert set(statuses) <= {f"{signal.SIGKILL.value}\n", "0\n"}
    begin(worker, case, killed)
    assert worker.stdout.readline() == "0\n"
    names = ["ledger.jsonl", "result.json", "config.json"]
    labels = sorted(path.relative_to(whole) for path in whole.rglob("self_labels.parquet"))
    assert len(labels) == len(ledger(whole)) - 1 > 0
    for name in (*names, *labels):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(killed.rglob(".*.part"))


def test_a_folder_of_another_run_is_left_alone(tmp_path):
    claim(tmp_path / "run", {"options": 1, "pairs": "x"}, resume=False)
    (tmp_path / "run" / "iteration-0" / "rm").mkdir(parents=True)
    with pytest.raises(DataError, match="holds this run already"):
        claim(tmp_path / "run", {"options": 1, "pairs": "x"}, resume=False)
    with pytest.raises(DataError, match="other pairs"):
        claim(tmp_path / "run", {"options": 1, "pairs": "y"}, resume=True)
    (tmp_path / "run" / "iteration-1").mkdir()
    (tmp_path / "run" / "iteration-1" / ".rm.7.part").mkdir()
    claim(tmp_path / "run", {"options": 1, "pairs": "x"}, resume=True)
    assert not list((tmp_path / "run").rglob("*.part"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(DataError, match="is no run of evolve"):
        claim(tmp_path / "mine", {}, resume=True)


def test_what_cannot_be_run_is_named_before_anything_is_written(pairs, options, tmp_path):
    known, test = pairs
    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"no pair is left to label; keep fewer .*\(--gold or --seed-share\)"):
        evolve(known, out, replace(options, gold=None))
    with pytest.raises(GoldError, match="no seed"):
        evolve(known.with_gold(None), out, replace(options, gold=None))
    few = known.with_gold(np.where(np.arange(len(known)) < 10, known.gold, np.nan))
    with pytest.raises(GoldError, match="oracle needs true labels"):
        evolve(few, out, replace(options, gold=None, controls=("oracle",)))
    with pytest.raises(GroupLeakError):
        evolve(known, out, options, test=known.take(np.arange(4)))
    with pytest.raises(VotesError, match="no votes on"):
        evolve(known, out, options, voters=(), votes=apply(heuristics(), test))
    with pytest.raises(DataError, match="method is 'srlm'"):
        replace(options, method="srlm")
    with pytest.raises(DataError, match="control 'none'"):
        replace(options, controls=("none",))
    assert not out.exists()


def test_a_dry_run_counts_pairs_and_trainings_and_writes_nothing(pairs, options):
    found = plan(pairs[0], replace(options, controls=("oracle",)), test=pairs[1])
    assert (found.seed, found.watched, found.pool) == (16, 0, len(pairs[0]) - 16)
    assert found.trainings == 1 + (1 + 1) + (1 + 1 + 2)
    assert found.steps == 2 * found.trainings
    watched = plan(pairs[0], replace(options, method="ser"), test=pairs[1])
    assert watched.watched > 0
    assert watched.seed + watched.watched == 16


def test_the_command_says_what_it_would_do(tmp_path, capsys):
    frame().to_json(tmp_path / "pairs.jsonl", orient="records", lines=True)
    run = ["evolve", str(tmp_path / "pairs.jsonl"), "-o", str(tmp_path / "run"), "--test-share", "0.2"]
    assert main([*run, "--seed-share", "0.3", "--max-steps", "5", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "14 pairs of the seed train" in said
    assert "at most 10 trainings, 50 optimizer steps together" in said
    assert not (tmp_path / "run").exists()
    assert main([*run, "--gold", "5", "--seed-share", "0.3"]) == 2
    assert "pass one of them" in capsys.readouterr().err
    assert main([*run, "--method", "magic"]) == 2
    assert "expected one of ser, ser+ws, ensemble" in capsys.readouterr().err
    assert main([*run, "--gold", "5", "--model", str(tmp_path / "none"), "--resume"]) == 2
    assert "there is no run in" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_an_ensemble_and_resumes(tmp_path, tiny, capsys):
    frame().to_json(tmp_path / "pairs.jsonl", orient="records", lines=True)
    run = ["evolve", str(tmp_path / "pairs.jsonl"), "-o", str(tmp_path / "run"), "--method", "ensemble", "--gold", "16"]
    run += ["--iterations", "1", "--members", "2", "--model", tiny, "--max-steps", "2", "--max-length", "48"]
    run += ["--test-share", "0.2"]
    assert main(run) == 0
    line = capsys.readouterr().out
    assert "iteration-0: the mean of 2 reward models (rm, rm-1) of iteration 0" in line
    assert "test pairs accuracy" in line
    assert (tmp_path / "run" / "iteration-1" / "rm-1" / "model.safetensors").is_file()
    assert main(run) == 2
    assert "pass resume" in capsys.readouterr().err
    assert main([*run, "--resume"]) == 0
    assert capsys.readouterr().out == line
