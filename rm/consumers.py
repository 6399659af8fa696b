"""Who reads a reward model, and how each prepares a conversation and takes a reward from it, in its own order of calls.

The models come as they are saved, in the dtype of their config.json, since that is how consumers load them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from labeling.errors import WeakprefError
from labeling.pairs import Message
from rm.checkpoint import SAFE
from rm.model import quiet_loading

FloatArray = npt.NDArray[np.float64]
Rows = Sequence[Sequence[Message]]
BATCH = 8


@dataclass(frozen=True)
class Taken:
    """What a consumer made of n conversations."""

    ids: list[list[int]]
    """The tokens it gave the model, padding left out."""
    rewards: FloatArray
    """Shape (n,)."""


@dataclass(frozen=True)
class Saved:
    """A saved reward model as consumers load it."""

    folder: Path
    model: Any
    vllm_python: str | None
    """A Python that has vLLM, where this one has none."""

    @classmethod
    def load(cls, folder: str | Path, vllm_python: str | None = None) -> Saved:
        """Load the model in the dtype of its config, as `from_pretrained` does unasked."""
        with quiet_loading():
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto", **SAFE)
        return cls(Path(folder), model.eval(), vllm_python)

    def tokenizer(self) -> Any:
        """Return the saved tokenizer, fresh: consumers change it."""
        return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)


class NotRunError(WeakprefError):
    """A consumer that cannot be asked here; the message says why."""


def plain_transformers(saved: Saved, rows: Rows) -> Taken:
    """The lines of the model card: ids from the chat template, padded on the side the tokenizer says, or one by one."""
    tokenizer = saved.tokenizer()
    ids = [tokenizer.apply_chat_template([dict(turn) for turn in row], return_dict=True)["input_ids"] for row in rows]
    return Taken(ids, _logits(saved, tokenizer, ids))


def text_pipeline(saved: Saved, rows: Rows) -> Taken:
    """A text-classification pipeline with nothing set: special tokens added, activation by problem_type."""
    padded = saved.model.config.get_text_config().pad_token_id is not None
    return _pipeline(saved, rows, {"batch_size": BATCH if padded else 1})


def rewardbench(saved: Saved, rows: Rows) -> Taken:
    """As rewardbench 0.1.4: the pipeline with left padding and its activation off; encoders one by one."""
    options = {"function_to_apply": "none", "batch_size": BATCH if reads_last_token(saved.model) else 1}
    config, tokenizer = saved.model.config.get_text_config(), saved.tokenizer()
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return _pipeline(saved, rows, options, padding_side="left")


def trl_policy_trainers(saved: Saved, rows: Rows) -> Taken:
    """TRL's GRPOTrainer and RLOOTrainer: TRL's template call, text without added special tokens, padded right."""
    from trl.data_utils import apply_chat_template

    tokenizer = saved.tokenizer()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    texts = [apply_chat_template({"messages": [dict(turn) for turn in row]}, tokenizer)["text"] for row in rows]
    ids = tokenizer(text=texts, add_special_tokens=False)["input_ids"]
    return Taken(ids, _logits(saved, tokenizer, ids, padding_side="right"))


def trl_reward_trainer(saved: Saved, rows: Rows) -> Taken:
    """TRL's RewardTrainer: its collator on ids straight from the chat template."""
    from trl.trainer.reward_trainer import DataCollatorForPreference

    tokenizer = saved.tokenizer()
    pad = tokenizer.pad_token or tokenizer.eos_token
    collate = DataCollatorForPreference(tokenizer.convert_tokens_to_ids(pad))
    ids = [
        tokenizer.apply_chat_template([dict(turn) for turn in row], tokenize=True, return_dict=True)["input_ids"]
        for row in rows
    ]
    saved.model.config.get_text_config().pad_token_id = collate.pad_token_id
    rewards = [_forward(saved, collate([{"chosen_ids": row, "rejected_ids": row}]))[0] for row in ids]
    return Taken(ids, np.array(rewards))


def openrlhf(saved: Saved, rows: Rows) -> Taken:
    """As OpenRLHF 0.11: newlines at the end go, ' ' + the end token is added where it is not there, padded left.

    The reward is `score` of the last token's hidden state.
    """
    if not reads_last_token(saved.model):
        raise NotRunError("reads decoders with a linear head named score only")
    tokenizer, ids = saved.tokenizer(), []
    for row in rows:
        text = str(tokenizer.apply_chat_template([dict(turn) for turn in row], tokenize=False)).rstrip("\n")
        if not text.endswith(str(tokenizer.eos_token)):
            text += f" {tokenizer.eos_token}"
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.append([*tokens[:-1], tokenizer.eos_token_id])
    rewards = []
    for row in ids:
        tensor = torch.tensor([row], device=saved.model.device)
        with torch.inference_mode():
            hidden = saved.model.base_model(tensor).last_hidden_state[0, -1]
            rewards.append(float(saved.model.score(hidden)[0]))
    return Taken(ids, np.array(rewards))


