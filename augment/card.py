"""The dataset card of an export: front matter `datasets` reads, then the schema, the counts and how it was made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from augment.columns import Labelled
from labeling.files import versions
from labeling.votes import Vote

COLUMNS = (
    ("chosen", "list of {role, content}", "the whole conversation, ending in the response that is preferred"),
    ("rejected", "list of {role, content}", "the whole conversation, ending in the other response"),
    ("question", "string", "text of the last user turn"),
    ("messages", "list of {role, content}", "the prompt's turns"),
    ("pair_id", "string", "content hash of the prompt and both responses in the source's A/B order"),
    ("p_chosen", "float64, 0.5 to 1", "probability that chosen is preferred"),
    ("weight", "float64, >= 0", "sample weight for the trainer; 0 = leave out"),
    ("flipped", "bool", "true where chosen is the source's response B"),
    ("origin", "string", "what made the label: gold, weak (voters) or self (a reward model)"),
    ("iteration", "int32", "0 = gold only, 1 = first round of labelling, ..."),
    ("gold", "float64 or null", "the source's own label as probability that chosen is preferred"),
    ("votes", "list of {voter, vote, margin} or null", "what each voter said: vote 0 = chosen, 1 = rejected, "
     "-1 = abstains; margin > 0 favours chosen, null = none given"),
    ("source", "string", "where the pair comes from"),
    ("split", "string", "train"),
)  # fmt: skip
"""Name, type and meaning of the exported columns, in order."""

SOURCE_CHARS = 80
"""As much of a pair's `source` is shown."""

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
size_categories:
- {size}
tags:
- preference
- reward-model
- weak-supervision
- weakpref
---

# Preference pairs with calibrated labels

{note}

{pairs} pairs, {weight_zero} of them with weight 0, written by weakpref {version}.

## Labels

{origins}

A gold label is the source's own; it goes before any other. {ties} pairs are ties (`p_chosen` 0.5): which of their
responses is called chosen is a coin flip, and they {tie_rule}. Trainers that do not read `weight` and `p_chosen`
(TRL among them) should be given only the rows with `weight > 0` and a `p_chosen` as high as they need.

## Calibration

{calibration}

## Columns

{columns}

## Sources

{sources}

## Voters

{voters}

## How it was made

Rows are sorted by `pair_id` and shuffled with seed {seed}, so that any prefix is a random sample. The same pairs,
labels, votes and options give the same bytes. `manifest.json` has the options, the versions and the hashes of
input and files.
The texts keep the licence of their source.
"""


def card(rows: Labelled, counts: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return the card (Markdown with YAML front matter) of n labelled pairs."""
    return CARD.format(
        size=next((name for limit, name in SIZES if counts["pairs"] < limit), "n>1M"),
        note=options["source_note"] or "Where the texts come from was not noted; see Sources.",
        pairs=counts["pairs"],
        weight_zero=counts["weight_zero"],
        version=versions().get("weakpref", "(not installed)"),
        origins=_origins(rows, options),
        ties=counts["ties"],
        tie_rule="keep their weight" if options["keep_ties"] else "have weight 0",
        calibration=_calibration(rows),
        columns=_table(("column", "type", "meaning"), ((f"`{name}`", kind, text) for name, kind, text in COLUMNS)),
        sources=_sources(rows),
        voters=_voters(rows),
        seed=options["seed"],
    )


def _origins(rows: Labelled, options: Mapping[str, Any]) -> str:
    labels = rows.labels
    lines = []
    for origin, mask in (("gold", labels.is_gold), (options["origin"], ~labels.is_gold)):
        if mask.any():
            zero = int((labels.weight[mask] == 0).sum())
            lines.append((origin, int(mask.sum()), zero, f"{math.fsum(labels.p_chosen[mask]) / mask.sum():.3f}"))
    return _table(("origin", "pairs", "with weight 0", "mean p_chosen"), lines)


def _calibration(rows: Labelled) -> str:
    labels = rows.labels
    used = ~labels.is_gold & (labels.weight > 0)
    if not used.any():
        return "All labels that count are gold: `p_chosen` is what the source says, not an estimate."
    p, weight = labels.p_chosen[used], labels.weight[used]
    expected = 1 - math.fsum(p * weight) / math.fsum(weight)
    return (
        "Where there is no gold, `p_chosen` is an estimate, not a measurement. As far as it is calibrated,\n"
        f"{expected:.1%} of these labels (by weight) have chosen and rejected the wrong way round. Whether it is\n"
        "calibrated can only be seen on gold labels that no fitting has seen."
    )


def _sources(rows: Labelled) -> str:
    found = Counter(rows.pairs.table["source"].to_pylist())
    counts = sorted(((str(name), count) for name, count in found.items()), key=lambda one: (-one[1], one[0]))
    lines = [(_beginning(" ".join(name.split())), count) for name, count in counts[:20]]
    rest = counts[20:]
    more = [(f"{len(rest)} others", sum(count for _, count in rest))] if rest else []
    return _table(("source", "pairs"), lines + more)


def _beginning(text: str) -> str:
    return text if len(text) <= SOURCE_CHARS else f"{text[: SOURCE_CHARS - 4]} ..."


def _voters(rows: Labelled) -> str:
    if rows.votes is None or not rows.votes.names:
        return "The votes behind the labels were not exported."
    coverage = (rows.votes.votes != Vote.ABSTAIN).mean(axis=0)
    lines = ((name, f"{share:.1%}") for name, share in zip(rows.votes.names, coverage, strict=True))
    return _table(("voter", "votes on"), lines)


def _table(head: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    rows = [list(head), *([_cell(value) for value in line] for line in lines)]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
