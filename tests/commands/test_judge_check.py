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
        # A writer whose answers are right, and one whose answers are wrong.
        origins = {f"origin_{side}": "right" if side == label else "wrong" for side in (1, 2)}
        answers_ = {"response_1": first, "response_2": second}
        rows.append({"instruction": problem.instruction, **answers_, "label": label, **origins})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(tmp_path: Path, *arguments: str) -> dict[str, dict[str, object]]:
    """Run a check and return its figures by judge."""
    main([*arguments, "--output-dir", str(tmp_path / "out")])
    return dict(json.loads((tmp_path / "out" / FIGURES).read_text())["judges"])


def test_judge_check_measures_protocols_side_by_side(tmp_path: Path, pairs: Path) -> None:
    protocols = "judge.protocol=pair_scores,single_expected"
    asked = check(tmp_path, "--pairs", str(pairs), "judge=lab", protocols, f"outputs={tmp_path}/outputs")
    assert list(asked) == ["judge, pair_scores", "judge, single_expected"]
    for figures in asked.values():
        assert figures["rows"] == 12
        assert figures["right"]["mean"] > 0.8  # type: ignore[index]
        assert figures["calls"] == 24
    page, markdown = (tmp_path / "out" / name for name in ("report.html", "report.md"))
    assert "judge, single_expected" in page.read_text()
    assert "| both orders alike, % | " in markdown.read_text()
    # The written verdicts are parsed again, without a call.
    stored = [tmp_path / "out" / f"verdicts-judge-{name}.jsonl" for name in ("pair_scores", "single_expected")]
    replies = [f"--replies={number}={path}" for number, path in enumerate(stored)]
    replayed = check(tmp_path, "--pairs", str(pairs), *replies)
    for again, first in zip(replayed.values(), asked.values(), strict=True):
        assert (again["right"], again["position_bias"]) == (first["right"], first["position_bias"])
        assert again["spend"] is None


LAB_PANEL = (
    *("judge=panel", "llm@judge.llm=lab", "judge.panel.second.llm.api_key_env=null", "judge.metrics=true"),
    *("judge.llm.model=lab/judge", "+judge.llm.extra_params.noise=0.0", "+judge.llm.extra_params.position_bias=0.0"),
    *("judge.panel.second.llm.model=lab/judge", "+judge.panel.second.llm.extra_params.noise=9.0"),
    "+judge.panel.second.llm.extra_params.position_bias=0.0",
)


def test_judge_check_of_a_panel_shows_each_judge_and_whom_it_favours(tmp_path: Path, pairs: Path) -> None:
    asked = check(tmp_path, "--pairs", str(pairs), *LAB_PANEL, f"outputs={tmp_path}/outputs")
    name = "panel of 2, pair_scores, with metrics"
    assert list(asked) == [name, f"{name}: judge (1)", f"{name}: judge (2)"]
    assert asked[name]["calls"] == 12 * (2 * 2 + 2)
    exact, noisy = (asked[f"{name}: judge ({number})"]["right"]["mean"] for number in (1, 2))  # type: ignore[index]
    assert exact == 1 > noisy
    markdown = (tmp_path / "out" / "report.md").read_text()
    # The exact judge lets the right answers win more often than the noisy one does.
    (favoured,) = [line for line in markdown.splitlines() if "judge (1) |" in line and "| right | 12 |" in line][-1:]
    assert favoured.split("|")[5].strip()[0] not in "−0"


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
