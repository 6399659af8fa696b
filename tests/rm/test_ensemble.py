"""Several reward models as one: margins averaged, spread reported, weights averaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from labeling.errors import DataError
from labeling.files import input_hash, sha256
from labeling.pairs import Pairs
from rm import Ensemble, RewardModel, average, score
from rm.ensemble import Opinions
from rm.evaluation import trained_prompts
from rm.handoff import save
from rm.model import load_base
from rm.provenance import STOPPING_PROMPTS, TRAIN_PROMPTS, hashes
from rm.temperature import KEY, settings_of, sigmoid

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
AsPairs = Callable[..., Pairs]


@pytest.fixture(scope="module")
def members(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three reward models of one base whose heads differ."""
    folder = tmp_path_factory.mktemp("members")
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, tokenizer = load_base(tiny, 64)
        model.config.mean, model.config.std = float(seed), 1.0 + seed  # as in what rm.train writes
        save(RewardModel(model, tokenizer, 64), folder / f"rm{seed}")
        (folder / f"rm{seed}" / TRAIN_PROMPTS).write_text(f"prompt{seed}\n")
    return [folder / f"rm{seed}" for seed in range(3)]


def with_constant(member: Path, out: Path, constant: float) -> Path:
    shutil.copytree(member, out)
    weights = load_file(out / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + constant
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_weights_in_several_files_are_averaged_and_hashed_as_those_in_one(members: list[Path], tmp_path: Path) -> None:
    parts = []
    for member in members[:2]:
        shutil.copytree(member, tmp_path / member.name, ignore=shutil.ignore_patterns("*.safetensors"))
        RewardModel.load(member).model.save_pretrained(tmp_path / member.name, max_shard_size="20KB")
        assert len(list((tmp_path / member.name).glob("*.safetensors"))) > 1
        parts.append(tmp_path / member.name)
    (parts[1] / STOPPING_PROMPTS).write_text("stop\n")
    one, several = average(members[:2], tmp_path / "one"), average(parts, tmp_path / "several")
    weights, others = (load_file(out / "model.safetensors") for out in (one, several))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    inputs = json.loads((several / "manifest.json").read_text())["inputs"]
    assert inputs == {"model_0": input_hash(parts[0]), "model_1": input_hash(parts[1])}
    assert hashes(several / STOPPING_PROMPTS) == {"stop"}
    before = input_hash(parts[0])
    assert len(before) == 64
    assert input_hash(members[0]) == sha256(members[0] / "model.safetensors")
    assert input_hash(tmp_path) == tmp_path.name
    last = max(parts[0].glob("*.safetensors"))
    last.write_bytes(last.read_bytes() + b" ")
    assert input_hash(parts[0]) != before


def test_members_are_averaged_as_margins(members: list[Path], conversations: Rows, as_pairs: AsPairs) -> None:
    pairs = as_pairs(conversations(8))
    said = Ensemble.load(members).judge(pairs)
    each = np.stack([-np.diff(score(member, pairs))[:, 0] for member in members], axis=1)
    np.testing.assert_allclose(said.margins, each)
    np.testing.assert_allclose(said.mean, each.mean(axis=1))
    np.testing.assert_allclose(said.p_a, sigmoid(each).mean(axis=1))
    swapped = Ensemble.load(members).judge(pairs.swap())
    np.testing.assert_array_equal(swapped.margins, -said.margins)


def test_a_constant_added_to_the_rewards_of_a_member_changes_no_margin(
    members: list[Path], tmp_path: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(6))
    lifted = with_constant(members[0], tmp_path / "lifted", 5.0)
    assert score(lifted, pairs).mean() - score(members[0], pairs).mean() == pytest.approx(5.0, abs=1e-5)
    there, here = Ensemble.load([lifted, members[1]]).judge(pairs), Ensemble.load(members[:2]).judge(pairs)
    np.testing.assert_allclose(there.margins, here.margins, atol=1e-5)


def test_margins_are_divided_by_the_members_own_temperatures(
    members: list[Path], tmp_path: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(4))
    shutil.copytree(members[0], tmp_path / "calm")
    config = json.loads((tmp_path / "calm" / "config.json").read_text())
    (tmp_path / "calm" / "config.json").write_text(json.dumps(config | {KEY: {"temperature": 4.0}}))
    said = Ensemble.load([tmp_path / "calm", members[0]]).judge(pairs)
    np.testing.assert_allclose(said.margins[:, 0] * 4, said.margins[:, 1])


def test_spread_and_disagreement_are_those_of_the_hand() -> None:
    said = Opinions(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, -4.0], [2.0, 2.0, 2.0]]))
    assert said.mean.tolist() == pytest.approx([2.0, -2 / 3, 2.0])
    assert said.std.tolist() == pytest.approx([1.0, np.std([1, 1, -4], ddof=1), 0.0])
    assert said.disagreement_share.tolist() == pytest.approx([0.0, 2 / 3, 0.0])
    assert (said.p_a[1] > 0.4) & (said.p_a[1] < 0.5)


def test_equal_models_average_to_the_same_model(
    members: list[Path], tmp_path: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(6))
    average([members[0], members[0]], tmp_path / "mean")
    np.testing.assert_allclose(score(tmp_path / "mean", pairs), score(members[0], pairs), atol=1e-6)


def test_averaged_weights_are_the_mean_and_saved_as_an_ordinary_model(members: list[Path], tmp_path: Path) -> None:
    average(members, tmp_path / "mean")
    mean, each = (
        load_file(tmp_path / "mean" / "model.safetensors"), [load_file(m / "model.safetensors") for m in members]
    )  # fmt: skip
    for name, value in mean.items():
        torch.testing.assert_close(value, torch.stack([weights[name] for weights in each]).mean(dim=0))
    assert trained_prompts(tmp_path / "mean") == {"prompt0", "prompt1", "prompt2"}
    assert settings_of(tmp_path / "mean") == {}
    assert not {"mean", "std"} & json.loads((tmp_path / "mean" / "config.json").read_text()).keys()
    assert json.loads((tmp_path / "mean" / "manifest.json").read_text())["counts"] == {"models": 3}
    with pytest.raises(DataError, match="already exists"):
        average(members, tmp_path / "mean")


def test_models_of_different_kinds_are_not_averaged(members: list[Path], bases: dict[str, str], tmp_path: Path) -> None:
    save(RewardModel(*load_base(bases["llama"], 64), 64), tmp_path / "llama")
    with pytest.raises(DataError, match=r"differ in .*architectures.* of config.json"):
        average([members[0], tmp_path / "llama"], tmp_path / "mean")
    shutil.copytree(members[1], tmp_path / "other")
    template = tmp_path / "other" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(DataError, match=r"differ in chat_template.jinja"):
        average([members[0], tmp_path / "other"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_one_model_is_neither_an_ensemble_nor_an_average(members: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an ensemble was given 1 reward models, expected two or more"):
        Ensemble.load(members[:1])
    with pytest.raises(DataError, match="1 reward models to average, expected two or more"):
        average(members[:1], tmp_path / "mean")
