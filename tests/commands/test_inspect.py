"""The command tapir-inspect, on the lab's seeds and its student's tokenizer."""

import json
import sys
from pathlib import Path

import pytest

from tapir_exp.commands import inspect_rows
from tapir_exp.core.errors import ConfigError


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tapir-inspect", *arguments])
    inspect_rows.main()


def test_the_labs_rows_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "seeds.size=12", "--rows", "2")
    said = capsys.readouterr().out
    assert said.count("supervised, whole") == 2
    assert said.count("<|end|>#2<end]") == 2
    assert "rows          12 (0 truncated), 0 more dropped" in said
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_file_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "seeds.json"
    path.write_text(json.dumps([{"instruction": "Name <|end|>.", "input": "", "output": "xyzzy"}]))
    command(monkeypatch, "seeds=file", f"seeds.path={path}", "seeds.size=null", "--rows=1")
    said = capsys.readouterr().out
    assert "row 1: " in said
    assert said.count("<|end|>") == 3  # the two control tokens and the summary; the user's is in pieces


def mistake_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ConfigError:
    told: list[Exception] = []
    monkeypatch.setattr(inspect_rows, "leave", lambda error, command: told.append(error) or sys.exit(2))
    with pytest.raises(SystemExit):
        command(monkeypatch, *arguments)
    assert isinstance(told[0], ConfigError)
    return told[0]


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "a sweep of 2" in str(mistake_of(monkeypatch, "-m", "seed=1,2"))
    assert "seeds.size" in str(mistake_of(monkeypatch, "seeds.size=x"))
    missing = mistake_of(monkeypatch, "seeds.size=4", f"student.model={tmp_path}")
    assert f"student.model: {tmp_path} cannot be loaded" in str(missing)


@pytest.mark.parametrize("count", ["-1", "x"])
def test_a_count_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, f"--rows={count}")
    assert stopped.value.code == 2
