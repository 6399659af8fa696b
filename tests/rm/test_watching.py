from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from labeling.errors import DataError, GroupLeakError, WeakprefError
from labeling.pairs import prompt_id
from rm.arguments import TENSORBOARD, tensorboard_folder
from rm.config import RewardConfig
from rm.data import conversations as turns_of
from rm.data import read_rows
from rm.held_out import check_apart, figures, split
from rm.model import RewardModel
from rm.provenance import STOPPING_PROMPTS, hashes
from rm.steps import PaddedRows, Part
from rm.trainer import PairTrainer, train
from rm.watching import Window, said

Row = tuple[list[dict[str, str]], str, str]
Rows = Callable[[int], list[Row]]
Write = Callable[..., Path]
StoppedEarly = tuple[Path, RewardConfig, Path, Path]


def config(model: str, **options: Any) -> RewardConfig:
    fast = {"learning_rate": 1e-3, "batch_size": 4, "max_length": 128, "bf16": False}
    return RewardConfig(model, **(fast | options))


def log_of(out: Path) -> list[dict[str, float]]:
    return json.loads((out / "train_log.json").read_text())


def prompts(file: Path) -> set[str]:
    return {prompt_id(turns[:-1]) for chunk in read_rows(file) for turns in turns_of(chunk["chosen"])}


def test_a_prompt_is_held_out_whole_and_in_every_source(universal: Write, conversations: Rows, tmp_path: Path) -> None:
    rows = conversations(40)
    first = universal(rows[:30] + rows[:30], "first.parquet")
    second = universal(rows[20:], "second.parquet")
    kept, held_out = split([first, second], 0.3, 0, tmp_path / "split")
    trained = prompts(kept[0]) | prompts(kept[1])
    assert not trained & prompts(held_out)
    assert trained | prompts(held_out) == prompts(first) | prompts(second)
    assert sum(len(chunk) for file in (*kept, held_out) for chunk in read_rows(file)) == 80
    assert 4 <= len(prompts(held_out)) <= 20
    assert prompts(split([first, second], 0.3, 1, tmp_path / "other")[1]) != prompts(held_out)


