"""`weakpref judge`: a language model votes on a file of pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from augment.commands import Reading, check_out, write_manifest
from augment.models import ModelOptions
from augment.progress import on_terminal, progress_bar
from augment.spending import SpendingOptions
from labeling import write_votes
from labeling.errors import DataError
from labeling.judge_plot import plot_verdicts
from labeling.judge_report import judge_report
from labeling.layouts import TEXT, is_number
from labeling.llm import Sampling
from labeling.pairs import Pairs
from labeling.pairwise_judge import CRITERION, PairwiseJudge
from labeling.planned_engine import PlannedEngine
from labeling.rubric_judge import THREE_SAMPLES, RubricJudge
from labeling.sources import open_source
from labeling.verdicts import Verdicts
from rm.options import option

NOBODY = PlannedEngine("nobody", lambda prompts: [0] * len(prompts))
"""Stands in a judge until the options are known to fit, for loading a model takes long."""


@dataclass(frozen=True)
class Asking:
    """What the model is asked."""

    kind: Literal["pairwise", "rubric"] = option(
        "pairwise: which response is better, in both orders; rubric: a grade from 0 to 5 for each.", "pairwise"
    )
    name: str | None = option(
        "What it is called among the voters (default: pairwise_judge or rubric_judge); two judges need two names."
    )
    criterion: str | None = option("What makes a response better, in words (default: built in).")
    criteria: Path | None = option("rubric: JSON file {criterion in words: weight}, each graded by itself.")
    references: Path | None = option(
        "rubric: file with columns prompt and reference: a good answer, shown to the judge."
    )
    template: Path | None = option("Jinja file in place of the built-in prompt.")
    on_flip: Literal["abstain", "keep"] = option(
        "pairwise: where the better response changes with the order, give no margin, or keep it.", "abstain"
    )
    reasoning: int = option("pairwise: texts of reasoning drawn before the verdict, averaged over; 0: none.", 0)
    samples: int = option("rubric: grades drawn a response; 0: the mean of the digits by their probabilities.", 3)
    max_prompt_tokens: int = option(
        "Longer prompts are cut in the middle of their responses (at less where the model holds less).", 2048
    )
    seed: int = option("Seed of what is drawn.", 0)

    def judge(self) -> PairwiseJudge | RubricJudge:
        """Return the judge, without an engine. Raises DataError if an option does not fit."""
        self._check()
        if self.kind == "pairwise":
            n, heat = self.reasoning, 0.0 if self.reasoning == 1 else 0.7
            how = Sampling(n, heat, 0.9, 512, seed=self.seed) if n else None
            return PairwiseJudge(
                NOBODY, self.criterion or CRITERION, self.name or PairwiseJudge.name, template=self.template,
                on_flip=self.on_flip, reasoning=how, max_prompt_tokens=self.max_prompt_tokens,
            )  # fmt: skip
        criteria = {self.criterion: 1.0} if self.criterion else {}
        return RubricJudge(
            NOBODY, read_criteria(self.criteria) if self.criteria else criteria, self.name or RubricJudge.name,
            template=self.template,
            sampling=replace(THREE_SAMPLES, n=self.samples, seed=self.seed) if self.samples else None,
            max_prompt_tokens=self.max_prompt_tokens,
        )  # fmt: skip

    def inputs(self) -> dict[str, Path]:
        """Return the files a judge is made from."""
        files = {"template": self.template, "criteria": self.criteria, "references": self.references}
        return {name: path for name, path in files.items() if path is not None}

    def _check(self) -> None:
        for name, least in (("samples", 0), ("reasoning", 0), ("max_prompt_tokens", 1)):
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}; expected {least} or more")
        fields = type(self).__dataclass_fields__
        for name in ("criteria", "references", "samples", "on_flip", "reasoning"):
            owner = "rubric" if name in ("criteria", "references", "samples") else "pairwise"
            if self.kind != owner and getattr(self, name) != fields[name].default:
                raise DataError(
                    f"--{name.replace('_', '-')} is an option of --kind {owner}, not {self.kind}; leave it out"
                )
        if self.criteria and self.criterion:
            raise DataError("--criterion and --criteria were both given; expected one: put it into the file")


@dataclass(frozen=True)
class Reporting:
    """What is written on a judge beside its votes."""

    report: Path | None = option("JSON file for a report on the judge; also printed.")
    plot: Path | None = option("PNG or SVG of its two orders, or its scores, and its margins against gold.")


def judge(
    path: str, out: Path, reading: Reading, model: ModelOptions, spending: SpendingOptions, asking: Asking,
    reporting: Reporting = Reporting(), *, limit: int | None = None,
) -> str:  # fmt: skip
    """Write a judge's votes on a file of pairs, and a report on the judge; return what happened.

    With `spending.dry_run`, return what it would take instead.
    """
    check_out(out, path)
    for file in (reporting.report, reporting.plot):
        if file is not None:
            check_out(file, path, parquet=False)
    model.check()
    spending.check(cached=False)
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; expected a number of pairs, 1 or more")
    if reporting.plot and reporting.plot.suffix.lower() not in (".png", ".svg"):
        raise DataError(f"a plot is PNG or SVG: expected --plot to end in .png or .svg, found {reporting.plot}")
    voter = asking.judge()
    pairs = reading(path)
    if limit is not None:
        pairs = replace(pairs.take(np.arange(min(limit, len(pairs)))), dropped=pairs.dropped)
    if isinstance(voter, RubricJudge) and asking.references:
        voter = replace(voter, references=read_references(asking.references, pairs))
    if spending.dry_run:
        plan = spending.plan(model)
        replace(voter, engine=plan.engine).judge(pairs.voter_table())
        return plan.said(out)
    with progress_bar("Answers", on_terminal()) as watch:
        engine = spending.engine(model, watch)
        verdicts = replace(voter, engine=engine).judge(pairs.voter_table())
    write_votes(out, verdicts.matrix(pairs), pairs.gold)
    write_manifest(out, "judge", {"pairs": Path(path)} | asking.inputs(), asking.seed, _counts(verdicts, pairs, voter))
    if reporting.plot:
        plot_verdicts(verdicts, pairs, reporting.plot)
    line = (
        f"{out}: {verdicts.name} votes on {(verdicts.votes >= 0).sum()} of {len(pairs)} pairs, "
        f"{verdicts.cost.prompt_tokens:,} tokens read, {verdicts.cost.sampled_tokens:,} written"
        + (f", {engine.hits:,} answers from the cache" if engine.hits and spending.cache else "")
    )
    if reporting.report is None:
        return line
    result = judge_report(verdicts, pairs, spending.cost(engine))
    result.to_json(reporting.report)
    return f"{result}\n{line}"


def read_criteria(path: Path) -> dict[str, float]:
    """Return criteria and their weights from a JSON file. Raises DataError if it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON {{criterion in words: weight}}, found no JSON ({error})") from None
    number = (int, float)
    if not isinstance(found, dict) or not found or not all(isinstance(weight, number) for weight in found.values()):
        raise DataError(f"{path}: expected JSON {{criterion in words: weight}}, found {str(found)[:80]}; write it so")
    return {str(text): float(weight) for text, weight in found.items()}


