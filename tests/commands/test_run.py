"""The help of `tapir run`, and the smallest run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from assets import ROOT
from preloaded import run_preloaded

from tapir_exp.commands import run_job
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
    result = run_preloaded(["debug=tiny", f"outputs={tmp_path}"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "runs", "store"}
    run = (tmp_path / "latest").resolve()
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "report.html", "spend.json"} <= {
        path.name for path in run.iterdir()
    }
    artifacts = Manifest.load(run).open(run)
    assert {f"{stage}-2" for stage in ("plan", "expansions", "train_mix", "student", "benchmark")} <= artifacts.keys()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert len(metrics) == 3
    # The number of calls does not depend on the cache, and in a new store each of them is paid.
    by_role = [artifact.figures.get("spend", {}) for artifact in artifacts.values()]
    assert metrics[-1]["teacher/calls_total"] == sum(
        spend["teacher"]["calls"] for spend in by_role if "teacher" in spend
    )
    plan = run_preloaded(["plan", "debug=tiny", f"outputs={tmp_path}", "--json"], cwd=tmp_path)
    found = json.loads(plan.stdout)
    paid = json.loads((run / "spend.json").read_text())["scope"]
    # Finished stages show what they paid, and nothing remains.
    assert (found["total"]["done"], found["total"]["most"]["calls"]) == (found["total"]["of"], 0)
    assert {name: found["total"]["spent"][name] for name in paid} == paid


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory"])
def test_latest_is_replaced_unless_it_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_job.console, "print", lambda text, **_: said.append(text))
    (tmp_path / "runs" / "one").mkdir(parents=True)
    latest = tmp_path / "latest"
    if kind == "directory":
        latest.mkdir()
        (latest / "kept").touch()
    else:
        latest.symlink_to("runs" if kind == "link" else "gone")
    run_job._link_latest(tmp_path / "runs" / "one", tmp_path)
    assert (latest / "kept").is_file() if kind == "directory" else latest.readlink() == Path("runs/one")
    assert [text.startswith(f"warning: {latest} is a directory") for text in said] == [True] * (kind == "directory")
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "runs"}


@pytest.mark.parametrize(
    ("student", "rate", "warned"), [("lab", 2e-3, False), ("owner/m", 2e-4, False), ("owner/m", 2e-3, True)]
)
def test_rate_of_the_lab_is_warned_of_for_real_students(
    monkeypatch: pytest.MonkeyPatch, student: str, rate: float, warned: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_job, "print_warning", said.append)
    model, sft = SimpleNamespace(model=student), SimpleNamespace(learning_rate=rate)
    run_job._warn_about_learning_rate(SimpleNamespace(student=model, sft=sft))  # type: ignore[arg-type]
    assert [line.startswith("warning: sft.learning_rate = 0.002 is high") for line in said] == [True] * warned


def test_rounds_table_has_the_columns_with_values(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[tuple[list[str], list[list[str]]]] = []
    monkeypatch.setattr(run_job, "print_table", lambda _, columns, rows: tables.append((columns, rows)))
    first = {"round": 0, "held_out/win_rate": 0.5, "benchmark/accuracy": None}
    run_job._print_rounds([first, {"round": 1, "held_out/win_rate": 0.75, "mix/rows": 9}])
    assert tables == [(["", "rows", "win rate"], [["S_0", "–", "0.500"], ["S_1", "9", "0.750"]])]
