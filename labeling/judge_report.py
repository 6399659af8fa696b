"""What a judge is worth: agreement with gold, position and length bias, self-consistency, failures, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeling.files import write_json
from labeling.metrics import accuracy, accuracy_interval
from labeling.pairs import Pairs
from labeling.rankings import Rankings, rankings
from labeling.verdicts import Verdicts

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class JudgeReport:
    """How a judge behaves on n pairs; NaN where gold, scores or both orders are missing."""

    name: str
    notes: Mapping[str, str]
    """Model, kind, criterion."""
    n_pairs: int
    n_gold: int
    """Pairs whose gold label is no tie: those that agreement is measured on."""
    vote_share: float
    """Share of pairs it votes on."""
    abstained: Mapping[str, int]
    """Why it abstained, and how often."""
    pairwise_accuracy: float
    """Share of the gold pairs it votes right on; an abstention counts as wrong."""
    voted_accuracy: float
    """The same among those it votes on."""
    margin_accuracy: float
    """Share of the gold pairs whose margin has the right sign, also where it abstains; no margin is half right. NaN
    where no gold pair has a margin but 0."""
    margin_accuracy_low: float
    margin_accuracy_high: float
    """95 % interval of margin_accuracy, by group."""
    rankings: Rankings
    """Agreement by prompt, the responses of a prompt ranked."""
    position_bias: float
    """Log-odds added for being shown first; the margins are free of it."""
    first_share: float
    """Share of verdicts, over both orders, for what was shown first; 0.5 = no bias, 1 = nothing else."""
    consistency_share: float
    """Share of pairs on which both orders name the same response."""
    sample_agreement_share: float
    """Share of pairs of samples drawn for one prompt that say the same: name the same response in one order, or give a
    response the same score. 0.5 for verdicts by the toss of a coin; NaN where no prompt has two samples."""
    longer_share: float
    """Share of its votes that go to the longer response (in characters)."""
    gold_longer_share: float
    """The same of the gold labels: only what exceeds it is bias."""
    length_correlation: float
    """Spearman correlation of the margin and the difference in characters."""
    n_samples: int
    unparsed_share: float
    """Share of the samples that ended in no score."""
    score_counts: tuple[int, ...]
    """How many responses were scored 0, 1, ... 5, rounded; () without scores."""
    n_cut: int
    """Pairs shown with a text cut in the middle."""
    n_prompts: int
    prompt_tokens: int
    sampled_tokens: int
    seconds: float
    cost_usd: float | None = None
    """What was asked for it cost, in USD; answers from a cache cost nothing. None where that is not known."""

    def to_json(self, path: str | Path) -> None:
        """Write all figures as JSON; NaN becomes null."""
        write_json(path, asdict(self))

    def __str__(self) -> str:
        return "\n".join(f"{name:<24} {text}" for name, text in _lines(self))


def judge_report(verdicts: Verdicts, pairs: Pairs, cost_usd: float | None = None) -> JudgeReport:
    """Compare what a judge said, at a cost in USD, with the pairs it was asked about.

    Raises VotesError if they are on other pairs.
    """
    verdicts.check_same(pairs)
    gold, margins = pairs.gold, verdicts.margins
    decided = ~np.isnan(gold) & (gold != 0.5)
    voted = verdicts.votes >= 0
    right = decided & voted & ((verdicts.votes == 0) == (gold > 0.5))
    p_a = np.select([margins > 0, margins < 0], [1.0, 0.0], 0.5)
    groups = pairs.groups[decided]
    leaning = bool((p_a[decided] != 0.5).any())
    low, high = accuracy_interval(p_a[decided], gold[decided], groups) if leaning else (math.nan, math.nan)
    longer = _longer(pairs)
    orders = np.stack([verdicts.shown_first, -verdicts.shown_second])  # > 0: for what was shown first
    both = ~np.isnan(orders).any(axis=0)
    cost = verdicts.cost
    return JudgeReport(
        name=verdicts.name,
        notes=verdicts.notes,
        n_pairs=len(pairs),
        n_gold=int(decided.sum()),
        vote_share=_share(voted.sum(), len(pairs)),
        abstained=verdicts.abstained,
        pairwise_accuracy=_share(right.sum(), decided.sum()),
        voted_accuracy=_share(right.sum(), (decided & voted).sum()),
        margin_accuracy=accuracy(p_a[decided], gold[decided]) if leaning else math.nan,
        margin_accuracy_low=low,
        margin_accuracy_high=high,
        rankings=rankings(verdicts.scores, verdicts.votes, pairs),
        position_bias=verdicts.position_bias,
        first_share=_share((orders[:, both] > 0).sum() + (orders[:, both] == 0).sum() / 2, 2 * both.sum()),
        consistency_share=_share((verdicts.shown_first * verdicts.shown_second > 0).sum(), both.sum()),
        sample_agreement_share=verdicts.sample_agreement,
        longer_share=_share((voted & ((verdicts.votes == 0) == (longer > 0)))[longer != 0].sum(),
                            (voted & (longer != 0)).sum()),
        gold_longer_share=_share((decided & ((gold > 0.5) == (longer > 0)))[longer != 0].sum(),
                                 (decided & (longer != 0)).sum()),
        length_correlation=_spearman(margins, longer),
        n_samples=verdicts.n_samples,
        unparsed_share=_share(verdicts.n_unparsed, verdicts.n_samples),
        score_counts=_histogram(verdicts.scores),
        n_cut=verdicts.n_cut,
        n_prompts=cost.n_prompts,
        prompt_tokens=cost.prompt_tokens,
        sampled_tokens=cost.sampled_tokens,
        seconds=cost.seconds,
        cost_usd=cost_usd,
    )  # fmt: skip


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _longer(pairs: Pairs) -> FloatArray:
    """Return characters of A minus those of B, shape (n,)."""
    columns = (pairs.table[name].to_pylist() for name in ("response_a", "response_b"))
    return np.array([len(a) - len(b) for a, b in zip(*columns, strict=True)], dtype=np.float64)


def _spearman(x: FloatArray, y: FloatArray) -> float:
    from scipy.stats import spearmanr

    known = ~np.isnan(x)
    if known.sum() < 3 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return math.nan
    return float(spearmanr(x[known], y[known]).statistic)


def _histogram(scores: FloatArray) -> tuple[int, ...]:
    known = scores[~np.isnan(scores)]
    counts = np.bincount(np.floor(known + 0.5).astype(int), minlength=6)
    return tuple(int(count) for count in counts) if known.size else ()


def _lines(report: JudgeReport) -> list[tuple[str, str]]:
    """Return the table's rows: what a figure is called, and the figure in words."""

    def share(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.3f}"

    reasons = ", ".join(f"{name} {count:,}" for name, count in report.abstained.items() if count) or "none"
    ranks, alike = report.rankings, report.sample_agreement_share
    usd = "" if report.cost_usd is None else f", {report.cost_usd:.4f} USD"
    return [
        ("judge", f"{report.name} ({', '.join(report.notes.get(key, '-') for key in ('kind', 'model'))})"),
        ("pairs", f"{report.n_pairs:,}, of which gold and no tie {report.n_gold:,}, cut {report.n_cut:,}"),
        ("votes on", f"{share(report.vote_share)} of pairs; abstentions: {reasons}"),
        ("accuracy of votes", f"{share(report.voted_accuracy)}; {share(report.pairwise_accuracy)} of all gold pairs"),
        ("accuracy of margins", f"{share(report.margin_accuracy)}, 95 % interval "
         f"{share(report.margin_accuracy_low)} to {share(report.margin_accuracy_high)}"),
        ("by prompt", f"exact match {share(ranks.exact_match_share)}, 5-best {share(ranks.five_best_share)}, Spearman "
         f"{share(ranks.spearman)}, Kendall {share(ranks.kendall)} ({ranks.n_prompts:,} prompts)"),
        ("position", f"bias {share(report.position_bias)} log-odds, first shown wins {share(report.first_share)}, both "
         f"orders agree {share(report.consistency_share)}"),
        ("length", f"longer wins {share(report.longer_share)} (gold {share(report.gold_longer_share)}), correlation "
         f"{share(report.length_correlation)}"),
        ("scores 0 to 5", " ".join(map(str, report.score_counts)) or "-"),
        ("unparsed samples", f"{share(report.unparsed_share)} of {report.n_samples:,}"),
        *([] if math.isnan(alike) else [("samples of one prompt", f"{alike:.3f} of their pairs agree")]),
        ("cost", f"{report.n_prompts:,} prompts, {report.prompt_tokens:,} tokens read, "
         f"{report.sampled_tokens:,} written, {report.seconds:.1f} s{usd}"),
    ]  # fmt: skip
