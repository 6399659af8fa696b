"""What each command does: read files, call one public function, write one output and its manifest, return one line."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augment.export import ExportOptions
from augment.export import export as write_export
from labeling import apply, heuristics, read_pairs, read_votes, summary, write_votes
from labeling.dawid_skene import DawidSkene, OneCoin
from labeling.errors import DataError, GoldError, VoterError, VotesError
from labeling.files import check_no_pairs, check_parquet, input_hash, manifest, sha256, write_json
from labeling.heuristics import Preset
from labeling.label_model import LabelModel
from labeling.logistic_model import LogisticModel
from labeling.majority import MajorityVote
from labeling.noise_aware import NoiseAware
from labeling.pairs import Pairs
from labeling.protocol import Merger
from labeling.snorkel_model import SnorkelLabelModel
from labeling.snorkel_voter import is_snorkel
from labeling.sparse_low_rank import SparseLowRank
from labeling.voters import Voter

MODELS: dict[str, Callable[[], Merger]] = {
    "label": LabelModel,
    "snorkel": SnorkelLabelModel,
    "majority": MajorityVote,
    "one-coin": OneCoin,
    "dawid-skene": DawidSkene,
    "logistic": LogisticModel,
    "sparse-low-rank": SparseLowRank,
    "noise-aware": NoiseAware,
}
"""Label models by their name on the command line."""


@dataclass(frozen=True)
class Reading:
    """How a file of pairs is read."""

    layout: str | None = None
    """Layout of the file, where its columns fit two; None = recognise it."""
    drop_bad_rows: bool = False
    """Leave unusable rows out, counted, instead of raising."""

    def __call__(self, path: str | Path) -> Pairs:
        """Read the pairs."""
        return read_pairs(path, layout=self.layout, on_bad_rows="drop" if self.drop_bad_rows else "error")


@dataclass(frozen=True)
class Voting:
    """Who votes, and how."""

    lfs: Path | None = None
    """A user's Python file; every voter in it votes."""
    preset: Preset | Literal["none"] = "default"
    """Built-in heuristics; "none" for no built-in ones."""
    on_error: Literal["raise", "abstain"] = "raise"
    """What happens if a labeling function raises."""
    workers: int | None = None
    """Processes for row functions; None = all cores."""
    reward_models: Sequence[Path] = ()
    """Directories of reward models that vote too."""

    def voters(self) -> list[Any]:
        """Return the built-in voters of the preset, those of the user's file, and the reward models."""
        built_in = [] if self.preset == "none" else heuristics(self.preset)
        return [*built_in, *(voters_of(self.lfs) if self.lfs else []), *_reward_voters(self.reward_models)]


def _reward_voters(models: Sequence[Path]) -> list[Voter]:
    if not models:
        return []
    from rm import RewardVoter  # torch takes seconds

    return [RewardVoter.load(model) for model in models]


def voters_of(path: Path) -> list[Any]:
    """Run a user's Python file and return the voters it defines, in the order of definition.

    Raises VoterError if the file is missing, fails, or defines no voter.
    """
    if not path.is_file():
        raise VoterError(f"{path} does not exist; pass a Python file that defines labeling functions")
    name = f"_voters_of_{path.stem}"  # its own name might hide an installed module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise VoterError(f"{path} is no Python file; pass a .py file that defines labeling functions")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as python does for a script: it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise VoterError(f"{path} failed to run: {type(error).__name__}: {error}; run it with python first") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what its functions import when they run; it hides nothing that is installed
    found = {id(value): value for value in vars(module).values()}.values()
    voters = [
        voter for voter in found if is_snorkel(voter) or (isinstance(voter, Voter) and not isinstance(voter, type))
    ]
    if not voters:
        raise VoterError(f"{path} defines no voter; decorate a function with @labeling_function or @scoring_function")
    return voters


