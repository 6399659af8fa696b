"""What judges are worth, alone and to a label model beside the built-in heuristics: SmolLM2's verdicts on real pairs.

python benchmarks/judge_evidence.py [--seeds 5]      after benchmarks/judge_ask.py, whose verdicts it reads

Alone: how often the margin has gold's sign, how verdicts lean to a position, how many flip. In the label model: a seed
splits the pairs by group into halves; of the first, 50, 100 or 200 pairs keep their gold (where a half has that many),
the model is fitted on the votes on all pairs, and is measured on the second half. `llmbar` does the same with good
judges: real verdicts of GPT-4 and three others (judge_votes.parquet).
Differences are per pair, of its mean log-loss over the seeds that held it out; the 95 % interval draws groups.
Writes data/bench/judge_evidence.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from judge_ask import DATA, JUDGES, OUT, ROOT, SETS, pairs_of
from scipy.stats import t as student_t

from labeling import LabelModel, Pairs, VoteMatrix, apply, gold_sample, heuristics, read_pairs, split_by_group
from labeling.files import write_json
from labeling.metrics import accuracy, ece, log_loss
from labeling.pairs import pair_id
from labeling.pairwise_judge import decide

FloatArray = npt.NDArray[np.float64]
EVIDENCE = ROOT / "data" / "bench" / "judge_evidence.json"
GOLD = (50, 100, 200)
ABSTAIN, KEEP = "LFs + pairwise abstain", "LFs + pairwise keep"
GOOD_JUDGES = tuple(f"{model}/Vanilla_NoRules" for model in ("ChatGPT", "GPT-4", "LLaMA2", "PaLM2"))
"""The plain judges whose verdicts on all of LLMBar's pairs come with the data."""


