"""`weakpref judge`: a language model votes on a file of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from augment.commands import Reading, check_out, write_manifest
from labeling import write_votes
from labeling.errors import DataError
from labeling.judge_report import judge_report
from labeling.llm import Engine, Sampling
from labeling.llm_cache import CachedEngine
from labeling.pairs import Pairs
from labeling.pairwise_judge import CRITERION, PairwiseJudge
from labeling.rubric_judge import RubricJudge
from labeling.verdicts import Verdicts

PACKAGED = "smollm2"
"""The judge that needs no network and no path."""


@dataclass(frozen=True)
class Model:
    """Which model is asked, and where its answers are kept."""

    judge: str | None = None
    """smollm2: the packaged model."""
    path: str | None = None
    """Folder of a causal language model, or its hub id."""
    dtype: str = "float32"
    device: str = "cpu"
    cache: Path | None = None
    """File that answers are kept in; a run that was stopped goes on from there."""

    def engine(self) -> Engine:
        """Load the model. Raises DataError if none or two are named."""
        if (self.judge is None) == (self.path is None):
            raise DataError("which model judges? expected one of --judge smollm2 and --model FOLDER; pass exactly one")
        if self.judge not in (None, PACKAGED):
            raise DataError(f"judge is {self.judge!r}; expected {PACKAGED}; name other models by --model FOLDER")
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
        engine = _loaded(self)
        return engine if self.cache is None else CachedEngine(engine, self.cache)


def named(model: str, dtype: str, device: str, cache: Path | None) -> Model:
    """Return the model of a name: `PACKAGED`, or else a folder or hub id."""
    return Model(model, None, dtype, device, cache) if model == PACKAGED else Model(None, model, dtype, device, cache)


@dataclass(frozen=True)
class Asking:
    """What the model is asked."""

    kind: Literal["pairwise", "rubric"] = "pairwise"
    """pairwise: which response is better, in both orders; rubric: a grade from 0 to 5 for each response."""
    criterion: str | None = None
    """What makes a response better, in words; None = the judge's own."""
    template: Path | None = None
    """Jinja file in place of the judge's own prompt."""
    samples: int = 3
    """Graded answers a response (rubric); 0 = the mean of the digits by their probabilities."""

    def judge(self, engine: Engine) -> PairwiseJudge | RubricJudge:
        """Return the judge. Raises DataError if an option does not fit."""
        if self.samples < 0:
            raise DataError(f"samples is {self.samples}; expected 0 (no samples, the digits' probabilities) or more")
        if self.kind == "pairwise":
            return PairwiseJudge(engine, self.criterion or CRITERION, template=self.template)
        sampling = Sampling(n=self.samples, temperature=0.7, top_p=0.9, max_tokens=300) if self.samples else None
        criteria = {self.criterion: 1.0} if self.criterion else {}
        return RubricJudge(engine, criteria, template=self.template, sampling=sampling)


def judge(
    path: str, out: Path, reading: Reading, model: Model, asking: Asking, *, limit: int | None, report: Path | None
) -> str:
    """Write a judge's votes on a file of pairs, and a report on the judge; return what happened."""
    check_out(out, path)
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; expected a number of pairs, 1 or more")
    pairs = reading(path)
    pairs = pairs if limit is None else pairs.take(np.arange(min(limit, len(pairs))))
    verdicts = asking.judge(model.engine()).judge(pairs.voter_table())
    write_votes(out, verdicts.matrix(pairs), pairs.gold)
    inputs = {"pairs": Path(path)} | ({"template": asking.template} if asking.template else {})
    write_manifest(out, "judge", inputs, None, _counts(verdicts, pairs))
    line = (
        f"{out}: {verdicts.name} votes on {(verdicts.votes >= 0).sum()} of {len(pairs)} pairs, "
        f"{verdicts.cost.prompt_tokens:,} tokens read, {verdicts.cost.sampled_tokens:,} written"
    )
    if report is None:
        return line
    result = judge_report(verdicts, pairs)
    result.to_json(report)
    return f"{result}\n{line}"


def _loaded(model: Model) -> Engine:
    from labeling.smollm2 import smollm2
    from labeling.transformers_engine import TransformersEngine

    if model.path is None:
        return smollm2(dtype=model.dtype, device=model.device)
    return TransformersEngine.load(model.path, dtype=model.dtype, device=model.device)


def _counts(verdicts: Verdicts, pairs: Pairs) -> dict[str, object]:
    """Return what the manifest says of a judge's run: nothing that differs from run to run."""
    return {
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
