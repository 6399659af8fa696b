"""The demo: hide all labels but a few, let weak supervision label the rest, and measure what that buys."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from augment.choose import choose
from augment.export import ExportOptions, export
from augment.report import Row, longer_row, measured, paired_gain, print_table, quality, write_report
from labeling import (
    LabelModel,
    MajorityVote,
    apply,
    check_disjoint,
    gold_sample,
    heuristics,
    read_pairs,
    split_by_group,
)
from labeling.errors import GoldError
from labeling.files import sha256, versions
from labeling.pairs import Pairs
from labeling.voters import Voter
from labeling.votes import VoteMatrix
from rm.config import RewardConfig

FloatArray = npt.NDArray[np.float64]

TEST_SHARE = 0.2
MAX_TEST_PAIRS = 1000
REWARD_CONFIG = RewardConfig(
    model="minilm",
    learning_rate=5e-5,
    head_learning_rate=1e-3,
    max_steps=80,
    batch_size=16,
    max_length=128,
    freeze_layers=3,
)
"""Every reward model of the demo is trained like this: the same steps on whatever labels it is given."""


@dataclass(frozen=True)
class DemoOptions:
    """What the demo is run on."""

    data: str | None = None
    """Labelled pairs: a file or a hub id; None = the quickstart data."""
    gold: int | float = 150
    """Pairs of the pool that keep their label: a number, or a share below 1."""
    out: Path = Path("demo")
    """Folder for all outputs."""
    lfs: Path | None = None
    """A user's Python file of voters, besides the built-in ones."""
    seed: int = 0
    """Seed of the split, the choice of gold pairs, the order of training."""
    layout: str | None = None
    """Layout of the file, where its columns fit two."""
    config: RewardConfig = field(default=REWARD_CONFIG)
    """How the three reward models are trained."""


@dataclass(frozen=True)
class Experiment:
    """Pairs split by group, with the labels of the pool hidden but for the gold ones."""

    pool: Pairs
    """Pairs to label, all their labels still there: only for measuring."""
    hidden: Pairs
    """The same pairs as the label model sees them: gold labels and nothing else."""
    test: Pairs
    """Labelled pairs of other groups."""
    votes: VoteMatrix
    """Votes on the pool."""
    test_votes: VoteMatrix
    """Votes on the test pairs."""


def quickstart() -> Path:
    """Return the file of the quickstart pairs: in the installed package, or in the checkout."""
    here = Path(__file__).resolve().parent
    packed = here / "quickstart" / "pairs.parquet"
    return packed if packed.is_file() else here.parent / "data" / "quickstart" / "pairs.parquet"


def run_demo(options: DemoOptions, console: Console) -> Path:
    """Vote, merge, export, train and evaluate; print one table; write everything to `options.out`; return report.json.

    Reward models of an earlier run on the same data with the same config are not trained again. Raises GoldError if
    the data has too few labels, and what reading, voting, exporting and training raise.
    """
    out, clock = options.out, Clock()
    config = replace(options.config, seed=options.seed)
    with clock("vote"):
        experiment = prepare(options, console)
    pool, hidden, test = experiment.pool, experiment.hidden, experiment.test
    with clock("merge"):
        model = LabelModel().fit(experiment.votes, hidden.gold)
        p_a = model.posterior(experiment.votes)
    with clock("export"):
        order = ExportOptions(seed=options.seed)
        budget = (config.max_steps or len(pool)) * config.batch_size
        chosen = choose(hidden, p_a, budget, seed=options.seed)
        votes = experiment.votes.take(chosen)
        weak = export(out / "augmented", hidden.take(chosen), p_a[chosen], votes, options=order)
        few = _labelled_export(out / "baselines" / "gold_only" / "data", hidden, order)
        every = _labelled_export(out / "baselines" / "all_labels" / "data", pool, order)
    rows = [
        reward_model_row("RM, gold + weak labels", weak, out / "rm", test, config, console, clock),
        reward_model_row("RM, gold labels only", few, few.parent / "rm", test, config, console, clock),
        reward_model_row("RM, all labels", every, every.parent / "rm", test, config, console, clock),
        measured("label model alone, no RM", model.posterior(experiment.test_votes), test),
        longer_row(hidden, test),
        measured("majority vote of the LFs", MajorityVote().posterior(experiment.test_votes), test),
    ]
    labels = quality(p_a, pool, hidden, experiment.votes)
    gain = paired_gain(rows[0], rows[1], test, options.seed)
    counts = {"pool": len(pool), "gold": int((~np.isnan(hidden.gold)).sum()), "test": len(test)}
    counts |= {"gold_ties": int((hidden.gold == 0.5).sum()), "exported": int(chosen.sum())}
    extra = {
        "counts": counts,
        "seconds": clock.seconds,
        "label_model": None if model.calibration_ is None else model.calibration_.figures(),
    }
    settings = {"data": Path(options.data or quickstart()).name, "gold": options.gold, "seed": options.seed}
    title = f"{settings['data']}, {counts['gold']} gold pairs, {config.max_steps} steps, seed {options.seed}"
    print_table(console, title, rows, labels, gain)
    report = write_report(out, settings | {"config": asdict(config)}, rows, labels, gain, test.gold, extra)
    console.print(f"{out}: augmented/ (dataset), rm/ (reward model), reliability.png, report.json")
    return report


