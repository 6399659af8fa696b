"""CPU-seconds and peak memory of label models: fit and posterior, in a process of its own for every measurement.

python benchmarks/label_cost.py [--only snorkel LabelModel] [--n 1000000] [--m 10 25] [--repeats 3] [--again]

Votes are independent coins of accuracy .55 to .75, on all pairs or on 70 % of them each; margins are Gaussian. Drawing
them, imports and a first run on 1,000 pairs are outside the clock. Memory is the peak resident size of the whole
process (Linux: VmHWM); `loaded_mb` is its peak until the votes are drawn. Snorkel's int64 label matrix and crowd-kit's
long table count as votes. `LabelModel, stream` gets batches drawn on the fly (the drawing is subtracted), to fit and
again to score. One thread. Writes data/bench/label_cost.json; from 10^7 pairs on, one repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # a rival's process must not load what it does not need
    from labeling.votes import VoteMatrix

OUT = Path(__file__).resolve().parent.parent / "data" / "bench" / "label_cost.json"
BATCH = 1 << 18
WARM_UP = 1000
LARGE = 10_000_000
SNORKEL = "snorkel"
Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What is measured."""

    model: str
    n: int
    m: int
    coverage: float = 1.0
    """Share of the pairs that each voter votes on."""

    @property
    def key(self) -> str:
        return f"{self.model} n={self.n} m={self.m} coverage={self.coverage}"


CASES = (
    *(
        Case(model, n, m, coverage)
        for n in (1_000_000, LARGE)
        for m in (10, 25)
        for coverage in (1.0, 0.7)
        for model in (SNORKEL, "LabelModel")
    ),
    Case("crowd-kit DawidSkene", 1_000_000, 10),
    *(Case("LabelModel, margins", n, m) for n in (1_000_000, LARGE) for m in (10, 25)),
    *(Case("LabelModel, stream", n, 10, coverage) for n in (LARGE, 10 * LARGE) for coverage in (1.0, 0.7)),
)


@dataclass
class Draw:
    """Batches of votes of one seed; iterating again gives the same ones. Counts the CPU-seconds the drawing took."""

    n: int
    m: int
    coverage: float
    cpu_s: float = field(default=0.0)

    def __iter__(self) -> Iterator[npt.NDArray[np.int8]]:
        rng = np.random.default_rng(0)
        for start in range(0, self.n, BATCH):
            before = cpu_seconds()
            votes = coins(rng, min(BATCH, self.n - start), self.m, self.coverage)
            self.cpu_s += cpu_seconds() - before
            yield votes


def coins(rng: np.random.Generator, n: int, m: int, coverage: float) -> npt.NDArray[np.int8]:
    """Return votes (n, m); probabilities are rounded to 1 / 256."""
    preferred = rng.integers(0, 2, (n, 1), dtype=np.int8)
    wrong = rng.integers(0, 256, (n, m), dtype=np.uint8) >= np.linspace(0.55, 0.75, m) * 256
    votes = preferred ^ wrong.view(np.int8)
    if coverage < 1:
        votes[rng.integers(0, 256, (n, m), dtype=np.uint8) >= coverage * 256] = -1
    return votes


