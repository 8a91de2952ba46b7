"""`tapir inspect`, on the lab's seeds and its student's tokenizer."""

import json
from pathlib import Path

import pytest

from tapir_exp.commands.inspect import main
from tapir_exp.core.errors import ConfigError


def test_inspect_shows_rows_of_the_lab(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["seeds.size=12", "--rows", "2"])
    text = capsys.readouterr().out
    assert text.count("supervised, complete") == 2
    assert text.count("<|end|>#2<end]") == 2
    assert "rows          12 (0 truncated), 0 more dropped" in text
    assert list(tmp_path.iterdir()) == []


def test_inspect_shows_rows_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "seeds.json"
    path.write_text(json.dumps([{"instruction": "Name <|end|>.", "input": "", "output": "xyzzy"}]))
    main(["seeds=file", f"seeds.path={path}", "seeds.size=null", "--rows=1"])
    text = capsys.readouterr().out
    assert "row 1: " in text
    assert text.count("<|end|>") == 3  # two control tokens and the summary; the user's text is split into pieces


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=1,2"], "expected one job, got a sweep of 2"),
        (["seeds.size=x"], r"seeds\.size"),
        (["seeds.size=4", "student.model=/dev"], r"student\.model: /dev cannot be loaded"),
    ],
    ids=["sweep", "type", "model"],
)
def test_inspect_rejects_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments)


@pytest.mark.parametrize("count", ["-1", "x"])
def test_rows_that_is_not_a_count_is_rejected(count: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([f"--rows={count}"])
    assert stop.value.code == 2
