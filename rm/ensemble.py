"""Several reward models as one: the mean of their margins, their spread as uncertainty, and their averaged weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labeling.errors import DataError
from labeling.files import input_hash, manifest, replacing, sha256, write_json
from labeling.pairs import Pairs, check_pairs
from rm.handoff import save
from rm.model import RewardModel, check_reward_model
from rm.provenance import MANIFEST, ORIGINS, STOPPING_PROMPTS, TRAIN_PROMPTS, hashes, origins_of, write_hashes
from rm.temperature import KEY, sigmoid, temperature_of

FloatArray = npt.NDArray[np.float64]

MEASURED = (KEY, "mean", "std")
"""Entries of config.json that were measured on the rewards of one model."""
UNSHARED = (*MEASURED, "_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Entries in which models to be averaged may differ."""


@dataclass(frozen=True)
class Opinions:
    """What m reward models say of n pairs."""

    margins: FloatArray
    """Shape (n, m): (r_a - r_b) / temperature of each member, > 0 favours A."""

    @property
    def mean(self) -> FloatArray:
        """Mean margin, shape (n,)."""
        mean: FloatArray = self.margins.mean(axis=1)
        return mean

    @property
    def std(self) -> FloatArray:
        """Standard deviation of the members' margins, shape (n,): 0 where they agree to the digit."""
        std: FloatArray = self.margins.std(axis=1, ddof=1)
        return std

    @property
    def disagreement_share(self) -> FloatArray:
        """Share of members that prefer another response than the mean margin does, shape (n,), in [0, 1]."""
        share: FloatArray = (np.sign(self.margins) != np.sign(self.mean)[:, None]).mean(axis=1)
        return share

    @property
    def p_a(self) -> FloatArray:
        """Mean of the members' P(A preferred), shape (n,) (deep ensembles: Lakshminarayanan et al., 1612.01474).

        It is less sure than the sigmoid of the mean margin where members disagree.
        """
        p_a: FloatArray = sigmoid(self.margins).mean(axis=1)
        return p_a


@dataclass(frozen=True)
class Ensemble:
    """Reward models that judge together, made by `Ensemble.load`; they need not have the same architecture.

    Members are averaged as margins divided by their own temperatures. So a constant that one adds to all its rewards
    changes nothing, and none is louder for the scale of its head, once all are calibrated (`rm.calibrate`). They are
    not standardised by the spread of their margins: a model that tells little should speak softly.
    """

    members: tuple[RewardModel, ...]
    temperatures: tuple[float, ...]

    @classmethod
    def load(cls, paths: Sequence[str | Path]) -> Ensemble:
        """Load reward models from directories (or hub ids); raises DataError for fewer than two."""
        _check_several(paths)
        if len(paths) < 2:
            raise DataError(f"an ensemble was given {len(paths)} reward models, expected two or more")
        return cls(tuple(RewardModel.load(path) for path in paths), tuple(temperature_of(path) for path in paths))

    def judge(self, pairs: Pairs) -> Opinions:
        """Return what the members say of n pairs."""
        check_pairs(pairs)
        prompts = pairs.table["prompt"].to_pylist()
        responses = pairs.table["response_a"].to_pylist() + pairs.table["response_b"].to_pylist()
        rewards = [member.score(prompts + prompts, responses).reshape(2, len(pairs)) for member in self.members]
        margins = [(a - b) / t for (a, b), t in zip(rewards, self.temperatures, strict=True)]
        return Opinions(np.stack(margins, axis=1))


def average(models: Sequence[str | Path], out: str | Path) -> Path:
    """Average the weights of reward models and write the result as an ordinary one to `out`; returns `out`.

    Weight averaging (WARM: Ramé et al., 2401.12187): one model's cost for much of an ensemble's robustness, where the
    models were fine-tuned from the same base. The result is not calibrated, whatever the models were. Raises DataError
    for fewer than two models, where `out` exists, or where their configs, tokenizers or weights do not fit together.
    """
    _check_several(models)
    folders, target = [Path(model) for model in models], Path(out)
    if len(folders) < 2:
        raise DataError(f"{len(folders)} reward models to average, expected two or more")
    if target.exists():
        raise DataError(f"{target} already exists; delete it or pass another out")
    for folder in folders:
        check_reward_model(folder)
    for other in folders[1:]:
        _check_alike(folders[0], other)
    first = RewardModel.load(folders[0])
    first.model.load_state_dict(_mean_weights(first, folders))
    for name in MEASURED:
        vars(first.model.config).pop(name, None)
    with replacing(target) as part:
        save(first, part)
        for name in (TRAIN_PROMPTS, STOPPING_PROMPTS):
            if prompts := sorted(set().union(*(hashes(folder / name) for folder in folders))):
                write_hashes(part / name, prompts)
        inputs = {f"model_{i}": input_hash(folder) for i, folder in enumerate(folders)}
        record: dict[str, Any] = manifest("average", inputs=inputs, seed=None, counts={"models": len(folders)})
        outputs = {file.name: sha256(file) for file in sorted(part.glob("*.safetensors"))}
        record |= {ORIGINS: origins_of(folders), "outputs": outputs}
        write_json(part / MANIFEST, record)
    return target


def _check_several(models: Sequence[str | Path]) -> None:
    if isinstance(models, str | Path):
        raise DataError(f"the reward models are {str(models)!r}, expected a list of two or more directories")


def _mean_weights(first: RewardModel, folders: Sequence[Path]) -> dict[str, torch.Tensor]:
    total = {name: value.cpu().double() for name, value in first.model.state_dict().items()}
    for folder in folders[1:]:
        for name, value in RewardModel.load(folder).model.state_dict().items():
            if name not in total or total[name].shape != value.shape:
                raise DataError(
                    f"{folder}: weight {name} is not in {folders[0]}, or of another shape; average alike ones"
                )
            total[name] += value.cpu().double()
    kinds = first.model.state_dict()
    return {name: (value / len(folders)).to(kinds[name].dtype) for name, value in total.items()}


def _check_alike(first: Path, other: Path) -> None:
    configs = [json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (first, other)]
    keys = sorted({key for config in configs for key in config} - set(UNSHARED))
    differ = [key for key in keys if configs[0].get(key) != configs[1].get(key)]
    if differ:
        raise DataError(
            f"{first} and {other} differ in {', '.join(differ)} of config.json: only reward models of the same "
            "architecture, from the same base, can be averaged; load them as an Ensemble"
        )
    for name in ("tokenizer.json", "chat_template.jinja"):
        one, two = (file.read_bytes() if file.is_file() else b"" for file in (first / name, other / name))
        if one != two:
            raise DataError(f"{first} and {other} differ in {name}: the same text would be other tokens; see Ensemble")
