"""RewardBench, RewardBench 2 and RM-Bench in process: subsets, sections and averages, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError, GroupLeakError
from labeling.metrics import widened
from labeling.pairs import prompt_id
from rm.benchmark_files import Item, read_benchmark
from rm.benchmark_scores import (
    DOMAINS,
    LEVELS,
    SECTION_WEIGHTS,
    SECTIONS,
    Rewards,
    best_of,
    levels,
    strictly_higher,
    style_matrix,
    ties_parts,
    ties_score,
)
from rm.evaluation import trained_prompts
from rm.evaluation_report import markdown_table, spanned
from rm.model import RewardModel

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A figure in [0, 1] with its 95 % bootstrap interval over the items of each subset, `widened` near 0 and 1."""

    name: str
    n: int
    """Items it is made of."""
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Benchmark:
    """A reward model's results on a benchmark; as text two Markdown tables."""

    benchmark: str
    subsets: tuple[Score, ...]
    """Subsets; for RM-Bench the domains at each level."""
    sections: tuple[Score, ...]
    """Sections; for RM-Bench the domains and the levels."""
    average: Score
    """The benchmark's own average over the sections that the file has."""
    missing: tuple[str, ...]
    """Sections, subsets or domains the file lacks: with any, the average is not that of the whole benchmark."""

    def __str__(self) -> str:
        tables = [_table(self.benchmark, (*self.sections, self.average)), _table("subset", self.subsets)]
        lacking = [f"Not in the file: {', '.join(self.missing)}."] if self.missing else []
        return "\n\n".join([*tables, *lacking])


Draws = dict[str, tuple[int, FloatArray]]
"""Of each subset the number of items and its score first on all items, then on draws of them: (1 + RESAMPLES,)."""


def run_benchmark(model: str | Path, source: str | Path, benchmark: str = "auto", *, seed: int = 0) -> Benchmark:
    """Score a saved reward model on a benchmark's file by the benchmark's own rules; seed is the bootstrap's.

    `benchmark` is auto, rewardbench, rewardbench2 or rm-bench. Raises LayoutError or DataError for another file, and
    GroupLeakError where the model was trained on a prompt of it.
    """
    name, items = read_benchmark(source, benchmark)
    leaked = {prompt_id(item.prompt) for item in items} & trained_prompts(model)
    if leaked:
        raise GroupLeakError(
            f"{len(leaked)} of the prompts of {name} were trained on; the first has the hash {min(leaked)}: a score on "
            "them says nothing; train on other prompts"
        )
    return scored(name, items, rewards_of(RewardModel.load(model), items), seed=seed)


def rewards_of(model: RewardModel, items: Sequence[Item]) -> Rewards:
    """Return the rewards of the right and of the wrong responses of each item."""
    prompts = [item.prompt for item in items for _ in (*item.right, *item.wrong)]
    rewards = model.score(prompts, [text for item in items for text in (*item.right, *item.wrong)])
    ends = np.cumsum([len(item.right) + len(item.wrong) for item in items])
    parts = np.split(rewards, ends[:-1])
    return [(part[: len(item.right)], part[len(item.right) :]) for part, item in zip(parts, items, strict=True)]


def scored(name: str, items: Sequence[Item], rewards: Rewards, *, seed: int = 0) -> Benchmark:
    """Score rewards that are there already by the rules of the benchmark called `name`."""
    generator = np.random.default_rng(seed)
    rules: Mapping[str, Callable[..., Benchmark]] = {
        "rewardbench": _rewardbench, "rewardbench2": _rewardbench_2, "rm-bench": _rm_bench,
    }  # fmt: skip
    return rules[name](items, rewards, generator)


def _rewardbench(items: Sequence[Item], rewards: Rewards, generator: np.random.Generator) -> Benchmark:
    draws = _drawn(_by_subset(items), strictly_higher(rewards), generator)
    weights = {section: {name: w for name, w in parts.items() if name in draws} for section, parts in SECTIONS.items()}
    sections: Draws = {
        section: _weighted(draws, {name: float(w) for name, w in parts.items()})
        for section, parts in weights.items()
        if parts
    }
    unknown = sorted(set(draws) - {name for parts in SECTIONS.values() for name in parts})
    if not sections:
        raise DataError(
            f"no subset is one of RewardBench's, found {', '.join(unknown[:5])}; evaluate without --benchmark"
        )
    average = _weighted(sections, {name: SECTION_WEIGHTS.get(name, 1.0) for name in sections})
    lacking = [
        name for section, parts in SECTIONS.items() if section != "Prior Sets" or section in sections
        for name in parts if name not in draws
    ]  # fmt: skip
    return Benchmark("rewardbench", _scores(draws), _scores(sections), _score("average", average), tuple(lacking))


