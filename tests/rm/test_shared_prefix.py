"""Packed rows give the rewards and gradients that conversations one by one give, on every architecture listed."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers.integrations.flex_attention
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

import rm.shared_prefix
from rm.data import pad
from rm.packing import PackedRow, Tree, pack
from rm.shared_prefix import (
    DECODERS,
    ENCODERS,
    accept_packed,
    block_mask,
    cannot_pack,
    has_compiler,
    is_causal,
    packed_rewards,
    score_packed,
    sees,
    takes_flex,
)

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50,
    "initializer_range": 0.3, "max_position_embeddings": 256, "pad_token_id": 0, "num_labels": 1,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(num_key_value_heads=2, **SIZES),
    "mistral": MistralConfig(num_key_value_heads=2, sliding_window=32, **SIZES),
    "qwen2": Qwen2Config(num_key_value_heads=1, **SIZES),
    "qwen3": Qwen3Config(num_key_value_heads=2, head_dim=16, **SIZES),
    "bert": BertConfig(**SIZES),
}
TOLERANCE = 1e-5
"""Of rewards (their spread is about 1) and of gradients relative to the largest one, in float32."""
Groups = Sequence[Sequence[np.ndarray]]


def model_of(name: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(CONFIGS[name], attn_implementation="eager")
    for module in model.modules():  # biases and norms of a new model are 0 and 1: an error there would not show
        for parameter in module.parameters(recurse=False):
            if parameter.dim() == 1:
                parameter.data += torch.linspace(-0.3, 0.3, len(parameter))
    return model.eval()


def groups_of(seed: int = 0) -> list[list[np.ndarray]]:
    """Pairs with long, short and no shared beginnings, a lone conversation and three responses to one prompt."""
    rng = np.random.default_rng(seed)

    def ids(n: int) -> np.ndarray:
        return rng.integers(1, 50, n).astype(np.int32)

    groups = []
    for prefix, rests in ((20, (5, 9)), (3, (1, 1)), (0, (8, 4)), (0, (12,)), (11, (2, 6, 3)), (1, (20, 1))):
        start = ids(prefix)
        groups.append([np.concatenate([start, [i + 1], ids(rest - 1)]) for i, rest in enumerate(rests)])
    return groups


def plain(model: PreTrainedModel, groups: Groups) -> torch.Tensor:
    """The stock model on a padded batch, through its own forward."""
    return model(**pad([ids for group in groups for ids in group], 0)).logits[:, 0]


def gradients(model: PreTrainedModel, rewards: torch.Tensor) -> torch.Tensor:
    """Of a loss to which every reward contributes differently."""
    model.zero_grad()
    (rewards * torch.linspace(-1, 2, len(rewards), device=rewards.device)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def largest_differences(
    name: str, row: Callable[[Groups], PackedRow], attention: str, device: str = "cpu", groups: Groups | None = None
) -> tuple[float, float]:
    """Of rewards, and of gradients relative to the largest, between the plain path (CPU) and the packed one."""
    model, groups = model_of(name), groups_of() if groups is None else groups
    expected = plain(model, groups)
    expected_gradients = gradients(model, expected)
    accept_packed(model.to(device), attention)
    rewards = packed_rewards(model, row(groups).to(device))
    differences = (rewards.cpu() - expected).detach().abs().max() / expected.detach().std()
    scale = expected_gradients.abs().max()
    return float(differences), float((gradients(model, rewards).cpu() - expected_gradients).abs().max() / scale)


def packed(name: str) -> Callable[[Groups], PackedRow]:
    return lambda groups: pack(groups, causal=name in DECODERS)


@pytest.mark.parametrize("attention", [rm.shared_prefix.ATTENTION, "sdpa", "eager"])
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_packed_rewards_and_gradients_are_those_of_the_plain_path(name: str, attention: str) -> None:
    rewards, grads = largest_differences(name, packed(name), attention)
    assert rewards < TOLERANCE
    assert grads < TOLERANCE


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_flex_attention_gives_the_rewards_of_the_plain_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and not compiled, which is what it can do on a CPU."""

    def uncompiled(*inputs: torch.Tensor, training: bool = False, **options: Any) -> Any:
        taken.append(options["block_mask"])
        return flex_attention(*inputs, **options)

    taken: list[BlockMask] = []
    monkeypatch.setattr(rm.shared_prefix, "takes_flex", lambda *_: True)
    monkeypatch.setattr(transformers.integrations.flex_attention, "compile_friendly_flex_attention", uncompiled)
    model, groups = model_of(name), groups_of()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        expected = plain(model, groups)
        accept_packed(model)
        rewards = packed_rewards(model, packed(name)(groups))
    assert len(taken) == 2  # layers
    torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention runs on a GPU, and there is none")
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_on_a_gpu_flex_attention_gives_what_the_plain_path_gives_on_the_cpu(name: str) -> None:
    groups = [group for seed in range(12) for group in groups_of(seed)]
    n_tokens = sum(tree.n_tokens for tree in packed(name)(groups).trees)
    assert takes_flex(model_of(name), n_tokens, torch.device("cuda"))
    rewards, grads = largest_differences(name, packed(name), rm.shared_prefix.ATTENTION, "cuda", groups)
    assert rewards < 10 * TOLERANCE
    assert grads < 10 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "head_dim", "n_tokens", "device", "expected"),
    [
        ("llama", 16, 1024, "cuda", True),
        ("qwen3", 16, 1024, "cuda", True),
        ("bert", 16, 16_384, "cuda", True),
        ("llama", 16, 1023, "cuda", False),
        ("llama", 8, 1024, "cuda", False),
        ("llama", 16, 1024, "cpu", False),
    ],
)
def test_flex_attention_is_for_long_rows_on_a_gpu(
    name: str, head_dim: int, n_tokens: int, device: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rm.shared_prefix, "has_compiler", lambda: True)
    model = model_of(name)
    model.config.num_attention_heads = model.config.hidden_size // head_dim
    model.config.head_dim = head_dim
    assert takes_flex(model, n_tokens, torch.device(device)) is expected


