"""Self-rewarding and CREAM: a policy answers prompts, ranks its answers, and learns from the best and the worst.

A run is a folder: run.json, ledger.jsonl, and `iteration-<t>` with candidates, scores, pairs and the model M_t;
`iteration-0/model` is where it starts. Each is written whole or not at all, so that a run that was killed goes on
from the last finished step, and ends in the same files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from augment.dpo import PolicyConfig, check_held
from augment.generate import check_prompts
from augment.implicit_rewards import Over
from augment.policies import (
    check_vocabulary,
    load_policy,
    need_rlhf,
    policy_context,
    policy_tokenizer,
    save_as_folder,
)
from augment.run_identity import changed, discard, known_as
from labeling.chat_tokens import prompt_tokens
from labeling.consistency import RATES, Kind
from labeling.errors import DataError
from labeling.files import replacing, versions, write_json
from labeling.llm import Conversation, Engine, Sampling
from labeling.pairs import Pairs, prompt_id, question
from rm.alone import alone

Method = Literal["srlm", "cream"]
Load = Callable[[Path], Engine]

CANDIDATES: dict[str, Sampling] = {
    "srlm": Sampling(n=4, temperature=0.7, top_p=0.9, max_tokens=512),
    "cream": Sampling(n=5, temperature=0.8, top_p=0.95, max_tokens=512),
}
"""How candidates are drawn by method (arXiv 2401.10020, 2410.12735)."""

GRADES = Sampling(n=3, temperature=0.7, top_p=0.9, max_tokens=300)
"""How graded answers are drawn (arXiv 2401.10020)."""


FOREIGN = {"srlm": ("cream", ("base", "rate", "per_prompt", "over")), "cream": ("srlm", ("grades",))}
"""Whose the settings are that a method cannot use, and which."""


@dataclass(frozen=True)
class SelfReward:
    """How a policy rewards itself.

    Raises DataError for values out of range, and settings of the other method.
    """

    method: Method = "srlm"
    """srlm: the policy grades its answers by the rubric of five points. cream: its implicit rewards rank them, and how
    far the policy before it agrees is the soft label."""
    iterations: int = 2
    candidates: Sampling | None = None
    """How answers are drawn; None = as the method's paper does (`CANDIDATES`)."""
    grades: Sampling | None = GRADES
    """srlm: how graded answers are drawn; None = none is: a grade is the mean of the digits by their probabilities."""
    base: str | None = None
    """cream: the model M_0 before fine-tuning, reference of the implicit rewards; None = the model a run starts from.
    The policy of the first iteration is then M_0 itself: nothing comes before it, and q is 1."""
    rate: Kind = "kendall"
    """cream: which consistency rate is C."""
    per_prompt: bool = False
    """cream: label each pair with the rate of its own prompt, not with the mean."""
    over: Over = "sum"
    """cream: implicit rewards are a sum over tokens, or their mean, which does not grow with length."""
    new_prompts: int = 0
    """Prompts that the starting model adds in each iteration, which are answered in place of those given (METHODS 4);
    0 = answer the same prompts each time."""
    seed: int = 0
    training: PolicyConfig = field(default_factory=PolicyConfig)
    """DPO from M_t, with M_t as the reference. Where no final learning rate is named, that of srlm is a tenth of the
    peak (1e-6 to 1e-7 in the paper)."""
    processes: int = 1
    """Processes that train, one a GPU: an optimizer step sees so many times the pairs of `training`."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method) or self.rate not in RATES:
            raise DataError(
                f"method is {self.method!r} and rate {self.rate!r}; expected {' or '.join(get_args(Method))}, and one "
                f"of {', '.join(RATES)}"
            )
        other, names = FOREIGN[self.method]
        usual = {one.name: one.default for one in fields(self)}
        foreign = [name for name in names if getattr(self, name) != usual[name]]
        if foreign:
            raise DataError(f"{', '.join(foreign)}: of method {other}, not {self.method}; leave it out")
        for name, least in (("iterations", 1), ("new_prompts", 0), ("processes", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}, expected {least} or more")
        check_held(self.training)
        if self.sampling(1).n < 2:
            raise DataError(f"n is {self.sampling(1).n}; expected 2 candidates a prompt or more, or there is no pair")
        if self.sampling(1).temperature == 0:
            raise DataError("temperature is 0, where all candidates are the same; expected a temperature above 0")

    def sampling(self, iteration: int) -> Sampling:
        """Return how the candidates of an iteration are drawn: each has another seed."""
        chosen = self.candidates or CANDIDATES[self.method]
        return Sampling(**asdict(chosen) | {"seed": self.seed + iteration})

    def grading(self, iteration: int) -> Sampling | None:
        """Return how the grades of an iteration are drawn."""
        return self.grades and replace(self.grades, seed=self.seed + iteration)

    def training_of(self, iteration: int) -> PolicyConfig:
        """Return how the policy of an iteration is trained."""
        final = self.training.final_learning_rate
        if final is None and self.method == "srlm":
            final = self.training.learning_rate / 10
        seed = self.training.seed + self.seed + iteration
        return replace(self.training, seed=seed, final_learning_rate=final)


def self_reward(
    prompts: Sequence[Conversation],
    model: str | Path,
    how: SelfReward,
    out: str | Path,
    *,
    gold: Pairs | None = None,
    load: Load | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Run the iterations, or what is left of them, in the folder `out`; return the ledger, one row an iteration.

    With `gold`, pairs that people labelled, each iteration first measures how far the policy that labels agrees with
    them; nothing is trained on these. `load` makes the engine that writes and grades from a model folder (default:
    transformers); implicit rewards and training always use transformers. `say` is told of each step. The policy it ends
    in is `policy_of(out, ledger)`. A run ends early where consistency is no better than chance, so that every q is 0.5:
    the policy would stay as it is, and then agree with itself in all that follows.

    Raises DataError for a folder that holds another run, an iteration without a pair (once its row is in the ledger),
    or without the extra `rlhf`.
    """
    from augment.self_gold import decided
    from augment.self_iteration import check_any_pair, drop_parts, run_iteration

    need_rlhf()
    folder = Path(out)
    gold = None if gold is None else decided(gold)
    start = folder / "iteration-0" / "model"
    check(prompts, model, how, folder, gold)
    with alone(folder):
        begin(folder, prompts, str(model), how, gold)
        for place in (folder, start.parent):
            drop_parts(place)
        if not start.is_dir():
            say(f"{model} -> {start}")
            save_as_folder(model, start, "float32")  # adapters are merged into it, whatever it trains in
        ledger, load = [], one_engine(folder, load or load_policy)
        for iteration in range(1, how.iterations + 1):
            ledger.append(run_iteration(folder, iteration, prompts, gold, how, load, say))
            with replacing(folder / "ledger.jsonl") as part:
                part.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in ledger), encoding="utf-8")
            check_any_pair(folder / f"iteration-{iteration}", ledger[-1])
            if ledger[-1]["stopped"]:
                break
    return ledger


