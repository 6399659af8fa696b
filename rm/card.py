"""The model card beside a reward model: made from its manifest, training log and config alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labeling.errors import DataError
from labeling.files import replacing
from rm.checkpoint import read_record
from rm.temperature import KEY

CARD = "README.md"
FRONT = """---
library_name: transformers
pipeline_tag: text-classification
tags:
- reward-model
- weakpref
---
"""
ORIGINS_IN_WORDS = {
    "gold": "people",
    "weak": "labeling functions, merged by a label model",
    "self": "a reward model's own",
    "unknown": "not named in the data",
}
LOADING = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
model = AutoModelForSequenceClassification.from_pretrained("DIRECTORY")
conversation = [{"role": "user", "content": "1 + 1 = ?"}, {"role": "assistant", "content": "2"}]
inputs = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
with torch.inference_mode():
    reward = model(**inputs).logits[0, 0].item()
```

In TRL: `GRPOTrainer(..., reward_funcs="DIRECTORY")` and `RLOOTrainer(..., reward_funcs="DIRECTORY")`.

In vLLM, with its activation off and token ids from the chat template, which has all special tokens:

```python
from vllm import LLM, PoolingParams

llm = LLM("DIRECTORY", runner="pooling", dtype="float32")
output = llm.classify([{"prompt_token_ids": inputs["input_ids"][0].tolist()}], PoolingParams(use_activation=False))
reward = output[0].outputs.probs[0]
```

In weakpref: `RewardModel.load("DIRECTORY").score(prompts, responses)`; `weakpref verify DIRECTORY` compares them."""


def write_card(folder: str | Path) -> Path:
    """Write the model card of a directory that `rm.train` wrote, from what lies in it now; return its path.

    The same directory gives the same bytes. Raises DataError where there is no manifest.json.
    """
    target = Path(folder)
    manifest, log = read_record(target / "manifest.json"), _log(target)
    if manifest.get("command") != "train":
        raise DataError(f"{target} has no manifest.json of a training run, expected a directory written by rm.train")
    with replacing(target / CARD) as part:
        part.write_text(card(manifest, log, read_record(target / "config.json")), encoding="utf-8")
    return target / CARD


def card(manifest: Mapping[str, Any], log: list[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """Return a model card as Markdown with the hub's front matter."""
    settings = manifest["config"]
    body = f"""# A reward model, from {settings["model"]}

It gives a response to a conversation a reward: a logit, only differences of which mean anything. Trained by weakpref
{manifest["versions"].get("weakpref", "")} to P(A preferred) = sigmoid(r_A - r_B).

## Use

{LOADING}

## Data

{_data(manifest)}

## Training

Objective: {settings.get("objective", "bradley-terry")}, on soft labels.
Seed {manifest["seed"]}, {manifest["counts"]["steps"]} steps.

{_table(("setting", "value"), sorted((name, _shown(value)) for name, value in settings.items()))}

## Figures

{_figures(manifest, log, config.get(KEY))}

## Limits

Measured on no more than what stands above: `weakpref evaluate` measures it on prompts it has not seen. Weak labels
carry over what their labeling functions get wrong, such as a taste for length. Conversations over
{settings["max_length"]} tokens lose the beginning of their prompt.

## Licence

Not set here: it follows from the base model and the data. Add `license:` to the front matter before sharing.
"""
    return f"{FRONT}\n{body}"


def _data(manifest: Mapping[str, Any]) -> str:
    counts, origins = manifest["counts"], manifest.get("origins", {})
    files = _table(("file", "SHA-256"), sorted((name, f"`{digest}`") for name, digest in manifest["inputs"].items()))
    words = [(name, ORIGINS_IN_WORDS.get(name, ""), f"{n:,}") for name, n in sorted(origins.items())]
    rest = {name: n for name, n in counts.items() if name not in ("pairs", "gold", "steps")}
    said = "; ".join(f"{name.replace('_', ' ')}: {_shown(n)}" for name, n in sorted(rest.items()))
    sources = _table(("origin of the label", "from", "pairs"), words)
    base = manifest.get("base_origins")
    if base:
        counted = ", ".join(f"{n:,} {name}" for name, n in sorted(base.items()))
        sources += f"\n\nThe model it started from was trained on pairs with labels of the origins: {counted}."
    return f"{files}\n\n{counts['pairs']:,} pairs. {said[:1].upper()}{said[1:]}.\n\n{sources}"


def _figures(manifest: Mapping[str, Any], log: list[Mapping[str, Any]], calibrated: Mapping[str, Any] | None) -> str:
    rewards = manifest["rewards"]
    lines = [
        f"- Rewards of {rewards['n_responses']:,} training responses: mean {rewards['mean']:.3f}, standard deviation "
        f"{rewards['std']:.3f} (`mean` and `std` in config.json, which OpenRLHF's `--normalize_reward` reads)."
    ]
    log, held_out = ([entry for entry in log if name in entry] for name in ("loss", "eval_log_loss"))
    if log:
        lines.append(
            f"- Training loss: {log[0]['loss']:.4f} at step {log[0]['step']}, {log[-1]['loss']:.4f} at the end."
        )
    lines += _held_out(held_out, manifest)
    if calibrated:
        n = calibrated.get("gold", {}).get("n")
        lines.append(
            f"- Calibrated on {f'{n:,} ' if n else ''}held-out gold pairs: P(A preferred) = sigmoid((r_A - r_B) / "
            f"{calibrated['temperature']:.4f})."
        )
        lines += _calibration(calibrated)
    else:
        lines.append("- Not calibrated on held-out gold pairs (`weakpref calibrate`).")
    return "\n".join(lines)


def _held_out(log: list[Mapping[str, Any]], manifest: Mapping[str, Any]) -> list[str]:
    if not log:
        return []
    stopped = manifest["config"].get("patience") is not None  # then the weights are those of the best measurement
    kept = min(log, key=lambda entry: float(entry["eval_log_loss"])) if stopped else log[-1]
    chosen = ", where it was least and the weights were kept" if stopped else ""
    return [
        f"- On {manifest['counts']['held_out']:,} held-out pairs, by their soft labels, at step {kept['step']}{chosen}"
        f": log-loss {kept['eval_log_loss']:.3f}, accuracy {kept['eval_accuracy']:.3f}, ECE {kept['eval_ece']:.3f}."
    ]


def _calibration(calibrated: Mapping[str, Any]) -> list[str]:
    found = []
    for name, words in (("gold", "before"), ("cross_fitted", "after, cross-fitted")):
        figures = calibrated.get(name) or {}
        shown = [_with_interval(figures, key) for key in ("accuracy", "log_loss", "ece") if key in figures]
        found += [f"- On these pairs {words}: {', '.join(shown)}."] if shown else []
    return found


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    ends = [figures.get(f"{key}_{end}") for end in ("low", "high")]
    interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if None not in ends else ""
    return f"{key.replace('_', '-')} {figures[key]:.3f}{interval}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    return str(Path(value).name) if isinstance(value, str) and "/" in value else "" if value is None else str(value)


def _log(folder: Path) -> list[Mapping[str, Any]]:
    path = folder / "train_log.json"
    entries: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return entries
