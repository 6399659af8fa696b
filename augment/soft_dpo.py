"""DPO with soft labels: TRL's DPOTrainer with another loss, the soft-pair objective: a q and a weight a pair.

h = beta (log-ratio of chosen - log-ratio of rejected) is the DPO margin. q = 1 is TRL's `sigmoid`; q = 1 - e is label
smoothing by e (cDPO), which TRL's own `sigmoid` ignores and its `robust` (rDPO, unbiased) is not; q = C is CREAM.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from labeling.errors import DataError

COLUMNS = ("p_chosen", "weight")
"""Columns of the training set beside TRL's; 1 where missing."""

UNUSED = {
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "label_smoothing": 0.0,
    "ld_alpha": None,
    "f_divergence_type": "reverse_kl",
    "use_weighting": False,
    "router_aux_loss_coef": None,
}
"""Options of TRL's DPOConfig that change its loss, and the values at which they do not."""


@cache
def soft_dpo_trainer() -> Any:
    """Return the class SoftDPOTrainer: TRL's DPOTrainer on pairs with `p_chosen` in [0, 1] and `weight` >= 0.

    Its loss is the mean over the pairs of weight (q l(h) + (1 - q) l(-h)); give weights of mean 1. A mixture of experts
    adds the loss that balances them, as its config says and in TRL. The training set may
    also hold `prompt_ids`, `chosen_ids`, `rejected_ids` in place of conversations. DataError for a DPOConfig with
    another loss; ModuleNotFoundError without the extra `rlhf`.
    """
    import torch
    from datasets import Dataset
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from rm.objectives import bradley_terry

    @dataclass
    class SoftCollator(DataCollatorForPreference):  # type: ignore[misc]
        """TRL's batch of token ids (2n, length), chosen first, with `p_chosen` (n,) and `weight` (n,)."""

        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = super().torch_call(examples)
            for name in COLUMNS:
                batch[name] = torch.tensor([float(example.get(name, 1.0)) for example in examples])
            return batch

    class SoftDPOTrainer(DPOTrainer):  # type: ignore[misc]
        """See `soft_dpo_trainer`."""

        data_collator: Any

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            _check_loss(self.args)
            theirs = self.data_collator
            self.data_collator = SoftCollator(**{field.name: getattr(theirs, field.name) for field in fields(theirs)})

        def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
            return dataset if "prompt_ids" in dataset.column_names else super()._prepare_dataset(dataset, *args)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += [name for name in COLUMNS if name not in self._signature_columns]

        def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
            return super().compute_ref_log_probs(model, {k: v for k, v in inputs.items() if k not in COLUMNS})

        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
            ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            routed = {"output_router_logits": True} if self.aux_loss_enabled else {}  # of mixtures of experts
            outputs = model(**ids, **routed, labels=labels, use_cache=False, fused_lm_head=True)
            log_p = outputs.log_probs.sum(dim=1).chunk(2)
            if self.precompute_ref_logps:
                reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
            else:
                reference = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
            chosen, rejected = (self.beta * (ours - theirs) for ours, theirs in zip(log_p, reference, strict=True))
            loss = (inputs["weight"] * bradley_terry(chosen - rejected, inputs["p_chosen"])).mean()
            if routed:
                loss = loss + self.router_aux_loss_coef * outputs.aux_loss
            self._note(chosen.detach(), rejected.detach())
            return (loss, outputs) if return_outputs else loss

        def _note(self, chosen: Any, rejected: Any) -> None:
            """Log the implicit rewards (n,) under TRL's names."""
            noted = {
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/margins": chosen - rejected,
                "rewards/accuracies": (chosen > rejected).float(),
            }
            for name, values in noted.items():
                mode = "train" if self.model.training else "eval"
                self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())

    return SoftDPOTrainer


def _check_loss(config: Any) -> None:
    changed = {name: getattr(config, name) for name, value in UNUSED.items() if getattr(config, name) != value}
    if changed:
        raise DataError(
            f"DPOConfig has {', '.join(f'{name}={value!r}' for name, value in changed.items())}, which the soft-pair "
            "objective would ignore; leave these at their defaults: p_chosen smooths labels, weight weighs pairs"
        )