def policy_of(out: str | Path, ledger: Sequence[Mapping[str, Any]]) -> Path:
    """Return the folder of the last policy that a run made."""
    made = [row["iteration"] for row in ledger if not row["stopped"]]
    return Path(out) / f"iteration-{max(made, default=0)}" / "model"


def check(
    prompts: Sequence[Conversation], model: str | Path, how: SelfReward, folder: Path, gold: Pairs | None = None
) -> None:
    """Raise DataError for what a run would fail on only after it has written something; nothing is written here.

    That is prompts that cannot be answered or, with new prompts, shown, a model that is none or has no room for
    answers, a base that is none or of another vocabulary than the model a run starts from, and gold pairs too long for
    implicit rewards.
    """
    if how.new_prompts:
        blank = [i for i, prompt in enumerate(prompts) if not (question(prompt) or "").strip()]
        if blank or not prompts:
            what = f"prompt {blank[0]} has no user turn with a text" if blank else "there are no prompts"
            raise DataError(f"{what}; expected one or more to show, each with a question: leave the others out")
    else:
        check_prompts(prompts)
    start = folder / "iteration-0" / "model"
    if start.is_dir() and not is_replaceable(folder):
        model = start
    else:
        _check_room(prompts, model, how)
    if how.base is not None:
        check_vocabulary(how.base, model)
        _check_room(prompts, how.base, how)  # it reads what the policy wrote
    if gold is not None and how.method == "cream":
        from augment.self_gold import check_lengths

        check_lengths(gold, model)


def _check_room(prompts: Sequence[Conversation], model: str | Path, how: SelfReward) -> None:
    """Raise DataError where no prompt leaves a model room for an answer, or it is none; no weights are loaded."""
    tokenizer, held, asked = policy_tokenizer(model), policy_context(model), how.sampling(1).max_tokens
    if held is None:
        return
    shortest = 1 if how.new_prompts else min(map(len, prompt_tokens(tokenizer, prompts)))
    if shortest + asked > held:
        raise DataError(
            f"{model} holds {held:,} tokens, too few for any of the prompts and the {asked:,} asked for its answer; "
            "ask for shorter answers (max_tokens)"
        )


def begin(
    folder: Path, prompts: Sequence[Conversation], model: str, how: SelfReward, gold: Pairs | None = None
) -> None:
    """Write what a run is to run.json, or raise DataError if the folder holds another run.

    More iterations may be asked for than a run began with: it goes on. Another run that has answered nothing yet is
    replaced.
    """
    if not is_begun(folder, prompts, model, how, gold):
        if is_replaceable(folder):
            for iteration in (0, 1):
                discard(folder / f"iteration-{iteration}")
        write_json(folder / "run.json", _record(prompts, model, how, gold) | {"versions": versions()})


