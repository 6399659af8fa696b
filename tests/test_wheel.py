"""The wheel, installed with its dependencies into a clean environment, runs."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SMOKE = """
import importlib.metadata, importlib.resources, json
import labeling, augment, rm
from augment.demo import quickstart
pairs = labeling.read_pairs(quickstart())
votes = labeling.apply(labeling.heuristics(), pairs)
p_a = labeling.LabelModel().fit(votes, pairs.gold).posterior(votes)
augment.export("augmented", pairs, p_a, votes=votes)
templates = importlib.resources.files("labeling") / "templates"
assert {path.name for path in templates.iterdir()} == {"criterion.jinja", "pairwise.jinja", "rubric.jinja"}
homes = importlib.metadata.packages_distributions()
print(json.dumps({name: sorted(set(homes[name])) for name in ("labeling", "augment", "rm")}))
"""


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("weakpref-*.whl")
    venv.create(tmp_path / "clean", with_pip=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    smoke = subprocess.run([python, "-c", SMOKE], cwd=tmp_path, check=True, capture_output=True, text=True)
    homes = json.loads(smoke.stdout.splitlines()[-1])
    assert homes == {"labeling": ["weakpref"], "augment": ["weakpref"], "rm": ["weakpref"]}
    command = str(tmp_path / "clean" / "bin" / "weakpref")
    shown = subprocess.run([command, "--help"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "demo" in shown
    assert not (tmp_path / "clean" / "bin" / "rm").exists()
