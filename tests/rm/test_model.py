from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from labeling.errors import DataError, WeakprefWarning
from labeling.pairs import Pairs
from rm.model import RewardModel, load_base, positions, score

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]


@pytest.fixture(scope="module")
def folder(tiny: str, tmp_path_factory: pytest.TempPathFactory, conversations: Rows) -> Path:
    """A saved reward model with random weights."""
    from rm.handoff import save

    out = tmp_path_factory.mktemp("random")
    save(RewardModel(*load_base(tiny, 64), 64), out)
    return out


def test_a_reward_does_not_depend_on_the_others_in_its_batch(folder: Path, conversations: Rows) -> None:
    model, rows = RewardModel.load(folder), conversations(9)
    prompts, responses = [row[0] for row in rows], [row[1] for row in rows]
    alone = [model.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    np.testing.assert_allclose(model.score(prompts, responses, tokens=200), alone, atol=1e-6)


def test_without_a_token_to_pad_with_conversations_are_scored_one_at_a_time(
    folder: Path, conversations: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = conversations(5)
    prompts, responses = [row[0] for row in rows], [row[1] for row in rows]
    padded = replace(RewardModel.load(folder), packed=False)
    expected = padded.score(prompts, responses)
    padded.tokenizer.pad_token = None
    np.testing.assert_allclose(padded.score(prompts, responses), expected, atol=1e-6)


def test_a_tokenizer_without_a_chat_template_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bare")
    for name in ("chat_template.jinja",):
        (tmp_path / "bare" / name).unlink(missing_ok=True)
    settings = json.loads((tmp_path / "bare" / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"the tokenizer of .*bare has no chat template"):
        RewardModel.load(tmp_path / "bare")


def test_equal_conversations_are_scored_once(folder: Path, conversations: Rows) -> None:
    model, row = RewardModel.load(folder), conversations(1)[0]
    seen: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["read_at"])), with_kwargs=True
    )
    rewards = model.score([row[0]] * 5, [row[1]] * 4 + [row[2]])
    assert seen == [2]
    assert len(set(rewards[:4])) == 1


def test_pairs_get_a_reward_for_either_response(
    folder: Path, conversations: Rows, as_pairs: Callable[..., Pairs]
) -> None:
    rows = conversations(5)
    rewards = score(folder, as_pairs(rows))
    swapped = score(folder, as_pairs([(p, b, a) for p, a, b in rows]))
    assert rewards.shape == (5, 2)
    np.testing.assert_array_equal(rewards, swapped[:, ::-1])


def test_nothing_to_score_gives_no_rewards(folder: Path) -> None:
    assert RewardModel.load(folder).score([], []).shape == (0,)


def test_an_over_long_prompt_is_counted_in_a_warning(folder: Path) -> None:
    prompts = [[{"role": "user", "content": "What is the capital of France? " * 20}]]
    with pytest.warns(WeakprefWarning, match="1 of 1 conversations are longer than 64 tokens"):
        RewardModel.load(folder).score(prompts, ["Paris"])


def test_prompts_and_responses_must_be_as_many(folder: Path) -> None:
    with pytest.raises(DataError, match="there are 0 prompts and 1 responses"):
        RewardModel.load(folder).score([], ["Paris"])


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no config.json; expected a directory written by rm.train"):
        RewardModel.load(tmp_path)


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_a_base_model_is_no_reward_model(bases: dict[str, str], name: str) -> None:
    with pytest.raises(DataError, match="is no reward model: expected a score head with 1 output"):
        RewardModel.load(bases[name])


def test_a_classifier_of_two_classes_is_no_reward_model(tiny: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="expected a score head with 1 output, found 2 outputs"):
        RewardModel.load(tmp_path)


def test_more_tokens_than_positions_is_an_error(tiny: str) -> None:
    with pytest.raises(DataError, match=r"max_length is 512, but model .* has positions for 128 tokens"):
        load_base(tiny, 512)


def test_a_base_without_all_its_weights_is_an_error(tiny: str, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="lacks 1 of its weights"):
        load_base(str(tmp_path / "base"), 64)


def test_a_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be loaded as a directory or from the hub"):
        load_base(str(tmp_path / "nowhere"), 64)


def test_positions_that_begin_after_the_padding_are_not_counted() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=20, max_position_embeddings=34, pad_token_id=1, **sizes)
    model = RobertaForSequenceClassification(config).eval()
    assert positions(model) == 32
    assert model(torch.full((1, 32), 5)).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError), match="index"):
        model(torch.full((1, 33), 5))
    assert (
        positions(BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=34, **sizes))) == 34
    )


@pytest.mark.parametrize("pad", [5, None])
def test_a_padded_decoder_finds_the_end_of_a_row_whatever_its_config_pads_with(
    bases: dict[str, str], tmp_path: Path, conversations: Rows, pad: int | None
) -> None:
    tokenizer = load_base(bases["qwen3"], 128)[1]
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=2, num_labels=1)
    config.pad_token_id = pad
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, rows = RewardModel.load(tmp_path), conversations(6)
    assert not model.packed
    prompts, responses = [row[0] for row in rows], [row[1] for row in rows]
    alone = [model.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    np.testing.assert_allclose(model.score(prompts, responses), alone, atol=1e-6)


def test_a_reward_that_is_not_finite_is_named_with_its_model(folder: Path, conversations: Rows) -> None:
    model, rows = RewardModel.load(folder), conversations(3)
    model.model.classifier.bias.data[:] = torch.inf
    with pytest.raises(DataError, match=rf"{folder}: the reward of a response to '.*' is inf \(3 of 3 are like it\)"):
        model.score([row[0] for row in rows], [row[1] for row in rows])


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match="runs/nope does not exist"):
        RewardModel.load("runs/nope")
