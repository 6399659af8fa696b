"""A reward model as a voter, beside others, and honest about what it learned from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeling import LabelModel, apply, read_votes, scoring_function, write_votes
from labeling.errors import VotesError, WeakprefWarning
from labeling.pairs import Pairs, prompt_id
from rm import RewardVoter, score
from rm.handoff import save
from rm.model import RewardModel, load_base
from rm.provenance import TRAIN_PROMPTS

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
AsPairs = Callable[..., Pairs]


@pytest.fixture(scope="module")
def folder(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rm0"
    save(RewardModel(*load_base(tiny, 64), 64), out)
    return out


@scoring_function
def n_words(prompt: str, response: str) -> int:
    return len(response.split())


def test_its_margin_is_the_difference_of_rewards_at_its_temperature(
    folder: Path, tmp_path: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(9))
    voter = RewardVoter(RewardModel.load(folder), "rm", temperature=4.0, self_label=False)
    votes, h = apply([voter, n_words], pairs), -np.diff(score(folder, pairs))[:, 0]
    np.testing.assert_allclose(votes.margins[:, 0], h / 4, rtol=1e-5)
    assert votes.votes[:, 0].tolist() == np.where(h > 0, 0, 1).tolist()
    swapped = apply([voter, n_words], pairs.swap())
    np.testing.assert_array_equal(swapped.margins, -votes.margins)


def test_a_constant_added_to_every_reward_changes_no_vote(folder: Path, conversations: Rows, as_pairs: AsPairs) -> None:
    pairs, model = as_pairs(conversations(5)), RewardModel.load(folder)
    plain = apply([RewardVoter(model, "rm", 1.0, False)], pairs)
    model.model.classifier.bias.data += 3.0
    np.testing.assert_allclose(apply([RewardVoter(model, "rm", 1.0, False)], pairs).margins, plain.margins, atol=1e-5)


def test_it_is_named_after_its_directory_unless_named(folder: Path) -> None:
    assert RewardVoter.load(folder).name == "rm:rm0"
    assert RewardVoter.load(folder, "mine").name == "mine"


@pytest.mark.parametrize(
    ("origins", "expected"),
    [({"gold": 5}, False), ({"gold": 5, "weak": 3}, True), ({"self": 1}, True), ({"unknown": 4}, False), (None, False)],
)
def test_it_declares_that_it_learned_from_made_labels(
    folder: Path, tmp_path: Path, origins: dict[str, int] | None, expected: bool
) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "rm")
    if origins is not None:
        (tmp_path / "rm" / "manifest.json").write_text(json.dumps({"origins": origins}))
    assert RewardVoter.load(tmp_path / "rm").self_label is expected
    assert RewardVoter.load(tmp_path / "rm", self_label=True).self_label is True


def test_the_label_model_does_not_listen_to_one_that_learned_from_label_models(
    folder: Path, tmp_path: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(30), [None] * 30)
    voters = [RewardVoter(RewardModel.load(folder), "rm", 1.0, self_label=True), n_words]
    votes = apply(voters, pairs)
    write_votes(tmp_path / "votes.parquet", votes)
    read = read_votes(tmp_path / "votes.parquet")[0]
    assert votes.self_labels == read.self_labels == read.take([0]).self_labels == read.swap().self_labels == ("rm",)
    assert read.select(["n_words"]).self_labels == ()
    declared, told = LabelModel().fit(read), LabelModel(["rm"]).fit(replace(read, self_labels=()))
    assert declared.weights_[0] == 0.0 != declared.weights_[1]
    np.testing.assert_array_equal(declared.posterior(read), told.posterior(read))
    with pytest.raises(VotesError, match="every voter is among self_labels"):
        LabelModel().fit(read.select(["rm"]))


def test_votes_on_prompts_it_was_trained_on_are_warned_of(
    folder: Path, tmp_path: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(4))
    voter = RewardVoter.load(folder)
    (folder / TRAIN_PROMPTS).write_text(prompt_id(pairs.table["prompt"][1].as_py()) + "\n")
    try:
        with pytest.warns(WeakprefWarning, match=r"rm:rm0 was trained on the prompts of 1 of 4 pairs"):
            apply([RewardVoter.load(folder)], pairs)
    finally:
        (folder / TRAIN_PROMPTS).unlink()
    apply([voter], pairs)
