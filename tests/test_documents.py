"""What the documents say is true: README blocks run, tables are committed figures, the tree is whole, names sorted."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run_blocks(name, folder, monkeypatch):
    (folder / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(folder)
    source = "\n".join(blocks((ROOT / name).read_text(encoding="utf-8"), "python"))
    said = {"__name__": "document"}
    exec(compile(source, name, "exec"), said)
    return said


def benchmark(name, monkeypatch):
    """The module of a script under benchmarks/, which may import its neighbours."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module(name)


@pytest.mark.slow
def test_the_readmes_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    run_blocks("README.md", tmp_path, monkeypatch)
    assert (tmp_path / "augmented" / "data" / "train-00000-of-00001.parquet").is_file()
    assert (tmp_path / "runs" / "rm0" / "model.safetensors").is_file()


def test_the_readme_starts_with_the_two_commands():
    first = blocks(README, "sh")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))])
def test_every_block_that_is_opened_is_closed(name):
    fences = re.findall(r"^```.*$", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert all(closes == "```" != opens for opens, closes in zip(fences[::2], fences[1::2], strict=True))


@pytest.mark.parametrize("data", ["quickstart"])
def test_the_readmes_result_tables_are_the_committed_figures(data, monkeypatch):
    path = ROOT / "data" / "bench" / f"demo_{data}.json"
    tables = benchmark("demo_tables", monkeypatch)
    assert tables.table(json.loads(path.read_text(encoding="utf-8"))) in README


@pytest.mark.slow
def test_the_python_on_label_models_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    said = run_blocks("docs/label_models.md", tmp_path, monkeypatch)
    assert (said["from_batches"].posterior(said["votes"]) == said["p_a"]).all()
    assert (said["from_file"].posterior(said["votes"]) == said["p_a"]).all()
    assert {path.name for path in tmp_path.glob("*.png")} == {"evidence.png", "dependence.png", "reliability.png"}
    without_gold, with_gold = said["losses"]
    assert without_gold > 1 > 0.5 > with_gold


def test_the_tables_on_label_models_are_the_committed_figures(monkeypatch):
    text = (ROOT / "docs" / "label_models.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- table:([\w-]+) -->\n(.*?)\n<!-- /table -->", text, flags=re.DOTALL))
    made = benchmark("label_tables", monkeypatch).tables()
    assert shown.keys() == {"no-gold-m10", "200-gold-m10", "no-gold-m25", "200-gold-m25", "real", "few-labels", "cost"}
    for name, table in shown.items():
        expected = made.get(name, "(not measured yet)")
        assert table == expected, f"table {name}: run python benchmarks/label_tables.py docs/label_models.md"


def shown_and_said(name):
    """Pairs of a document's Python block and the output it shows below, both as they stand."""
    text = (ROOT / name).read_text(encoding="utf-8")
    pattern = r"^```python\n(.*?)^```\n\n<!-- output -->\n```text\n(.*?)^```"
    return re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL)


def parted(text):
    """The words of a text with its numbers left out, and the numbers."""
    number = r"[-+]?\d[\d,]*(?:\.\d+)?"
    return re.sub(number, "#", text), [float(found.replace(",", "")) for found in re.findall(number, text)]


@pytest.mark.slow
def test_the_python_on_judges_runs_and_says_what_is_shown(tmp_path, monkeypatch, capsys, smollm2_folder):
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    said = {"__name__": "document"}
    shown = shown_and_said("docs/judges.md")
    assert len(shown) == len(blocks((ROOT / "docs" / "judges.md").read_text(encoding="utf-8"), "python")) == 2
    for source, output in shown:
        exec(compile(source, "docs/judges.md", "exec"), said)
        (words, numbers), (expected, values) = parted(capsys.readouterr().out), parted(output)
        assert words == expected
        assert numbers == pytest.approx(values, abs=0.11)  # log-odds with one decimal, on another processor


