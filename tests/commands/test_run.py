"""The help of `tapir run`, and the smallest run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from assets import ROOT

from tapir_exp.commands.command_line import CLASSIFY_GROUPS
from tapir_exp.commands.run import main
from tapir_exp.core.manifest import Manifest


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["student=lab", "--help"]], ids=" ".join)
def test_help_names_every_group_and_choice(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    main(arguments)
    text = capsys.readouterr().out
    lines = {words[0]: words[1:] for line in text.splitlines() if (words := line.replace(",", "").split())}
    for leaf in (ROOT / "conf").glob("*/*.yaml"):
        if leaf.parent.name not in CLASSIFY_GROUPS:
            assert leaf.stem in lines[leaf.parent.name]
    assert not set(CLASSIFY_GROUPS) & set(lines)
    assert "lab_ablation" in lines["sweeps"]


@pytest.mark.slow
def test_tiny_run_goes_through_every_stage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tapir_exp", "debug=tiny", f"outputs={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "runs", "store"}
    run = (tmp_path / "latest").resolve()
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "report.html", "spend.json"} <= {
        path.name for path in run.iterdir()
    }
    names = set(Manifest.load(run).open(run))
    assert {f"{stage}-2" for stage in ("plan", "expansions", "train_mix", "student", "benchmark")} <= names
    assert len([json.loads(line) for line in (run / "metrics.jsonl").open()]) == 3
