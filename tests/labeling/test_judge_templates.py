"""Templates of the user's own: what they must show; one that cannot be used is refused before anything is asked."""

from __future__ import annotations

import pytest

from labeling.errors import DataError
from labeling.llm import Sampling
from labeling.pairwise_judge import PairwiseJudge
from labeling.rubric_judge import RubricJudge


def test_a_users_template_takes_the_place_of_ours(scripted, quality_pairs, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ criterion }}? {{ question }}{{ response_a }}{{ response_b }} A/B {{ stage }}")
    engine = scripted(scripted.by_quality())
    verdicts = PairwiseJudge(engine, template=path).judge(quality_pairs.voter_table())
    assert verdicts.votes.tolist() == [0, 1, -1, 0]
    assert engine.asked[0][0]["content"].endswith("A/B ask")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ question }}{{ response_a }}", "does not show response_b as it is; write {{ response_b }}"),
        ("{{ question }}{{ response_a }}{{ response_b | upper }}", "does not show response_b"),
        ("{{ question }}{{ response_a }}{{ response_b }}{{ verdict }}", "'verdict' is undefined; the names it may use"),
        ("{% if %}", "is no Jinja template"),
        (None, "cannot be read"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_before_anything_is_asked(scripted, tmp_path, text, words):
    path = tmp_path / "mine.jinja"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"template .*mine\.jinja") as error:
        PairwiseJudge(scripted(), template=path)
    assert words in str(error.value)


@pytest.mark.parametrize("reasoning", [None, Sampling(n=1, temperature=0.0, max_tokens=9)])
def test_a_template_that_asks_by_no_criterion_is_refused_where_one_is_given(scripted, tmp_path, reasoning):
    path = tmp_path / "mine.jinja"
    shown = "{{ question }}{{ response_a }}{{ response_b }}"
    path.write_text(f"{{% if stage != 'verdict' %}}{shown}{{% endif %}} A or B?")
    PairwiseJudge(scripted(), template=path, reasoning=reasoning)
    with pytest.raises(DataError, match="asks the same whatever the criterion"):
        PairwiseJudge(scripted(), "Shorter is better.", template=path, reasoning=reasoning)
    path.write_text(f"{{% if stage != 'verdict' %}}{shown}{{% endif %}}{{{{ criterion }}}} A or B?")
    PairwiseJudge(scripted(), "Shorter is better.", template=path, reasoning=reasoning)


def test_a_template_needs_no_reference_where_there_is_none_and_the_criterion_where_there_is_one(
    scripted, pairs_of, tmp_path
):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ question }}{{ response }} 0 to 5?")
    RubricJudge(scripted(), template=path)
    with pytest.raises(DataError, match="does not show reference as it is"):
        RubricJudge(scripted(), template=path, references={"pair": "text"})
    with pytest.raises(DataError, match=r"asks the same whatever the criterion; write {{ criterion }} in it"):
        RubricJudge(scripted(), {"It is true.": 1.0, "It is short.": 2.0}, template=path)
    path.write_text("{{ criterion }} {{ question }}{{ response }} 0 to 5?")
    RubricJudge(scripted(), {"It is true.": 1.0, "It is short.": 2.0}, template=path)