def vllm_text(saved: Saved, rows: Rows) -> Taken:
    """vLLM's pooling, and verl through it: text, special tokens added, activation off, dtype float32."""
    tokenizer = saved.tokenizer()
    texts = [str(tokenizer.apply_chat_template([dict(turn) for turn in row], tokenize=False)) for row in rows]
    if importlib.util.find_spec("vllm") is not None:
        from rm.vllm_text import classify

        return Taken(*classify(saved.folder, texts))
    if saved.vllm_python is None:
        raise NotRunError("vllm is not installed here; name a Python that has it: --vllm-python")
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "texts.json"), Path(scratch, "taken.json")
        asked.write_text(json.dumps(texts), encoding="utf-8")
        # Alone: beside it lies all of this environment, where weakpref is installed from a wheel.
        script = shutil.copy(Path(__file__).with_name("vllm_text.py"), scratch)
        command = [saved.vllm_python, script, str(saved.folder), str(asked), str(answered)]
        others = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run(command, env=others, capture_output=True, text=True)
        if done.returncode:
            raise NotRunError(f"{saved.vllm_python} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        ids, rewards = json.loads(answered.read_text(encoding="utf-8"))
    return Taken(ids, np.array(rewards))


CONSUMERS: dict[str, tuple[str, Callable[[Saved, Rows], Taken]]] = {
    "transformers": ("transformers", plain_transformers),
    "transformers pipeline": ("transformers", text_pipeline),
    "TRL GRPO, RLOO": ("trl", trl_policy_trainers),
    "TRL RewardTrainer": ("trl", trl_reward_trainer),
    "OpenRLHF": ("", openrlhf),
    "rewardbench": ("", rewardbench),
    "vLLM, verl": ("", vllm_text),
}
"""By name: the package that must be installed ('' for none), and what asks the consumer."""


def reads_last_token(model: Any) -> bool:
    """Return whether a model is a decoder with a linear head `score`, whose reward is read at the last token."""
    return isinstance(getattr(model, "score", None), torch.nn.Linear)


def take(name: str, saved: Saved, rows: Rows) -> Taken:
    """Return what a consumer makes of conversations; raises NotRunError where it cannot be asked."""
    package, ask = CONSUMERS[name]
    if package and importlib.util.find_spec(package) is None:
        raise NotRunError(f"{package} is not installed")
    config = saved.model.config.get_text_config()
    pad = config.pad_token_id
    try:
        return ask(saved, rows)
    finally:
        config.pad_token_id = pad  # some set it, as they do in their own homes


def version(name: str) -> str:
    """Return the version of the package a consumer stands for, '' where it is not installed here."""
    try:
        return importlib.metadata.version(CONSUMERS[name][0]) if CONSUMERS[name][0] else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _logits(saved: Saved, tokenizer: Any, ids: list[list[int]], padding_side: str | None = None) -> FloatArray:
    side = {"padding_side": padding_side} if padding_side else {}
    saved.model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    padding, rewards = tokenizer.pad_token_id is not None, list[float]()
    size = BATCH if padding else 1
    for start in range(0, len(ids), size):
        batch = tokenizer.pad({"input_ids": ids[start : start + size]}, padding, return_tensors="pt", **side)
        rewards += _forward(saved, {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]})
    return np.array(rewards)


@torch.inference_mode()
def _forward(saved: Saved, batch: dict[str, torch.Tensor]) -> list[float]:
    logits = saved.model(**{name: tensor.to(saved.model.device) for name, tensor in batch.items()}).logits
    return [float(value) for value in logits[:, 0].float()]


def _pipeline(saved: Saved, rows: Rows, options: dict[str, Any], padding_side: str | None = None) -> Taken:
    tokenizer = saved.tokenizer()
    if padding_side:
        tokenizer.padding_side = padding_side
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    texts = [str(tokenizer.apply_chat_template([dict(turn) for turn in row], tokenize=False)) for row in rows]
    with quiet_loading():
        classify: Any = transformers.pipeline("text-classification", model=saved.model, tokenizer=tokenizer)
    answers = classify(texts, **options)
    return Taken(tokenizer(texts)["input_ids"], np.array([answer["score"] for answer in answers]))
