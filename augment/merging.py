"""The commands about label models: fit one, compare them on gold, explain what one says of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from augment.commands import MODELS, check_out, write_manifest
from augment.label_report import print_comparison, write_label_report
from labeling import join_votes, read_votes, write_votes
from labeling.calibration import Calibration
from labeling.compare import compare as compare_models
from labeling.errors import DataError
from labeling.explain import explain as explain_pair
from labeling.files import check_report, replacing, sha256, write_json
from labeling.label_model import LabelModel


def join(paths: Sequence[Path], out: Path) -> str:
    """Write the votes of several files as one; return what is in it in one line."""
    for path in paths:
        check_out(out, path)
    votes, gold = join_votes([read_votes(path) for path in paths])
    write_votes(out, votes, gold)
    n_gold = 0 if gold is None else int((~np.isnan(gold)).sum())
    counts = {"pairs": len(votes), "gold": n_gold, "voters": len(votes.names)}
    write_manifest(out, "join", {f"votes_{i}": path for i, path in enumerate(paths)}, None, counts)
    return f"{out}: {len(votes.names)} voters of {len(paths)} files on {len(votes)} pairs, {n_gold} with gold"


def fit(path: Path, out: Path, name: str, report: Path | None = None, self_labels: Sequence[str] = ()) -> str:
    """Write the posterior of a label model fitted on a votes file, and a report on it if asked; return what happened.

    Its column held_out is that of the gold pairs by label models that saw no gold of their group, else null.

    Raises DataError for an unknown label model, and for a report on, or self-labels with, another one than LabelModel.
    """
    _check_models([name])
    if self_labels and name != "label":
        raise DataError(f"only the model 'label' can tell self-labels apart, found {name!r}; leave them or --model out")
    if report is not None and name != "label":
        raise DataError(f"only the model 'label' says what it learned, found {name!r}; leave --report or --model out")
    if report is not None:
        check_report(report, "fit")
    check_out(out, path)
    votes, gold = read_votes(path)
    model = (LabelModel(self_labels) if self_labels else MODELS[name]()).fit(votes, gold)
    p_a = model.posterior(votes)
    calibration = model.calibration_ if isinstance(model, LabelModel) else None
    names = votes.pair_ids.tolist()
    judged = {} if calibration is None else calibration.by_pair()
    table = {"pair_id": pa.array(names, pa.string()), "p_a": pa.array(p_a)}
    table["held_out"] = pa.array([judged.get(name) for name in names], pa.float64())
    with replacing(out) as part:
        pq.write_table(pa.table(table), part, compression="zstd")
    n_gold = 0 if gold is None else int((~np.isnan(gold)).sum())
    counts: dict[str, Any] = {"pairs": len(votes), "gold": n_gold, "model": name}
    counts["calibration"] = None if calibration is None else calibration.figures()
    write_manifest(out, "fit", {"votes": path}, None, counts)
    line = f"{out}: posterior of {len(votes)} pairs, {_quality(calibration, n_gold)}"
    if report is None or not isinstance(model, LabelModel):
        return line
    return f"{line}\n{write_label_report(report, model, votes, {'votes': sha256(path)})}"


def _quality(calibration: Calibration | None, n_gold: int) -> str:
    if calibration is None:
        return "not cross-fitted" if n_gold else "not calibrated: no gold"
    return (
        f"cross-fitted on {calibration.n_gold} gold: accuracy {calibration.accuracy:.3f}, "
        f"log-loss {calibration.log_loss:.3f}, ECE {calibration.ece:.3f}"
    )


def compare(path: Path, out: Path | None, names: Sequence[str], n_folds: int, console: Console) -> str:
    """Print label models side by side on the gold pairs, the best first, and write that if asked; return the best.

    `majority` needs no row of its own: it is the share of votes, which is always there.
    """
    _check_models(names)
    if out is not None:
        check_out(out, path, parquet=False)
    votes, gold = read_votes(path)
    models = {name: MODELS[name] for name in names if name != "majority"}
    table = compare_models(votes, gold, models, n_folds)
    known = np.zeros(len(votes), dtype=np.bool_) if gold is None else ~np.isnan(gold)
    n_gold = int(known.sum())
    if votes.groups is not None:
        n_folds = min(n_folds, len(np.unique(votes.groups[known])))  # at most one a group
    print_comparison(console, f"{path.name}: {n_gold} gold pairs, cross-fitted in {n_folds} folds", table)
    best = table.iloc[0]
    if out is not None:
        write_json(out, {"gold": n_gold, "folds": n_folds, "rows": table.reset_index().to_dict("records")})
        write_manifest(out, "compare", {"votes": path}, None, {"pairs": len(votes), "gold": n_gold})
    return f"lowest log-loss {best['log_loss']:.3f}: {table.index[0]}, accuracy {best['accuracy']:.3f}"


def explain(path: Path, model_file: Path, pair: str) -> str:
    """Return, as a table, what each voter adds to the posterior of a pair under a saved LabelModel.

    Raises VotesError for a pair that the votes file does not hold.
    """
    votes, _ = read_votes(path)
    return str(explain_pair(LabelModel.load(model_file), votes, pair))


def _check_models(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise DataError(f"label model {unknown[0]!r} is unknown; there are {', '.join(MODELS)}")
