"""`LabelModel` saved and loaded, and fitted on streams of votes."""

from __future__ import annotations

import numpy as np
import pytest

from labeling.errors import GoldError, VotesError
from labeling.label_model import LabelModel
from labeling.sample import MAX_MARGIN_ROWS, MAX_ROWS, Collector
from labeling.votes import write_votes


def test_a_saved_model_gives_the_same_posterior_to_the_last_bit(tmp_path, simulate, some_gold):
    for margins in (False, True):
        votes, gold = simulate(600, margins=margins)
        model = LabelModel().fit(votes, some_gold(gold, 60))
        model.save(tmp_path / "model.json")
        again = LabelModel.load(tmp_path / "model.json")
        assert np.array_equal(again.posterior(votes), model.posterior(votes))
        assert again.calibration_.figures() == model.calibration_.figures()
        assert again.names_ == model.names_
        assert again.structure_ == model.structure_
        for name in ("accuracy_", "weights_", "dependence_"):
            assert np.array_equal(getattr(again, name), getattr(model, name))


def test_saving_twice_writes_the_same_bytes(tmp_path, simulate, some_gold):
    votes, gold = simulate(300)
    for name in ("a", "b"):
        LabelModel().fit(votes, some_gold(gold, 40)).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_saved_model_is_refused_by_name(tmp_path):
    path = tmp_path / "model.json"
    with pytest.raises(VotesError, match=r"model.json does not exist; write it with LabelModel.save"):
        LabelModel.load(path)
    for text in ("{", "[]", '{"format": 1}', '{"format": 1, "model": {"names_": 3}}'):
        path.write_text(text)
        with pytest.raises(VotesError, match="is no saved label model"):
            LabelModel.load(path)
    path.write_text('{"format": 99, "model": {}}')
    with pytest.raises(VotesError, match="has format 99, expected 1; fit the model again"):
        LabelModel.load(path)
    with pytest.raises(VotesError, match="not fitted"):
        LabelModel().save(path)


@pytest.mark.parametrize("content", ["prompt,a,b\n", '{"format": "chat", "rows": []}', ""])
def test_saving_loses_nothing_but_an_older_model(tmp_path, simulate, some_gold, content):
    votes, gold = simulate(300)
    models = [LabelModel().fit(votes, some_gold(gold, n)) for n in (40, 60)]
    for model in models:
        model.save(tmp_path / "model.json")
    assert LabelModel.load(tmp_path / "model.json").calibration_.figures() == models[1].calibration_.figures()
    (tmp_path / "pairs").write_text(content)
    with pytest.raises(VotesError, match="pairs exists and is no saved label model; pass another path, or move it"):
        models[0].save(tmp_path / "pairs")
    assert (tmp_path / "pairs").read_text() == content
    with pytest.raises(VotesError, match="exists and is no saved label model"):
        models[0].save(tmp_path)


def parts(votes, size):
    return [votes.take(np.arange(start, min(start + size, len(votes)))) for start in range(0, len(votes), size)]


@pytest.mark.parametrize("margins", [False, True])
def test_a_stream_of_batches_gives_what_the_whole_gives(margins, tmp_path, simulate, some_gold):
    votes, gold = simulate(900, margins=margins)
    labels = some_gold(gold, 80)
    whole = LabelModel().fit(votes, labels).posterior(votes)
    assert np.array_equal(LabelModel().fit(iter(parts(votes, 250)), labels).posterior(votes), whole)
    write_votes(tmp_path / "votes.parquet", votes, labels)
    assert np.array_equal(LabelModel().fit(tmp_path / "votes.parquet").posterior(votes), whole)


def test_a_long_stream_is_learned_from_in_bounded_memory(simulate):
    kept = []
    collector = Collector()
    for seed in range(40):
        votes, _ = simulate(5000, accuracies=(0.8,) * 12, margins=seed % 2 == 0, seed=seed)
        collector.add(votes)
        kept.append(len(collector.sample().counts))
    assert max(kept) <= MAX_ROWS + MAX_MARGIN_ROWS


@pytest.mark.parametrize(
    ("batches", "gold", "error", "words"),
    [
        ([], None, VotesError, "nothing to learn from: no batch of votes holds a row"),
        ([10, 10], [1.0, 0.0], GoldError, r"gold has shape \(2,\), expected one label for each"),
        ([10], [1.0] * 11, GoldError, r"gold has shape \(11,\), expected \(10,\)"),
        ([10, 10], [np.nan] * 14 + [2.0] * 6, GoldError, r"gold is 2.0 in row 14 \(6 such rows\)"),
    ],
)
def test_a_stream_that_cannot_be_learned_from_is_refused(batches, gold, error, words, simulate):
    with pytest.raises(error, match=words):
        LabelModel().fit([simulate(n)[0] for n in batches], gold)


def test_batches_of_other_voters_are_refused(simulate):
    votes, _ = simulate(50)
    with pytest.raises(VotesError, match=r"fitted on the voters v3.*found v1"):
        LabelModel().fit([votes, votes.select(votes.names[::-1])])
