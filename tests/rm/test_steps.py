from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rm.packing import PackedRow
from rm.steps import PaddedRows, StepCollator, in_step

CAUSAL = StepCollator(token_budget=40, pad_token_id=0, packed=True, causal=True)
SIDE_BY_SIDE = StepCollator(token_budget=40, pad_token_id=0, packed=True, causal=False)
PADDED = StepCollator(token_budget=40, pad_token_id=0, packed=False, causal=False)


def pairs(n: int) -> list[dict[str, Any]]:
    rng, made = np.random.default_rng(0), []
    for i in range(n):
        prompt = rng.integers(1, 9, 8)
        sides = {
            side: np.concatenate([prompt, [own], rng.integers(1, 9, i % 4)])
            for side, own in (("chosen", 10), ("rejected", 11))
        }
        made.append(sides | {"p_chosen": 0.5 + i / 100, "weight": 1.0 + i})
    return made


@pytest.mark.parametrize("collator", [CAUSAL, SIDE_BY_SIDE, PADDED])
def test_the_parts_of_a_step_hold_every_pair_once_with_its_label_and_weight(collator: StepCollator) -> None:
    step = collator(pairs(9))
    labels = torch.cat([part.p_chosen for part in step.parts])
    assert sorted(labels.tolist()) == pytest.approx([0.5 + i / 100 for i in range(9)])
    torch.testing.assert_close(torch.cat([part.weight for part in step.parts]), 1 + 100 * (labels - 0.5))
    assert float(step.weight) == pytest.approx(sum(1 + i for i in range(9)))
    assert len(step.parts) > 1


@pytest.mark.parametrize("collator", [CAUSAL, SIDE_BY_SIDE, PADDED])
def test_a_part_keeps_to_the_budget(collator: StepCollator) -> None:
    for part in collator(pairs(9)).parts:
        assert part.rows.input_ids.numel() <= 40


def test_what_a_pair_begins_with_stands_there_once_for_causal_models_only() -> None:
    for collator, shared in ((CAUSAL, 8), (SIDE_BY_SIDE, 0)):
        for part in collator(pairs(9)).parts:
            assert isinstance(part.rows, PackedRow)
            assert {tree.prefix for tree in part.rows.trees} == {shared}


def test_padded_parts_alternate_chosen_and_rejected() -> None:
    for part in PADDED(pairs(9)).parts:
        assert isinstance(part.rows, PaddedRows)
        assert part.rows.input_ids[:, 8].tolist() == [10, 11] * len(part.weight)


def test_idle_parts_keep_processes_in_step_and_weigh_nothing() -> None:
    step = CAUSAL(pairs(9))
    longer = in_step(step, len(step.parts) + 2)
    assert len(longer.parts) == len(step.parts) + 2
    assert float(longer.weight) == float(step.weight)
    assert in_step(step, len(step.parts)).parts == step.parts