def parse_gold(text: str) -> int | float:
    """Return '150' as the number 150, '0.1' as the share 0.1; raises DataError for anything else.

    >>> parse_gold("150"), parse_gold("0.1")
    (150, 0.1)
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 < value < 1:
        return value
    if 1 <= value < math.inf and value == int(value):
        return int(value)
    raise DataError(f"gold is {text!r}, expected a number of pairs (150) or a share below 1 (0.1)")


def label(path: str, out: Path, reading: Reading, voting: Voting) -> str:
    """Write the votes on a file of pairs, with gold and groups; return what happened in one line."""
    check_out(out, path)
    pairs = reading(path)
    voters = voting.voters()
    if not voters:
        raise VoterError("nobody votes: preset none, no --lfs, no --rm; pass --lfs FILE, --rm DIR or another --preset")
    votes = apply(voters, pairs, on_error=voting.on_error, workers=voting.workers)
    write_votes(out, votes, pairs.gold)
    covered = float((votes.votes >= 0).any(axis=1).mean())
    counts = {
        "pairs": len(pairs),
        "gold": int((~np.isnan(pairs.gold)).sum()),
        "dropped": dict(pairs.dropped),
        "errors": dict(votes.errors),
        "coverage_share": round(float(covered), 4),
        "self_labels": list(votes.self_labels),
        "voters": {name: round(float(share), 4) for name, share in summary(votes)["coverage_share"].items()},
    }
    inputs = {"pairs": Path(path)} | ({"lfs": voting.lfs} if voting.lfs else {})
    inputs |= {f"rm_{i}": model for i, model in enumerate(voting.reward_models)}
    write_manifest(out, "label", inputs, None, counts | {"preset": voting.preset})
    n_groups = len(np.unique(pairs.groups))
    return (
        f"{out}: {len(voters)} voters on {len(pairs)} pairs, {covered:.1%} of pairs with a vote; "
        f"{counts['gold']} pairs with gold, {n_groups} groups"
    )


def export(
    path: str, posterior: Path | None, out: Path, reading: Reading, *, votes: Path | None, keep_ties: bool, seed: int
) -> str:
    """Write the augmented dataset of pairs and their posterior; return what happened in one line.

    Without a posterior it is of the pairs with gold. Raises GoldError where none has it.
    """
    pairs, matrix = reading(path), read_votes(votes)[0] if votes else None
    if posterior is None:
        known = ~np.isnan(pairs.gold)
        if not known.any():
            raise GoldError(f"no pair of {path} has gold, and no posterior was given: make one with `weakpref fit`")
        matrix = matrix.take(known) if matrix is not None and len(matrix) == len(pairs) else matrix
        pairs = pairs.take(known)
    p_a = np.full(len(pairs), np.nan) if posterior is None else posterior_of(posterior, pairs)
    options = ExportOptions(keep_ties=keep_ties, seed=seed)
    write_export(out, pairs, p_a, matrix, options=options)
    n_gold = int((~np.isnan(pairs.gold)).sum())
    return f"{out}: {len(pairs)} pairs, {n_gold} gold and {len(pairs) - n_gold} weak"


def check_out(out: Path, source: str | Path, *, pairs: bool = False, parquet: bool = True) -> None:
    """Raise DataError if `out` is a folder, the input, or, unless pairs are what is written, a file of pairs.

    Or if it is to be Parquet and is named as another kind of file.
    """
    if parquet:
        check_parquet(out)
    if out.is_dir():
        raise DataError(f"{out} is a folder, expected the name of a file to write; pass another --out")
    if out.exists() and out.resolve() == Path(source).resolve():
        raise DataError(f"{out} is also the input, which would be lost; pass another --out")
    if not pairs:
        check_no_pairs(out)


def posterior_of(path: Path, pairs: Pairs, column: str = "p_a") -> npt.NDArray[np.float64]:
    """Return P(A preferred) of the pairs (n,) as a file of `weakpref fit` has it; NaN where it is null.

    Raises DataError for another file, VotesError where it lacks a pair.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); make it with `weakpref fit`") from None
    if not {"pair_id", column} <= set(table.column_names):
        raise DataError(
            f"{path} has the columns {', '.join(table.column_names)}, expected pair_id and {column}; "
            "make it with `weakpref fit`"
        )
    if not pa.types.is_floating(table[column].type):
        raise DataError(
            f"{path} has {column} of type {table[column].type}, expected double; make it with `weakpref fit`"
        )
    known = dict(zip(table["pair_id"].to_pylist(), table[column].to_pylist(), strict=True))
    if len(known) < table.num_rows:
        name, count = Counter(table["pair_id"].to_pylist()).most_common(1)[0]
        raise VotesError(f"{path} has {count} posteriors for the pair {name}; expected one a pair: fit again")
    missing = [name for name in pairs.pair_ids if name not in known]
    if missing:
        raise VotesError(
            f"{path} has no posterior for {len(missing)} of {len(pairs)} pairs, the first is {missing[0]}; "
            f"label and fit this very file"
        )
    return np.array([known[name] for name in pairs.pair_ids], dtype=np.float64)


def write_manifest(out: Path, command: str, inputs: dict[str, Path], seed: int | None, counts: dict[str, Any]) -> None:
    """Write the manifest of an output beside it."""
    hashes = {name: input_hash(path) for name, path in inputs.items()}
    record = manifest(command, inputs=hashes, seed=seed, counts=counts) | {"sha256": sha256(out)}
    write_json(out.with_name(f"{out.name}.manifest.json"), record)