def test_flex_attention_is_left_alone_where_nothing_compiles_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    has_compiler.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not takes_flex(model_of("llama"), 2048, torch.device("cuda"))
    has_compiler.cache_clear()
    (tmp_path / "gcc").touch(mode=0o755)
    assert takes_flex(model_of("llama"), 2048, torch.device("cuda"))
    has_compiler.cache_clear()


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_response_that_saw_the_other_would_be_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(trees: tuple[Tree, ...], causal: bool, device: torch.device) -> torch.Tensor:
        seen = torch.ones_like(sees(trees, causal, device))
        return seen.tril() if causal else seen

    monkeypatch.setattr(rm.shared_prefix, "sees", leaky)
    rewards, grads = largest_differences(name, packed(name), "sdpa")
    assert rewards > 100 * TOLERANCE
    assert grads > 100 * TOLERANCE


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_positions_that_run_on_through_the_row_would_be_caught(name: str) -> None:
    def misplaced(groups: Groups) -> PackedRow:
        row = packed(name)(groups[:3])
        return dataclasses.replace(row, position_ids=torch.arange(row.input_ids.shape[1])[None])

    model, groups = model_of(name), groups_of()[:3]
    expected = plain(model, groups)
    accept_packed(model)
    assert (packed_rewards(model, packed(name)(groups)) - expected).abs().max() < TOLERANCE * 10
    assert (packed_rewards(model, misplaced(groups)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_other_conversations_in_the_row_change_nothing(name: str) -> None:
    model, groups = model_of(name), groups_of()
    accept_packed(model)
    alone = torch.cat([packed_rewards(model, packed(name)([group])) for group in groups])
    torch.testing.assert_close(packed_rewards(model, packed(name)(groups)), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_plain_batches_are_read_as_before(name: str) -> None:
    model, groups = model_of(name), groups_of()
    before = plain(model, groups)
    accept_packed(model)
    torch.testing.assert_close(plain(model, groups), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
@pytest.mark.parametrize("budget", [1, 40, 1000])
def test_scores_are_the_same_whatever_the_budget_and_whoever_shares(name: str, budget: int) -> None:
    model, groups = model_of(name), groups_of()
    expected = plain(model, groups).detach().numpy()
    accept_packed(model)
    ids = [conversation for group in groups for conversation in group]
    order = np.random.default_rng(0).permutation(len(ids))
    np.testing.assert_allclose(score_packed(model, [ids[i] for i in order], budget), expected[order], atol=1e-5)


def test_gradient_checkpointing_changes_nothing() -> None:
    model, groups = model_of("llama").train(), groups_of()
    accept_packed(model)
    expected = gradients(model, packed_rewards(model, pack(groups)))
    model.activation_checkpointing_enable()
    torch.testing.assert_close(gradients(model, packed_rewards(model, pack(groups))), expected, atol=1e-5, rtol=0)


def test_the_rule_for_flex_attention_is_the_rule_written_out() -> None:
    """Flex attention runs on GPUs only; what it is told can be checked here."""
    for causal in (True, False):
        trees = pack(groups_of(), causal=causal).trees
        expected, mask = sees(trees, causal, torch.device("cpu"))[0, 0], block_mask(trees, causal, torch.device("cpu"))
        q, k = (torch.arange(len(expected)) for _ in range(2))
        zero = torch.tensor(0)
        assert torch.equal(mask.mask_mod(zero, zero, q[:, None], k[None, :]), expected)


class Largest(TorchDispatchMode):
    """Watch for the largest tensor that is made."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.n = max(
            [self.n, *(t.numel() for t in (made if isinstance(made, tuple | list) else [made]) if torch.is_tensor(t))]
        )
        return made


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_trees", [1, 6])
def test_flex_attention_sees_what_the_rule_says_block_by_block_and_never_all_at_once(
    causal: bool, n_trees: int
) -> None:
    groups = [
        [np.concatenate([np.arange(n), [k], np.arange(n + k)]) for k in (60, 90)] for n in (700, 20, 150, 3, 60, 200)
    ]
    trees = pack(groups[:n_trees], causal=causal).trees
    cpu = torch.device("cpu")
    expected = sees(trees, causal, cpu)[0, 0]
    with Largest() as largest:
        mask = block_mask(trees, causal, cpu)
    n = len(expected)
    assert largest.n <= 128 * (n + 127) < n * n
    told = torch.zeros(-(-n // 128) * 128, -(-n // 128) * 128, dtype=torch.bool)
    padded = torch.nn.functional.pad(expected, (0, len(told) - n, 0, len(told) - n))
    for full, counts, blocks in (
        (False, mask.kv_num_blocks, mask.kv_indices),
        (True, mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        for row, (count, columns) in enumerate(zip(counts[0, 0].tolist(), blocks[0, 0].tolist(), strict=True)):
            for column in columns[:count]:
                place = slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128)
                told[place] = True if full else padded[place]
    assert torch.equal(told, padded)
    theirs = create_block_mask(mask.mask_mod, None, None, n, n, device="cpu")
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices"):
        assert torch.equal(getattr(mask, name), getattr(theirs, name)), name
    assert mask.shape == theirs.shape


@pytest.mark.parametrize(
    ("config", "max_length", "words"),
    [
        (GPT2Config(n_layer=1, n_embd=8, n_head=2), 8, "GPT2ForSequenceClassification: packed rows are known to be"),
        (CONFIGS["mistral"], 33, "MistralForSequenceClassification: its attention slides over 32 tokens"),
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            8,
            r"LlamaForSequenceClassification: its rotary embedding \(dynamic\) depends on the longest input",
        ),
    ],
)
def test_an_architecture_that_cannot_is_named_with_the_reason(
    config: PreTrainedConfig, max_length: int, words: str
) -> None:
    reason = cannot_pack(AutoModelForSequenceClassification.from_config(config), max_length)
    assert reason is not None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(reason)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_listed_architectures_can(name: str) -> None:
    model = model_of(name)
    assert cannot_pack(model, 32) is None
    assert is_causal(model) == (name in DECODERS)


@pytest.mark.slow
def test_smollm2_on_long_prompts_agrees_to_1e_4(smollm2_folder: Path) -> None:
    from rm.data import tokenise
    from rm.model import load_base

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokenizer = load_base(str(smollm2_folder), 512)
    words = "The capital of France is Paris, of course, but I would rather talk about something else today."
    prompt = {"role": "user", "content": words * 8}
    rows = [[prompt, {"role": "assistant", "content": words * n + end}] for n in (1, 3) for end in ("", " No!")]
    ids = tokenise(tokenizer, rows, 512).ids
    groups = [ids[:2], ids[2:]]
    expected = model(**pad(ids, tokenizer.pad_token_id)).logits[:, 0]
    expected_gradients = gradients(model, expected)
    accept_packed(model)
    row = pack(groups)
    rewards = packed_rewards(model, row)
    assert all(tree.prefix > 100 for tree in row.trees)
    torch.testing.assert_close(rewards, expected, atol=1e-4, rtol=0)
    scale = float(expected_gradients.abs().max())
    torch.testing.assert_close(gradients(model, rewards), expected_gradients, atol=1e-4 * scale, rtol=0)
