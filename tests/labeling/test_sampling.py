"""How texts are drawn: what cannot be drawn is refused where it is written down."""

from __future__ import annotations

import pytest

from labeling.errors import DataError
from labeling.llm import Sampling


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 0}, "n is 0 and max_tokens 256; expected 1 or more of each"),
        ({"max_tokens": 0}, "n is 1 and max_tokens 0; expected 1 or more of each"),
        ({"temperature": -0.1}, "temperature is -0.1 and top_p 1.0; expected a temperature of 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p 0.0; expected .* a top_p above 0, at most 1"),
        ({"top_p": 1.1}, "top_p 1.1"),
    ],
)
def test_sampling_out_of_range_is_refused(given: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Sampling(**given)  # type: ignore[arg-type]
