"""New prompts: what a model writes is parsed, filtered by the stated rules, and counted."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from augment.new_prompts import FewShot, Pool, PromptFilter, items, new_prompts, request
from labeling.errors import DataError, WeakprefWarning
from labeling.llm import Completion

SEEDS = [[{"role": "user", "content": text}] for text in (
    "Write a poem about the sea.", "Explain gravity to a child.", "List five uses of a brick.",
    "Translate good morning into Spanish.", "Plan a week of dinners.", "Suggest names for a grey cat.",
    "Sum up the plot of Hamlet.", "Give three tips for better sleep.", "Compare tea and coffee.",
)]  # fmt: skip
NOUNS = [
    "apple", "bridge", "cloud", "desert", "engine", "forest", "garden", "harbour", "island", "jungle", "kettle",
    "lantern", "mountain", "needle",
]  # fmt: skip


class Author:
    """Writes three numbered tasks of random nouns a request; remembers what it was shown."""

    model = source = "author@1"
    context = None

    def __init__(self):
        self.requests = []

    def generate(self, prompts, sampling):
        self.requests += prompts
        return [[self.complete(prompt[0]["content"], sampling.seed)] for prompt in prompts]

    def complete(self, text, seed):
        digest = hashlib.sha256(f"{text} {seed}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        lines = [" ".join(["Tell", "me", *rng.choice(NOUNS, 5, replace=False)]) for _ in range(3)]
        return Completion(f" {lines[0]}.\nTask 10: {lines[1]}.\nTask 11: {lines[2]}.", 30, -1.0, "stop")


class Says(Author):
    """Always writes the same."""

    def __init__(self, text, finish_reason="stop"):
        super().__init__()
        self.completion = Completion(text, 5, -1.0, finish_reason)

    def complete(self, text, seed):
        return self.completion


def test_new_prompts_differ_from_each_other_and_are_the_same_every_time():
    found = new_prompts(SEEDS, Author(), 12)
    texts = [prompt[0]["content"] for prompt in found.prompts]
    assert len(texts) == 12
    assert found.prompts == new_prompts(SEEDS, Author(), 12).prompts
    assert found.prompts != new_prompts(SEEDS, Author(), 12, how=FewShot(seed=1)).prompts
    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(a, b)["rougeL"].fmeasure for i, a in enumerate(texts) for b in texts[:i]]
    assert max(scores) < 0.7


def test_prompts_to_avoid_are_not_written_again():
    first = new_prompts(SEEDS, Author(), 4).prompts
    [turns, *_] = first
    second = new_prompts(SEEDS, Author(), 4, avoid=[turns])
    assert turns not in second.prompts
    assert sum(count for why, count in second.left_out.items() if why.startswith("ROUGE-L"))


def test_a_request_shows_six_seeds_and_two_new_prompts_once_there_are_some():
    author = Author()
    found = new_prompts(SEEDS, author, 10, how=FewShot(batch=1))
    seeds = {prompt[0]["content"] for prompt in SEEDS}
    new = {prompt[0]["content"] for prompt in found.prompts}
    shown = [
        [
            line.split(": ", 1)[1]
            for line in asked[0]["content"].splitlines()
            if line.startswith("Task") and ": " in line
        ]
        for asked in author.requests
    ]
    assert [len(texts) for texts in shown] == [8] * len(shown)
    assert set(shown[0]) <= seeds
    assert [sum(text in new for text in texts) for texts in shown[1:]] == [2] * (len(shown) - 1)


def test_what_is_left_out_is_counted_by_its_reason_and_too_few_are_a_warning():
    text = (
        "Here you are:\n1. Write a poem about the SEA!\n2) Draw me a picture of some sheep.\n3. Why so?\n"
        "4. ---\nTask 5: " + "very " * 151 + "long\n6. Describe how a candle burns to its end.\n7. Describe how a can"
    )
    with pytest.warns(WeakprefWarning, match=r"1 of 9 new prompts after 1 requests; left out: .* 1 a keyword"):
        found = new_prompts(SEEDS, Says(text, "length"), 9, how=FewShot(max_requests=1))
    assert [prompt[0]["content"] for prompt in found.prompts] == ["Describe how a candle burns to its end."]
    assert found.left_out == {
        "ROUGE-L of 0.7 or more with a seed or a kept prompt": 1,
        "a keyword": 1,
        "cut at max_tokens": 1,
        "no words": 1,
        "over 150 words": 1,
        "under 4 words": 1,
    }
    assert (found.n_requests, found.n_tokens) == (1, 5)


def test_a_model_that_repeats_itself_ends_after_the_most_requests():
    with pytest.warns(WeakprefWarning, match="1 of 2 new prompts after 24 requests"):
        found = new_prompts(SEEDS[:1], Says("Describe how a candle burns."), 2)
    assert sum(found.left_out.values()) == 23


def test_one_seed_asked_again_is_asked_with_another_seed():
    assert len(new_prompts(SEEDS[:1], Author(), 8, how=FewShot(batch=1, n_new=0)).prompts) == 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Name a river.", ["Name a river."]),
        ("Sure!\nTask 3: Name\n  a river.\n\n**Task 4:** Sing.", ["Name a river.", "** Sing."]),
        ("3. One.\n4) Two.\n 5: Three.", ["One.", "Two.", "Three."]),
        ("Add 3. and 4. to it", ["Add 3. and 4. to it"]),
    ],
)
def test_a_completion_is_split_at_numbered_lines(text, found):
    assert [item for item, _ in items(Completion(text, 1, -1.0, "stop"), first=1)] == found


def test_the_number_the_request_ends_with_has_a_prompt_before_the_next_number():
    written = Completion("Name a river.\nTask 10: Sing.", 1, -1.0, "stop")
    assert [item for item, _ in items(written, first=9)] == ["Name a river.", "Sing."]
    assert [item for item, _ in items(written, first=8)] == ["Sing."]  # an introduction
    said = Completion("Here are more tasks:\nTask 10: Sing.", 1, -1.0, "stop")
    assert [item for item, _ in items(said, first=9)] == ["Sing."]


@pytest.mark.parametrize("blank", ["\n", " ", "\t\n", "- \n", "task \n"])
def test_an_answer_of_nothing_but_blanks_is_read_at_once(blank):
    start = time.process_time()
    assert len(list(items(Completion(blank * 20_000, 1, -1.0, "length"), first=9))) == 1
    assert time.process_time() - start < 1  # it took minutes


@pytest.mark.parametrize(
    "prompt",
    [
        "Sum up:\n3.5 million people live in Berlin.",
        "What happened in\n1989: the wall fell?",
        "1" * 5000 + ": ones",
    ],
)
def test_numbers_that_number_nothing_do_not_cut_a_prompt(prompt):
    found = list(items(Completion(f"{prompt}\nTask 10: Sing.", 1, -1.0, "stop"), first=9))
    assert found == [(" ".join(prompt.split()), False), ("Sing.", False)]


def test_similarity_is_rouge_l_to_the_last_digit_and_knows_other_scripts():
    rng = np.random.default_rng(0)
    seeds = [" ".join(rng.choice(NOUNS, rng.integers(4, 9))) for _ in range(30)]
    scorer = RougeScorer(["rougeL"])
    for text in (" ".join(rng.choice(NOUNS, rng.integers(4, 9))) for _ in range(200)):
        alike = max(scorer.score(seed, text)["rougeL"].fmeasure for seed in seeds) >= 0.5
        assert bool(Pool(PromptFilter(max_rouge=0.5), seeds).refuse(text)) is alike
    pool = Pool(PromptFilter(), ["Напиши короткий стих о море"])
    assert "ROUGE-L" in pool.refuse("напиши короткий стих о Море")
    assert pool.refuse("Объясни ребёнку закон тяготения Ньютона") == ""


def test_keywords_are_whole_words():
    pool = Pool(PromptFilter(), [])
    assert pool.refuse("Go to the shop and buy eggs") == "a keyword"
    assert pool.refuse("Explain what mapping and drawing mean here") == ""
    assert Pool(PromptFilter(keywords=()), []).refuse("Draw me a sheep please") == ""


def test_dialogues_show_their_last_user_turn():
    dialogue = [*SEEDS[0], {"role": "assistant", "content": "No."}, {"role": "user", "content": "Then about\nsnow?"}]
    author = Author()
    new_prompts([dialogue], author, 1)
    assert author.requests[0] == request(["Then about snow?"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed_prompts": []}, "there are no seed prompts"),
        ({"seed_prompts": [[{"role": "system", "content": "Be kind."}]]}, "seed 0 has no user turn"),
        ({"n": 0}, "n is 0"),
        ({"how": FewShot(batch=0)}, "batch=0"),
        ({"keep": PromptFilter(max_rouge=0)}, r"max_rouge is 0, expected it in \(0, 1\]"),
        ({"keep": PromptFilter(min_words=9, max_words=8)}, "min_words 9 and max_words 8"),
    ],
)
def test_settings_out_of_range_are_named(arguments, words):
    with pytest.raises(DataError, match=words):
        new_prompts(**({"seed_prompts": SEEDS, "engine": Author(), "n": 1} | arguments))


class Small(Author):
    """Holds so many characters of a request, and 512 of answer."""

    def __init__(self, room):
        super().__init__()
        self.context = room + 512

    def count_tokens(self, prompts):
        return [len(prompt[0]["content"]) for prompt in prompts]

    def generate(self, prompts, sampling):
        assert all(count + sampling.max_tokens <= self.context for count in self.count_tokens(prompts))
        return super().generate(prompts, sampling)


def test_a_seed_too_long_to_be_shown_is_not_and_the_others_are():
    seeds = [*SEEDS, [{"role": "user", "content": "Explain this: " + "word " * 300}]]
    model = Small(1200)
    assert len(new_prompts(seeds, model, 5).prompts) == 5
    assert not any("word word" in request[0]["content"] for request in model.requests)


@pytest.mark.parametrize("text", ["Tell me of \0 and other signs", "Tell me of \ud800 and other signs"])
def test_a_prompt_that_no_file_holds_is_left_out(text):
    with pytest.warns(WeakprefWarning, match="of characters that no file holds"):
        assert not new_prompts(SEEDS, Says(f" {text}"), 1, how=FewShot(max_requests=2)).prompts


def test_a_seed_without_a_text_is_named():
    with pytest.raises(DataError, match="seed 1 has no user turn with a text"):
        new_prompts([SEEDS[0], [{"role": "user", "content": None}]], Author(), 1)