def read_references(path: Path, pairs: Pairs) -> dict[str, str]:
    """Return reference answers by pair_id, from a file with columns prompt and reference, matched by the prompt's text.

    Raises DataError if there are no such columns of texts, or no pair has a reference.
    """
    table = open_source(str(path)).table
    for name in ("prompt", "reference"):
        number = name == "reference" and name in table.column_names and is_number(table[name].type)
        if name not in table.column_names or not (number or TEXT.holds(table[name].type)):
            columns = ", ".join(f"{column.name} ({column.type})" for column in table.schema)
            raise DataError(
                f"{path}: expected columns prompt and reference with texts, found {columns}; rename or convert them"
            )
    texts = zip(table["prompt"].to_pylist(), table["reference"].cast(pa.string()).to_pylist(), strict=True)
    known = {prompt: answer for prompt, answer in texts if prompt and answer}
    asked = zip(pairs.pair_ids.tolist(), pairs.prompt_texts.to_pylist(), strict=True)
    found = {pair: known[prompt] for pair, prompt in asked if prompt in known}
    if not found:
        raise DataError(f"{path}: none of its prompts is one of the pairs'; expected references for some: check both")
    return found


def _counts(verdicts: Verdicts, pairs: Pairs, voter: PairwiseJudge | RubricJudge) -> dict[str, object]:
    """Return what the manifest says of a judge's run: nothing that differs from run to run."""
    counts: dict[str, object] = {
        "pairs": len(pairs),
        "gold": int((~np.isnan(pairs.gold)).sum()),
        "dropped": dict(pairs.dropped),
        "votes": int((verdicts.votes >= 0).sum()),
        "abstained": dict(verdicts.abstained),
        "samples": verdicts.n_samples,
        "unparsed": verdicts.n_unparsed,
        "cut": verdicts.n_cut,
        "prompts": verdicts.cost.n_prompts,
        "prompt_tokens": verdicts.cost.prompt_tokens,
        "sampled_tokens": verdicts.cost.sampled_tokens,
        "judge": dict(verdicts.notes),
    }
    return counts | ({"references": len(voter.references)} if isinstance(voter, RubricJudge) else {})
