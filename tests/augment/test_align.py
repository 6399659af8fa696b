"""A policy aligned with labels or with reward models, and best-of-n beside it."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment import export
from augment.align import Exploring, align_dpo, align_with_rewards, read_soft_pairs
from augment.best_of_n import BestOfN, best_of_n, expected_best
from augment.dpo import PolicyConfig, run
from augment.policies import load_policy
from augment.policy_rewards import Ensemble, Penalties, centred, reward_functions
from augment.run_identity import known_as
from labeling.errors import DataError, WeakprefWarning
from labeling.pairs import MESSAGES
from rm import RewardModel
from rm.temperature import KEY

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(4)]
FAST = PolicyConfig(learning_rate=1e-2, max_steps=3, batch_size=4, gradient_accumulation=1, lora_rank=2)
SHORT = Exploring(n=2, max_tokens=4)


class Lengths:
    """Rewards a response by its length, times a factor, plus a constant."""

    def __init__(self, factor=1.0, constant=0.0):
        self.factor, self.constant, self.asked = factor, constant, 0

    def score(self, prompts, responses):
        self.asked += 1
        return np.array([self.factor * len(text) + self.constant for text in responses])


def candidates(texts):
    rows = [(prompt, text, i) for prompt in PROMPTS[:2] for i, text in enumerate(texts)]
    return pa.table(
        {
            "prompt": pa.array([prompt for prompt, _, _ in rows], MESSAGES),
            "response": pa.array([text for _, text, _ in rows], pa.string()),
            "sample": pa.array([i for _, _, i in rows], pa.int32()),
            "model": ["m"] * len(rows),
        }
    )


def test_the_best_candidate_is_that_of_highest_reward_among_the_first_n() -> None:
    made = best_of_n(candidates(["aa", "a", "aaaa"]), Ensemble([Lengths()]))
    assert [row["response"] for row in made.table.to_pylist()] == ["aaaa", "aaaa"]
    assert made.table["reward"].to_pylist() == [4.0, 4.0]
    assert made.table["reward_mean"].to_pylist() == pytest.approx([7 / 3, 7 / 3])
    first = best_of_n(candidates(["aa", "a", "aaaa"]), Ensemble([Lengths()]), n=2)
    assert [row["response"] for row in first.table.to_pylist()] == ["aa", "aa"]
    assert [point["reward"] for point in made.curve()] == pytest.approx([7 / 3, 10 / 3, 4])
    assert [point["kl_at_most"] for point in made.curve()] == pytest.approx([0, math.log(2) - 0.5, math.log(3) - 2 / 3])


def test_the_curve_says_how_sure_the_gain_of_more_candidates_is() -> None:
    rng = np.random.default_rng(0)
    rewards = [3 * rng.normal() + rng.normal(size=4) for _ in range(200)]  # prompts differ more than candidates
    table = pa.Table.from_pylist([{"n": 4}] * 200)
    first, *_, last = BestOfN(table, rewards).curve()
    assert first["gain"] == 0
    assert first["gain_interval"] == [0, 0]
    gains = np.array([r.max() - r.mean() for r in rewards])
    assert last["gain"] == pytest.approx(gains.mean())
    assert last["gain"] == pytest.approx(last["reward"] - first["reward"])
    low, high = last["gain_interval"]
    assert low < gains.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * gains.std() / math.sqrt(200), rel=0.15)
    assert np.diff(last["reward_interval"]) > 3 * (high - low)
    assert BestOfN(table.slice(0, 1), rewards[:1]).curve()[3]["reward_interval"] is None


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6), st.data())
def test_the_expected_best_of_k_is_the_mean_over_all_choices(rewards, data) -> None:
    k = data.draw(st.integers(1, len(rewards)))
    every = [max(chosen) for chosen in itertools.combinations(rewards, k)]
    assert expected_best(rewards, k) == pytest.approx(np.mean(every), abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 1000, 2000, 3999, 4000])
def test_the_expected_best_of_thousands_of_ranks_is_the_known_one(k) -> None:
    n = 4000
    assert expected_best(np.arange(1, n + 1), k) == pytest.approx(k * (n + 1) / (k + 1), rel=1e-11)
    with pytest.raises(DataError, match="k is 3; expected 1 to 2"):
        expected_best([1.0, 2.0], 3)


def test_too_few_candidates_are_an_error() -> None:
    with pytest.raises(DataError, match="a prompt has 2 candidates; expected 3"):
        best_of_n(candidates(["a", "b"]), Ensemble([Lengths()]), n=3)
    with pytest.raises(DataError, match="n is 0"):
        best_of_n(candidates(["a", "b"]), Ensemble([Lengths()]), n=0)


class Shorter:
    """Rewards what is short, nothing most of all."""

    def score(self, prompts, responses):
        return np.array([-float(len(text)) for text in responses])


def test_an_unusable_candidate_never_wins_and_is_counted() -> None:
    made = best_of_n(candidates(["aa", "", "a\0", " \n", None, "aaa"]), Ensemble([Shorter()]))
    assert made.table["response"].to_pylist() == ["aa", "aa"]
    assert made.table["n"].to_pylist() == [6, 6]
    assert made.table["reward_mean"].to_pylist() == [-2.5, -2.5]
    assert (made.n_unusable, made.n_left_out) == (8, 0)
    assert [point["reward"] for point in made.curve()] == pytest.approx([-2.5, -2, -2, -2, -2, -2])
    chosen_from = math.log(3)  # a third of what was drawn can win: the policy given that is so far from the policy
    spent = [chosen_from, *[chosen_from + math.log(2) - 0.5] * 5]
    assert [point["kl_at_most"] for point in made.curve()] == pytest.approx(spent)


def test_a_prompt_without_a_usable_candidate_is_left_out_and_counted() -> None:
    table = pa.concat_tables([candidates(["", "", "late"]).slice(0, 3), candidates(["a", " ", ""]).slice(3, 3)])
    made = best_of_n(table, Ensemble([Shorter()]), n=2)
    assert made.table["prompt"].to_pylist() == PROMPTS[1:2]
    assert (made.n_unusable, made.n_left_out) == (3, 1)
    with pytest.raises(DataError, match="none of 4 candidates has a text to choose; expected one or more"):
        best_of_n(candidates(["", None]), Ensemble([Shorter()]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_chooses_nothing(wrong) -> None:
    broken = SimpleNamespace(score=lambda prompts, texts: np.array([wrong if text == "bb" else 1.0 for text in texts]))
    said = rf"runs/rm1: the reward of a response to 'Name colour 0\.' is {wrong} \(2 of 6 .*; train it again"
    ensemble = Ensemble([Lengths(), broken], ["runs/rm0", "runs/rm1"])
    with pytest.raises(DataError, match=said):
        best_of_n(candidates(["a", "bb", "ccc"]), ensemble)
    [reward] = reward_functions(Ensemble([broken]))
    with pytest.raises(DataError, match="reward model 0: the reward of a response to"):
        reward(prompts=PROMPTS[:2], completions=["a", "bb"])


def test_members_that_differ_by_a_constant_do_not_disagree() -> None:
    prompts, texts = PROMPTS[:1] * 3 + PROMPTS[1:2], ["a", "aa", "aaa", "a"]
    same = Ensemble([Lengths(), Lengths(constant=7)])
    np.testing.assert_allclose(same.disagreement(prompts, texts), 0, atol=1e-12)
    other = Ensemble([Lengths(), Lengths(factor=3, constant=7)])
    np.testing.assert_allclose(other.disagreement(prompts, texts), [1, 0, 1, 0])
    np.testing.assert_allclose(centred(np.array([[1.0, 2, 6, 5]]), ["p", "p", "p", "q"]), [[-2, -1, 3, 0]])


def test_calibrated_members_that_differ_by_scale_alone_do_not_disagree(rm_folders, tmp_path) -> None:
    folders = [shutil.copytree(rm_folders[0], tmp_path / name) for name in ("one", "four")]
    four = RewardModel.load(folders[1]).model
    four.score.weight.data *= 4
    four.save_pretrained(folders[1])
    for folder, temperature in zip(folders, (0.5, 2.0), strict=True):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {KEY: {"temperature": temperature}}))
    prompts, texts = PROMPTS[:1] * 3, ["a", "bb", "ccc"]
    both, raw = Ensemble.load(folders), RewardModel.load(folders[0]).score(prompts, texts)
    assert np.ptp(raw) > 0.01
    np.testing.assert_allclose(both.disagreement(prompts, texts), 0, atol=1e-5)
    np.testing.assert_allclose(both.mean(prompts, texts), raw / 0.5, rtol=1e-4)
    np.testing.assert_allclose(Ensemble.load(folders[:1]).mean(prompts, texts), raw / 0.5, rtol=1e-6)


def test_penalties_are_reward_functions_of_their_own_and_score_a_batch_once() -> None:
    members = [Lengths(), Lengths(factor=3)]
    functions = reward_functions(Ensemble(members), Penalties(length_penalty=2.0, uncertainty_penalty=0.5))
    assert [function.__name__ for function in functions] == ["reward", "uncertainty_penalty", "length_penalty"]
    batch = {
        "prompts": PROMPTS[:1] * 2,
        "completions": [[{"role": "assistant", "content": text}] for text in ("a", "aaa")],
        "completion_ids": [[5] * 50, [5] * 100],
    }
    assert [function(**batch) for function in functions] == [[2.0, 6.0], [-0.5, -0.5], [-1.0, -2.0]]
    assert [member.asked for member in members] == [1, 1]


def test_the_penalty_on_disagreement_is_in_the_unit_of_the_rewards_which_its_help_tells_from_the_variance() -> None:
    prompts, texts = PROMPTS[:1] * 3, ["a", "aa", "aaa"]
    one, ten = (Ensemble([Lengths(scale), Lengths(3 * scale)]).disagreement(prompts, texts) for scale in (1, 10))
    np.testing.assert_allclose(ten, 10 * one)
    [said] = [one.metadata["help"] for one in fields(Penalties) if one.name == "uncertainty_penalty"]
    assert "per standard deviation among the reward models (2310.02743 takes the variance)" in said


def test_penalties_and_exploration_that_cannot_work_are_refused() -> None:
    with pytest.raises(DataError, match="does not disagree with itself"):
        reward_functions(Ensemble([Lengths()]), Penalties(uncertainty_penalty=1.0))
    for wrong in ({"length_penalty": -1.0}, {"length_penalty": math.nan}, {"uncertainty_penalty": math.inf}):
        with pytest.raises(DataError, match="expected finite numbers, 0 or more"):
            Penalties(**wrong)
    with pytest.raises(DataError, match="2 responses or more"):
        Exploring(n=1)
    with pytest.raises(DataError, match="no reward model is named"):
        Ensemble.load([])


@pytest.mark.slow
def test_dpo_reads_an_export_with_its_soft_labels(six_pairs, policy_folder, tmp_path) -> None:
    folder = export(tmp_path / "augmented", six_pairs, [0.9, 0.1, 0.5, 0.8, 0.3, 0.6])
    pairs = read_soft_pairs(folder)
    labels = dict(zip(pairs.chosen, pairs.p_chosen, strict=True))
    assert labels["Good answer 3."] == 0.8
    assert labels["Bad answer, number 4."] == pytest.approx(0.7)
    assert len(pairs) == 5  # the gold tie has no weight
    assert all(prompt[-1]["role"] == "user" for prompt in pairs.prompts)
    done = align_dpo(folder, policy_folder, FAST, tmp_path / "aligned")
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert manifest["command"] == "align dpo"
    assert manifest["counts"] == {"steps": 3, "used": 5, "too_long": 0, "shortened": 0}
    assert manifest["config"]["lora_rank"] == 2
    assert manifest["started_from"] == known_as(policy_folder)
    assert len(json.loads((done.folder / "train_log.json").read_text())) == 3
    with pytest.raises(DataError, match="already exists"):
        align_dpo(folder, policy_folder, FAST, tmp_path / "aligned")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_reward_model_trains_a_policy_that_is_saved_as_a_plain_model(
    policy_folder, rm_folders, tmp_path, method
) -> None:
    done = align_with_rewards(
        PROMPTS,
        policy_folder,
        rm_folders,
        FAST,
        tmp_path / "aligned",
        method=method,
        exploring=SHORT,
        penalties=Penalties(length_penalty=0.5, uncertainty_penalty=0.5),
    )
    assert (done.steps, done.n_pairs) == (3, 4)
    assert {f"rewards/{name}/mean" for name in ("reward", "length_penalty", "uncertainty_penalty")} <= done.log[
        0
    ].keys()
    assert done.log[0]["rewards/length_penalty/mean"] < 0
    before, after = (load_policy(path).network.state_dict() for path in (policy_folder, done.folder))
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    assert json.loads((done.folder / "manifest.json").read_text())["command"] == f"align {method}"


@pytest.mark.slow
def test_grpo_learns_what_is_rewarded(policy_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Ensemble, "load", classmethod(lambda cls, folders: Ensemble([Ends()])))
    config = PolicyConfig(learning_rate=1e-2, max_steps=25, batch_size=16, gradient_accumulation=1, beta=0.01)
    done = align_with_rewards(PROMPTS, policy_folder, [], config, tmp_path / "out", exploring=Exploring(8, 1.0, 3))
    rewards = [entry["reward"] for entry in done.log]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.2


class Ends:
    """Rewards plain letters."""

    def score(self, prompts, responses):
        return np.array([np.mean([c.isascii() and c.isalpha() for c in text]) if text else 0.0 for text in responses])


@pytest.mark.slow
def test_prompts_without_room_are_counted_and_batches_that_cannot_be_split_refused(
    policy_folder, rm_folders, tmp_path
) -> None:
    config = PolicyConfig(**vars(FAST) | {"max_steps": 1, "max_length": 80})
    prompts = [*PROMPTS, [{"role": "user", "content": "long " * 60}]]
    with pytest.warns(WeakprefWarning, match="1 of 5 prompts left out"):
        done = align_with_rewards(prompts, policy_folder, rm_folders[:1], config, tmp_path / "a", exploring=SHORT)
    assert done.n_too_long == 1
    with pytest.raises(DataError, match="cannot be split into 3 a prompt"):
        align_with_rewards(PROMPTS, policy_folder, rm_folders, FAST, tmp_path / "b", exploring=Exploring(3))


@pytest.mark.parametrize("max_steps", [None, 2])
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_fewer_prompts_than_one_step_takes_are_refused(policy_folder, tmp_path, method, max_steps) -> None:
    config = PolicyConfig(max_steps=max_steps)
    said = "there are 3 prompts, but one step takes 4: .* expected 4 prompts or more: lower gradient_accumulation"
    with pytest.raises(DataError, match=said):
        align_with_rewards(PROMPTS[:3], policy_folder, ["rm"], config, tmp_path / "out", method=method)
    assert not (tmp_path / "out").exists()


def test_training_that_took_no_step_is_an_error() -> None:
    idle = SimpleNamespace(remove_callback=lambda _: None, train=lambda: None, state=SimpleNamespace(global_step=0))
    with pytest.raises(DataError, match="training ended after 0 steps"):
        run(idle)


@pytest.mark.slow
def test_prompts_that_fill_no_whole_step_are_counted(policy_folder, rm_folders, tmp_path) -> None:
    config = PolicyConfig(**vars(FAST) | {"max_steps": None, "batch_size": 6})
    done = align_with_rewards(PROMPTS, policy_folder, rm_folders[:1], config, tmp_path / "out", exploring=SHORT)
    assert (done.steps, done.n_pairs, done.n_left_over) == (1, 4, 1)
    assert json.loads((done.folder / "manifest.json").read_text())["counts"]["left_over"] == 1


def test_the_packaged_model_becomes_a_folder_that_the_reference_is_read_from(
    policy_folder, tmp_path, monkeypatch
) -> None:
    class BuiltError(Exception):
        pass

    def stop(trainer):
        policy, reference = trainer.model.state_dict(), trainer.ref_model.state_dict()
        assert all(policy[name].equal(reference[name]) for name in policy)
        raise BuiltError

    monkeypatch.setattr("augment.align.run", stop)
    monkeypatch.setattr("augment.align.save_as_folder", lambda _, folder, __: shutil.copytree(policy_folder, folder))
    monkeypatch.setattr(Ensemble, "load", classmethod(lambda cls, folders: Ensemble([Ends()])))
    with pytest.raises(BuiltError):
        align_with_rewards(PROMPTS, "smollm2", [], PolicyConfig(batch_size=2), tmp_path / "out", exploring=SHORT)


def test_a_pair_of_answers_to_different_prompts_is_named(tmp_path) -> None:
    answer = [{"role": "assistant", "content": "Red."}]
    chosen, rejected = ([prompt + answer for prompt in PROMPTS[:3]] for _ in range(2))
    pq.write_table(pa.table({"chosen": chosen, "rejected": rejected}), tmp_path / "same.parquet")
    assert read_soft_pairs(tmp_path / "same.parquet").prompts == PROMPTS[:3]
    rejected[1] = PROMPTS[3] + answer
    pq.write_table(pa.table({"chosen": chosen, "rejected": rejected}), tmp_path / "other.parquet")
    said = r"other.parquet: in row 1 .* chosen answers 'Name colour 1\.' and rejected 'Name colour 3\.'; expected one"
    with pytest.raises(DataError, match=said):
        read_soft_pairs(tmp_path / "other.parquet")
