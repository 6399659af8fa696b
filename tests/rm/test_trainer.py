from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from labeling.errors import DataError, WeakprefWarning
from labeling.files import sha256
from rm.arguments import training_arguments
from rm.config import RewardConfig
from rm.model import RewardModel, load_base
from rm.packing import pack
from rm.shared_prefix import accept_packed, is_causal, packed_rewards
from rm.trainable import freeze, is_head, prepare
from rm.trainer import PairTrainer, train

Row = tuple[list[dict[str, str]], str, str]
Rows = Callable[[int], list[Row]]
Write = Callable[..., Path]


def config(model: str, **options: Any) -> RewardConfig:
    fast = {"learning_rate": 1e-3, "batch_size": 4, "max_length": 128, "bf16": False}
    return RewardConfig(model, **(fast | options))


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def assert_alike(a: Path, b: Path, rows: list[Row], share: float = 0.005) -> None:
    """The rewards differ by a small share of their spread (weights by more: AdamW rescales rounding errors)."""
    prompts = [row[0] for row in rows] * 2
    responses = [row[1] for row in rows] + [row[2] for row in rows]
    first, second = (RewardModel.load(folder).score(prompts, responses) for folder in (a, b))
    assert np.ptp(first) > 0.3
    np.testing.assert_allclose(first, second, atol=share * np.ptp(first))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_a_trained_model_prefers_what_it_was_shown(
    bases: dict[str, str], name: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(12)
    out = train(universal(rows), config(bases[name], epochs=15), out=tmp_path / "rm")
    model = RewardModel.load(out)
    prompts = [prompt for prompt, _, _ in rows]
    better = model.score(prompts, [row[1] for row in rows]) - model.score(prompts, [row[2] for row in rows])
    assert (better > 0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "p_chosen", "margin"),
    [
        ("bradley-terry", 0.7, np.log(0.7 / 0.3)),
        ("bradley-terry", 0.5, 0.0),
        ("label-smoothing", 0.7, np.log(0.66 / 0.34)),  # 0.9 * 0.7 + 0.1 * 0.3
        ("unbiased", 0.7, np.log(0.75 / 0.25)),  # (0.7 - 0.1) / 0.8
        ("ipo", 0.7, 0.4 * 2.0),
        ("hinge", 0.7, 1.0),
    ],
)
def test_the_margin_converges_to_what_the_objective_makes_of_the_label(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, objective: str, p_chosen: float, margin: float
) -> None:
    rows = conversations(8)
    data = universal(rows, p_chosen=[p_chosen] * 8)
    options = config(tiny, max_steps=150, batch_size=8, warmup_share=0.0, objective=objective)
    model, prompts = RewardModel.load(train(data, options, out=tmp_path / "rm")), [prompt for prompt, _, _ in rows]
    h = model.score(prompts, [row[1] for row in rows]) - model.score(prompts, [row[2] for row in rows])
    np.testing.assert_allclose(h, margin, atol=0.05)


@pytest.mark.slow
def test_centred_rewards_lie_around_zero(tiny: str, universal: Write, conversations: Rows, tmp_path: Path) -> None:
    rows, means = conversations(8), []
    for coefficient in (0.0, 0.1):
        options = config(tiny, max_steps=100, batch_size=8, center_rewards=coefficient)
        out = train(universal(rows, p_chosen=[0.7] * 8), options, out=tmp_path / f"{coefficient}")
        means.append(abs(json.loads((out / "manifest.json").read_text())["rewards"]["mean"]))
    assert means[1] < 0.02 < means[0]


