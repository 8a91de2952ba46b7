"""Held-out section of the run page: win rates with their intervals, and responses as text."""

import math
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from pages import Outline, page_of, plain
from synthetic_run import MARKUP

from tapir_exp.report.held_out_section import MAX_TRANSCRIPTS, held_out_rows, transcripts
from tapir_exp.report.run_view import RunView

MakeRun = Callable[..., Path]


def test_held_out_rows_compare_each_student_with_the_previous(fake_run: MakeRun) -> None:
    run_dir = fake_run(rounds=1, held_out_instructions=2)
    first, last = held_out_rows(RunView.load(run_dir))
    assert (first.loss_change, last.head_to_head.won, last.head_to_head.lost) == (None, 2, 0)
    assert last.loss_change is not None
    assert last.loss_change.mean == pytest.approx(-0.5)
    html = page_of(run_dir)
    assert not Outline(html).open
    assert {"held-out", "transcripts"} <= set(Outline(html).ids)
    text = plain(html)
    assert "75.0 %" in text
    assert f"{math.exp(1.55):.2f}" in text
    assert "base model" in text


def test_transcripts_show_the_texts_escaped(fake_run: MakeRun) -> None:
    run_dir = fake_run(rounds=1, held_out_instructions=9)
    shown = transcripts(RunView.load(run_dir))
    assert len(shown) == MAX_TRANSCRIPTS
    assert shown[0].last == f"held_out_student_responses of round 1: {MARKUP}"
    assert shown[0].preferences == ((0, 0.75), (1, 0.75))
    html = page_of(run_dir)
    assert MARKUP not in html
    assert f"base_responses of round None: {MARKUP}" in unescape(html)


def test_page_without_held_out_instructions_has_no_section(fake_run: MakeRun) -> None:
    run_dir = fake_run(rounds=1)
    assert held_out_rows(RunView.load(run_dir)) == []
    assert transcripts(RunView.load(run_dir)) == []
    assert not {"held-out", "transcripts"} & set(Outline(page_of(run_dir)).ids)
