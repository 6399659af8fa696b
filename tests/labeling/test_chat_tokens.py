"""Chats as tokens: what ends an answer, with a chat template and without."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from labeling.chat_tokens import PLAIN_STOP, PLAIN_TEMPLATE, stop_texts
from labeling.llm import Sampling


@pytest.mark.parametrize(
    ("template", "stops"),
    [(None, (".", PLAIN_STOP)), (PLAIN_TEMPLATE, (".", PLAIN_STOP)), ("{{ messages }}<|im_end|>", (".",))],
)
def test_a_model_stops_before_the_next_turn_unless_it_has_a_template_of_its_own(template, stops) -> None:
    assert stop_texts(SimpleNamespace(chat_template=template), Sampling(stop=(".",))) == stops
