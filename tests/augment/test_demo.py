"""The demo and its report: what is measured, on which pairs, and that no hidden label is used."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from augment.demo import REWARD_CONFIG, DemoOptions, prepare, quickstart, run_demo
from augment.report import longer_row, measured, paired_gain, plot_reliability, quality
from labeling import LabelModel, read_pairs
from labeling.errors import GoldError

QUICK = replace(REWARD_CONFIG, max_steps=2, max_length=48)


def frame(n=120, seed=0):
    """Pairs whose longer response is preferred nine times in ten, two pairs a prompt."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        long, short = f"Reply {i} " + "with many words " * rng.integers(3, 9), f"Reply {i}."
        a_long = rng.random() < 0.5
        preferred_long = rng.random() < 0.9
        rows.append(
            {
                "prompt": f"Question {i // 2}?",
                "response_a": long if a_long else short,
                "response_b": short if a_long else long,
                "gold": float(a_long == preferred_long),
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    frame().to_json(path, orient="records", lines=True)
    return str(path)


@pytest.mark.slow
def test_the_demo_writes_everything_it_names_and_keeps_models_on_a_second_run(data, tmp_path):
    options = DemoOptions(data=data, gold=20, out=tmp_path / "demo", config=QUICK)
    console = Console(record=True, width=120)
    report = json.loads(run_demo(options, console).read_text())
    out = tmp_path / "demo"
    assert (out / "augmented" / "data" / "train-00000-of-00001.parquet").is_file()
    assert (out / "rm" / "model.safetensors").is_file()
    assert (out / "reliability.png").read_bytes().startswith(b"\x89PNG")
    names = [row["name"] for row in report["rows"]]
    assert names[:3] == ["RM, gold + weak labels", "RM, gold labels only", "RM, all labels"]
    assert {"always longer", "majority vote of the LFs"} < set(names)
    assert report["counts"]["gold"] == 20
    text = console.export_text()
    assert all(name in text for name in names)
    assert "coverage" in text
    again = Console(record=True, width=120)
    second = json.loads(run_demo(options, again).read_text())
    assert second["rows"] == report["rows"]
    assert again.export_text().count("trained before") == 3


@pytest.mark.slow
def test_hidden_labels_change_nothing_that_is_trained(data, tmp_path):
    import pandas as pd

    from labeling.files import sha256

    options = DemoOptions(data=data, gold=20, out=tmp_path / "demo", config=QUICK)
    experiment = prepare(options, Console(quiet=True))
    hidden = set(experiment.hidden.pair_ids[np.isnan(experiment.hidden.gold)])
    pairs = read_pairs(data)
    turned = frame()
    mask = np.isin(pairs.pair_ids, list(hidden))
    turned.loc[mask, "gold"] = 1 - turned.loc[mask, "gold"]
    other = read_pairs(pd.DataFrame(turned))
    assert (other.gold != pairs.gold).sum() == len(hidden)
    turned.to_json(tmp_path / "turned.jsonl", orient="records", lines=True)
    run_demo(options, Console(quiet=True))
    run_demo(replace(options, data=str(tmp_path / "turned.jsonl"), out=tmp_path / "other"), Console(quiet=True))

    def trained(folder):
        rows = read_pairs(folder / "augmented")
        return dict(zip(rows.pair_ids, rows.gold, strict=True))

    assert trained(tmp_path / "demo").keys() == trained(tmp_path / "other").keys()
    first, second = (tmp_path / name / "rm" / "model.safetensors" for name in ("demo", "other"))
    assert sha256(first) == sha256(second)


def test_the_pool_and_the_test_pairs_share_no_group_and_the_pool_shows_gold_labels_only(data):
    experiment = prepare(DemoOptions(data=data, gold=20), Console(quiet=True))
    assert not set(experiment.pool.groups) & set(experiment.test.groups)
    assert (~np.isnan(experiment.hidden.gold)).sum() == 20
    assert (~np.isnan(experiment.pool.gold)).sum() == len(experiment.pool)


def test_a_share_of_gold_is_a_share_of_the_labelled_pool(data):
    experiment = prepare(DemoOptions(data=data, gold=0.1), Console(quiet=True))
    assert (~np.isnan(experiment.hidden.gold)).sum() == round(0.1 * len(experiment.pool))


def test_too_much_gold_is_named(data):
    with pytest.raises(GoldError, match="500"):
        prepare(DemoOptions(data=data, gold=500), Console(quiet=True))


def test_the_quality_of_weak_labels_is_measured_on_unseen_labels_only(data):
    experiment = prepare(DemoOptions(data=data, gold=20), Console(quiet=True))
    p_a = LabelModel().fit(experiment.votes, experiment.hidden.gold).posterior(experiment.votes)
    found = quality(p_a, experiment.pool, experiment.hidden, experiment.votes)
    assert found.n_pairs == len(experiment.pool) - 20
    assert found.coverage_share == 1.0
    assert 0.75 < found.accuracy <= 1.0


def test_always_longer_is_as_sure_as_it_is_right_on_gold(data):
    experiment = prepare(DemoOptions(data=data, gold=60), Console(quiet=True))
    row = longer_row(experiment.hidden, experiment.test)
    confidence = np.unique(np.maximum(row.p_a, 1 - row.p_a))
    assert len(confidence) == 1
    assert 0.75 < confidence[0] < 0.97
    assert row.accuracy > 0.7


def test_always_longer_says_the_same_whichever_response_is_called_a(make_pairs):
    asked = [[{"role": "user", "content": f"question {i}?"}] for i in range(12)]
    rows = [(q, *(("Yes, it is so.", "No..") if i % 3 else ("Yes.", "No!."))) for i, q in enumerate(asked)]
    pairs = make_pairs(rows).with_gold(np.resize([0.0, 1.0, 1.0], 12))
    ours, theirs = (longer_row(each, each) for each in (pairs, pairs.swap()))
    assert ours.p_a == pytest.approx(1 - theirs.p_a)
    assert ours.p_a.max() == pytest.approx(9 / 10)  # eight pairs differ in length, and the longer response wins


def test_the_gain_is_paired_and_its_interval_holds_it(data):
    test = read_pairs(data)
    right = np.where(test.gold == 1, 0.9, 0.1)
    half = np.where(np.arange(len(test)) % 2, right, 1 - right)
    gain = paired_gain(measured("good", right, test), measured("half", half, test), test, seed=0)
    assert gain.accuracy == pytest.approx(0.5, abs=0.01)
    assert gain.accuracy_low <= 0.5 <= gain.accuracy_high
    same = paired_gain(measured("good", right, test), measured("good", right, test), test, seed=0)
    assert (same.accuracy, same.accuracy_low, same.accuracy_high) == (0, 0, 0)


def test_the_reliability_diagram_is_the_same_for_the_same_figures(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.uniform(size=300)
    curves = {"one": (p, (rng.random(300) < p).astype(float))}
    for name in ("a.png", "b.png"):
        plot_reliability(tmp_path / name, curves)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_quickstart_pairs_are_there():
    assert quickstart().is_file()
