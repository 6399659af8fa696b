"""DPO on the pairs of one iteration of self-rewarding, in this process or in several, one a GPU."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from augment.dpo import PolicyConfig, SoftPairs, Trained, train_dpo
from labeling.files import write_json
from rm.launch import end_with_launcher, spread


def train_policy(folder: Path, start: Path, config: PolicyConfig, processes: int = 1) -> None:
    """Train `folder`/model from the model `start` on `folder`/pairs.parquet, spread over so many processes."""
    if processes == 1:
        return train_here(folder, start, config)
    return spread(processes, "augment.self_training", [str(folder), str(start), json.dumps(asdict(config))])


def train_here(folder: Path, start: Path, config: PolicyConfig) -> None:
    """Train as this process, one of those that train together where there are several."""
    table = pq.read_table(folder / "pairs.parquet")
    names = ("prompt", "chosen", "rejected", "p_chosen")
    prompts, chosen, rejected, q = (table[name].to_pylist() for name in names)
    ended = {name: table[name].to_pylist() for name in ("chosen_ended", "rejected_ended")}

    def note(done: Trained, _: Path) -> None:
        write_json(folder / "training.json", done.facts())

    train_dpo(start, SoftPairs(prompts, chosen, rejected, q, **ended), config, folder / "model", note=note)


if __name__ == "__main__":
    end_with_launcher()
    train_here(Path(sys.argv[1]), Path(sys.argv[2]), PolicyConfig(**json.loads(sys.argv[3])))
