"""One iteration of self-rewarding: candidates, scores, pairs, DPO; each step is a file that is made once."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augment.generate import generate, read_candidates
from augment.implicit_rewards import ResponseLogProbs, compared_log_probs
from augment.models import CHUNKS
from augment.new_prompts import NewPrompts, new_prompts
from augment.pair_candidates import PairedCandidates, Pairing, pair_candidates
from augment.self_gold import implicit_agreement, judge_agreement
from augment.self_scores import agreement, judged, ranked, soft_label
from augment.self_training import train_policy
from labeling.errors import DataError, WeakprefWarning
from labeling.files import replacing, write_json
from labeling.llm import Conversation, Engine, fitting
from labeling.pairs import MESSAGES, Pairs, prompt_id
from labeling.parts import part_folder, remove_parts
from labeling.vllm_engine import VLLMEngine
from rm.memory import free_memory

if TYPE_CHECKING:
    from augment.self_reward import Load, SelfReward

FloatArray = npt.NDArray[np.float64]

STEPS = ("candidates.parquet", "scores.parquet", "pairs.parquet", "model")
"""What an iteration makes, in this order."""

FACTS = ("scores.json", "pairs.json", "training.json")
"""What the steps counted, for the ledger: each is there before what it is about."""

SCORES = pa.schema(
    [("prompt_id", pa.string()), ("sample", pa.int32()), ("score", pa.float64()), ("score_before", pa.float64())]
)
"""A candidate's score, and what the policy before gave it (cream; null where there was none)."""

