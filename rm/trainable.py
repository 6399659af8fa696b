"""Which of a base model's parameters learn: all, the upper layers, or LoRA's updates; the score head in any case."""

from __future__ import annotations

import dataclasses
import types
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel

from labeling.errors import DataError
from rm.config import RewardConfig
from rm.lora import with_lora

if TYPE_CHECKING:
    from accelerate import FullyShardedDataParallelPlugin
    from peft import PeftModel


def prepare(model: PreTrainedModel, config: RewardConfig) -> PeftModel | None:
    """Set dropout to 0, freeze what is not trained, and put LoRA's adapters in where asked for; returns peft's wrapper.

    In place: `model` is what is trained, with or without adapters. Its head keeps its precision under autocast.
    """
    disable_dropout(model)
    freeze(model, config.freeze_layers)
    adapted = with_lora(model, heads(model), config) if config.lora_r else None
    if not config.center_rewards:
        fix_constant(model)
    head_beside_autocast(model)
    return adapted


def heads(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules that a base model may lack, so that their first weights are random."""
    names = {name.split(".")[0] for name, _ in model.named_parameters() if is_head(model, name)}
    return sorted(names | {"pooler" for name, _ in model.named_modules() if name.endswith(".pooler")})


def is_head(model: torch.nn.Module, parameter: str) -> bool:
    """Return whether a parameter belongs to the score head: to no part of the base model."""
    return not parameter.removeprefix("module.").startswith(f"{getattr(model, 'module', model).base_model_prefix}.")


def head_beside_autocast(model: PreTrainedModel) -> None:
    """Let the score head compute in float32, or under bfloat16 near rewards would be equal."""
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.forward = types.MethodType(_beside_autocast, module)


def _beside_autocast(self: torch.nn.Module, hidden: torch.Tensor, *more: Any, **named: Any) -> Any:
    with torch.autocast(hidden.device.type, enabled=False):
        rounded = {name: own for name, own in self.named_parameters() if own.dtype == torch.bfloat16}
        if rounded:  # by FSDP2, for as long as the model runs; the call that follows finds float32 here
            exact = {name: own.float() for name, own in rounded.items()}
            return torch.func.functional_call(self, exact, (hidden.float(), *more), named)
        return type(self).forward(self, hidden.float(), *more, **named)


def rewards_as_computed(plugin: FullyShardedDataParallelPlugin) -> None:
    """Have FSDP2 pass rewards on in float32 and add up gradients in it; accelerate rounds both to bfloat16."""
    policy = plugin.mixed_precision_policy
    if isinstance(policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = dataclasses.replace(policy, output_dtype=None, reduce_dtype=torch.float32)


def fix_constant(model: PreTrainedModel) -> None:
    """Keep the score's bias as it is: no difference of rewards depends on it, its gradient is rounding error.

    Not so where rewards are centred: then it is what brings their mean to 0.
    """
    for name, module in model.named_modules():
        last = isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
        if last and is_head(model, name) and module.bias is not None:
            module.bias.requires_grad_(False)


def disable_dropout(model: torch.nn.Module) -> None:
    """Set all dropout to 0: two responses must be compared under the same network."""
    module: Any
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # a share that the module hands to torch's functions
            if isinstance(value, float) and ("dropout" in name or name == "layerdrop"):
                setattr(module, name, 0.0)


def freeze(model: PreTrainedModel, n_layers: int) -> None:
    """Keep the embeddings and the `n_layers` lowest layers as they are; 0 keeps nothing.

    Raises DataError where there are fewer layers.
    """
    if not n_layers:
        return
    layers = layers_of(model)
    if n_layers > len(layers):
        raise DataError(f"freeze_layers is {n_layers}, but the model has {len(layers)} layers")
    embeddings = getattr(model.base_model, "embeddings", model.get_input_embeddings())
    for module in (embeddings, *layers[:n_layers]):
        module.requires_grad_(False)


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the model's transformer layers, lowest first: its longest module list."""
    lists = [module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=torch.nn.ModuleList())