def _record(prompts: Sequence[Conversation], model: str, how: SelfReward, gold: Pairs | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(described(prompts, model, how) | {"gold": _digest(gold)}))
    return found


def is_begun(folder: Path, prompts: Sequence[Conversation], model: str, how: SelfReward, gold: Pairs | None) -> bool:
    """Return whether the folder holds this run already.

    Raises DataError if it holds another that has answered something, or more iterations.
    """
    record = _record(prompts, model, how, gold)
    if record["base"] == record["model"]:
        raise DataError(f"base is {how.base}, which the run starts from: all implicit rewards would be 0; leave it out")
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    differ = changed({name: value for name, value in found.items() if name in record}, record)
    differ.pop("iterations", None)
    if differ and is_replaceable(folder):
        return False
    if differ:
        each = "; ".join(f"{name} is {there} there and {here} here" for name, (there, here) in differ.items())
        raise DataError(
            f"{folder} holds a run with other {' and '.join(differ)} ({each}); expected this run: go on with what that "
            "one began with, or pass another --out"
        )
    ledger = folder / "ledger.jsonl"
    n_done = len(ledger.read_text(encoding="utf-8").splitlines()) if ledger.exists() else 0
    if n_done > how.iterations:
        raise DataError(
            f"{folder} holds {n_done} finished iterations; expected iterations {n_done} or more, or pass another --out"
        )
    return True


def is_replaceable(folder: Path) -> bool:
    """Return whether a folder holds a run that has written no answer yet: a start that failed, for instance."""
    made = [path for path in folder.glob("iteration-[1-9]*/**/*") if path.is_file() and path.name[0] != "."]
    answered = (folder / "ledger.jsonl").exists() or any(path.name != "run.json" for path in made)
    return (folder / "run.json").is_file() and not answered


def one_engine(folder: Path, load: Load) -> Load:
    """Return `load` for a run: it raises DataError for another engine, or dtype, than that the run began with.

    Texts and grades of another engine would not be those of this run. run.json says which it was.
    """

    def checked(model: Path) -> Engine:
        engine = load(model)
        dtype = re.search(r" \(\w+\)$", engine.model)
        here = type(engine).__name__ + (dtype[0] if dtype else "")
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if "engine" not in run or is_replaceable(folder):
            write_json(folder / "run.json", run | {"engine": here})
        elif run["engine"] != here:
            raise DataError(
                f"{folder} holds a run of the engine {run['engine']}, and this is {here}; expected one engine and "
                "dtype for all iterations: go on with those it began with, or pass another --out"
            )
        return engine

    return checked


def described(prompts: Sequence[Conversation], model: str, how: SelfReward) -> dict[str, Any]:
    """Return what a run is known by: the same here, the same models there."""
    ids = "".join(prompt_id(prompt) for prompt in prompts)
    digest = hashlib.blake2b(ids.encode(), digest_size=16).hexdigest()
    models = {"model": known_as(model), "base": None if how.base is None else known_as(how.base)}
    return asdict(how) | {"prompts": digest, "n_prompts": len(prompts)} | models


def _digest(gold: Pairs | None) -> str | None:
    if gold is None:
        return None
    return hashlib.blake2b("".join(gold.pair_ids).encode() + gold.gold.tobytes(), digest_size=16).hexdigest()


def plan(
    prompts: Sequence[Conversation], model: str | Path, how: SelfReward, out: str | Path, gold: Pairs | None = None
) -> Iterator[str]:
    """Yield, line by line, what `self_reward` would do and what of it is done.

    Raises DataError where `out` holds another run, and for what `check` finds.
    """
    from augment.self_gold import decided
    from augment.self_iteration import steps_of, teaches

    gold = None if gold is None else decided(gold)
    check(prompts, model, how, Path(out), gold)
    is_begun(Path(out), prompts, str(model), how, gold)
    n = how.new_prompts or len({prompt_id(prompt) for prompt in prompts})
    n_candidates = n * how.sampling(1).n
    graded = n_candidates * (how.grades.n if how.grades else 1)
    asked = f"{graded:,} grades" if how.method == "srlm" else "implicit rewards"
    yield f"{how.method}: {how.iterations} iterations of {n:,} prompts, {n_candidates:,} candidates, {asked}"
    for iteration in range(1, how.iterations + 1):
        folder = Path(out) / f"iteration-{iteration}"
        if (folder / "pairs.parquet").exists() and not teaches(folder / "pairs.parquet"):
            yield f"{folder}: its pairs teach nothing, which ends the run"
            return
        steps = steps_of(how, gold)
        done = [name for name in steps if (folder / name).exists()]
        left = [name for name in steps if name not in done]
        yield f"{folder}: done {', '.join(done) or 'nothing'}; to do {', '.join(left) or 'nothing'}"
