from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, DebertaConfig, DebertaV2Config, GPT2Config

from labeling.errors import DataError, GroupLeakError
from rm import RewardConfig, train
from rm.order import LengthGrouped
from rm.plan import plan
from rm.sources import training_pairs
from rm.steps import StepCollator
from rm.template import repaired

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
Write = Callable[..., Path]


@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_a_plan_says_what_packing_and_sharing_save(
    bases: dict[str, str], name: str, universal: Write, conversations: Rows
) -> None:
    data = universal(conversations(20), weight=[0.0] + [1.0] * 19)
    found = plan(data, RewardConfig(bases[name], batch_size=4, max_length=128, token_budget=200))
    assert found.packed
    assert found.reason is None
    assert (found.pairs, found.steps, found.counts.skipped_zero_weight) == (19, 5, 1)
    assert found.tokens_padded > found.tokens_apart >= found.tokens > 0
    assert (found.tokens < found.tokens_apart) == (name != "bert")
    assert found.forwards > found.steps
    assert found.trained == found.parameters - (name == "bert")  # its head's bias is kept
    assert found.weights_bytes == 4 * found.parameters + 12 * found.trained
    assert len(found.lines()) == 7


@pytest.fixture
def outline(bases: dict[str, str], tmp_path: Path) -> Callable[[Any], str]:
    """Write a tiny model's config and a tokenizer, which is all that a plan reads."""

    def write(config: Any) -> str:
        folder = tmp_path / config.model_type
        shutil.copytree(bases["qwen3"], folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        config.save_pretrained(folder)
        return str(folder)

    return write


def test_a_plan_counts_what_padded_rows_compute(
    outline: Callable[[Any], str], universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    base = outline(GPT2Config(vocab_size=300, n_positions=128, n_embd=16, n_layer=1, n_head=2))
    data, config = universal(conversations(70)), RewardConfig(base, batch_size=8, max_length=128, token_budget=300)
    found = plan(data, config)
    tokenizer = repaired(AutoTokenizer.from_pretrained(base))
    pairs = training_pairs([data], tokenizer, config, tmp_path / "tokens")
    order = LengthGrouped(pairs.mixture, config.seed, pairs.lengths[:, :2].max(axis=1), 8).rows()
    collate = StepCollator(300, tokenizer.pad_token_id, packed=False, causal=False)
    rows = [
        part.rows
        for start in range(0, 70, 8)
        for part in collate([pairs[int(i)] for i in order[start : start + 8]]).parts
    ]
    assert found.forwards == len(rows) > found.steps
    assert found.tokens == sum(row.input_ids.numel() for row in rows)
    assert found.tokens_apart < found.tokens < found.tokens_padded


@pytest.mark.parametrize("config", [DebertaConfig, DebertaV2Config])
def test_an_architecture_whose_activations_cannot_be_counted_has_a_plan_all_the_same(
    outline: Callable[[Any], str], universal: Write, conversations: Rows, config: Any
) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    base = outline(config(vocab_size=300, pos_att_type=["p2c", "c2p"], relative_attention=True, **small))
    found = plan(universal(conversations(8)), RewardConfig(base, max_length=128))
    assert found.activations_bytes is None
    assert "no estimate for activations" in found.lines()[-1]
    assert found.steps == 1


def test_checkpointing_and_bfloat16_take_less_memory(tiny: str, universal: Write, conversations: Rows) -> None:
    data = universal(conversations(8))
    usual, checkpointed, half = (
        plan(data, RewardConfig(tiny, max_length=128, **options)).activations_bytes
        for options in ({"bf16": False}, {"bf16": False, "gradient_checkpointing": True}, {"bf16": True})
    )
    assert usual > checkpointed
    assert usual == 2 * half


@pytest.mark.parametrize("options", [{"lora_r": 2}, {"freeze_layers": 1}])
def test_what_does_not_learn_has_no_gradients_and_moments(
    tiny: str, universal: Write, conversations: Rows, options: dict[str, int]
) -> None:
    data = universal(conversations(4))
    whole, part = (plan(data, RewardConfig(tiny, max_length=128, **chosen)) for chosen in ({}, options))
    assert part.trained < part.parameters / 2 < whole.trained
    assert part.weights_bytes < whole.weights_bytes


def test_pairs_held_out_are_no_part_of_an_epoch(tiny: str, universal: Write, conversations: Rows) -> None:
    data = universal(conversations(30))
    assert 0 < plan(data, RewardConfig(tiny, max_length=128, eval_share=0.3)).pairs < 30


def test_pairs_to_measure_on_are_counted_and_refused_as_by_training(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows, config = conversations(12), RewardConfig(tiny, max_length=128)
    data, other, same = (
        universal(part, name=name)
        for part, name in ((rows[:9], "a.parquet"), (rows[9:], "b.parquet"), (rows[8:], "c.parquet"))
    )
    found = plan(data, config, held_out=other, cache=tmp_path / "tokens")
    assert (found.pairs, found.held_out) == (9, 3)
    assert "held out     3 pairs, of other prompts" in found.lines()
    assert plan(data, config).held_out is None
    assert list((tmp_path / "tokens").iterdir())
    with pytest.raises(GroupLeakError, match="1 of 4 held-out prompts are trained on too"):
        plan(data, config, held_out=same)
    with pytest.raises(DataError, match="eval_steps without held-out pairs do nothing"):
        plan(data, RewardConfig(tiny, max_length=128, eval_steps=5))


def test_a_plan_refuses_what_training_refuses(tiny: str, universal: Write, conversations: Rows, tmp_path: Path) -> None:
    data = universal(conversations(4))
    with pytest.raises(DataError, match=r"max_length is 4096, but model .* has positions for"):
        plan(data, RewardConfig(tiny, max_length=4096))
    with pytest.raises(DataError, match="cannot be read as a directory or from the hub"):
        plan(data, RewardConfig(str(tmp_path / "nowhere"), max_length=128))
    shutil.copytree(tiny, tmp_path / "own")
    settings = tmp_path / "own" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"auto_map": {"AutoTokenizer": "own.Own"}}))
    with pytest.raises(DataError, match="comes with code of its own"):
        plan(data, RewardConfig(str(tmp_path / "own"), max_length=128))


@pytest.mark.slow
def test_a_run_takes_the_steps_and_counts_of_its_plan(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data = universal(conversations(11), weight=[0.0] + [1.0] * 10)
    config = RewardConfig(tiny, batch_size=4, epochs=2, max_length=128, bf16=False)
    found = plan(data, config)
    counts = json.loads((train(data, config, out=tmp_path / "rm") / "manifest.json").read_text())["counts"]
    assert (counts["steps"], counts["pairs"], counts["rows"]) == (found.steps, found.counts.pairs, found.counts.rows)
