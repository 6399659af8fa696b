"""What a loop decides and reports: when it stops, which iteration it names, its alarm, its figures and its controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import rm
from augment import EvolveOptions, evolve
from augment.cli import main
from augment.drift_guards import CALIBRATION_WORSENED
from augment.evolve import ALL_DONE, CONVERGED, NO_BETTER, Evolved, _best, _stop, plan, stated
from augment.evolve_commands import outcome
from augment.evolve_ground import lay_out
from augment.evolve_round import Round
from augment.evolve_run import Folder, claim
from augment.evolve_training import held_out_figures
from augment.ser_ws import SerWs
from labeling import apply, heuristics, labeling_function, read_pairs
from labeling.errors import DataError, GoldError, VotesError, WeakprefWarning
from labeling.metrics import accuracy
from rm import RewardConfig

CONFIG = RewardConfig(model="minilm", max_steps=2)


def row(n, loss, steps=5, status=None):
    return {"iteration": n, "held_out_log_loss": loss, "steps": steps, "status": status}


@pytest.mark.parametrize(
    ("rows", "early", "stopped", "best"),
    [
        ([row(0, None), row(1, 0.6), row(2, 0.5)], True, "", 2),
        ([row(0, None), row(1, 0.5), row(2, 0.5, steps=0)], True, NO_BETTER, 1),
        ([row(0, 0.4), row(1, 0.6)], True, NO_BETTER, 0),
        ([row(0, None), row(1, 0.71), row(2, 0.72, steps=0)], True, NO_BETTER, 1),
        ([row(0, None), row(1, 0.71), row(2, 0.65)], True, "", 2),
        ([row(0, 0.8), row(1, 0.7)], True, "", 1),
        ([row(0, 0.4), row(1, 0.6)], False, "", 1),
        ([row(0, None), row(1, None, status="converged", steps=0)], True, CONVERGED, 0),
        ([row(0, None), row(1, 0.6), row(2, 0.5), row(3, 0.7, steps=0)], True, NO_BETTER, 2),
    ],
)
def test_a_loop_ends_where_held_out_labels_no_longer_gain_and_names_the_best_that_was_trained(
    rows, early, stopped, best
):
    assert _stop(rows, early) == stopped
    assert _best(rows, early) == best


def labelled(n=60, groups=20):
    """Pairs with text of two lengths; every label is known, A and B preferred in turn."""
    texts = [(f"reply {i} with some more words", f"reply {i}.") for i in range(n)]
    sides = [pair if i % 2 else pair[::-1] for i, pair in enumerate(texts)]
    rows = {"prompt": [f"question {i % groups}?" for i in range(n)], "gold": [float(i % 2) for i in range(n)]}
    return read_pairs(pd.DataFrame(rows | {"response_a": [a for a, _ in sides], "response_b": [b for _, b in sides]}))


def test_labels_whose_calibration_on_the_seed_worsens_raise_the_alarm(tmp_path, monkeypatch):
    pairs = labelled(200, 100)
    options = EvolveOptions(config=CONFIG, gold=100)
    ground = lay_out(pairs, options, None, None)
    claim(tmp_path / "run", {}, resume=False)
    folder = Folder(tmp_path / "run", None, 1)
    round_ = Round(2, folder, ground, SerWs(), options, None)
    good = SerWs().label(1, None, ground, [])
    assert (~np.isnan(good.held_out) == ground.seed).all()
    right = np.where(ground.seed, np.where(ground.true == 1, 0.8, 0.2), np.nan)
    wrong = np.where(np.arange(200) % 3 == 0, 1 - right, np.where(ground.true == 1, 0.99, 0.01))
    round_.__dict__["history"] = [replace(good, held_out=right)]
    monkeypatch.setattr(Folder, "rows", lambda _: [row(0, None), row(1, 0.3)])
    assert round_._label_row(replace(good, held_out=right))["alarms"] == []
    worse = replace(good, held_out=np.where(ground.seed, wrong, np.nan))
    with pytest.warns(WeakprefWarning, match="calibration-worsened: in iteration 2"):
        assert round_._label_row(worse)["alarms"] == [CALIBRATION_WORSENED]


def test_reward_models_whose_calibration_on_watched_pairs_worsens_raise_the_alarm(tmp_path, monkeypatch):
    options = EvolveOptions(config=CONFIG, method="ensemble", gold=300, watch_share=0.5)
    ground = lay_out(labelled(400, 200), options, None, None)
    claim(tmp_path / "run", {}, resume=False)
    folder = Folder(tmp_path / "run", None, 1)
    rounds = {n: Round(n, folder, ground, options.rule(), options, None) for n in (1, 2)}
    true = ground.true[ground.watched]
    right = np.where(true == 1, 0.8, 0.2)
    monkeypatch.setattr(Folder, "rows", lambda _: [])
    first = rounds[1]._watch_row(right)
    assert (first["alarms"], first["held_out_log_loss"]) == ([], pytest.approx(-np.log(0.8)))
    monkeypatch.setattr(Folder, "rows", lambda _: [row(0, None), row(1, 0.22) | first | {"iteration": 1}])
    assert rounds[2]._watch_row(right)["alarms"] == []
    wrong = np.where(np.arange(len(true)) % 3 == 0, 1 - right, np.where(true == 1, 0.99, 0.01))
    with pytest.warns(WeakprefWarning, match="calibration-worsened: in iteration 2"):
        assert rounds[2]._watch_row(wrong)["alarms"] == [CALIBRATION_WORSENED]


def test_an_alarm_and_every_member_are_named_in_the_last_line(tmp_path):
    row = {"test_accuracy": None, "alarms": [CALIBRATION_WORSENED]}
    said = outcome(Evolved(tmp_path / "run", [row], 0, ALL_DONE, 2))
    assert "alarms: calibration-worsened" in said
    assert "iteration-0: the mean of 2 reward models (rm, rm-1) of iteration 0" in said


def test_a_runs_base_model_is_known_by_its_weights_and_pairs_by_their_groups_too(tmp_path):
    pairs = labelled()
    for name in ("a", "b"):
        (tmp_path / name / "rm").mkdir(parents=True)
        (tmp_path / name / "rm" / "model.safetensors").write_text(name)

    def known(model="minilm", given=pairs):
        options = EvolveOptions(config=replace(CONFIG, model=str(model)))
        return stated(given, options, None, None)

    claim(tmp_path / "run", known(tmp_path / "a" / "rm"), resume=False)
    (tmp_path / "run" / "iteration-0" / "rm").mkdir(parents=True)
    with pytest.raises(DataError, match="holds a run with other model; expected"):
        claim(tmp_path / "run", known(tmp_path / "b" / "rm"), resume=True)
    regrouped = replace(pairs, table=pairs.table.set_column(
        pairs.table.column_names.index("group"), "group", [["one"] * len(pairs)]
    ))  # fmt: skip
    claim(tmp_path / "other", known(), resume=False)
    (tmp_path / "other" / "iteration-0" / "rm").mkdir(parents=True)
    with pytest.raises(DataError, match="with other pairs; expected"):
        claim(tmp_path / "other", known(given=regrouped), resume=True)


def test_a_dry_run_counts_the_longer_trainings_of_equal_steps():
    options = EvolveOptions(config=CONFIG, gold=16, iterations=2, folds=2, controls=("equal-steps",))
    found = plan(labelled(), options)
    assert found.trainings == 1 + 2 + (2 + 2)
    assert found.steps == 2 * (1 + (1 + 2) + (1 + 3 + 2))
    members = plan(labelled(), replace(options, method="ensemble", members=2, iterations=1))
    assert (members.trainings, members.steps) == (2 + 2 + 2, 2 * (2 + 2 + 2 * 2))


def test_a_hinge_that_was_asked_for_keeps_its_margin_and_equal_steps_its_loss():
    options = EvolveOptions(config=replace(CONFIG, objective="hinge", objective_parameter=0.5), method="ser")
    assert [options.trainer(n).objective_parameter for n in (0, 1)] == [0.5, 0.5]
    plain = replace(options, config=CONFIG)
    assert [plain.trainer(n).objective for n in (0, 1)] == ["bradley-terry", "hinge"]


def test_what_cannot_be_run_is_named_before_anything_is_trained(tmp_path):
    pairs, options = labelled(), EvolveOptions(config=CONFIG, gold=16)
    one = replace(pairs, table=pairs.table.set_column(
        pairs.table.column_names.index("group"), "group", [["one"] * len(pairs)]
    ))  # fmt: skip
    with pytest.raises(DataError, match="all pairs are of one group"):
        evolve(one, tmp_path / "run", options)
    same = pairs.with_gold(np.where(np.arange(len(pairs)) < 40, np.where(pairs.gold == 1, 1.0, np.nan), np.nan))
    with pytest.raises(GoldError, match="prefer the same side"):
        evolve(same, tmp_path / "run", replace(options, gold=None))
    votes = apply(heuristics()[:1], pairs)
    with pytest.raises(VotesError, match="called seed-rm"):
        evolve(pairs, tmp_path / "run", options, votes=replace(votes, names=("seed-rm",)))
    test = read_pairs(pd.DataFrame({"prompt": ["new?"], "response_a": ["x"], "response_b": ["y"]}))
    with pytest.raises(GoldError, match="none of the 1 test pairs is labelled"):
        evolve(pairs, tmp_path / "run", options, test=test)
    assert not (tmp_path / "run").exists()


def test_votes_in_a_file_stand_for_the_built_in_heuristics_among_them():
    pairs, options = labelled(), EvolveOptions(config=CONFIG, gold=16)
    given = apply(heuristics()[:2], pairs)
    found = lay_out(pairs, options, None, given).votes
    assert sorted(found.names) == sorted(voter.name for voter in heuristics())

    @labeling_function(name="length")
    def mine(pair):
        return 0

    with pytest.raises(VotesError, match="both hold length"):
        lay_out(pairs, options, [mine], given)


@pytest.mark.parametrize(
    ("option", "method", "owner"),
    [
        (["--folds", "2"], "ser", "ser+ws"),
        (["--seed-votes"], "ensemble", "ser+ws"),
        (["--votes", "votes.parquet"], "ser", "ser+ws"),
        (["--lfs", "mine.py"], "ser", "ser+ws"),
        (["--preset", "as_released"], "ser+ws", "ser"),
        (["--anchor", "seed"], "ensemble", "ser"),
        (["--enough", "5"], "ser+ws", "ser"),
        (["--loss", "hinge"], "ser+ws", "ser"),
        (["--members", "2"], "ser", "ensemble"),
        (["--soft-label", "consistency"], "ser+ws", "ensemble"),
    ],
)
def test_an_option_of_another_method_is_refused(option, method, owner, tmp_path, capsys):
    assert main(["evolve", "pairs.jsonl", "-o", str(tmp_path / "run"), "--method", method, *option]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option[0]}" in said
    assert f"of --method {owner}, not {method}; leave it out" in said


def test_how_many_pairs_are_enough_is_refused_where_one_is(tmp_path, capsys):
    given = ["--method", "ser", "--preset", "as_released", "--enough", "50"]
    assert main(["evolve", "pairs.jsonl", "-o", str(tmp_path / "run"), *given]) == 2
    assert "--enough is an option of --preset paper" in " ".join(capsys.readouterr().err.split())


def test_a_share_to_watch_is_refused_where_all_of_the_seed_is_crossfitted(tmp_path, capsys):
    assert main(["evolve", "pairs.jsonl", "-o", str(tmp_path / "run"), "--watch-share", "0.3"]) == 2
    assert "--watch-share is an option of --method ser and ensemble" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("share", ["15", "1", "0", "-0.1", "nan"])
def test_a_share_of_the_seed_that_is_none_is_named_by_its_own_option(share, tmp_path, capsys):
    assert main(["evolve", "pairs.jsonl", "-o", str(tmp_path / "run"), "--seed-share", share]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--seed-share is {share}, expected a share above 0 and below 1" in said
    assert "for a number of labels pass --gold" in said


def test_unlabelled_pairs_that_are_held_out_with_the_test_are_counted(write_pairs, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("augment.evolve_commands.run", lambda known, *_, **given: seen.append((known, given["test"])))
    monkeypatch.setattr("augment.evolve_commands.outcome", lambda _: "done")
    file = write_pairs(tmp_path / "pairs.parquet", n=60, labelled=30)
    given = ["evolve", str(file), "-o", str(tmp_path / "run"), "--gold", "5", "--test-share", "0.5"]
    assert main(given) == 0
    [(known, test)] = seen
    aside = 60 - len(known) - len(test)
    assert aside > 0
    words = f"{aside} unlabelled pairs set aside with the test's groups"
    assert f"{words}: neither labelled nor trained on" in capsys.readouterr().err
    assert main([*given, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert f"{len(test)} to test on, {words}\n" in said.out
    assert f"only {len(test)} test pairs are labelled, expected 50 or more" in said.err
    many = write_pairs(tmp_path / "many.parquet", n=120, labelled=120)
    assert main(["evolve", str(many), *given[2:], "--dry-run"]) == 0
    said = capsys.readouterr()
    assert " to test on\n" in said.out
    assert "test pairs are labelled" not in said.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*for watch_share is 0")
def test_figures_and_controls_are_those_of_the_models_and_pairs_they_name(tmp_path, tiny):
    from labeling import split_by_group

    pairs, test = split_by_group(labelled(80, 40), 0.3, seed=0)
    config = RewardConfig(model=tiny, max_steps=2, batch_size=12, learning_rate=1e-2, max_length=48)
    options = EvolveOptions(config=config, method="ensemble", gold=16, iterations=1, members=2, watch_share=0.0)
    found = evolve(pairs, tmp_path / "run", replace(options, controls=("equal-steps", "oracle")), test=test)
    assert found.models == [tmp_path / "run" / "iteration-1" / name for name in ("rm", "rm-1")]
    rewards = np.stack([rm.score(model, test) for model in found.models])
    p_a = (1 / (1 + np.exp(rewards[:, :, 1] - rewards[:, :, 0]))).mean(axis=0)
    assert found.rows[1]["test_accuracy"] == pytest.approx(accuracy(p_a, test.gold))
    mirrored = replace(test, table=test.table.rename_columns(
        [{"response_a": "response_b", "response_b": "response_a"}.get(name, name) for name in test.table.column_names]
    ))  # fmt: skip
    assert held_out_figures(found.models, mirrored)["test_accuracy"] == pytest.approx(1 - accuracy(p_a, test.gold))
    controls = tmp_path / "run" / "iteration-1" / "controls"
    assert found.rows[1]["controls"]["equal-steps"]["steps"] == 4
    assert set(origins(controls / "equal-steps")) == {"gold"}
    assert origins(controls / "oracle").count("gold") == 16
    assert (controls / "equal-steps" / "rm-1" / "model.safetensors").is_file()
    table = pq.read_table(next((controls / "oracle" / "data" / "data").glob("*.parquet")))
    made = [record for record in table.to_pylist() if record["origin"] != "gold"]
    rows = {record["pair_id"]: record for record in pairs.table.to_pylist()}
    assert made
    for record in made:
        preferred = "response_a" if rows[record["pair_id"]]["gold"] == 1 else "response_b"
        assert record["p_chosen"] == 1
        assert record["chosen"][-1]["content"] == rows[record["pair_id"]][preferred]


def origins(home: Path) -> list[str]:
    table = pq.read_table(next((home / "data" / "data").glob("*.parquet")))
    return table["origin"].to_pylist()
