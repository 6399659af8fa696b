"""One iteration of a loop: label, keep, train, measure; every step is a file, made once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.drift_guards import Watched, alarms, drift_figures, label_figures
from augment.evolve_controls import Effort, control
from augment.evolve_method import Ground, Method
from augment.evolve_options import EvolveOptions
from augment.evolve_run import Folder, steps_of, unused
from augment.evolve_training import (
    decided,
    export_kept,
    export_seed,
    held_out_figures,
    mean_preference,
    members,
    rewards_of,
    train,
    within_budget,
)
from augment.learning_status import Status
from augment.self_labels import SelfLabels, read_self_labels, write_self_labels
from labeling.antisymmetric import sigmoid
from labeling.files import write_json
from labeling.folds import group_folds
from labeling.pairs import Pairs
from rm.config import RewardConfig

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Round:
    """Iteration n of a loop; 0 trains on the seed alone."""

    n: int
    folder: Folder
    ground: Ground
    rule: Method
    options: EvolveOptions
    test: Pairs | None

    @cached_property
    def path(self) -> Path:
        """Folder of this iteration."""
        return self.folder.iteration(self.n)

    @cached_property
    def config(self) -> RewardConfig:
        """How this iteration's reward models are trained."""
        return self.options.trainer(self.n)

    @cached_property
    def history(self) -> list[SelfLabels]:
        """Labels of the iterations before this one, from iteration 1 on."""
        ids = self.ground.pairs.pair_ids
        return [read_self_labels(self.folder.iteration(i) / "self_labels.parquet", ids) for i in range(1, self.n)]

    def run(self) -> None:
        """Do what is not done yet: labels, kept pairs, reward models, controls; the row of the ledger last."""
        self.folder.once(self.path / "figures.json", self._run)

    def _run(self) -> None:
        labels = self._labels() if self.n else None
        row = self._label_row(labels)
        done = labels is not None and (labels.status == Status.CONVERGED or self._no_better(row))
        models = [] if done else self._train(labels)
        row |= {"steps": steps_of(models[:1])} | unused(models)
        row |= held_out_figures(models, self.test if models else None, self.options.processes)
        if models and not self.rule.folds:
            row |= self._watch_row(mean_preference(models, self._watched_pairs(), self.options.processes))
        row["controls"] = {} if labels is None or done else self._controls(labels)
        write_json(self.path / "figures.json", row)

    def _labels(self) -> SelfLabels:
        path, ids = self.path / "self_labels.parquet", self.ground.pairs.pair_ids
        if not path.is_file():
            rewards = self._crossfitted() if self.rule.folds else self._rewards_of_last()
            labels = self.rule.label(self.n, rewards, self.ground, self.history)
            trained = within_budget(labels.trained, self.ground, self.options.budget, self.options.seed)
            write_self_labels(path, replace(labels, trained=trained), ids)
        elif self.rule.folds and self.n >= self.rule.first_vote:
            self.folder.done += self.rule.folds
        for done in (self.path / "folds", self.path / "scores"):  # what they gave is in the labels now
            shutil.rmtree(done, ignore_errors=True)
        return read_self_labels(path, ids)

    def _rewards_of_last(self) -> FloatArray:
        models, scores = members(self.folder.iteration(self.n - 1), self.rule.members), self.path / "scores"
        return np.stack([self._rewards(model, self.ground.pairs, scores / f"{model.name}.parquet") for model in models])

    def _crossfitted(self) -> FloatArray | None:
        """Return rewards (1, n, 2), those of each part by a model trained on the last labels of the other parts.

        In iteration 1 that is the seed. A part outside of which there is no label but ties is left out: NaN.
        """
        if self.n < self.rule.first_vote:
            return None
        parts = group_folds(self.ground.pairs.groups, self.rule.folds)
        rewards = np.full((1, len(parts), 2), np.nan)
        for k in range(int(parts.max()) + 1):
            if decided(self.ground, parts != k, self.history[-1] if self.n > 1 else None):
                rewards[0, parts == k] = self._rewards_of_part(k, parts == k)
        return rewards

    def _rewards_of_part(self, k: int, part: BoolArray) -> FloatArray:
        home = self.path / "folds" / str(k)
        self.folder.once(home / "data", lambda: self._export_without(part, home / "data"))
        what = f"iteration {self.n}: training without part {k + 1} of {self.rule.folds}, which it is to label"
        self.folder.training(home / "rm", what, lambda: self._model(home / "data", self.config, home / "rm"))
        return self._rewards(home / "rm", self.ground.pairs.take(part), home / "rewards.parquet")

    def _model(self, data: Path, config: RewardConfig, out: Path) -> Path:
        first = self.n == 0 and config.seed == self.options.seed  # of an ensemble's members too
        return train(data, config, out, self.options.processes, first=first)

    def _rewards(self, model: Path, pairs: Pairs, file: Path) -> FloatArray:
        return rewards_of(model, pairs, self.options.processes, file)

    def _export_without(self, part: BoolArray, out: Path) -> Path:
        if self.n == 1:
            return export_seed(out, self.ground, self.options.seed, ~part)
        return export_kept(out, self.ground, self.history[-1], ~part, self.options.seed)

    def _train(self, labels: SelfLabels | None) -> list[Path]:
        kept, ground, seed = self.path / "kept", self.ground, self.options.seed
        everywhere = np.ones(len(ground.pairs), dtype=np.bool_)
        if labels is None:
            self.folder.once(kept, lambda: export_seed(kept, ground, seed))
        else:
            self.folder.once(kept, lambda: export_kept(kept, ground, labels, everywhere, seed))
        on = f"the seed's {ground.seed.sum()} labels" if labels is None else f"{labels.trained.sum()} kept pairs"
        return self._train_all(self.path, kept, self.config, f"training on {on}")

    def _train_all(self, home: Path, data: Path, config: RewardConfig, what: str) -> list[Path]:
        """Train as many reward models as the method has members, a seed apart."""
        models = members(home, self.rule.members)
        for i, model in enumerate(models):
            each = replace(config, seed=config.seed + i)
            self.folder.training(model, f"iteration {self.n}: {what}", partial(self._model, data, each, model))
        return models

    def _controls(self, labels: SelfLabels) -> dict[str, Row]:
        chain = [self.folder.iteration(i) / "rm" for i in range(self.n + 1)]
        effort = Effort(labels, self.options.trainer(0), self.config, steps_of(chain), self.n)
        rows = {}
        for name in self.options.controls:
            home = self.path / "controls" / name
            data, config = control(name, effort, self.ground, home / "data", self.options.seed)
            models = self._train_all(home, data, config, f"control {name}")
            rows[str(name)] = {"steps": steps_of(models[:1])} | held_out_figures(
                models, self.test, self.options.processes
            )
        return rows

    def _label_row(self, labels: SelfLabels | None) -> Row:
        ground = self.ground
        row: Row = {"iteration": self.n, "seed": int(ground.seed.sum()), "pool": int(ground.pool.sum())}
        row |= {"status": None, "facts": {}, "alarms": [], "held_out_log_loss": None}
        if labels is None:
            return row
        gold, groups = np.where(ground.seed, ground.pairs.gold, np.nan), ground.pairs.groups
        before = self.history[-1] if self.history else None
        row |= {"status": labels.status or None, "facts": dict(labels.facts)}
        row |= label_figures(labels, ground.pool, ground.hidden, ground.longer)
        row |= drift_figures(labels, before, ground.pool, gold, ground.longer)
        if self.rule.folds:
            calibration = labels.facts.get("calibration")
            held_out = None if calibration is None else calibration["log_loss"]
            p_a = sigmoid(labels.margin[ground.seed])
            row |= {} if np.isnan(p_a).any() else Watched(p_a, ground.true[ground.seed], groups[ground.seed]).figures()
            row |= {"held_out_log_loss": held_out, "alarms": self._seed_alarms(labels)}
        return row

    def _seed_alarms(self, labels: SelfLabels) -> list[str]:
        """Return the alarms that these labels, cross-fitted, set off on the seed, against the best before them."""
        past = [row for row in self.folder.rows()[1:] if row["held_out_log_loss"] is not None]
        if not past:
            return []
        best = min(past, key=lambda row: row["held_out_log_loss"])["iteration"]
        before = self.history[best - 1].held_out
        rows = ~np.isnan(labels.held_out) & ~np.isnan(before)
        now = Watched(labels.held_out[rows], self.ground.true[rows], self.ground.pairs.groups[rows])
        return alarms(now, replace(now, p_a=before[rows]), self.n, rewards=False)

    def _watched_pairs(self) -> Pairs:
        return self.ground.pairs.take(self.ground.watched)

    def _watch_row(self, p_a: FloatArray) -> Row:
        """Return figures and alarms on the watched pairs, of which the reward models say p_a; keep p_a."""
        rows = self.ground.watched
        if not rows.any():
            return {}
        now = Watched(p_a, self.ground.true[rows], self.ground.pairs.groups[rows])
        write_json(self.path / "watched.json", {"p_a": p_a.tolist()})
        past = [row for row in self.folder.rows() if row.get("watched_log_loss") is not None]
        best = min(past, key=lambda row: row["watched_log_loss"], default=None)
        before = None if best is None else replace(now, p_a=self._watched_before(best["iteration"]))
        found = now.figures()
        return found | {
            "alarms": alarms(now, before, self.n),
            "held_out_log_loss": found["watched_log_loss"],
        }

    def _watched_before(self, n: int) -> FloatArray:
        import json

        said = json.loads((self.folder.iteration(n) / "watched.json").read_text(encoding="utf-8"))
        return np.array(said["p_a"], dtype=np.float64)

    def _no_better(self, row: Row) -> bool:
        """Whether labels judged before any training on them are no better than the best of those before."""
        past = [before["held_out_log_loss"] for before in self.folder.rows()]
        known = [loss for loss in past if loss is not None]
        judged = row["held_out_log_loss"]
        return self.rule.stops_early and judged is not None and bool(known) and judged >= min(known)
