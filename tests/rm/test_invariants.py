"""What must not change what is learned: packing, the order of a step's pairs, the budget of a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from labeling.errors import WeakprefWarning
from rm.config import RewardConfig
from rm.model import load_base
from rm.objectives import bradley_terry
from rm.sources import training_pairs
from rm.steps import Step, StepCollator, pair_rewards
from rm.trainer import packs, prepare, train

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
Write = Callable[..., Path]
Pairs = Sequence[dict[str, Any]]


def set_up(base: str, data: Path, cache: Path, packed: bool) -> tuple[Any, Pairs, Callable[[Pairs], Step]]:
    config = RewardConfig(base, max_length=128)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokenizer = load_base(base, 128)
    prepare(model, config)
    dataset = training_pairs([data], tokenizer, config, cache)
    collator = StepCollator(300, tokenizer.pad_token_id, packed and packs(model, 128), "bert" not in base)
    return model.train(), [dataset[i] for i in range(len(dataset))], collator


def backward(model: Any, step: Step) -> float:
    total = 0.0
    for part in step.parts:
        chosen, rejected = pair_rewards(model, part)
        loss = (part.weight * bradley_terry(chosen - rejected, part.p_chosen)).sum() / step.weight
        loss.backward()
        total += loss.item()
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_packed_and_padded_steps_have_the_same_losses_one_after_the_other(
    bases: dict[str, str], name: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data, histories = universal(conversations(16), p_chosen=[0.6 + 0.02 * i for i in range(16)]), []
    for packed in (True, False):
        model, pairs, collator = set_up(bases[name], data, tmp_path / "cache", packed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        losses = []
        for start in (0, 8, 0, 8):
            optimizer.zero_grad()
            losses.append(backward(model, collator(pairs[start : start + 8])))
            optimizer.step()
        histories.append(losses)
    assert np.ptp(histories[0]) > 0.001
    np.testing.assert_allclose(histories[0], histories[1], atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_order_of_the_pairs_in_a_step_does_not_matter(
    bases: dict[str, str], name: str, packed: bool, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data = universal(conversations(8), weight=[1.0 + i for i in range(8)])
    model, pairs, collator = set_up(bases[name], data, tmp_path / "cache", packed)
    found = []
    for order in (pairs, pairs[::-1]):
        model.zero_grad()
        loss = backward(model, collator(order))
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_a_model_that_cannot_be_packed_is_named_and_padded(
    bases: dict[str, str], universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases["llama"])
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **sizes)).save_pretrained(
        tmp_path / "gpt2"
    )
    tokenizer.save_pretrained(tmp_path / "gpt2")
    config = RewardConfig(str(tmp_path / "gpt2"), max_steps=2, batch_size=4, max_length=256, bf16=False)
    with pytest.warns(WeakprefWarning, match="GPT2ForSequenceClassification: packed rows are known .* are padded"):
        out = train(universal(conversations(8)), config, out=tmp_path / "rm")
    assert AutoModelForSequenceClassification.from_pretrained(out).config.num_labels == 1


@pytest.mark.slow
def test_a_run_over_two_mixed_sets_resumes_in_the_middle_of_an_epoch_bit_for_bit(
    bases: dict[str, str], universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rm.trainer import PairTrainer

    rows = conversations(30)
    data = [universal(rows[:24], "first.parquet"), universal(rows[24:], "second.parquet")]
    config = RewardConfig(
        bases["llama"], mix=(0.6, 0.4), epochs=2, batch_size=4, save_steps=3, max_length=128, learning_rate=1e-3,
        bf16=False, token_budget=150,
    )  # fmt: skip
    straight = train(data, config, out=tmp_path / "straight")
    original, done = PairTrainer.training_step, list[int]()

    def interrupted(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(data, config, out=tmp_path / "resumed")
    monkeypatch.undo()
    resumed = train(data, config, out=tmp_path / "resumed", resume=True)
    first, second = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert all(np.array_equal(first[name], second[name]) for name in first)
