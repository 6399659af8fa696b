from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rm import RewardConfig, train
from rm.plan import plan

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
    assert found.weights_bytes == 16 * found.parameters
    assert len(found.lines()) == 7


def test_checkpointing_and_bfloat16_take_less_memory(tiny: str, universal: Write, conversations: Rows) -> None:
    data = universal(conversations(8))
    usual, checkpointed, half = (
        plan(data, RewardConfig(tiny, max_length=128, **options)).activations_bytes
        for options in ({"bf16": False}, {"bf16": False, "gradient_checkpointing": True}, {"bf16": True})
    )
    assert usual > checkpointed
    assert usual == 2 * half


@pytest.mark.slow
def test_a_run_takes_the_steps_and_counts_of_its_plan(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data = universal(conversations(11), weight=[0.0] + [1.0] * 10)
    config = RewardConfig(tiny, batch_size=4, epochs=2, max_length=128, bf16=False)
    found = plan(data, config)
    counts = json.loads((train(data, config, out=tmp_path / "rm") / "manifest.json").read_text())["counts"]
    assert (counts["steps"], counts["pairs"], counts["rows"]) == (found.steps, found.counts.pairs, found.counts.rows)
