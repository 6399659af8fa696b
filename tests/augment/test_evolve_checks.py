"""What a run is known by, and what is refused before anything is trained."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from augment import EvolveOptions, evolve
from augment.dpo import PolicyConfig
from augment.evolve import plan, stated
from augment.evolve_ground import lay_out
from augment.evolve_run import Folder, claim
from augment.learning_status import Thresholds
from augment.self_reward import SelfReward
from labeling import apply, heuristics, scoring_function
from labeling.errors import DataError, GroupLeakError, RowError, VotesError, WeakprefWarning
from labeling.pairs import prompt_id
from rm import RewardConfig
from rm.provenance import TRAIN_PROMPTS, write_hashes
from rm.run_folder import checkpoint_folder

CONFIG = RewardConfig(model="minilm", max_steps=1)
UNJUDGED = pytest.mark.filterwarnings("ignore:no visible label can judge")


@pytest.fixture
def pairs(make_pairs):
    """Eight pairs of one group, of which six have a label."""
    prompt = [{"role": "user", "content": "Why?"}]
    rows = [(prompt, f"one {i} and more words", f"two {i}") for i in range(8)]
    return make_pairs(rows, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, None, None])


def test_models_of_a_hub_are_known_by_their_whole_name(pairs, tmp_path):
    def known(model):
        return stated(pairs, EvolveOptions(config=replace(CONFIG, model=model)), None, None)["options"]["config"]

    assert known("minilm")["model"] == "minilm"
    assert known("mine/model")["model"] == "mine/model" != known("yours/model")["model"]
    for place, weights in (("here", "1"), ("there", "1"), ("elsewhere", "2")):
        (tmp_path / place / "rm").mkdir(parents=True)
        (tmp_path / place / "rm" / "model.safetensors").write_text(weights)
    here, there, elsewhere = (known(str(tmp_path / place / "rm")) for place in ("here", "there", "elsewhere"))
    assert here == there != elsewhere


def test_a_run_is_known_by_which_voters_learned_from_made_labels(pairs):
    votes = apply(heuristics()[:2], pairs)
    options = EvolveOptions(config=CONFIG)
    declared = replace(votes, self_labels=votes.names[:1])
    assert stated(pairs, options, None, votes) != stated(pairs, options, None, declared)


@UNJUDGED
def test_one_group_is_enough_where_no_part_is_left_out_of_a_training(pairs):
    voters_alone = EvolveOptions(config=CONFIG, iterations=1)
    assert lay_out(pairs, voters_alone, None, None).pool.sum() == 2
    for options in (replace(voters_alone, iterations=2), replace(voters_alone, seed_votes=True)):
        with pytest.raises(DataError, match="all pairs are of one group"):
            lay_out(pairs, options, None, None)
    assert lay_out(pairs, replace(voters_alone, method="ensemble", iterations=2), None, None).pool.sum() == 2


@UNJUDGED
def test_a_loop_of_voters_that_has_none_is_refused_before_it_trains(pairs, tmp_path):
    with pytest.raises(VotesError, match="needs votes on the pairs"):
        evolve(pairs, tmp_path / "run", EvolveOptions(config=CONFIG, iterations=1), voters=())
    assert not (tmp_path / "run").exists()


@UNJUDGED
def test_a_voter_with_the_name_of_the_loops_reward_model_is_refused_by_the_plan_too(pairs):
    voter = scoring_function(name="rm")(lambda prompt, response: len(response))
    for run in (plan, lambda *given, **how: lay_out(*given, how["voters"], None)):
        with pytest.raises(VotesError, match="a voter is called rm, which is kept"):
            run(pairs, EvolveOptions(config=CONFIG, iterations=1), voters=[voter])


def test_a_plan_refuses_test_pairs_that_are_trained_on_as_the_run_does(pairs, tmp_path):
    options = EvolveOptions(config=CONFIG, gold=2, iterations=1)
    for run in (plan, lambda *given, test: evolve(given[0], tmp_path / "run", given[1], test=test)):
        with pytest.raises(GroupLeakError):
            run(pairs, options, test=pairs)


@UNJUDGED
def test_labels_of_one_kind_train_a_reward_model_but_anchor_no_votes(pairs):
    same = pairs.with_gold(np.where(pairs.gold == 1, 1.0, np.nan))
    assert lay_out(same, EvolveOptions(config=CONFIG, method="ensemble"), None, None).seed.sum() == 3
    with pytest.raises(DataError, match="prefer the same side"):
        lay_out(same, EvolveOptions(config=CONFIG, iterations=1), None, None)


@pytest.mark.parametrize("method", ["ser", "ser+ws", "ensemble"])
def test_labels_that_nothing_judges_are_warned_of(pairs, method):
    options = EvolveOptions(config=CONFIG, method=method, iterations=1, thresholds=Thresholds(enough=1))
    with pytest.warns(WeakprefWarning, match="judge the labels of this run, for all 6 are of one group: no alarm"):
        assert not lay_out(pairs, options, None, None).watched.any()


@pytest.mark.parametrize("method", ["ser", "ensemble"])
def test_a_run_that_is_to_watch_nothing_is_warned_of(make_pairs, method):
    rows = [([{"role": "user", "content": f"Why {i}?"}], f"one {i}", f"two {i}") for i in range(8)]
    pairs = make_pairs(rows, [1.0, 0.0, 1.0, 0.0, None, None, None, None])
    options = EvolveOptions(config=CONFIG, method=method, watch_share=0.0, thresholds=Thresholds(enough=1))
    with pytest.warns(WeakprefWarning, match="for watch_share is 0, .*: no alarm can go off, and no iteration"):
        assert not lay_out(pairs, options, None, None).watched.any()


def test_one_watched_group_raises_no_alarm_which_is_warned_of(make_pairs):
    rows = [([{"role": "user", "content": f"Why {i % 4}?"}], f"one {i}", f"two {i}") for i in range(40)]
    pairs = make_pairs(rows, [float(i % 8 > 3) for i in range(40)])
    options = EvolveOptions(config=CONFIG, method="ensemble", gold=30)
    with pytest.warns(WeakprefWarning, match=r"for the \d+ that are watched are of one group: no alarm can go off"):
        assert lay_out(pairs, options, None, None).watched.any()


def test_groups_that_share_a_prompt_are_one_so_that_no_part_is_labelled_by_a_model_that_knows_it(make_pairs):
    rows = [([{"role": "user", "content": f"Why {i // 4}?"}], f"one {i}", f"two {i}") for i in range(24)]
    pairs = make_pairs(rows, [float(i % 2) if i < 12 else None for i in range(24)])
    batches = pairs.with_groups(np.array([f"batch {i % 2} of {i // 8}" for i in range(24)]))
    ground = lay_out(batches, EvolveOptions(config=CONFIG, folds=2), None, None)
    assert ground.pairs.groups.tolist() == [f"batch 0 of {i // 8}" for i in range(24)]
    assert ground.votes.groups.tolist() == ground.pairs.groups.tolist()
    given = apply(heuristics(), batches)
    assert lay_out(batches, EvolveOptions(config=CONFIG, folds=2), (), given).votes.groups[1] == "batch 0 of 0"
    known = [stated(each, EvolveOptions(config=CONFIG), None, None)["pairs"] for each in (batches, pairs, ground.pairs)]
    assert known[0] != known[1]  # parts are others, so no run goes on as the other
    whole = lay_out(pairs, EvolveOptions(config=CONFIG, folds=2), None, None)
    assert whole.pairs.groups.tolist() == pairs.groups.tolist()


def test_a_base_that_knows_the_prompts_is_refused_or_warned_of(make_pairs, tiny, tmp_path):
    rows = [([{"role": "user", "content": f"Why {i}?"}], f"one {i}", f"two {i}") for i in range(12)]
    pairs = make_pairs(rows, [float(i % 2) for i in range(12)])
    train, test = pairs.take(range(8)), pairs.take(range(8, 12))
    base = Path(shutil.copytree(tiny, tmp_path / "rm"))
    options = EvolveOptions(config=replace(CONFIG, model=str(base), max_length=48), gold=4, iterations=1)

    def knows(some):
        write_hashes(base / TRAIN_PROMPTS, [prompt_id(turns) for turns in some.table["prompt"].to_pylist()])

    knows(pairs.take([9, 11]))
    for run in (plan, lambda *given, test: evolve(given[0], tmp_path / "run", given[1], test=test)):
        with pytest.raises(GroupLeakError, match="rm was trained on the prompts of 2 test pairs"):
            run(train, options, test=test)
    assert not (tmp_path / "run").exists()
    knows(pairs.take([0, 1, 2]))
    with pytest.warns(WeakprefWarning, match="was trained on the prompts of 3 of 8 pairs: it labels"):
        plan(train, options, test=test)


@pytest.mark.parametrize(
    "make", [lambda: EvolveOptions(config=CONFIG, seed=-1), lambda: PolicyConfig(seed=-1), lambda: SelfReward(seed=-1)]
)
def test_a_negative_seed_is_refused_before_anything_is_written(make):
    with pytest.raises(DataError, match="seed is -1, expected 0 or more"):
        make()


def test_checkpoints_of_a_training_that_was_killed_before_they_were_deleted_are_deleted(tmp_path):
    model = tmp_path / "iteration-0" / "rm"
    for folder in (model, checkpoint_folder(model)):
        folder.mkdir(parents=True)
    Folder(tmp_path, None, 1).training(model, "training", lambda: pytest.fail("it was trained again"))
    assert [path.name for path in model.parent.iterdir()] == ["rm"]


@pytest.mark.filterwarnings("ignore:.*that are watched are of one group")
def test_a_watched_share_that_would_leave_nothing_to_train_on_is_given_up_with_a_warning(make_pairs):
    rows = [([{"role": "user", "content": f"Why {i}?"}], f"one {i}", f"two {i}") for i in range(4)]
    pairs = make_pairs(rows, [1.0, 0.5, None, None])
    options = EvolveOptions(config=CONFIG, method="ensemble")
    seeds = [replace(options, seed=seed) for seed in range(8)]
    with pytest.warns(WeakprefWarning, match="for without those there would be none to train on"):
        watched = [lay_out(pairs, each, None, None).watched.tolist() for each in seeds]
    assert [False] * 4 in watched
    assert [True, False, False, False] not in watched


def test_a_prompt_that_cannot_be_answered_is_refused_before_it_trains(make_pairs, tmp_path):
    rows = [([{"role": "user", "content": f"Why {i}?"}], f"one {i}", f"two {i}") for i in range(8)]
    rows[7] = ([*rows[7][0], {"role": "assistant", "content": "Sure, "}], *rows[7][1:])
    pairs = make_pairs(rows, [1.0, 0.0, 1.0, 0.0, None, None, None, None])
    for run in (plan, lambda *given: evolve(given[0], tmp_path / "run", given[1])):
        with pytest.raises(RowError, match=r"1 prompts cannot be answered: .* found the assistant's turn last"):
            run(pairs, EvolveOptions(config=CONFIG))
    assert not (tmp_path / "run").exists()


@UNJUDGED
def test_a_status_that_wants_more_pairs_than_there_are_is_refused(pairs):
    asked = EvolveOptions(config=CONFIG, method="ser", watch_share=0.0, thresholds=Thresholds(enough=3))
    with pytest.raises(DataError, match=r"enough is 3, but only 2 pairs are to be labelled, .*enough=0\.05"):
        lay_out(pairs, asked, None, None)
    for fine in (Thresholds(enough=2), Thresholds(enough=0.9)):
        assert lay_out(pairs, replace(asked, thresholds=fine), None, None).pool.sum() == 2
    assert lay_out(pairs, replace(asked, preset="as_released"), None, None).pool.sum() == 2


@UNJUDGED
@pytest.mark.parametrize("n", range(1, 40))
@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.0, 3.0])
def test_a_plan_counts_no_fewer_steps_than_a_training_takes(n, epochs, make_pairs, monkeypatch):
    monkeypatch.setattr("rm.plan.check_training", lambda config: None)  # the same for all
    rows = [([{"role": "user", "content": f"Why {i}?"}], f"one {i}", f"two {i}") for i in range(n + 3)]
    pairs = make_pairs(rows, [1.0, 0.0, *[None] * (n + 1)])
    config = replace(CONFIG, max_steps=None, epochs=epochs, batch_size=4)
    found = plan(pairs, EvolveOptions(config=config, iterations=1, method="ensemble", watch_share=0.0))
    an_epoch = -(-len(pairs) // 4)
    assert found.steps == found.trainings * math.ceil(epochs * an_epoch)


def test_what_a_loop_is_given_is_named_where_it_is_something_else(pairs, tmp_path):
    options = EvolveOptions(RewardConfig("minilm"), gold=4)
    for other in (pairs.to_pandas(), "pairs.parquet"):
        with pytest.raises(DataError, match=r"pairs is a \w+; expected Pairs: pass it through read_pairs first"):
            evolve(other, tmp_path / "run", options)
        with pytest.raises(DataError, match=r"test is a \w+; expected Pairs"):
            evolve(pairs, tmp_path / "run", options, test=other)
    with pytest.raises(DataError, match="config is 'minilm', expected a RewardConfig"):
        EvolveOptions("minilm", gold=4)
    with pytest.raises(DataError, match=r"thresholds is \{.enough.: 5\}, expected a Thresholds"):
        EvolveOptions(RewardConfig("minilm"), gold=4, thresholds={"enough": 5})
    with pytest.raises(DataError, match=r"config\.seed is 7 and seed, that of the whole run, 0; pass seed alone"):
        EvolveOptions(RewardConfig("minilm", seed=7), gold=4)
    assert EvolveOptions(RewardConfig("minilm", seed=7), gold=4, seed=7).trainer(0).seed == 7
    assert not list(tmp_path.iterdir())


@UNJUDGED
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "no/such/base"}, "model 'no/such/base' cannot be read as a directory or from the hub"),
        ({"max_length": 65}, "max_length is 65, but model .* has positions for 64 tokens"),
        ({"eval_steps": 3}, "eval_steps without held-out pairs do nothing; pass eval_share"),
        ({"freeze_layers": 3}, "freeze_layers is 3, but the model has 2 layers"),
        ({"report_to": "nowhere"}, "nothing is called 'nowhere'"),
    ],
)
def test_what_the_first_training_would_refuse_is_refused_by_the_plan_and_before_anybody_votes(
    change, words, pairs, tiny, tmp_path
):
    voter = scoring_function(name="mine")(lambda prompt, response: pytest.fail("it was asked"))
    config = replace(CONFIG, **{"model": tiny, "max_length": 48} | change)
    for run in (plan, lambda *given, voters: evolve(given[0], tmp_path / "run", given[1], voters=voters)):
        with pytest.raises(DataError, match=words):
            run(pairs, EvolveOptions(config=config, iterations=1), voters=[voter])
    assert not (tmp_path / "run").exists()


def begun(run, *made):
    """The folder of a run that has made these folders, a file in each."""
    claim(run, {"options": 1, "pairs": "x"}, resume=False)
    for name in made:
        (run / name).mkdir(parents=True)
        (run / name / "file").touch()
    return run


@pytest.mark.parametrize("made", [(), ("iteration-0/kept", "iteration-0/rm.checkpoints", "iteration-0/.rm.7.part")])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_nothing_was_trained_is_taken_over_by_any_run(made, resume, tmp_path):
    run = begun(tmp_path / "run", *made)
    claim(run, {"options": 2, "pairs": "x"}, resume)
    assert [path.name for path in run.iterdir()] == ["config.json"]
    claim(run, {"options": 2, "pairs": "x"}, False)
    (run / "iteration-0" / "kept").mkdir(parents=True)
    claim(run, {"options": 2, "pairs": "x"}, True)
    assert (run / "iteration-0" / "kept").is_dir()


@pytest.mark.parametrize(
    "made", ["iteration-0/rm", "iteration-0/rm.checkpoints/checkpoint-2", "iteration-1/folds", "notes"]
)
def test_a_folder_in_which_something_was_trained_or_is_not_ours_is_not_taken_over(made, tmp_path):
    run = begun(tmp_path / "run", made)
    for resume in (False, True):
        with pytest.raises(DataError, match="holds a run with other options"):
            claim(run, {"options": 2, "pairs": "x"}, resume)
    assert (run / made / "file").is_file()


def test_a_models_folder_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(DataError, match="holds something else than a run of evolve; choose another folder"):
        claim(tmp_path, {"options": {}, "pairs": "x"}, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_run_is_known_by_its_arithmetic_where_that_is_left_to_the_machine(pairs, monkeypatch):
    for has in (True, False):
        monkeypatch.setattr("rm.arguments.computes_in_bf16", lambda has=has: has)
        assert stated(pairs, EvolveOptions(CONFIG, gold=4), None, None)["options"]["config"]["bf16"] is has
        asked = EvolveOptions(replace(CONFIG, bf16=not has), gold=4)
        assert stated(pairs, asked, None, None)["options"]["config"]["bf16"] is not has