def test_the_tables_on_judges_are_the_committed_figures(monkeypatch):
    text = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- table:([\w-]+) -->\n(.*?)\n?<!-- /table -->", text, flags=re.DOTALL))
    made = benchmark("judge_tables", monkeypatch).tables()
    assert shown.keys() == {"alone", "label-model", "weights", "attacks", "throughput"}
    for name, table in shown.items():
        assert table == made[name], f"table {name}: run python benchmarks/judge_tables.py docs/judges.md"


def test_the_table_on_training_is_the_committed_figures(monkeypatch):
    text = (ROOT / "docs" / "reward_models.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- table:([\w-]+) -->\n(.*?)\n<!-- /table -->", text, flags=re.DOTALL))
    made = benchmark("train_rm_tables", monkeypatch).tables()
    assert shown == made, "run python benchmarks/train_rm_tables.py docs/reward_models.md"


def test_the_numbers_fixed_by_hand_are_those_of_the_code():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)\.([A-Z_]+)` \| (.+?) \|", text, flags=re.MULTILINE)
    assert len(rows) > 20
    for module, name, value in rows:
        assert getattr(importlib.import_module(module), name) == ast.literal_eval(value), f"{module}.{name}"


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CHANGELOG.md",
        "docs/align.md",
        "docs/evolve.md",
        "docs/judges.md",
        "docs/label_models.md",
        "docs/methods.md",
        "docs/reward_models.md",
        "docs/voters.md",
    ],
)
def test_links_between_documents_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert ((ROOT / document).parent / target).is_file(), f"{document} links to {target}"


@pytest.mark.parametrize(("document", "n"), [("docs/label_models.md", 3), ("docs/judges.md", 4), ("docs/voters.md", 3)])
def test_the_shell_lines_of_documents_name_commands_and_options_there_are(document, n, monkeypatch, capsys):
    from augment.cli import main

    text = (ROOT / document).read_text(encoding="utf-8")
    lines = [line for block in blocks(text, "sh") for line in block.splitlines() if line.startswith("weakpref ")]
    assert len(lines) == n
    monkeypatch.setenv("COLUMNS", "200")
    for line in lines:
        command, *options = line.split("#")[0].split()[1:]
        main([command, "--help"])
        helped = capsys.readouterr().out.split()
        assert all(option in helped for option in options if option.startswith("-")), line


def test_the_shell_lines_on_policies_name_commands_and_options_there_are(monkeypatch, capsys):
    from augment.cli import main

    text = (
        (ROOT / "docs" / "align.md")
        .read_text(encoding="utf-8")
        .replace("\\\n", " ")
        .replace('"$(which weakpref)"', "weakpref")
    )
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    monkeypatch.setenv("COLUMNS", "200")
    for line in lines:
        command, *options = line.partition("weakpref ")[2].split("#")[0].split()
        assert main([command, "--help"]) == 0
        helped = capsys.readouterr().out.split()
        assert all(option in helped for option in options if option.startswith("-")), line


def test_the_shell_lines_on_reward_models_name_commands_and_options_there_are(monkeypatch, capsys):
    from augment.cli import main

    text = (ROOT / "docs" / "reward_models.md").read_text(encoding="utf-8")
    lines = [line for block in blocks(text, "sh") for line in block.splitlines() if line.startswith("weakpref ")]
    assert len(lines) >= 4
    monkeypatch.setenv("COLUMNS", "200")
    for line in lines:
        command, *options = line.split("#")[0].split()[1:]
        main([command, "--help"])
        helped = capsys.readouterr().out.replace(",", " ").split()
        assert all(option in helped for option in options if option.startswith("-")), line


def test_the_readmes_tree_names_every_module():
    for package in ("labeling", "rm", "augment"):
        for path in (ROOT / package).glob("*.py"):
            if path.name != "__init__.py":
                assert f" {path.name} " in README, f"{package}/{path.name} is missing from the README's tree"


@pytest.mark.parametrize("package", ["labeling", "augment", "rm"])
def test_public_names_are_sorted_and_exist(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == list(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_importing_labeling_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, labeling; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_field_of_the_reward_config_explains_itself():
    from dataclasses import fields

    from rm import RewardConfig

    assert all(field.metadata["help"].endswith(".") for field in fields(RewardConfig))


def test_the_tables_on_self_improvement_are_the_committed_figures(monkeypatch):
    text = (ROOT / "docs" / "evolve.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- table:([\w-]+) -->\n(.*?)\n<!-- /table -->", text, flags=re.DOTALL))
    tables = benchmark("evolve_tables", monkeypatch).tables()
    assert shown == tables, "run python benchmarks/evolve_tables.py"
    for data in ("ukp_convincing", "hh_harmless"):
        assert tables[data] in README, "run the same"
        for arm in ("equal steps", "oracle", "random", "full"):  # a gain is none where a control explains it
            row = re.search(rf"^\| {arm} \|(.*)", tables[data], flags=re.MULTILINE)[1]
            assert all("/" in cell for cell in row.split(" | ")[::2]), (data, arm)


def test_the_table_on_alignment_is_the_committed_figures(monkeypatch):
    text = (ROOT / "docs" / "align.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- table:align -->\n(.*?)\n<!-- /table -->", text, flags=re.DOTALL)[1]
    align = benchmark("align", monkeypatch)
    assert shown == align.table(json.loads(align.OUT.read_text(encoding="utf-8"))), "python benchmarks/align.py --table"


@pytest.mark.slow
def test_the_python_on_self_improvement_runs(tmp_path, monkeypatch):
    said = run_blocks("docs/evolve.md", tmp_path, monkeypatch)
    assert [row["iteration"] for row in said["found"].rows] == [0, 1]
    assert said["found"].rows[1]["pool"] == len(said["pairs"]) - 50
    assert 0 < said["found"].rows[1]["label_accuracy"] < 1


def test_the_dry_run_on_self_improvement_prints_what_its_page_shows(tmp_path, monkeypatch, capsys):
    from augment.cli import main

    text = (ROOT / "docs" / "evolve.md").read_text(encoding="utf-8").partition("## An example")[2]
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    assert main(blocks(text, "sh")[0].split()[1:]) == 0
    assert capsys.readouterr().out == blocks(text, "text")[0]


def test_the_shell_lines_on_self_improvement_name_options_there_are(monkeypatch, capsys):
    from augment.cli import main

    monkeypatch.setenv("COLUMNS", "200")
    main(["evolve", "--help"])
    helped = capsys.readouterr().out
    text = (ROOT / "docs" / "evolve.md").read_text(encoding="utf-8")
    options = {word for block in blocks(text, "sh") for word in block.split() if word.startswith("-")}
    options |= set(re.findall(r"`(--[a-z-]+)", text))
    assert len(options) > 15
    assert all(option in helped for option in options), options


