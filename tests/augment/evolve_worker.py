"""A process that loads everything once, then runs loops on a tiny model in forks of itself, to be killed one by one.

python evolve_worker.py MODEL: for each line "CASE|FOLDER" of stdin it prints a fork's process id, then its exit status.
"""

import os
import sys

import pandas as pd
import torch
import transformers

import rm.trainer
from augment import EvolveOptions, evolve
from augment.learning_status import Thresholds
from labeling import read_pairs, scoring_function, split_by_group
from rm import RewardConfig

EASY = Thresholds(high=0.5, low=0.5, delta=0.0, enough=1)
CASES = {
    "ser+ws": {"controls": ("equal-steps",)},
    "ser, paper": {"method": "ser", "thresholds": EASY, "controls": ("oracle", "random")},
    "ser, as_released": {"method": "ser", "preset": "as_released", "thresholds": EASY},
    "ensemble": {"method": "ensemble", "members": 2},
    "ensemble, consistency": {"method": "ensemble", "members": 2, "soft_label": "consistency"},
}
LOADED = (torch, transformers.Trainer, transformers.AutoModelForSequenceClassification, rm.trainer)


@scoring_function
def longer(prompt, response):
    return len(response)


def rows():
    for i in range(30):
        long, short = f"reply {i} " + "more words " * (2 + i % 3), f"reply {i}."
        a_long, right = i % 3 == 0, i % 7 != 0
        sides = {"response_a": long if a_long else short, "response_b": short if a_long else long}
        yield {"prompt": f"question {i // 2}?", **sides, "gold": float(a_long == right)}


def run(case, out, model):
    config = RewardConfig(model=model, max_steps=2, batch_size=12, learning_rate=1e-3, max_length=64)
    options = EvolveOptions(config=config, gold=12, iterations=2, folds=2, **CASES[case])
    pairs, test = split_by_group(read_pairs(pd.DataFrame(rows())), 0.2)
    voters = [longer] if case == "ser+ws" else None
    evolve(pairs, out, options, test=test, voters=voters, resume=True)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(*line.strip().split("|"), sys.argv[1])
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
