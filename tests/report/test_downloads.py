"""Figures of the charts as CSV in links of the page."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tapir_exp.report.downloads import Download, csv_download, run_downloads
from tapir_exp.report.run_page import write_report
from tapir_exp.report.run_view import RunView

MakeRun = Callable[..., Path]


def read(download: Download | None) -> list[dict[str, str]]:
    assert download is not None
    head, _, text = download.link.partition(",")
    assert head == "data:text/csv;charset=utf-8"
    return list(csv.DictReader(io.StringIO(unquote(text))))


def test_downloads_hold_the_figures_of_the_charts(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    files = {name: read(download) for name, download in run_downloads(run).items()}
    assert set(files) == {"gaps", "mix", "loss", "benchmark"}
    for r in run.rounds[:3]:
        bins = [row for row in files["gaps"] if row["student"] == str(r.number)]
        assert sum(int(row["rows"]) for row in bins) == len(r.gaps)
        hard = sum(int(row["rows"]) for row in bins if float(row["from"]) >= run.manifest.delta)
        assert hard == r.hard(run.manifest.delta)
    assert sum(float(row["mix_1"]) for row in files["mix"]) == pytest.approx(1, abs=1e-3)
    assert {row["student"] for row in files["benchmark"]} == {"0", "1", "2", "3"}
    page = write_report(run.path).read_text()
    assert page.count('download="gaps.csv"') == page.count('download="loss.csv"') == 1
    assert "tapir view ." in page


def test_download_is_safe_for_spreadsheets_and_pages() -> None:
    download = csv_download("x.csv", ["a"], [("=1+1",), ('<b>"&',)])
    assert [row["a"] for row in read(download)] == ["'=1+1", '<b>"&']
    assert download is not None
    assert not set('<>"& ') & set(download.link)
    assert csv_download("x.csv", ["a"], []) is None
