"""LoRA (arXiv 2106.09685): low-rank updates beside frozen weights, while score head and pooler are trained whole."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from labeling.errors import DataError
from rm.config import RewardConfig

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

ALL_LINEAR = "all-linear"
FOLDER = "adapter"
"""Folder of the adapter inside a reward model's directory, where it was asked for."""


@dataclass(frozen=True)
class Adapter:
    """What LoRA learned: peft's config, low-rank factors and the modules trained whole."""

    config: PeftConfig
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: PeftModel) -> Adapter:
        """Copy the adapter out of a model before it is merged."""
        from peft import get_peft_model_state_dict

        learned = get_peft_model_state_dict(model, save_embedding_layers=False)  # embeddings are the base's
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in learned.items()}
        return cls(model.peft_config["default"], tensors)

    def save(self, folder: Path) -> None:
        """Write the adapter as `PeftModel.from_pretrained(base, folder)` reads it."""
        folder.mkdir()
        save_file(self.tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self.config.save_pretrained(str(folder))


def with_lora(model: PreTrainedModel, heads: list[str], config: RewardConfig) -> PeftModel:
    """Put adapters into `model`, in place, and freeze all else but the modules named in `heads`; return peft's wrapper.

    Train `model` itself, and `merged` the wrapper afterwards. Raises DataError where a target is no module of it.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = config.lora_targets
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS,  # with any other, or none, the score head would be neither trained nor saved
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if targets == ALL_LINEAR else [name.strip() for name in targets.split(",")],
        modules_to_save=heads,
    )
    try:
        with warnings.catch_warnings():  # peft asks transformers by the old name of activation checkpointing
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            wrapper: PeftModel = get_peft_model(model, settings)
    except ValueError as error:
        raise DataError(f"lora_targets is {targets!r}: {error}; pass {ALL_LINEAR!r} or names of modules") from None
    settings.base_model_name_or_path = _portable(config.model)
    return wrapper


def merged(wrapper: PeftModel) -> PreTrainedModel:
    """Return the plain model with the low-rank updates added to its weights; the wrapper is of no use afterwards."""
    model: Any = wrapper.merge_and_unload(safe_merge=True)
    return model  # type: ignore[no-any-return]


def _portable(model: str) -> str:
    return Path(model).name if Path(model).is_dir() else model
