"""How a loop's reward models and its controls are trained, and on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from augment import evolve_round
from augment.evolve_controls import Effort, control
from augment.evolve_method import Ground
from augment.evolve_options import EvolveOptions
from augment.evolve_round import Round
from augment.evolve_run import Folder
from augment.rm_ensemble import Ensemble
from labeling.errors import DataError
from rm.config import RewardConfig

N = 40


@pytest.fixture(scope="module")
def ground(make_pairs: Callable) -> Ground:
    """40 pairs, A preferred in every second; ten are the seed, and of the others every fifth has no label at all."""
    prompts = [[{"role": "user", "content": f"Question {i}?"}] for i in range(N)]
    pairs = make_pairs([(prompt, f"one {i}", f"other {i}") for i, prompt in enumerate(prompts)])
    true = (np.arange(N) % 2 == 0).astype(float)
    seed = np.arange(N) < 10
    known = np.where(~seed & (np.arange(N) % 5 == 0), np.nan, true)
    return Ground(pairs.with_gold(np.where(seed, true, np.nan)), np.zeros(N, dtype=bool), known)


@pytest.fixture(scope="module")
def labels(ground):
    """All wrong, on every pair of the pool."""
    margin = np.where(np.arange(N) % 2 == 0, -2.0, 2.0)
    return Ensemble(2).label(1, np.repeat(np.column_stack([margin / 2, -margin / 2])[None], 2, axis=0), ground, [])


def exported(folder):
    table = pq.read_table(next((folder / "data").glob("*.parquet"))).to_pandas()
    return table, [text.startswith("one") for text in table["chosen"].map(lambda turns: turns[-1]["content"])]


def test_the_papers_hinge_keeps_a_margin_that_was_asked_for():
    config = RewardConfig(model="minilm", max_steps=1, objective="hinge", objective_parameter=0.5)
    asked = EvolveOptions(config=config, method="ser")
    assert [(asked.trainer(n).objective, asked.trainer(n).objective_parameter) for n in (0, 1)] == [("hinge", 0.5)] * 2
    other = replace(asked, config=replace(config, objective="ipo"))
    assert (other.trainer(0).objective, other.trainer(0).objective_parameter) == ("ipo", 0.5)
    assert (other.trainer(1).objective, other.trainer(1).objective_parameter) == ("hinge", None)
    released = replace(asked, config=replace(config, objective="ipo"), preset="as_released")
    assert released.trainer(1).objective == "ipo"


@pytest.mark.parametrize("preset", ["paper", "as_released"])
def test_either_filter_of_ser_goes_with_either_loss(preset):
    plain = EvolveOptions(config=RewardConfig(model="minilm", max_steps=1), method="ser", preset=preset)
    for loss, objective in (("hinge", "hinge"), ("objective", "bradley-terry")):
        asked = replace(plain, loss=loss)
        assert asked.rule() == plain.rule()
        assert [asked.trainer(n).objective for n in (0, 1)] == ["bradley-terry", objective]
    with pytest.raises(DataError, match="loss is 'log', expected one of preset, hinge, objective"):
        replace(plain, loss="log")


def test_equal_steps_trains_on_the_seed_alone_as_iteration_0_does(ground, labels, tmp_path):
    config = RewardConfig(model="minilm", max_steps=2, objective="ipo", objective_parameter=0.5)
    options = EvolveOptions(config=config, method="ser")
    effort = Effort(labels, options.trainer(0), options.trainer(1), 7, 1)
    data, trained = control("equal-steps", effort, ground, tmp_path / "data", seed=0)
    assert trained == replace(config, max_steps=7)
    table, a_chosen = exported(data)
    assert set(table["origin"]) == {"gold"}
    assert sorted(table["pair_id"]) == sorted(ground.pairs.pair_ids[ground.seed])
    assert sum(a_chosen) == 5


def test_equal_steps_takes_all_its_steps_however_patient_the_others_are(ground, labels, tmp_path):
    config = RewardConfig(model="minilm", max_steps=4, eval_share=0.2, eval_steps=1, patience=1)
    _, trained = control("equal-steps", Effort(labels, config, config, 7, 1), ground, tmp_path / "data", seed=0)
    assert trained == replace(config, max_steps=7, patience=None)


def test_the_oracle_trains_on_the_kept_pairs_with_their_true_labels(ground, labels, tmp_path):
    config = RewardConfig(model="minilm", max_steps=2)
    data, trained = control("oracle", Effort(labels, config, config, 7, 1), ground, tmp_path / "data", seed=0)
    assert trained == config
    table, a_chosen = exported(data)
    true = dict(zip(ground.pairs.pair_ids.tolist(), ground.true.tolist(), strict=True))
    kept = ground.pairs.pair_ids[labels.trained & ~np.isnan(ground.true)].tolist()
    assert sorted(table.loc[table["origin"] != "gold", "pair_id"]) == sorted(kept)
    assert [true[name] for name in table["pair_id"]] == [float(a) for a in a_chosen]


@pytest.fixture
def controls(ground, labels, tmp_path, monkeypatch):
    """Have iteration 1 train its controls by the options given; returns how each reward model was to be trained."""

    def run(options):
        asked = {}
        monkeypatch.setattr(evolve_round, "train", lambda data, config, out, *_, **__: asked.setdefault(out, config))
        monkeypatch.setattr(evolve_round, "steps_of", lambda models: 3 * len(models))
        rule = options.rule()
        rows = Round(1, Folder(tmp_path / "run", None, 9), ground, rule, options, None)._controls(labels)
        return {f"{path.parent.name}/{path.name}": config for path, config in asked.items()}, rows

    return run


def test_in_a_loop_equal_steps_takes_the_loss_of_iteration_0_and_the_steps_of_both(controls):
    config = RewardConfig(model="minilm", max_steps=3, objective="ipo", objective_parameter=0.5)
    asked, _ = controls(EvolveOptions(config=config, method="ser", controls=("equal-steps", "oracle")))
    steps = {name: (one.objective, one.objective_parameter, one.max_steps) for name, one in asked.items()}
    assert steps == {"equal-steps/rm": ("ipo", 0.5, 6), "oracle/rm": ("hinge", None, 3)}


def test_an_ensembles_controls_are_ensembles_a_seed_apart(controls):
    config = RewardConfig(model="minilm", max_steps=3)
    asked, rows = controls(EvolveOptions(config=config, method="ensemble", members=2, seed=5, controls=("random",)))
    assert {name: one.seed for name, one in asked.items()} == {"random/rm": 5, "random/rm-1": 6}
    assert rows["random"]["steps"] == 3  # members are trained side by side: one counts
