from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import rm
from augment.cli import main as weakpref
from labeling.errors import DataError, WeakprefError
from labeling.files import write_json
from rm.command import arguments, main
from rm.config import RewardConfig
from rm.launch import PRESETS, launch, preset
from rm.run_folder import described

CHANGED = {
    "learning_rate": 3e-4, "head_learning_rate": 1e-3, "max_steps": 7, "objective": "ipo", "objective_parameter": 0.5,
    "lora_r": 8, "lora_targets": "q_proj,v_proj", "keep_adapter": True, "bf16": False, "seed": 3,
    "mix": (0.75, 0.25), "on_long": "drop", "token_budget": 4096, "eval_share": 0.1, "patience": 2,
}  # fmt: skip


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, RewardConfig, dict[str, Any]]]:
    """What `rm.train` was called with, in place of training."""
    calls: list[tuple[Any, RewardConfig, dict[str, Any]]] = []
    monkeypatch.setattr(rm, "train", lambda data, config, **how: calls.append((data, config, how)))
    return calls


def test_the_help_shows_every_field_in_its_own_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["--help"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(RewardConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
        assert "".join(field.metadata["help"].split()) in shown


def test_a_config_written_as_a_command_line_is_read_back(trained: list[Any]) -> None:
    config = RewardConfig("base", **CHANGED)
    assert main(arguments([Path("a"), Path("b")], Path("rm0"), True, config, Path("c"), Path("t"))) == 0
    how = {"out": Path("rm0"), "resume": True, "cache": Path("t"), "held_out": Path("c")}
    assert trained == [([Path("a"), Path("b")], config, how)]


def test_without_options_the_defaults_are_trained_with(trained: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["augmented", "-o", "rm0"]) == 0
    how = {"out": Path("rm0"), "resume": False, "cache": None, "held_out": None}
    assert trained == [(Path("augmented"), RewardConfig("minilm"), how)]
    assert capsys.readouterr().out == "rm0: reward model trained from minilm on augmented\n"


def test_only_the_first_of_several_processes_speaks(
    trained: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["augmented", "-o", "rm0"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["augmented", "-o", "rm0", "--learning-rate", "0"], "learning_rate is 0.0, expected a number above 0"),
        (["augmented", "-o", "rm0", "--preset", "zero3"], "preset is 'zero3', expected one of single, ddp, fsdp2"),
        (["augmented", "-o", "rm0", "--learning-rat", "0"], "No such option: --learning-rat"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("rm.train: error: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings_accelerate_reads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    settings = load_config_from_file(str(preset(name)))
    processes, kind = {"single": (1, "NO"), "ddp": (8, "MULTI_GPU"), "fsdp2": (8, "FSDP")}[name]
    assert (settings.num_processes, str(settings.distributed_type).split(".")[-1]) == (processes, kind)
    assert yaml.safe_load(preset(name).read_text())["use_cpu"] is False
    if name == "fsdp2":
        assert settings.fsdp_config["fsdp_version"] == 2


def test_a_launch_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm.launch.command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(WeakprefError, match="ended with exit code 3"):
        launch("ddp", [], "rm.train", [])
    with pytest.raises(DataError, match="preset is 'none'"):
        preset("none")


def test_what_was_launched_ends_with_a_launcher_that_is_killed() -> None:
    child = (
        "import os, time; from rm.launch import end_with_launcher; end_with_launcher(); "
        "print(os.getpid(), flush=True); time.sleep(30); print('left behind')"
    )
    launcher = (
        "import sys, rm.launch; "
        f"rm.launch.command = lambda *_: [sys.executable, '-c', {child!r}]; rm.launch.launch('ddp', [], '', [])"
    )
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert int(run.stdout.readline()) > 0
        assert run.poll() is None
        run.kill()
        assert run.stdout.read() == ""  # returns when the child, which holds the other end, is gone
    assert run.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_the_function_stays_callable_by_its_name_when_the_module_is_imported() -> None:
    """`-m rm.train` needs a module where the package has a function; importing the one must not cost the other."""
    code = (
        "import importlib, labeling.errors, rm; function = rm.train; module = importlib.import_module('rm.train')\n"
        "from rm import train\n"
        "for each in (function, module, rm.train, train):\n"
        "    try: each('gone.parquet', rm.RewardConfig('minilm'), out='rm0')\n"
        "    except labeling.errors.DataError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.count("gone.parquet: expected a Parquet file or a folder") == 4


@pytest.mark.slow
def test_python_m_rm_train_is_the_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rm.train", "gone.parquet", "--out", str(tmp_path / "rm0")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("rm.train: error: gone.parquet: expected a Parquet file or a folder")
    assert "RuntimeWarning" not in ran.stderr


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_trains_nothing(
    tiny: str, universal: Any, conversations: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = universal(conversations(6))
    assert main([str(data), "-o", str(tmp_path / "rm0"), "--model", tiny, "--max-length", "128", "--dry-run"]) == 0
    assert "token" in capsys.readouterr().out
    assert not (tmp_path / "rm0").exists()
    assert [path.name for path in tmp_path.iterdir()] == [data.name]


@pytest.mark.slow
def test_a_dry_run_takes_what_is_held_out_and_refuses_what_a_run_would(
    tiny: str, universal: Any, conversations: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = conversations(6)
    data, other = universal(rows[:4], name="a.parquet"), universal(rows[4:], name="b.parquet")
    asked = [str(data), "-o", str(tmp_path / "rm0"), "--model", tiny, "--max-length", "128", "--dry-run"]
    assert main([*asked, "--held-out", str(other), "--cache", str(tmp_path / "tokens")]) == 0
    assert "held out     2 pairs" in capsys.readouterr().out
    assert (tmp_path / "tokens").is_dir()
    assert main([*asked, "--report-to", "tensorbord"]) == 2
    assert "nothing is called 'tensorbord'; known are" in capsys.readouterr().err
    assert main([*asked, "--preset", "dpp"]) == 2
    assert "preset is 'dpp', expected one of" in capsys.readouterr().err
    (tmp_path / "rm0").mkdir()
    (tmp_path / "rm0" / "config.json").touch()
    assert main(asked) == 2
    assert "rm0 already exists" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_of_several_processes_takes_their_checkpoints_for_its_own(
    tiny: str, universal: Any, conversations: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = universal(conversations(4)), tmp_path / "rm0"
    asked = [str(data), "-o", str(out), "--model", tiny, "--max-length", "128", "--dry-run", "--preset", "ddp"]
    run = described([data], RewardConfig(tiny, max_length=128)) | {"processes": 4}
    write_json(tmp_path / "rm0.checkpoints" / "run.json", run)
    assert main([*asked, "--resume"]) == 0
    assert "token" in capsys.readouterr().out
    assert main([*asked, "--resume", "--seed", "9"]) == 2
    assert "belongs to another run (seed differ)" in capsys.readouterr().err


def test_resuming_what_never_began_says_so(
    trained: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert weakpref(["train", "augmented", "-o", "rm0", "--resume"]) == 0
    assert "there is no run to rm0 to resume: it begins anew" in capsys.readouterr().err
    write_json(tmp_path / "rm0.checkpoints" / "run.json", {})
    assert weakpref(["train", "augmented", "-o", "rm0", "--resume"]) == 0
    assert main(["augmented", "-o", "rm1", "--resume"]) == 0  # as a loop launches it
    assert capsys.readouterr().err == ""
    assert len(trained) == 3