@pytest.mark.slow
def test_gold_pairs_outvote_weak_ones_by_their_weight(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    """The same pair as gold and, the other way round, as weak: with nine times the weight P(chosen) is 0.9."""
    (prompt, good, bad), *_ = conversations(1)
    data = universal([(prompt, good, bad), (prompt, bad, good)], origin=["gold", "weak"])
    out = train(data, config(tiny, max_steps=150, gold_weight=9.0, warmup_share=0.0), out=tmp_path / "rm")
    rewards = RewardModel.load(out).score([prompt, prompt], [good, bad])
    assert rewards[0] - rewards[1] == pytest.approx(np.log(9), abs=0.1)


@pytest.mark.slow
def test_one_batch_of_eight_is_eight_batches_of_one(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(20)
    data = universal(rows, weight=[0.2 + 0.3 * (i % 5) for i in range(20)])  # the last step holds 4 pairs
    whole = train(data, config(tiny, batch_size=8, epochs=12), out=tmp_path / "whole")
    parts = train(data, config(tiny, batch_size=1, gradient_accumulation=8, epochs=12), out=tmp_path / "parts")
    assert_alike(whole, parts, rows)


@pytest.mark.slow
def test_a_run_that_is_killed_before_the_hand_over_ends_as_a_straight_one(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = universal(conversations(20)), config(tiny, max_steps=6, save_steps=3, batch_size=8)
    straight = train(data, options, out=tmp_path / "straight")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rm.trainer.hand_off", killed)
        with pytest.raises(KeyboardInterrupt):
            train(data, options, out=tmp_path / "resumed")
    counted = count_batches(monkeypatch)
    resumed = train(data, options, out=tmp_path / "resumed", resume=True)
    assert not counted
    assert sha256(resumed / "model.safetensors") == sha256(straight / "model.safetensors")
    assert (resumed / "manifest.json").read_bytes() == (straight / "manifest.json").read_bytes()
    logs = [json.loads((out / "train_log.json").read_text()) for out in (straight, resumed)]
    assert [entry["step"] for entry in logs[1]] == [entry["step"] for entry in logs[0] if "loss" in entry]


@pytest.mark.slow
def test_one_step_learns(tiny: str, universal: Write, conversations: Rows, tmp_path: Path) -> None:
    """A warm-up would spend the only step at a learning rate of 0."""
    out = train(universal(conversations(4)), config(tiny, epochs=1, learning_rate=1e-2), out=tmp_path / "rm")
    assert json.loads((out / "manifest.json").read_text())["counts"]["steps"] == 1
    base, learned = load_base(tiny, 64)[0].state_dict(), RewardModel.load(out).model.state_dict()
    shared = [name for name in base if "score" not in name and "classifier" not in name]
    assert max(float((base[name] - learned[name]).abs().max()) for name in shared) > 1e-3


@pytest.mark.slow
def test_a_resumed_run_ends_as_a_straight_one(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = universal(conversations(20)), config(tiny, epochs=3, save_steps=4)
    straight = train(data, options, out=tmp_path / "straight")
    counted = count_batches(monkeypatch, stop_after=9)
    with pytest.raises(KeyboardInterrupt):
        train(data, options, out=tmp_path / "resumed")
    counted = count_batches(monkeypatch)
    with pytest.raises(DataError, match=r"holds an unfinished run; pass resume=True \(--resume\) to continue it"):
        train(data, options, out=tmp_path / "resumed")
    with pytest.raises(DataError, match=r"belongs to another run \(learning_rate differ\)"):
        train(data, config(tiny, epochs=3, save_steps=4, learning_rate=1e-4), out=tmp_path / "resumed", resume=True)
    with monkeypatch.context() as two:
        two.setenv("WORLD_SIZE", "2")
        with pytest.raises(DataError, match=r"belongs to another run \(processes differ\)"):
            train(data, options, out=tmp_path / "resumed", resume=True)
    resumed = train(data, options, out=tmp_path / "resumed", resume=True)
    assert len(counted) == 15 - 8  # the last checkpoint was written after step 8 of 15
    assert sha256(resumed / "model.safetensors") == sha256(straight / "model.safetensors")
    assert (resumed / "manifest.json").read_bytes() == (straight / "manifest.json").read_bytes()
    assert not (tmp_path / "resumed.checkpoints").exists()


def count_batches(monkeypatch: pytest.MonkeyPatch, stop_after: int = 1000) -> list[int]:
    """Return a list that grows by one with every batch trained on; after `stop_after` the run is interrupted."""
    monkeypatch.undo()
    original, done = PairTrainer.compute_loss, list[int]()

    def compute_loss(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "compute_loss", compute_loss)
    return done


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    data = universal(conversations(12))
    runs = [train(data, config(tiny, seed=seed), out=tmp_path / f"{i}") for i, seed in enumerate([0, 0, 1])]
    hashes = [{file.name: sha256(file) for file in sorted(run.iterdir())} for run in runs]
    assert hashes[0] == hashes[1]
    assert hashes[0]["model.safetensors"] != hashes[2]["model.safetensors"]


@pytest.mark.slow
def test_a_weight_of_two_trains_like_the_row_twice(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(4)
    weighted = universal(rows, "weighted.parquet", weight=[2.0, 1.0, 2.0, 1.0])
    repeated = universal([rows[0], *rows, rows[2]], "repeated.parquet")
    runs = [
        train(data, config(tiny, batch_size=8, epochs=40), out=tmp_path / data.stem) for data in (weighted, repeated)
    ]
    assert_alike(*runs, rows)


@pytest.mark.slow
def test_swapping_the_responses_and_the_label_trains_the_same_model(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(8)
    straight = universal(rows, "straight.parquet", p_chosen=[0.8] * 8)
    swapped = universal([(p, b, a) for p, a, b in rows], "swapped.parquet", p_chosen=[0.2] * 8)
    runs = [train(data, config(tiny, epochs=20), out=tmp_path / data.stem) for data in (straight, swapped)]
    assert_alike(*runs, rows)


@pytest.mark.slow
def test_what_is_written_counts_what_was_used_and_names_the_prompts(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(5)
    data = universal(rows, weight=[1.0, 1.0, 0.0, 1.0, 1.0])
    with pytest.warns(WeakprefWarning, match=r"\d of 8 conversations are longer than 12 tokens"):
        out = train(data, config(tiny, max_length=12), out=tmp_path / "rm")
    record = json.loads((out / "manifest.json").read_text())
    assert record["counts"] == {
        "rows": 5, "pairs": 4, "gold": 0, "skipped_zero_weight": 1, "long_conversations": 8, "dropped_long_pairs": 0,
        "steps": 1,
    }  # fmt: skip
    assert record["inputs"] == {"train.parquet": sha256(data)}
    assert record["rewards"]["n_responses"] == 8
    assert len((out / "train_prompts.txt").read_text().split()) == 4
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rm", "train.parquet"]


@pytest.mark.slow
def test_frozen_layers_stay_and_the_others_move(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    before = load_file(Path(tiny) / "model.safetensors")
    out = train(universal(conversations(8)), config(tiny, freeze_layers=1), out=tmp_path / "rm")
    after = weights(out)
    moved = {name for name in before if not np.array_equal(before[name], after[f"bert.{name}"])}
    assert not any(name.startswith(("embeddings.", "encoder.layer.0.")) for name in moved)
    assert any(name.startswith("encoder.layer.1.") for name in moved)


@pytest.mark.slow
def test_training_leaves_the_callers_random_numbers_alone(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    train(universal(conversations(4)), config(tiny), out=tmp_path / "rm")
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.slow
def test_gradient_checkpointing_and_bfloat16_train_much_the_same_model(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    rows = conversations(8)
    data = universal(rows)
    plain = train(data, config(tiny, epochs=20), out=tmp_path / "plain")
    frugal = train(data, config(tiny, epochs=20, gradient_checkpointing=True), out=tmp_path / "frugal")
    assert_alike(plain, frugal, rows)
    assert_alike(plain, train(data, config(tiny, epochs=20, bf16=True), out=tmp_path / "bf16"), rows, 0.1)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("base", ["llama", "bert"])
def test_rewards_are_not_rounded_to_bfloat16_under_autocast(
    bases: dict[str, str], base: str, packed: bool, lora_r: int
) -> None:
    model, _ = load_base(bases[base], 128)
    prepare(model, config(bases[base], lora_r=lora_r))
    ids = torch.arange(60).view(20, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        if packed:
            accept_packed(model)
            rewards = packed_rewards(model, pack([[row] for row in ids.int().numpy()], causal=is_causal(model)))
        else:
            rewards = model(ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
    assert rewards.dtype == torch.float32
    assert (rewards != rewards.bfloat16().float()).sum() > 10


def test_an_existing_out_is_never_overwritten(tiny: str, universal: Write, conversations: Rows, tmp_path: Path) -> None:
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="rm already exists; delete it or pass another out"):
        train(universal(conversations(2)), config(tiny), out=tmp_path / "rm", resume=True)


def test_the_head_is_what_the_base_model_lacks(tiny: str) -> None:
    model, _ = load_base(tiny, 128)
    heads = [name for name, _ in model.named_parameters() if is_head(model, name)]
    assert heads == ["classifier.weight", "classifier.bias"]


@pytest.mark.slow
def test_the_head_learns_at_its_own_rate_and_its_bias_not_at_all(
    tiny: str, universal: Write, conversations: Rows, tmp_path: Path
) -> None:
    """AdamW's first step moves every weight by its learning rate."""
    options = config(tiny, learning_rate=1e-5, head_learning_rate=1e-2, max_steps=1, warmup_share=0.0)
    after = weights(train(universal(conversations(4)), options, out=tmp_path / "rm"))
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        before = {name: tensor.numpy() for name, tensor in load_base(tiny, 128)[0].state_dict().items()}
    moved = {name: float(np.abs(after[name] - before[name]).max()) for name in after}
    assert moved.pop("classifier.weight") == pytest.approx(1e-2, rel=0.01)
    assert moved.pop("classifier.bias") == 0
    assert max(moved.values()) == pytest.approx(1e-5, rel=0.05)


def test_more_frozen_layers_than_there_are_is_an_error(tiny: str) -> None:
    model, _ = load_base(tiny, 128)
    with pytest.raises(DataError, match="freeze_layers is 3, but the model has 2 layers"):
        freeze(model, 3)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"max_steps": 40}, 4), ({"epochs": 2.0}, 2), ({"warmup_share": 0}, 0), ({"max_steps": 9}, 0)],
)
def test_the_warm_up_is_a_share_of_the_steps(tiny: str, tmp_path: Path, options: dict[str, Any], steps: int) -> None:
    arguments = training_arguments(config(tiny, **({"warmup_share": 0.1} | options)), 40, tmp_path)
    assert arguments.warmup_steps == steps


@pytest.mark.usefixtures("eight_gpus")
def test_one_process_uses_one_gpu_whatever_there_is(tiny: str, tmp_path: Path) -> None:
    """DataParallel would cut a packed row's tensors up for all of them."""
    arguments = training_arguments(config(tiny, batch_size=4), 40, tmp_path)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 4)


def test_the_bias_of_the_head_learns_where_rewards_are_centred(tiny: str) -> None:
    for center_rewards, learns in ((0.0, False), (0.01, True)):
        model, _ = load_base(tiny, 128)
        prepare(model, config(tiny, center_rewards=center_rewards))
        assert model.classifier.bias.requires_grad == learns
