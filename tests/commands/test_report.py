"""The command `tapir report`: it rebuilds the report of a directory and prints its path."""

from pathlib import Path

import pytest
from composing import compose_config
from synthetic_run import SyntheticRun

from tapir_exp.commands.report import main
from tapir_exp.core.errors import StoreError


def test_report_of_a_run_is_written_and_its_path_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = SyntheticRun(tmp_path, compose_config("logger=disabled"), size=40, rounds=1).write()
    capsys.readouterr()
    main([str(run_dir)])
    assert capsys.readouterr().out.strip() == str(run_dir / "report.html")
    assert (run_dir / "report.html").is_file()


def test_report_of_an_empty_directory_explains_itself(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no job"):
        main([str(tmp_path)])
