"""What a trained reward model leaves behind: a directory that TRL, vLLM and transformers read alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from labeling.errors import WeakprefError
from labeling.files import replacing, sha256, write_json
from labeling.pairs import Message
from rm.card import write_card
from rm.data import tokenise
from rm.lora import FOLDER as ADAPTER
from rm.lora import Adapter
from rm.model import RewardModel, quiet_loading
from rm.provenance import (
    BASE_ORIGINS,
    MANIFEST,
    ORIGINS,
    STOPPING_PROMPTS,
    TRAIN_PROMPTS,
    hashes,
    origins_of,
    write_hashes,
)
from rm.sources import MixedPairs
from rm.template import render
from rm.watching import TIMED


def hand_off(
    out: Path,
    trained: RewardModel,
    pairs: MixedPairs,
    record: Mapping[str, Any],
    *,
    base: Path,
    log: Sequence[Mapping[str, Any]],
    adapter: Adapter | None = None,
    stopping: Sequence[str] = (),
) -> None:
    """Write model, tokenizer, model card, manifest, log and training prompts to the folder `out`, all or nothing.

    `pairs` are those trained on, `record` is the manifest so far, `base` the model that training started from, `log`
    the Trainer's history, `adapter` what LoRA learned, where it is to be kept beside the merged model, `stopping` the
    hashes of the prompts by which training was stopped early. What the base was trained on or stopped by, it was too.
    """
    sample = pairs.sample()
    rewards = reward_summary(trained, sample)
    trained.model.config.mean, trained.model.config.std = rewards["mean"], rewards["std"]
    with replacing(out) as part:
        save(trained, part)
        if adapter:
            adapter.save(part / ADAPTER)
        check_preparation(part, trained, sample[:8])
        write_hashes(part / TRAIN_PROMPTS, sorted({*pairs.prompts(), *hashes(base / TRAIN_PROMPTS)}))
        if stopped := sorted({*stopping, *hashes(base / STOPPING_PROMPTS)}):
            write_hashes(part / STOPPING_PROMPTS, stopped)
        lines = [untimed(entry) for entry in log if {"loss", "eval_log_loss"} & entry.keys()]
        write_json(part / "train_log.json", lines)
        outputs = {file.name: sha256(file) for file in sorted(part.glob("*.safetensors"))}
        origins = {ORIGINS: pairs.origins()} | ({BASE_ORIGINS: found} if (found := origins_of([base])) else {})
        write_json(part / MANIFEST, {**record, **origins, "rewards": rewards, "outputs": outputs})
        write_card(part)


def save(trained: RewardModel, folder: Path) -> None:
    """Write the model as safetensors and the tokenizer with its chat template."""
    with quiet_loading():
        trained.model.save_pretrained(folder)
        trained.tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    record = json.loads(settings.read_text(encoding="utf-8"))
    record["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that transformers 4 knows as well
    write_json(settings, record)


def check_preparation(folder: Path, trained: RewardModel, rows: Sequence[Sequence[Message]]) -> None:
    """Raise WeakprefError unless the saved tokenizer prepares conversations by every route as in training.

    The routes: TRL's GRPO (text, no special tokens added), transformers' pipeline (text, special tokens added) and
    TRL's RewardTrainer (token ids straight from the chat template).
    """
    saved: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    texts = render(saved, rows)
    routes = {
        "TRL GRPO": saved(texts, add_special_tokens=False, verbose=False)["input_ids"],
        "pipeline": saved(texts, verbose=False)["input_ids"],
        "TRL RewardTrainer": [
            saved.apply_chat_template(
                [dict(turn) for turn in row], return_dict=False, tokenizer_kwargs={"verbose": False}
            )
            for row in rows
        ],
    }
    ours = [ids.tolist() for ids in tokenise(trained.tokenizer, rows, 1 << 30).ids]
    for route, ids in routes.items():
        if ids != ours or any(row[-1] != saved.eos_token_id for row in ids) or saved.pad_token_id == saved.eos_token_id:
            raise WeakprefError(
                f"prepared as by {route}, a conversation gives other tokens than in training, or does not end in the "
                "end token alone, so its reward would differ; change the chat template of the base model"
            )


def reward_summary(trained: RewardModel, rows: Sequence[Sequence[Message]]) -> dict[str, float]:
    """Return mean and standard deviation of the rewards of some training responses.

    Bradley-Terry leaves a constant free; the mean says where this model's lies. In config.json as `mean` and `std`,
    which OpenRLHF alone reads, and subtracts and divides by if it is told `--normalize_reward`.
    """
    rewards = trained.score_ids(tokenise(trained.tokenizer, rows, trained.max_length).ids)
    return {"mean": float(rewards.mean()), "std": float(rewards.std()), "n_responses": len(rewards)}


def untimed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the log without what differs from run to run."""
    return {key: value for key, value in entry.items() if key not in TIMED}
