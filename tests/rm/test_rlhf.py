"""TRL's GRPO and RLOO, run for one step with a saved reward model: the rewards they log are ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rm.handoff import save
from rm.model import RewardModel, load_base

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]
PROMPTS = [[{"role": "user", "content": text}] for text in ("Name a colour!", "Hello", "What is 1 + 1?", "Why?")]


@pytest.fixture
def folder(bases: dict[str, str], tmp_path: Path) -> Path:
    """A saved reward model whose head is random, and large, so that its rewards differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokenizer = load_base(bases["llama"], 256)
    model.score.weight.data *= 20
    save(RewardModel(model, tokenizer, 256), tmp_path / "rm")
    return tmp_path / "rm"


@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
def test_a_step_logs_our_rewards(bases: dict[str, str], folder: Path, method: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    seen: list[tuple[Any, Any, torch.Tensor]] = []

    class Watched(getattr(trl, f"{method}Trainer")):  # type: ignore[misc]
        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor:
            rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, ids)
            seen.append((prompts, completions, rewards))
            return rewards

    trainer = Watched(
        model=bases["qwen3"],
        reward_funcs=str(folder),
        args=getattr(trl, f"{method}Config")(
            output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none", max_steps=1, logging_steps=1,
            num_generations=2, per_device_train_batch_size=4, max_completion_length=16, seed=0, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
    )  # fmt: skip
    trainer.train()
    ((prompts, completions, rewards),) = seen
    expected = RewardModel.load(folder).score(prompts, [turns[-1]["content"] for turns in completions])
    assert np.ptp(expected) > 1e-2
    np.testing.assert_allclose(rewards[:, 0].numpy(), expected, atol=1e-4)
    logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert logged["rewards/rm/mean"] == pytest.approx(expected.mean(), abs=1e-4)
