"""`tapir judge-check`: judges are asked or replayed, measured, and shown side by side."""

import json
from pathlib import Path

import pytest

from tapir_exp.commands.judge_check import main
from tapir_exp.commands.judge_check_job import FIGURES
from tapir_exp.lab.world import natural_problems


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Return a file of 12 labelled pairs of the lab: a right answer and a plausible wrong one."""
    rows = []
    for number, (_, problem) in enumerate(natural_problems(12, seed=5)):
        answers = [problem.refined, problem.slip]
        label = 1 if number % 2 else 2
        first, second = answers if label == 1 else reversed(answers)
        rows.append({"instruction": problem.instruction, "response_1": first, "response_2": second, "label": label})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(tmp_path: Path, *arguments: str) -> dict[str, dict[str, object]]:
    """Run a check and return its figures by judge."""
    main([*arguments, "--output-dir", str(tmp_path / "out")])
    return dict(json.loads((tmp_path / "out" / FIGURES).read_text())["judges"])


def test_judge_check_measures_protocols_side_by_side(tmp_path: Path, pairs: Path) -> None:
    protocols = "judge.protocol=pair_scores,single_score"
    asked = check(tmp_path, "--pairs", str(pairs), "judge=lab", protocols, f"outputs={tmp_path}/outputs")
    assert list(asked) == ["judge, pair_scores", "judge, single_score"]
    for figures in asked.values():
        assert figures["rows"] == 12
        assert figures["right"]["mean"] > 0.8  # type: ignore[index]
        assert figures["calls"] == 24
    page, markdown = (tmp_path / "out" / name for name in ("report.html", "report.md"))
    assert "judge, single_score" in page.read_text()
    assert "| both orders alike, % | " in markdown.read_text()
    # The written verdicts are parsed again, without a call.
    stored = tmp_path / "out" / "verdicts-judge-pair_scores.jsonl"
    replayed = check(tmp_path, "--pairs", str(pairs), "--replies", f"again={stored}")
    assert replayed["again"]["right"] == asked["judge, pair_scores"]["right"]
    assert replayed["again"]["spend"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["judge=lab"], "--pairs is missing"),
        (["--pairs", "x.jsonl", "--limits=3"], "unknown flag --limits=3"),
        (["--replies", "file"], "expected NAME=FILE"),
        (["--pairs", "x.jsonl", "--limit", "0"], "expected 1 or more"),
    ],
)
def test_judge_check_wrong_command_line_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