def test_the_python_on_voters_runs(tmp_path, monkeypatch, capsys):
    run_blocks("docs/voters.md", tmp_path, monkeypatch)
    assert "n_questions" in capsys.readouterr().out


def test_the_list_of_heuristics_is_that_of_the_code_and_its_figures_the_committed_ones(monkeypatch):
    from labeling import heuristics

    text = (ROOT / "docs" / "voters.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| (all|default) \|$", text, flags=re.MULTILINE)
    built_in = heuristics()
    assert [name for name, *_ in listed] == [voter.name for voter in built_in]
    everywhere = {voter.name for voter in heuristics("paper")}
    assert everywhere == {voter.name for voter in heuristics("as_released")}
    for voter, (name, prefers, difference, presets) in zip(built_in, listed, strict=True):
        assert presets == ("all" if name in everywhere else "default")
        assert difference.startswith(f"{voter.min_difference:g}" if voter.min_difference else "any")
        assert ("or more" in difference) == (voter.min_difference > 0 and voter.max_difference == float("inf"))
        assert (voter.direction > 0) == prefers.startswith(("more", "a more")), name
    found = json.loads((ROOT / "data" / "bench" / "heuristics.json").read_text(encoding="utf-8"))
    tables = benchmark("heuristics", monkeypatch)
    shown = re.search(r"<!-- table:heuristics -->\n(.*?)\n<!-- /table -->", text, flags=re.DOTALL)[1]
    assert shown == tables.table({name: found[name] for name in tables.SETS})
