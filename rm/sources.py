"""One or several sets of training pairs as one dataset, mixed by proportions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from labeling.errors import DataError
from labeling.files import sha256
from labeling.pairs import Message
from rm.config import RewardConfig
from rm.data import training_files
from rm.order import Mixture
from rm.provenance import label_origins
from rm.token_cache import SAMPLE, Counts, Preparation, TokenisedPairs, tokenised_pairs


class MixedPairs(Dataset[dict[str, Any]]):
    """The pairs of all sets, one set after the other, and the mixture an epoch takes from them.

    Item i is {chosen, rejected: ids, p_chosen, weight}; gold pairs weigh gold_weight times what the data say. Raises
    DataError where the shares do not fit the sets, or gold is to weigh more and there is none.
    """

    def __init__(
        self, sets: Sequence[TokenisedPairs], shares: Sequence[float] | None = None, gold_weight: float = 1.0
    ) -> None:
        self.sets, self.gold_weight = list(sets), gold_weight
        self.mixture = Mixture.of([len(pairs) for pairs in sets], shares)
        self.counts = sum((pairs.counts for pairs in sets), start=Counts())
        self._ends = np.cumsum(self.mixture.sizes)
        if gold_weight != 1 and not self.counts.gold:
            raise DataError(
                f"gold_weight is {gold_weight}, but no row with a positive weight has origin gold; leave it at 1"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self):  # a filler of `rm.order.Shuffled`
            return self[index - len(self)] | {"weight": 0.0}
        which = int(np.searchsorted(self._ends, index, side="right"))
        pair = self.sets[which][index - int(self._ends[which]) + self.mixture.sizes[which]]
        return pair | {"weight": pair["weight"] * (self.gold_weight if pair["gold"] else 1.0)}

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of both conversations and of their common beginning, int64 (n, 3)."""
        return np.concatenate([pairs.lengths for pairs in self.sets])

    def origins(self) -> dict[str, int]:
        """Return how many pairs have a label of each origin."""
        counted = sum((Counter(label_origins(pairs.table)) for pairs in self.sets), start=Counter[str]())
        return dict(sorted(counted.items()))

    def prompts(self) -> list[str]:
        """Return the sorted distinct hashes of the prompts."""
        return sorted({prompt for pairs in self.sets for prompt in pairs.prompts()})

    def sample(self) -> list[list[Message]]:
        """Return both conversations of some pairs drawn at random, as text, each set having its share."""
        n = [max(1, SAMPLE * drawn // len(self.mixture)) for drawn in self.mixture.drawn]
        return [turns for k, pairs in enumerate(self.sets) for pair in pairs.sample()[: n[k]] for turns in pair]


def training_pairs(
    sources: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase, config: RewardConfig, cache: Path
) -> MixedPairs:
    """Return the pairs of folders or files in the universal layout, tokenised in `cache` and mixed as config says.

    Raises DataError where a source cannot be trained on, or config's mix does not fit the sources.
    """
    preparation = Preparation(tokenizer, config.max_length, config.on_long == "drop")
    sets = [tokenised_pairs(training_files(source), preparation, cache) for source in sources]
    return MixedPairs(sets, config.mix, config.gold_weight)


def input_hashes(sources: Sequence[str | Path]) -> dict[str, str]:
    """Return the SHA-256 of each source's files by name, with its folder's name where there are several sources."""
    found: dict[str, str] = {}
    for source in sources:
        for file in training_files(source):
            name = file.name if len(sources) == 1 else f"{Path(source).name}/{file.name}"
            found[name if name not in found else f"{name} ({len(found)})"] = sha256(file)
    return found