def mean_interval(values: FloatArray, groups: npt.NDArray[np.str_]) -> dict[str, Any]:
    """Return the mean of the values that are known, and its 95 % interval: the jackknife over groups, Student's t."""
    known = ~np.isnan(values)
    _, cluster = np.unique(groups[known], return_inverse=True)
    sums, counts = np.bincount(cluster, values[known]), np.bincount(cluster)
    without = (sums.sum() - sums) / np.maximum(counts.sum() - counts, 1)
    n, mean = len(sums), float(values[known].mean())
    half = float(student_t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": int(known.sum())}


def verdicts_of(name: str, judge: str, pairs: Pairs) -> dict[str, FloatArray] | None:
    """Return what a judge said of the pairs that it was asked about, by column; NaN where there is none."""
    table = pq.read_table(OUT).to_pylist()
    rows = {row["pair_id"]: row for row in table if row["set"] == name and row["judge"] == judge}
    asked = [rows.get(pair) for pair in pairs.pair_ids]
    columns = ("shown_first", "shown_second", "margin")
    found = {c: np.array([np.nan if not row or row[c] is None else row[c] for row in asked]) for c in columns}
    return found if rows else None


def alone(said: Mapping[str, FloatArray], pairs: Pairs) -> dict[str, Any]:
    """Return what a judge does by itself: right margins, position bias, flips, and votes that are left."""
    margin, first, second = said["margin"], said["shown_first"], said["shown_second"]
    sign = np.where(pairs.gold > 0.5, 1, -1)
    right = np.where(np.isnan(margin), np.nan, 0.5 + 0.5 * np.sign(margin) * sign)
    texts = zip(*(pairs.table[side].to_pylist() for side in ("response_a", "response_b")), strict=True)
    longer = np.array([len(a) - len(b) for a, b in texts], dtype=float)
    figures = {
        "n_pairs": int((~np.isnan(margin)).sum()),
        "margin_right": mean_interval(right, pairs.groups),
        "always_longer_right": mean_interval(
            np.where(np.isnan(margin), np.nan, 0.5 + 0.5 * np.sign(longer) * sign), pairs.groups
        ),
        "margin_is_longer": mean_interval(0.5 + 0.5 * np.sign(longer * margin), pairs.groups),
        "margin_sd": float(np.nanstd(margin)),
    }
    if np.isnan(first).all():
        return figures
    kept = first * second > 0
    return figures | {
        "first_wins_share": float(np.nanmean(np.stack([first > 0, second < 0])[:, ~np.isnan(first)])),
        "position_bias": mean_interval((first - second) / 2, pairs.groups),
        "flipped_share": float((first * second < 0).sum() / (~np.isnan(first)).sum()),
        "votes": int(kept.sum()),
        "votes_right": float(right[kept].mean()) if kept.any() else None,
        "flipped_margin_right": mean_interval(np.where(first * second < 0, right, np.nan), pairs.groups),
    }


def ballot(said: Mapping[str, FloatArray], on_flip: str) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return votes and margins as PairwiseJudge makes them of both orders, or a difference of grades as it is."""
    if np.isnan(said["shown_first"]).all():
        votes = np.select([said["margin"] > 0, said["margin"] < 0], [0, 1], -1).astype(np.int8)
        return votes, said["margin"]
    orders = np.stack([said["shown_first"], said["shown_second"]], axis=1)
    votes, margins, _ = decide(orders, np.isnan(orders).any(axis=1), "keep" if on_flip == "keep" else "abstain")
    return votes, margins


def joined(base: VoteMatrix, extra: Mapping[str, tuple[npt.NDArray[np.int8], FloatArray]]) -> VoteMatrix:
    """Return the votes with further voters' beside them."""
    if not extra:
        return base
    votes = np.column_stack([base.votes, *(vote for vote, _ in extra.values())]).astype(np.int8)
    margins = np.column_stack([base.margins, *(margin for _, margin in extra.values())]).astype(np.float32)
    return VoteMatrix(votes, margins, (*base.names, *extra), base.pair_ids, base.groups)


def held_out(votes: VoteMatrix, pairs: Pairs, amount: int, seed: int) -> tuple[FloatArray, Any, int]:
    """Return the posterior where the seed holds pairs out and NaN elsewhere, the model, and the gold pairs it had."""
    train, test = split_by_group(pairs, test_share=0.5, seed=seed)
    chosen = gold_sample(train, min(amount, len(train)), seed=seed)
    labelled = set(np.array(train.pair_ids)[chosen])
    out = np.isin(pairs.pair_ids, test.pair_ids)
    gold = np.where([pair in labelled for pair in pairs.pair_ids], pairs.gold, np.nan)
    model = LabelModel().fit(votes, gold)
    return np.where(out, model.posterior(votes), np.nan), model, len(labelled)


def measured(variants: Mapping[str, VoteMatrix], pairs: Pairs, judges: Sequence[str], seeds: int) -> dict[str, Any]:
    """Return figures by amount of gold and variant; `minus` compares each variant with the first, pair by pair."""
    found: dict[str, Any] = {}
    for amount in (amount for amount in GOLD if amount <= len(pairs) / 2):
        cell: dict[str, Any] = {}
        losses: dict[str, FloatArray] = {}
        for name, votes in variants.items():
            runs = [held_out(votes, pairs, amount, seed) for seed in range(seeds)]
            cell[name], losses[name] = scores(runs, votes, pairs, [j for j in judges if j in votes.names])
        base = next(iter(variants))
        for name in variants:
            if name != base:
                cell[name]["minus_first"] = mean_interval(losses[name] - losses[base], pairs.groups)
        if KEEP in losses:
            cell["keep minus abstain"] = mean_interval(losses[KEEP] - losses[ABSTAIN], pairs.groups)
        found[str(amount)] = cell
        print(amount, {name: round(row["log_loss"], 4) for name, row in cell.items() if "log_loss" in row}, flush=True)
    return found


def moved(model: LabelModel, votes: VoteMatrix) -> dict[str, float]:
    """Return by how much each voter moves the log-odds of a pair, in the mean of their sizes: without it, with it."""
    whole, found = model.log_odds(votes), {}
    for j, name in enumerate(votes.names):
        silent, none = votes.votes.copy(), np.array(votes.margins, dtype=np.float32)
        silent[:, j], none[:, j] = -1, np.nan
        without = VoteMatrix(silent, none, votes.names, votes.pair_ids, votes.groups)
        found[name] = round(float(np.abs(whole - model.log_odds(without)).mean()), 4)
    return found


def scores(
    runs: Sequence[tuple[FloatArray, Any, int]], votes: VoteMatrix, pairs: Pairs, judges: Sequence[str]
) -> tuple[Any, FloatArray]:
    """Return the mean figures over seeds, what the model made of the judge, and each pair's mean log-loss."""
    each = np.stack([p_a for p_a, _, _ in runs])
    kept = [~np.isnan(p_a) for p_a in each]
    truth = np.where(pairs.gold > 0.5, each, 1 - each)
    loss = -np.log(np.clip(truth, 1e-12, 1))
    figures = {
        metric.__name__: float(np.mean([metric(p[k], pairs.gold[k]) for p, k in zip(each, kept, strict=True)]))
        for metric in (accuracy, log_loss, ece)
    }
    figures["n_gold"] = float(np.mean([n for _, _, n in runs]))
    moves = [moved(model, votes) for _, model, _ in runs]
    figures["judge_moves"] = {judge: [run[judge] for run in moves] for judge in judges}
    figures["most_moved_by_a_heuristic"] = [
        max(move for name, move in run.items() if name not in judges) for run in moves
    ]
    known = ~np.isnan(loss).all(axis=0)
    means = np.full(len(pairs), np.nan)
    means[known] = np.nanmean(loss[:, known], axis=0)
    return figures, means


def smollm2(name: str, seeds: int) -> dict[str, Any]:
    table = pq.read_table(OUT).to_pylist()
    asked = {row["pair_id"] for row in table if row["set"] == name and row["judge"] == "pairwise"}
    pairs = pairs_of(name, 400)
    pairs = pairs.take(np.flatnonzero(np.isin(pairs.pair_ids, list(asked))))
    said = {judge: found for judge in JUDGES if (found := verdicts_of(name, judge, pairs))}
    base = apply(heuristics(), pairs)
    extra = {"LFs": {}, ABSTAIN: {"judge": ballot(said["pairwise"], "abstain")}}
    extra[KEEP] = {"judge": ballot(said["pairwise"], "keep")}
    variants = {label: joined(base, voters) for label, voters in extra.items()}
    return {
        "n_pairs": len(pairs),
        "n_groups": len(set(pairs.groups)),
        "alone": {judge: alone(found, pairs) for judge, found in said.items()},
        "label_model": measured(variants, pairs, ["judge"], seeds),
    }


def llmbar(seeds: int) -> dict[str, Any]:
    """The same with judges that are good, whose verdicts come with LLMBar; its sets are told apart by their prompts."""
    path = DATA / "judge_votes.parquet"
    pairs = read_pairs(path, on_bad_rows="drop")
    rows = {}
    for row in pq.read_table(path).to_pylist():
        asked = [{"role": "user", "content": row["prompt"]}]
        rows[pair_id(asked, row["response_a"], row["response_b"])] = row
    decided = ~np.isnan(pairs.gold) & (pairs.gold != 0.5)
    pairs = pairs.take(np.flatnonzero([own in rows for own in pairs.pair_ids] & decided))
    values = {name: np.array([rows[own][f"v:{name}"] for own in pairs.pair_ids], dtype=float) for name in GOOD_JUDGES}
    base = apply(heuristics(), pairs)
    said = {name: (np.select([v > 0, v < 0], [0, 1], -1).astype(np.int8), v) for name, v in values.items()}
    weak = {name: vote for name, vote in said.items() if not name.startswith("GPT-4")}
    variants = {"LFs": base, "LFs + 3 weaker judges": joined(base, weak), "LFs + 4 judges": joined(base, said)}
    sign = np.where(pairs.gold > 0.5, 1, -1)
    return {
        "n_pairs": len(pairs),
        "n_groups": len(set(pairs.groups)),
        "alone": {name: mean_interval(0.5 + 0.5 * np.sign(v) * sign, pairs.groups) for name, v in values.items()},
        "label_model": measured(variants, pairs, list(said), seeds),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=[*SETS, "llmbar"])
    args = parser.parse_args(argv)
    found = json.loads(EVIDENCE.read_text(encoding="utf-8")) if EVIDENCE.exists() else {}
    for name in (args.only,) if args.only else (*SETS, "llmbar"):
        print(name, flush=True)
        found[name] = llmbar(args.seeds) if name == "llmbar" else smollm2(name, args.seeds)
        write_json(EVIDENCE, found)


if __name__ == "__main__":
    main()
