"""What a run is known by, and what is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from augment import EvolveOptions, evolve
from augment.evolve import plan, stated
from augment.evolve_ground import lay_out
from labeling import apply, heuristics, scoring_function
from labeling.errors import DataError, GroupLeakError, VotesError
from rm import RewardConfig

CONFIG = RewardConfig(model="minilm", max_steps=1)


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


def test_one_group_is_enough_where_no_part_is_left_out_of_a_training(pairs):
    voters_alone = EvolveOptions(config=CONFIG, iterations=1)
    assert lay_out(pairs, voters_alone, None, None).pool.sum() == 2
    for options in (replace(voters_alone, iterations=2), replace(voters_alone, seed_votes=True)):
        with pytest.raises(DataError, match="all pairs are of one group"):
            lay_out(pairs, options, None, None)
    assert lay_out(pairs, replace(voters_alone, method="ensemble", iterations=2), None, None).pool.sum() == 2


def test_a_loop_of_voters_that_has_none_is_refused_before_it_trains(pairs, tmp_path):
    with pytest.raises(VotesError, match="needs votes on the pairs"):
        evolve(pairs, tmp_path / "run", EvolveOptions(config=CONFIG, iterations=1), voters=())
    assert not (tmp_path / "run").exists()


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


def test_labels_of_one_kind_train_a_reward_model_but_anchor_no_votes(pairs):
    same = pairs.with_gold(np.where(pairs.gold == 1, 1.0, np.nan))
    assert lay_out(same, EvolveOptions(config=CONFIG, method="ser"), None, None).seed.sum() == 3
    with pytest.raises(DataError, match="prefer the same side"):
        lay_out(same, EvolveOptions(config=CONFIG, iterations=1), None, None)