def test_sources_whose_turns_have_their_fields_in_another_order_are_split_alike(
    universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    sources = [universal(conversations(20)[:10], "first.parquet"), universal(conversations(20)[10:], "second.parquet")]
    table = pq.read_table(sources[1])
    turned = {name: [[{"content": t["content"], "role": t["role"]} for t in turns] for turns in table[name].to_pylist()]
              for name in ("chosen", "rejected")}  # fmt: skip
    pq.write_table(pa.table(turned), tmp_path / "turned.parquet")
    kept, held_out = split([sources[0], tmp_path / "turned.parquet"], 0.3, 0, tmp_path / "split")
    straight, same = split(sources, 0.3, 0, tmp_path / "straight")
    assert prompts(held_out) == prompts(same)
    assert [prompts(file) for file in kept] == [prompts(file) for file in straight]


def test_a_share_that_holds_nothing_out_is_an_error(universal: Write, conversations: Rows, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"eval_share is 1e-09, which holds 0 of 4 pairs out"):
        split([universal(conversations(4))], 1e-9, 0, tmp_path / "split")


def test_a_held_out_prompt_that_is_trained_on_is_an_error() -> None:
    check_apart(["a", "b"], ["c"])
    with pytest.raises(GroupLeakError, match="1 of 2 held-out prompts are trained on too, the first has the hash b"):
        check_apart(["a", "b"], ["b", "c"])


def test_the_figures_of_held_out_pairs_are_those_of_the_posterior() -> None:
    chosen, rejected, q = np.array([1.0, 0.0, 2.0]), np.zeros(3), np.array([1.0, 0.5, 0.0])
    found = figures(chosen, rejected, q)
    p = 1 / (1 + np.exp(-chosen))
    assert found["log_loss"] == pytest.approx(-(q * np.log(p) + (1 - q) * np.log(1 - p)).mean())
    assert found["accuracy"] == 0.5
    assert (found["reward_mean"], found["reward_std"]) == (
        pytest.approx(0.5),
        pytest.approx(np.std([1, 0, 2, 0, 0, 0])),
    )


def test_the_bar_says_loss_speed_and_held_out_log_loss() -> None:
    assert said({"eval_log_loss": 0.5}) == "eval log loss 0.500"


@pytest.mark.slow
def test_the_log_has_what_is_seen_of_training_and_of_held_out_pairs(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data = universal(conversations(30))
    options = config(tiny, epochs=2, eval_share=0.3, logging_steps=2)
    out = train(data, options, out=tmp_path / "rm")
    lines = log_of(out)
    trained, measured = ([line for line in lines if name in line] for name in ("loss", "eval_log_loss"))
    assert {"accuracy", "grad_norm", "learning_rate", "loss", "reward_mean", "reward_std", "step", "epoch"} == set(
        trained[0]
    )
    assert {
        "eval_accuracy",
        "eval_ece",
        "eval_log_loss",
        "eval_reward_mean",
        "eval_reward_std",
        "step",
        "epoch",
    } == set(measured[0])
    assert [line["epoch"] for line in measured] == [1.0, 2.0]
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert counts["pairs"] + counts["held_out"] == 30
    assert (
        len((out / "train_prompts.txt").read_text().split()) == counts["pairs"]
    )  # what is held out can be evaluated on
    assert not (out / STOPPING_PROMPTS).exists()  # nothing was decided by it


def contradicted(universal: Write, conversations: Rows) -> tuple[list[Row], Path, Path]:
    """Rows, pairs to train on (16) and held-out pairs (8) whose labels are the other way round."""
    rows = conversations(24)
    held_out = universal([(p, bad, good) for p, good, bad in rows[16:]], "held_out.parquet")
    return rows, universal(rows[:16], "train.parquet"), held_out


@pytest.fixture
def stopped_early(tiny: str, universal: Write, conversations: Rows, tmp_path: Path) -> StoppedEarly:
    """Pairs to train on, a config, held-out pairs, and what an unbroken run makes of them: it stops early."""
    _, data, held_out = contradicted(universal, conversations)
    options = config(tiny, epochs=20, eval_steps=1, patience=3, warmup_share=0.0)
    return data, options, held_out, train(data, options, out=tmp_path / "straight", held_out=held_out)


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best_weights(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    """The longer the training, the worse."""
    rows, data, held_out = contradicted(universal, conversations)
    options = config(tiny, epochs=20, eval_steps=1, patience=2, warmup_share=0.0)
    out = train(data, options, out=tmp_path / "rm", held_out=held_out)
    losses = [line["eval_log_loss"] for line in log_of(out) if "eval_log_loss" in line]
    assert len(losses) == int(np.argmin(losses)) + 3 < 80
    better, worse = ([row[k] for row in rows[16:]] for k in (2, 1))
    model, asked = RewardModel.load(out), [row[0] for row in rows[16:]]
    h = model.score(asked, better) - model.score(asked, worse)
    assert np.log1p(np.exp(-h)).mean() == pytest.approx(min(losses), abs=1e-4)
    assert hashes(out / STOPPING_PROMPTS) == prompts(held_out)


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_waited_for_a_better_log_loss_stops_where_an_unbroken_one_does(
    stopped_early: StoppedEarly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options, held_out, straight = stopped_early
    losses = [line["eval_log_loss"] for line in log_of(straight) if "eval_log_loss" in line]
    original, done = PairTrainer.training_step, list[int]()

    def interrupted(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) == len(losses):  # two measurements without a better one are behind it
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(data, options, out=tmp_path / "rm", held_out=held_out)
    monkeypatch.undo()
    half = tmp_path / "rm.checkpoints" / "checkpoint-99"  # as a kill leaves it: the state is written last
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    out = train(data, options, out=tmp_path / "rm", held_out=held_out, resume=True)
    assert [line["eval_log_loss"] for line in log_of(out) if "eval_log_loss" in line] == losses
    assert (out / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_that_was_killed_after_it_stopped_early_is_handed_off_as_it_stopped(
    stopped_early: StoppedEarly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options, held_out, straight = stopped_early

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PairTrainer, "_load_best_model", killed)  # the last checkpoint says that training is over
    with pytest.raises(KeyboardInterrupt):
        train(data, options, out=tmp_path / "rm", held_out=held_out)
    monkeypatch.undo()
    (tmp_path / "moved").mkdir()
    (tmp_path / "rm.checkpoints").rename(tmp_path / "moved" / "rm.checkpoints")  # the state names where it was
    out = train(data, options, out=tmp_path / "moved" / "rm", held_out=held_out, resume=True)
    assert log_of(out) == log_of(straight)
    assert (out / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    counts = [json.loads((folder / "manifest.json").read_text())["counts"] for folder in (out, straight)]
    assert counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the loss", "the gradient"])
def test_numbers_that_break_stop_training_and_leave_the_pairs(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    original, calls = PairTrainer.compute_loss, []

    def compute_loss(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        calls.append(loss)
        if len(calls) < 3:
            return loss
        # The square root of 0 is 0, and its gradient infinite.
        return loss * math.nan if what == "the loss" else loss + torch.sqrt(loss - loss)

    monkeypatch.setattr(PairTrainer, "compute_loss", compute_loss)
    data = universal(conversations(20))
    with pytest.raises(WeakprefError, match=rf"{what} is not finite in step 3, .*broken_step_0\.json: look there"):
        train(data, config(tiny), out=tmp_path / "rm")
    broken = json.loads((tmp_path / "rm.checkpoints" / "broken_step_0.json").read_text())
    assert (broken["step"], broken["what"], len(broken["pairs"])) == (3, what, 4)
    assert broken["pairs"][0]["chosen"].startswith("[CLS] p ##l ##e ##a ##s ##e")  # the tiny tokenizer knows letters
    assert not (tmp_path / "rm").exists()


@pytest.mark.slow
def test_tensorboard_gets_the_log(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    train(universal(conversations(8)), config(tiny, report_to="tensorboard", logging_steps=1), out=tmp_path / "rm")
    assert list((tmp_path / "rm.logs").glob("events.out.tfevents.*"))


def test_a_log_that_nothing_would_take_is_refused_before_the_run(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = universal(conversations(4))
    with pytest.raises(DataError, match=r"'none, tensorbord', and nothing is called 'tensorbord'; known are .*wandb"):
        train(data, config(tiny, report_to="none, tensorbord"), out=tmp_path / "rm")
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(DataError, match=r"'wandb': WandbCallback requires wandb .*; or leave wandb out"):
        train(data, config(tiny, report_to="wandb"), out=tmp_path / "rm")
    assert [path.name for path in tmp_path.iterdir()] == [data.name]


def test_watching_without_held_out_pairs_or_with_two_kinds_of_them_is_refused(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data = universal(conversations(4))
    with pytest.raises(DataError, match="eval_steps and patience without held-out pairs do nothing; pass eval_share"):
        train(data, config(tiny, patience=1, eval_steps=5), out=tmp_path / "rm")
    with pytest.raises(DataError, match=r"eval_share is 0\.3 and held_out is .*, expected one of them"):
        train(data, config(tiny, eval_share=0.3), out=tmp_path / "rm", held_out=data)


def test_the_folder_of_tensorboard_is_that_of_its_run(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TENSORBOARD, raising=False)
    for name in ("rm0.logs", "rm1.logs"):
        with tensorboard_folder(config(tiny, report_to="tensorboard"), tmp_path / name):
            assert os.environ[TENSORBOARD] == str(tmp_path / name)
    with tensorboard_folder(config(tiny), tmp_path / "rm2.logs"):
        assert TENSORBOARD not in os.environ


def test_pairs_that_fill_a_step_are_not_counted_as_seen() -> None:
    part = Part(PaddedRows(torch.ones(4, 3), torch.ones(4, 3)), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    window = Window()
    assert window.figures() == {}
    window.add(torch.tensor([2.0, 9.0]), torch.tensor([1.0, 99.0]), part)
    found = window.figures()
    assert (found["accuracy"], found["reward_mean"], found["reward_std"]) == (1.0, 1.5, 0.5)


def test_speed_is_that_of_training_without_what_is_measured_meanwhile() -> None:
    part = Part(PaddedRows(torch.ones(4, 3), torch.ones(4, 3)), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))
    window = Window()
    window.add(torch.tensor([2.0, 9.0]), torch.tensor([1.0, 99.0]), part)
    with window.paused():
        time.sleep(0.2)
    assert window.figures()["pairs_per_s"] > 2 / 0.2


@pytest.mark.slow
def test_a_training_that_fails_gives_the_terminal_back_and_times_no_evaluation(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[PairTrainer] = []

    def measure(*_: Any) -> dict[str, float]:
        raise WeakprefError("measuring failed")

    def evaluate(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        trainers.append(self)
        assert self.bar is not None
        assert self.bar.progress.live.is_started
        began = self.window.began
        try:
            return original(self, *args, **kwargs)
        finally:
            assert self.window.began > began

    original = PairTrainer.evaluate
    monkeypatch.setattr(PairTrainer, "evaluate", evaluate)
    monkeypatch.setattr("rm.trainer.measure", measure)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with pytest.raises(WeakprefError, match="measuring failed"):
        train(universal(conversations(20)), config(tiny, eval_share=0.3), out=tmp_path / "rm")
    assert trainers[0].bar is not None
    assert not trainers[0].bar.progress.live.is_started


def test_options_of_watching_that_do_not_fit_are_named(tiny: str) -> None:
    with pytest.raises(DataError, match="save_steps is 5 and eval_steps 10, expected the same with patience"):
        config(tiny, patience=1, save_steps=5, eval_steps=10)
    with pytest.raises(DataError, match="eval_share is 1, which leaves nothing to train on"):
        config(tiny, eval_share=1)
