"""What a run may take and what it would take: cache, limits, prices, dry run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from augment.models import ModelOptions
from labeling.budget import FREE, BudgetedEngine, Limits, Price, Usage, Watch, read_prices, unwatched
from labeling.errors import DataError
from labeling.llm_cache import CachedEngine
from labeling.openai_engine import OpenAIEngine
from rm.options import option


@dataclass(frozen=True)
class SpendingOptions:
    """Where answers are kept, what they may cost, and whether they are only to be counted."""

    cache: Path | None = option("File to keep answers in: a stopped run goes on from it.")
    dry_run: bool = option("Print requests, tokens and cost; ask and write nothing.", False)
    max_requests: int | None = option("Stop before this run makes more requests.")
    max_cost: float | None = option("Stop before this run costs more USD.")
    prices: Path | None = option("Price table: JSON {model: {input, output}} or CSV, USD per million tokens.")
    price_in: float | None = option("USD per million tokens read, in place of a table.")
    price_out: float | None = option("USD per million tokens written, in place of a table.")

    def check(self, *, cached: bool) -> None:
        """Raise DataError if a limit is set and nothing would be `cached` of what was paid for."""
        limited = self.max_requests is not None or self.max_cost is not None
        if limited and not cached and self.cache is None:
            raise DataError("--max-requests and --max-cost need --cache FILE, which keeps what was answered; pass it")
        if (self.price_in is None) != (self.price_out is None):
            raise DataError("--price-in and --price-out belong together; pass both")

    def price(self, model: ModelOptions) -> Price | None:
        """Return what the model costs, None where nobody knows. Raises DataError if the price table lacks it."""
        if self.price_in is not None and self.price_out is not None:
            return Price(self.price_in, self.price_out)
        if self.prices is None:
            return FREE if model.local else None
        table = read_prices(self.prices)
        if model.model not in table:
            raise DataError(f"{self.prices} has no price of {model.model}, found {', '.join(table)}; add it")
        return table[model.model]

    def engine(self, model: ModelOptions, watch: Watch = unwatched) -> CachedEngine:
        """Return the model's engine, within the limits, over the cache."""
        price = self.price(model)
        if self.max_cost is not None and price is None:
            raise DataError(
                f"--max-cost needs a price of {model.model}: pass --prices FILE, or --price-in and --price-out"
            )
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
        keeps = self.cache is not None and not model.local  # parts of a chunk that are asked are not lost
        limits = Limits(*(math.inf if limit is None else limit for limit in (self.max_requests, self.max_cost)))
        loaded = model.load()
        meter = loaded.meter if isinstance(loaded, OpenAIEngine) else None
        counted = BudgetedEngine(loaded, limits, price, meter=meter, watch=watch)
        return CachedEngine(counted, self.cache, chunk=model.chunk, divisible=keeps, watch=watch)

    def cost(self, engine: CachedEngine) -> float | None:
        """Return what an engine of `engine` was asked for, in USD; None where no prices were given."""
        asked = engine.engine
        given = self.prices is not None or self.price_in is not None
        if not given or not isinstance(asked, BudgetedEngine) or asked.price is None:
            return None
        return asked.price.of(asked.usage)

    def plan(self, model: ModelOptions) -> Plan:
        """Return an engine that counts what it is asked and answers nothing, over the cache."""
        asked = BudgetedEngine(model.planned(), price=self.price(model))
        cached = CachedEngine(asked, self.cache, chunk=model.chunk, read_only=True)
        return Plan(BudgetedEngine(cached), asked, self.price(model), model.local)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run would take, once its questions were put to `engine`."""

    engine: BudgetedEngine
    """Is asked everything."""
    asked: BudgetedEngine
    """Is asked what is not answered yet."""
    price: Price | None
    local: bool
    """Whether tokens are counted by the model's tokenizer, not estimated."""

    def said(self, out: Path) -> str:
        """Return the plan in words, of a run that would write `out`."""
        return f"{out}: a dry run, nothing is asked or written\n{self}"

    def __str__(self) -> str:
        every, rest = self.engine.usage, self.asked.usage
        lines = [f"{'':<24}{'all':>14}{'answered':>14}{'to be asked':>14}"]
        for name, title in (
            ("n_requests", "requests"),
            ("prompt_tokens", "prompt tokens" if self.local else "prompt tokens, estimate"),
            ("output_tokens", "output tokens, at most"),
        ):
            counts = (getattr(usage, name) for usage in (every, every - rest, rest))
            lines.append(f"{title:<24}" + "".join(f"{count:>14,}" for count in counts))
        lines.append(f"{'cost, at most':<24}{self._cost(rest)}")
        if self.asked.n_questions and not self.local:
            lines.append(
                f"closed questions: {self.asked.n_questions:,} to be asked; a server that gives no log-probabilities "
                f"takes {1 + OpenAIEngine.verdicts} requests for each, at as many times the cost"
            )
        return "\n".join(lines)

    def _cost(self, rest: Usage) -> str:
        if self.price is None:
            return "unknown: pass --prices FILE, or --price-in and --price-out"
        return "nothing: the model runs here" if self.price == FREE and self.local else f"{self.price.of(rest):.4f} USD"