PAIRS = pa.schema(
    [
        ("prompt", MESSAGES),
        ("prompt_id", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
        ("chosen_ended", pa.bool_()),
        ("rejected_ended", pa.bool_()),
        ("p_chosen", pa.float64()),
    ]
)
"""What a policy is trained on; `p_chosen` is q."""


def run_iteration(
    run: Path,
    iteration: int,
    prompts: Sequence[Conversation],
    gold: Pairs | None,
    how: SelfReward,
    load: Load,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Make what iteration 1, 2, ... lacks; return its row of the ledger.

    Without a pair, or where q is 0.5 for all of them, no model is made: there is nothing to learn.
    """
    folder = run / f"iteration-{iteration}"
    current = run / f"iteration-{iteration - 1}" / "model"
    makers = {
        "candidates.parquet": lambda: _write_candidates(folder, run, current, prompts, how, load, iteration),
        "scores.parquet": lambda: _write_scores(folder, run, current, how, load, iteration),
        "pairs.parquet": lambda: _write_pairs(folder, how),
        "model": lambda: train_policy(folder, current, how.training_of(iteration), how.processes),
    }
    drop_parts(folder)
    facts: tuple[str, ...] = FACTS
    if gold is not None:
        known = gold
        makers["gold.json"] = lambda: _write_gold(folder, run, current, known, how, load, iteration)
        facts = ("gold.json", *FACTS)
    if how.new_prompts:
        facts = ("prompts.json", *facts)
    for name in (name for name in steps_of(how, gold) if name in makers):
        if name == "model" and not teaches(folder / "pairs.parquet"):
            facts = tuple(fact for fact in facts if fact != "training.json")
        elif not (folder / name).exists():
            say(f"iteration {iteration} of {how.iterations}: {name}")
            makers[name]()
            free_memory()
    asked = _read_prompts(folder / "prompts.parquet") if how.new_prompts else prompts
    row: dict[str, Any] = {"iteration": iteration, "method": how.method, **_candidate_facts(folder, asked)}
    for name in facts:
        row |= json.loads((folder / name).read_text(encoding="utf-8"))
    learned = "training.json" in facts
    row["stopped"] = None if learned else "no consistency above chance" if row["n_pairs"] else "no pair"
    return row


def teaches(pairs: Path) -> bool:
    """Return whether a label leans: q = 0.5 has no gradient where the policy is its own reference (METHODS 3)."""
    q = pq.read_table(pairs, columns=["p_chosen"])["p_chosen"].to_numpy()
    return bool((q != 0.5).any())


def steps_of(how: SelfReward, gold: Pairs | None) -> tuple[str, ...]:
    """Return the files an iteration makes, in this order; new prompts are part of the making of candidates."""
    measured = () if gold is None else ("gold.json",)
    return (*measured, *(("prompts.parquet",) if how.new_prompts else ()), *STEPS)


def drop_parts(folder: Path) -> None:
    """Delete what a run that was killed had half written, and the parts of what it had whole."""
    for stale in folder.glob(".*.part"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    if (folder / "candidates.parquet").exists():
        remove_parts(part_folder(folder / "candidates.parquet"))


def opened(load: Load, folder: Path) -> AbstractContextManager[Engine]:
    """Return the engine of a model folder, to be entered: see `running`."""
    return running(load(folder))


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Yield an engine; vLLM, which would keep its GPU memory, is ended afterwards."""
    try:
        yield engine
    finally:
        if isinstance(engine, VLLMEngine):
            engine.close()


def _write_gold(
    folder: Path, run: Path, current: Path, gold: Pairs, how: SelfReward, load: Load, iteration: int
) -> None:
    """Write how far the policy that labels in this iteration agrees with people."""
    if how.method == "srlm":
        with opened(load, current) as engine:
            found = judge_agreement(gold, engine, how.grading(iteration))
    else:
        models = lineage(run, how, iteration)
        found = implicit_agreement(gold, models[-1], models[0] if len(models) > 1 else None, how.over)
    write_json(folder / "gold.json", {"gold": found})


def _write_candidates(
    folder: Path, run: Path, current: Path, prompts: Sequence[Conversation], how: SelfReward, load: Load, iteration: int
) -> None:
    if how.new_prompts:
        prompts = _new_prompts(folder, run, prompts, how, load, iteration)
    with opened(load, current) as engine:
        chunk = CHUNKS["vllm" if isinstance(engine, VLLMEngine) else "transformers"]
        sampling = how.sampling(iteration)
        kept = _with_room(prompts, engine, sampling.max_tokens)
        generate(kept, engine, folder / "candidates.parquet", sampling, chunk=chunk)


def _with_room(prompts: Sequence[Conversation], engine: Engine, max_tokens: int) -> list[Conversation]:
    """Return the prompts that leave the model room for an answer, and warn of others. Raises DataError for none."""
    kept = list(compress(prompts, fitting(prompts, engine, max_tokens)))
    if len(kept) < len(prompts):
        found = (
            f"{len(prompts) - len(kept):,} of {len(prompts):,} prompts are too long for {engine.model}, which holds "
            f"{engine.context:,} tokens, {max_tokens:,} of them asked for the answer"
        )
        if not kept:
            raise DataError(f"{found}; expected one or more that fit: ask for shorter answers (max_tokens)")
        warnings.warn(f"{found}: they are left out", WeakprefWarning, stacklevel=2)
    return kept


def _new_prompts(
    folder: Path, run: Path, seeds: Sequence[Conversation], how: SelfReward, load: Load, iteration: int
) -> Sequence[Conversation]:
    """Return prompts written by the model a run started from: a fixed one, as in the paper; none like earlier ones."""
    path = folder / "prompts.parquet"
    if not path.exists():
        from augment.new_prompts import SAMPLING, FewShot

        seed = how.seed + 1_000 * iteration
        sampling = replace(SAMPLING, seed=seed)
        with opened(load, run / "iteration-0" / "model") as engine:
            few, avoid = FewShot(seed=seed), _earlier_prompts(run, iteration)
            found = new_prompts(seeds, engine, how.new_prompts, how=few, sampling=sampling, avoid=avoid)
        if not found.prompts:
            raise DataError(f"iteration {iteration}: no new prompt was fit to use; answer those given (new_prompts=0)")
        write_json(folder / "prompts.json", {"new_prompts": _new_prompt_facts(found)})
        with replacing(path) as part:
            pq.write_table(pa.table({"prompt": pa.array([list(p) for p in found.prompts], MESSAGES)}), part)
    return _read_prompts(path)


def _earlier_prompts(run: Path, iteration: int) -> list[Conversation]:
    """Return the new prompts of the iterations before."""
    return [prompt for n in range(1, iteration) for prompt in _read_prompts(run / f"iteration-{n}" / "prompts.parquet")]


def _read_prompts(path: Path) -> list[Conversation]:
    prompts: list[Conversation] = pq.read_table(path)["prompt"].to_pylist()
    return prompts


def _write_scores(folder: Path, run: Path, current: Path, how: SelfReward, load: Load, iteration: int) -> None:
    table = read_candidates(folder / "candidates.parquet")
    before = np.full(len(table), np.nan)
    if how.method == "srlm":
        with opened(load, current) as engine:
            scored = judged(table, engine, how.grading(iteration))
        scores, counts = scored.scores, dict(scored.counts)
    else:
        scores, before, counts = _implicit(table, run, how, iteration)
    write_json(folder / "scores.json", counts)
    values = [pa.array(numbers, from_pandas=True) for numbers in (scores, before)]
    columns = [table["prompt_id"], table["sample"], *values]
    with replacing(folder / "scores.parquet") as part:
        pq.write_table(pa.table(columns, schema=SCORES), part, compression="zstd")


def _implicit(
    table: pa.Table, run: Path, how: SelfReward, iteration: int
) -> tuple[FloatArray, FloatArray, dict[str, Any]]:
    """Return the rewards of M_t and of the model before it (NaN where nothing comes before), and their agreement."""
    sources = lineage(run, how, iteration)
    base, latest_first = sources[0], sources[::-1]
    found = dict(zip(latest_first, _log_probs(latest_first, table), strict=True))
    rewards = [ranked(table, found[s], None if s == base else found[base], how.over) for s in sources]
    scores, counts = rewards[-1].scores, dict(rewards[-1].counts)
    if len(sources) == 1:
        return scores, np.full(len(table), np.nan), counts | {"consistency": None}
    before = rewards[-2].scores
    rates = {kind: rate.mean for kind, rate in agreement(table, scores, before).items()}
    return scores, before, counts | {"consistency": rates or None}


def lineage(run: Path, how: SelfReward, iteration: int) -> list[str | Path]:
    """Return M_0, and as far as there are such, M_(t-1) and M_t of an iteration; M_0 is not named twice.

    Without a base, M_0 is where the run starts: the first iteration has it alone.
    """
    start = run / "iteration-0" / "model"
    models: list[str | Path] = [*([how.base] if how.base else []), start]
    models += [run / f"iteration-{i}" / "model" for i in range(1, iteration)]
    return models if len(models) < 3 else [models[0], *models[-2:]]


def _log_probs(models: Sequence[str | Path], table: pa.Table) -> list[ResponseLogProbs]:
    """Return what models think of candidates, all as the tokens of the first, the one that wrote them."""
    ended = [reason == "stop" for reason in table["finish_reason"].to_pylist()]
    texts = [text or "" for text in table["response"].to_pylist()]
    return compared_log_probs(models, table["prompt"].to_pylist(), texts, ended)


def _write_pairs(folder: Path, how: SelfReward) -> None:
    table = read_candidates(folder / "candidates.parquet")
    found = pq.read_table(folder / "scores.parquet")
    scores, before = (found[name].to_numpy() for name in ("score", "score_before"))
    made = pair_candidates(table, scores, Pairing("best-worst"))
    oriented = _oriented(made.table, _ends(table))
    q, n_clamped = np.ones(len(oriented)), 0
    if how.method == "cream" and len(oriented) and not np.isnan(before).all():
        rates = agreement(table, scores, before)[how.rate]
        q, n_clamped = soft_label(rates, np.array(oriented["prompt_id"].to_pylist()), how.per_prompt)
    oriented = oriented.append_column(PAIRS.field("p_chosen"), pa.array(q))
    write_json(folder / "pairs.json", _pair_facts(made, oriented) | {"n_clamped": n_clamped})
    with replacing(folder / "pairs.parquet") as part:
        pq.write_table(oriented.cast(PAIRS), part, compression="zstd")


def _ends(table: pa.Table) -> dict[tuple[str, str], bool]:
    """Return whether the model ended a response by itself, by prompt and text."""
    found: dict[tuple[str, str], bool] = {}
    columns = (table[name].to_pylist() for name in ("prompt_id", "response", "finish_reason"))
    for prompt, text, reason in zip(*columns, strict=True):
        found[prompt, text] = found.get((prompt, text), False) or reason == "stop"
    return found


def _oriented(pairs: pa.Table, ends: dict[tuple[str, str], bool]) -> pa.Table:
    """Return pairs with the better score first."""
    rows = []
    for row in pairs.to_pylist():
        a, b = ({"text": row[f"response_{side}"], "score": row[f"score_{side}"]} for side in "ab")
        better, worse = (a, b) if a["score"] > b["score"] else (b, a)
        rows.append(
            {
                "prompt": row["prompt"],
                "prompt_id": row["group"],
                "chosen": better["text"],
                "rejected": worse["text"],
                "score_chosen": better["score"],
                "score_rejected": worse["score"],
                "chosen_ended": ends[row["group"], better["text"]],
                "rejected_ended": ends[row["group"], worse["text"]],
            }
        )
    return pa.Table.from_pylist(rows, schema=pa.schema([f for f in PAIRS if f.name != "p_chosen"]))


def _candidate_facts(folder: Path, asked: Sequence[Conversation]) -> dict[str, Any]:
    """Return what is counted of candidates, and of the prompts asked that have none, for want of room."""
    table = read_candidates(folder / "candidates.parquet")
    texts = [text or "" for text in table["response"].to_pylist()]
    answered = set(table["prompt_id"].to_pylist())
    return {
        "n_prompts": len(answered),
        "n_prompts_left_out": len(set(map(prompt_id, asked)) - answered),
        "n_candidates": len(texts),
        "n_empty": sum(not text.strip() for text in texts),
        "cut_share": float(np.mean([reason == "length" for reason in table["finish_reason"].to_pylist()])),
        "candidate_chars": float(np.mean([len(text) for text in texts])),
    }


def _new_prompt_facts(found: NewPrompts) -> dict[str, Any]:
    counts = {"n": len(found.prompts), "n_requests": found.n_requests, "n_tokens": found.n_tokens}
    return counts | {"left_out": dict(found.left_out)}


def _pair_facts(made: PairedCandidates, pairs: pa.Table) -> dict[str, Any]:
    """Return what is counted of pairs; None stands for the mean of none."""
    n_ties = made.left_out.get("pairs: equal scores", 0)
    chosen, rejected = (np.array([len(text) for text in pairs[side].to_pylist()]) for side in ("chosen", "rejected"))
    return {
        "n_pairs": len(pairs),
        "tie_rate": n_ties / (n_ties + len(pairs)) if n_ties or len(pairs) else None,
        "left_out": dict(made.left_out),
        "chosen_chars": _mean(chosen),
        "rejected_chars": _mean(rejected),
        "longer_chosen_share": _mean(chosen > rejected),
        "q": _mean(pairs["p_chosen"].to_numpy()),
    }


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def check_any_pair(folder: Path, row: Mapping[str, Any]) -> None:
    """Raise DataError where the row of an iteration counts no pair, for nothing can be trained on."""
    if not row["n_pairs"]:
        left = ", ".join(f"{count:,} {reason}" for reason, count in row["left_out"].items())
        raise DataError(
            f"{folder}: no pair could be made of {row['n_candidates']:,} candidates ({left}); expected one or more: a "
            "larger model, more candidates, more prompts"
        )