def filled(draw: Draw, dtype: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    """Return all votes of a draw in one matrix (n, m)."""
    votes = np.empty((draw.n, draw.m), dtype=dtype)
    for i, batch in enumerate(draw):
        votes[i * BATCH : i * BATCH + len(batch)] = batch
    return votes


def names(m: int) -> tuple[str, ...]:
    return tuple(f"voter {j}" for j in range(m))


def with_margins(n: int, m: int) -> VoteMatrix:
    """Margins of mean +-0.1 to +-0.7 and standard deviation 1; votes are their signs."""
    from labeling.votes import VoteMatrix

    rng = np.random.default_rng(0)
    votes, margins = np.empty((n, m), dtype=np.int8), np.empty((n, m), dtype=np.float32)
    signal = np.linspace(0.1, 0.7, m, dtype=np.float32)
    for start in range(0, n, BATCH):
        rows = slice(start, min(start + BATCH, n))
        side = 1 - 2 * rng.integers(0, 2, (rows.stop - start, 1), dtype=np.int8)
        margins[rows] = rng.standard_normal((rows.stop - start, m), dtype=np.float32) + side * signal
        votes[rows] = margins[rows] < 0
    return VoteMatrix(votes, margins, names(m), np.broadcast_to(np.str_(""), n))


def prepare(case: Case, draw: Draw) -> Work:
    """Draw the votes in the form the model takes and return what is to be timed."""
    if case.model == SNORKEL:
        return snorkel_work(filled(draw, np.int64))
    if case.model == "crowd-kit DawidSkene":
        return crowd_kit_work(filled(draw, np.int8))
    if case.model == "LabelModel, stream":
        return lambda: stream(draw)
    return label_model_work(with_margins(case.n, case.m) if "margins" in case.model else matrix(filled(draw, np.int8)))


def matrix(votes: npt.NDArray[np.int8]) -> VoteMatrix:
    from labeling.votes import VoteMatrix

    return VoteMatrix.of(votes, names(votes.shape[1]))


def label_model_work(votes: VoteMatrix) -> Work:
    from labeling.label_model import LabelModel

    return lambda: LabelModel().fit(votes).posterior(votes)


def stream(draw: Draw) -> float:
    """Fit on batches, then score them batch by batch; returns the mean posterior."""
    from labeling.label_model import LabelModel

    model = LabelModel().fit(matrix(votes) for votes in draw)
    return sum(float(model.posterior(matrix(votes)).sum()) for votes in draw) / draw.n


def snorkel_work(labels: npt.NDArray[np.int64]) -> Work:
    from snorkel.labeling.model import LabelModel as Snorkel

    def work() -> object:
        model = Snorkel(cardinality=2, verbose=False)
        model.fit(labels, seed=123, progress_bar=False)
        return model.predict_proba(labels)

    return work


def crowd_kit_work(votes: npt.NDArray[np.int8]) -> Work:
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    task, worker = np.nonzero(votes >= 0)
    frame = pd.DataFrame({"task": task, "worker": worker, "label": votes[task, worker].astype(np.int64)})
    return lambda: DawidSkene().fit_predict_proba(frame)


def measure(case: Case) -> dict[str, float]:
    """Return CPU-seconds and megabytes of one run in this process."""
    small = replace(case, n=WARM_UP)
    prepare(small, Draw(WARM_UP, case.m, case.coverage))()
    draw = Draw(case.n, case.m, case.coverage)
    work = prepare(case, draw)
    drawn_s, loaded_mb, before = draw.cpu_s, peak_mb(), cpu_seconds()
    work()
    cpu_s = cpu_seconds() - before - (draw.cpu_s - drawn_s)
    return {"cpu_s": round(cpu_s, 3), "peak_mb": round(peak_mb(), 1), "loaded_mb": round(loaded_mb, 1)}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mb() -> float:
    """Return the peak resident size of this process; ru_maxrss would start at that of the process it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_child(case: Case) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case))]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if run.returncode:
        raise SystemExit(f"{case.key} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def with_ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """Add to every row its CPU-seconds and peak memory as shares of snorkel's on as many pairs and voters."""
    for row in rows.values():
        theirs = rows.get(Case(SNORKEL, row["n"], row["m"], row["coverage"]).key)
        if theirs:
            row["cpu_ratio"] = round(row["cpu_s"] / theirs["cpu_s"], 3)
            row["peak_ratio"] = round(row["peak_mb"] / theirs["peak_mb"], 3)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted({case.model for case in CASES}), help="models")
    parser.add_argument("--n", type=int, nargs="+")
    parser.add_argument("--m", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(Case(**json.loads(options.one)))))
        return
    from labeling.files import versions, write_json

    chosen = [case for case in CASES if not options.only or case.model in options.only]
    chosen = [case for case in chosen if case.n in (options.n or [case.n]) and case.m in (options.m or [case.m])]
    for case in chosen:
        report = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
        if case.key in report["rows"] and not options.again:
            continue
        runs = [in_child(case) for _ in range(options.repeats if case.n < LARGE else 1)]
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        report["rows"][case.key] = asdict(case) | medians | {"cpu_s_each": [run["cpu_s"] for run in runs]}
        write_json(options.out, {"rows": with_ratios(report["rows"]), "versions": versions()})
        print(case.key, medians, flush=True)


if __name__ == "__main__":
    main()
