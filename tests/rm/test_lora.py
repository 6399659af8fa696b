from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from labeling.errors import DataError
from labeling.files import sha256
from rm.config import RewardConfig
from rm.lora import merged
from rm.model import RewardModel, load_base
from rm.trainable import disable_dropout
from rm.trainer import PairTrainer, prepare, train

Row = tuple[list[dict[str, str]], str, str]
Rows = Callable[[int], list[Row]]
Write = Callable[..., Path]


def config(model: str, **options: Any) -> RewardConfig:
    fast = {"learning_rate": 1e-2, "batch_size": 4, "max_length": 128, "bf16": False, "lora_r": 4, "epochs": 4}
    return RewardConfig(model, **(fast | options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_only_low_rank_updates_and_the_head_differ_from_the_base(
    bases: dict[str, str], name: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    out = train(universal(conversations(8)), config(bases[name], lora_r=2), out=tmp_path / "rm")
    with torch.random.fork_rng():  # a pad token that is new to the vocabulary begins at random, as the head does
        torch.manual_seed(0)
        before = load_base(bases[name], 128)[0].state_dict()
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    in_base = {key for key in moved if not key.startswith(("score.", "classifier.")) and ".pooler." not in key}
    assert any(key.startswith(("score.", "classifier.")) for key in moved)
    assert len(in_base) == 2 * {"bert": 6, "llama": 7, "qwen3": 7}[name]  # every linear map of both layers
    for key in in_base:
        assert torch.linalg.matrix_rank(after[key] - before[key], atol=1e-5) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_kept_adapter_on_the_base_scores_as_the_merged_model(
    bases: dict[str, str], name: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    from peft import PeftModel

    rows = conversations(8)
    out = train(universal(rows), config(bases[name], keep_adapter=True), out=tmp_path / "rm")
    base, _ = load_base(bases[name], 128)
    adapted = PeftModel.from_pretrained(base, out / "adapter")
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert str(tmp_path.parent) not in (out / "adapter" / "adapter_config.json").read_text()
    ours = RewardModel.load(out)
    theirs = RewardModel(adapted.eval(), ours.tokenizer, 128)
    prompts, responses = [row[0] for row in rows], [row[1] for row in rows]
    np.testing.assert_allclose(ours.score(prompts, responses), theirs.score(prompts, responses), atol=1e-4)
    assert np.ptp(ours.score(prompts, responses)) > 0.1


def test_merging_changes_no_reward(tiny: str, conversations: Rows) -> None:
    model, tokenizer = load_base(tiny, 128)
    adapted = prepare(model, config(tiny))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, so that an untrained adapter does nothing
            torch.nn.init.normal_(parameter, std=0.1)
    rows = conversations(4)
    prompts, responses = [row[0] for row in rows], [row[1] for row in rows]
    before = RewardModel(model.eval(), tokenizer, 128).score(prompts, responses)
    after = RewardModel(merged(adapted), tokenizer, 128).score(prompts, responses)
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_adapters_and_head_are_all_that_learns(tiny: str) -> None:
    model, _ = load_base(tiny, 128)
    prepare(model, config(tiny))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or ".modules_to_save." in name for name in learning)
    assert "classifier.modules_to_save.default.weight" in learning
    assert "classifier.modules_to_save.default.bias" not in learning  # no difference of rewards depends on it


@pytest.mark.slow
def test_lora_dropout_is_the_only_dropout(tiny: str) -> None:
    model, _ = load_base(tiny, 128)
    prepare(model, config(tiny, lora_dropout=0.25))
    shares = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert {p for name, p in shares.items() if "lora_dropout" in name} == {0.25}
    assert {p for name, p in shares.items() if "lora_dropout" not in name} == {0.0}


@pytest.mark.slow
def test_a_resumed_lora_run_ends_as_a_straight_one_from_a_small_checkpoint(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = universal(conversations(20)), config(tiny, epochs=3, save_steps=4)
    straight = train(data, options, out=tmp_path / "straight")
    original, done = PairTrainer.compute_loss, []

    def compute_loss(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) == 10:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PairTrainer, "compute_loss", compute_loss)
        with pytest.raises(KeyboardInterrupt):
            train(data, options, out=tmp_path / "resumed")
    (checkpoint,) = (tmp_path / "resumed.checkpoints").glob("checkpoint-*/model.safetensors")
    assert all(".lora_" in name or ".modules_to_save." in name for name in load_file(checkpoint))
    resumed = train(data, options, out=tmp_path / "resumed", resume=True)
    assert sha256(resumed / "model.safetensors") == sha256(straight / "model.safetensors")


def test_a_target_that_is_no_module_is_named(tiny: str) -> None:
    model, _ = load_base(tiny, 128)
    with pytest.raises(DataError, match=r"lora_targets is 'q_projection': .*; pass 'all-linear' or names of modules"):
        prepare(model, config(tiny, lora_targets="q_projection"))


def test_named_targets_get_the_updates(tiny: str) -> None:
    model, _ = load_base(tiny, 128)
    prepare(model, config(tiny, lora_targets="query, value"))
    assert {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if ".lora_A" in name} == {
        "query", "value",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze_layers": 1}, "leave freeze_layers at 0"),
        ({"lora_r": 0, "keep_adapter": True}, "keep_adapter needs an adapter; pass lora_r"),
        ({"lora_dropout": 1.5}, r"lora_dropout is 1.5, expected a share in \[0, 1\]"),
    ],
)
def test_options_of_lora_that_do_not_fit_are_named(tiny: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        config(tiny, **options)


@pytest.mark.parametrize("kind", ["OPT", "Bloom", "Bart"])
def test_dropout_that_is_a_number_of_the_module_is_off_too(kind: str) -> None:
    """These hand their own share to torch's function in place of a module: two passes must be equal."""
    import transformers

    small: dict[str, dict[str, Any]] = {
        "OPT": {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2, "dropout": 0.5},
        "Bloom": {"hidden_size": 16, "n_layer": 2, "hidden_dropout": 0.5, "attention_dropout": 0.5},
        "Bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.5, "activation_dropout": 0.5},
    }
    heads = "decoder_attention_heads" if kind == "Bart" else "n_head" if kind == "Bloom" else "num_attention_heads"
    shape = {"vocab_size": 50, heads: 2, "num_labels": 1, "pad_token_id": 1, "eos_token_id": 2}
    shape |= {"encoder_attention_heads": 2} if kind == "Bart" else {}
    model = getattr(transformers, f"{kind}ForSequenceClassification")(
        getattr(transformers, f"{kind}Config")(**shape, **small[kind])
    ).train()
    ids = torch.tensor([[5, 6, 7, 8, 2]])
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    disable_dropout(model)
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