def _rewardbench_2(items: Sequence[Item], rewards: Rewards, generator: np.random.Generator) -> Benchmark:
    ties = [i for i, item in enumerate(items) if item.subset.lower() == "ties"]
    others = [i for i in range(len(items)) if i not in set(ties)]
    draws = _drawn(_by_subset([items[i] for i in others]), best_of([rewards[i] for i in others]), generator)
    if ties:
        parts = ties_parts([items[i] for i in ties], [rewards[i] for i in ties])
        means = np.concatenate([parts.mean(axis=0)[None], _means(parts, generator)])
        draws["Ties"] = (len(ties), ties_score(means))
    average = _weighted(draws, dict.fromkeys(draws, 1.0))
    known = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")
    lacking = tuple(name for name in known if name not in draws)
    return Benchmark("rewardbench2", _scores(draws), (), _score("average", average), lacking)


def _rm_bench(items: Sequence[Item], rewards: Rewards, generator: np.random.Generator) -> Benchmark:
    domain_of = np.array([next((d for d in DOMAINS if item.subset.startswith(d)), "") for item in items])
    if (domain_of == "").any():
        odd = items[int(np.flatnonzero(domain_of == "")[0])].subset
        raise DataError(f"domain {odd!r} is none of RM-Bench's: expected one that begins with {', '.join(DOMAINS)}")
    matrices = style_matrix(rewards)
    subsets: Draws = {}
    domains: Draws = {}
    by_level: Draws = {}
    for domain in [d for d in DOMAINS if (domain_of == d).any()]:
        inside = matrices[domain_of == domain]
        n = len(inside)
        means = np.concatenate([inside.mean(axis=0)[None], _means(inside.reshape(n, 9), generator).reshape(-1, 3, 3)])
        at = levels(means)
        subsets |= {f"{domain}, {level}": (n, at[:, k]) for k, level in enumerate(LEVELS)}
        domains[domain] = (n, at.mean(axis=1))
    for level in LEVELS:
        by_level[level] = _weighted(subsets, {f"{domain}, {level}": 1.0 for domain in domains})
    average = _weighted(domains, dict.fromkeys(domains, 1.0))
    lacking = tuple(domain for domain in DOMAINS if domain not in domains)
    return Benchmark("rm-bench", _scores(subsets), _scores(domains | by_level), _score("average", average), lacking)


def _by_subset(items: Sequence[Item]) -> npt.NDArray[np.str_]:
    return np.array([item.subset for item in items], dtype=np.str_)


def _drawn(subset: npt.NDArray[np.str_], values: FloatArray, generator: np.random.Generator) -> Draws:
    draws: Draws = {}
    for name in np.unique(subset).tolist():
        inside = values[subset == name]
        draws[name] = (len(inside), np.append(inside.mean(), _means(inside[:, None], generator)[:, 0]))
    return draws


def _means(parts: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Return the means of `RESAMPLES` draws of the rows of (n, k), shape (RESAMPLES, k)."""
    counts = generator.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=RESAMPLES)
    means: FloatArray = counts @ parts / len(parts)
    return means


def _weighted(draws: Draws, weights: Mapping[str, float]) -> tuple[int, FloatArray]:
    total = sum(weights.values())
    mean = sum(weight / total * draws[name][1] for name, weight in weights.items())
    return sum(draws[name][0] for name in weights), np.asarray(mean)


def _scores(draws: Draws) -> tuple[Score, ...]:
    return tuple(_score(name, drawn) for name, drawn in draws.items())


def _score(name: str, drawn: tuple[int, FloatArray]) -> Score:
    n, values = drawn
    low, high = np.quantile(values[1:], [0.025, 0.975])
    right = np.clip(n * values[0] - np.arange(n), 0.0, 1.0)  # as if so many items were right, one in part
    low, high = widened(float(low), float(high), right, np.ones(n))
    return Score(name, n, float(values[0]), max(low, 0.0), min(high, 1.0))


def _table(title: str, scores: Sequence[Score]) -> str:
    rows = ((score.name, f"{score.n:,}", spanned(score.score, score.low, score.high)) for score in scores)
    return markdown_table((title, "items", "score"), rows)