def prepare(options: DemoOptions, console: Console) -> Experiment:
    """Read, split by group, hide labels, vote."""
    path = quickstart() if options.data is None else options.data
    pairs = read_pairs(path, layout=options.layout, on_bad_rows="drop")
    pool, test = split_by_group(pairs, TEST_SHARE, options.seed)
    test = test.take(~np.isnan(test.gold))
    if not len(test):
        raise GoldError(
            f"no labelled pair among the held-out fifth of {path}: the demo needs labels to measure against"
        )
    if len(test) > MAX_TEST_PAIRS:
        chosen = np.random.default_rng(options.seed).choice(len(test), MAX_TEST_PAIRS, replace=False)
        test = test.take(np.sort(chosen))
    hidden = pool.with_gold(np.where(gold_sample(pool, options.gold, options.seed), pool.gold, np.nan))
    n_gold, n_labelled = (int((~np.isnan(gold)).sum()) for gold in (hidden.gold, pool.gold))
    if n_gold == n_labelled:
        raise GoldError(
            f"gold={options.gold} keeps all {n_labelled} labels of the pool, so none is left to measure weak labels "
            f"against; keep fewer"
        )
    check_disjoint(pool, test)
    console.print(
        f"{len(pairs)} pairs in {len(np.unique(pairs.groups))} groups: a pool of {len(pool)}, of which {n_gold} keep "
        f"their label ({int((hidden.gold == 0.5).sum())} of them ties), and {len(test)} held-out pairs of other groups"
    )
    voters = demo_voters(options.lfs)
    return Experiment(pool, hidden, test, apply(voters, hidden), apply(voters, test.with_gold(None)))


def demo_voters(lfs: Path | None) -> list[Voter]:
    """Return the built-in heuristics and the voters of a user's file."""
    from augment.commands import Voting

    return Voting(lfs).voters() if lfs else heuristics()


def reward_model_row(
    name: str, data: Path, out: Path, test: Pairs, config: RewardConfig, console: Console, clock: Clock
) -> Row:
    """Train a reward model on an export, unless that was done before, and measure it on the test pairs."""
    import rm

    if _trained_before(out, data, config):
        console.print(f"{name}: trained before on the same data, kept")
    else:
        console.print(f"{name}: training {config.max_steps} steps of {config.batch_size} pairs")
        if (out / "manifest.json").is_file():
            shutil.rmtree(out)
        with clock(f"train: {name}"):
            rm.train(data, config, out=out)
    with clock(f"evaluate: {name}"):
        p_a = rm.evaluate(out, test).p_a
    return measured(name, p_a, test)


class Clock:
    """Wall seconds of each step, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time a block."""
        begin = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - begin, 2)


def _labelled_export(out: Path, pairs: Pairs, options: ExportOptions) -> Path:
    labelled = pairs.take(~np.isnan(pairs.gold))
    return export(out, labelled, labelled.gold, options=options)


def _trained_before(out: Path, data: Path, config: RewardConfig) -> bool:
    record = out / "manifest.json"
    if not record.is_file():
        return False
    made = json.loads(record.read_text(encoding="utf-8"))
    inputs = {file.name: sha256(file) for file in (data / "data").glob("*.parquet")}
    same_config = made["config"] == asdict(config) | {"model": Path(config.model).name}
    return bool(made["inputs"] == inputs and same_config and made["versions"] == versions())
