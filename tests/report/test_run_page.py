"""Run page: complete, self-contained, escaped, honest about its sources, and the same when rebuilt."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Outline, page_of, plain

from tapir_exp.evals.statistics import macro_accuracy
from tapir_exp.report.run_page import build_page, write_report
from tapir_exp.report.run_view import RunView
from tapir_exp.report.templates import render

MakeRun = Callable[..., Path]
SECTIONS = {
    "how",
    "rounds",
    "data",
    "difficulty",
    "judge",
    "tasks",
    "training",
    "benchmark",
    "samples",
    "lineage",
    "cost",
    "provenance",
}


def assert_well_formed(html: str) -> None:
    outline = Outline(html)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    links = [link for link in outline.links if not link.startswith("data:text/csv")]
    assert all(link.startswith("#") and link[1:] in outline.ids for link in links)


@pytest.mark.parametrize(
    "fields",
    [{}, {"rounds": 0, "arm": "vanilla_sft"}, {"benchmark": False}, {"rounds": 1}, {"held_out_instructions": 3}],
)
def test_page_of_any_run_is_well_formed(fake_run: MakeRun, fields: dict[str, object]) -> None:
    assert_well_formed(page_of(fake_run(**fields)))


@pytest.mark.slow
def test_page_of_a_real_run_has_every_section(lab_run: Path) -> None:
    html = page_of(lab_run)
    assert_well_formed(html)
    assert SECTIONS | {"held-out", "transcripts"} <= set(Outline(html).ids)


@pytest.mark.slow
def test_page_of_a_real_run_is_rebuilt_byte_for_byte(lab_run: Path) -> None:
    written_by_the_run = (lab_run / "report.html").read_bytes()
    assert write_report(lab_run).read_bytes() == written_by_the_run


def test_page_is_self_contained(fake_run: MakeRun) -> None:
    html = page_of(fake_run()).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(", html)
    assert not {"script", "link", "img", "iframe"} & Outline(html).tags


def test_page_escapes_the_texts_of_models(fake_run: MakeRun) -> None:
    html = page_of(fake_run())
    assert "<script" not in html
    assert "&lt;script&gt;alert(" in html


def test_page_of_a_moved_run_is_the_same(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    first = write_report(run_dir).read_bytes()
    moved = run_dir.parent.parent.parent / "elsewhere"
    shutil.move(run_dir.parent.parent, moved)
    assert write_report(moved / "runs" / "lab").read_bytes() == first


def test_headline_is_the_benchmark_before_and_after(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    run = RunView.load(run_dir)
    before, after = macro_accuracy(run.rounds[0].benchmark), macro_accuracy(run.rounds[-1].benchmark)
    assert before.error is not None
    assert after.error is not None
    text = plain(page_of(run_dir))
    assert f"{before.mean * 100:.1f} ± {before.error * 100:.1f} % S₀, before" in text
    assert f"{after.mean * 100:.1f} ± {after.error * 100:.1f} % S₃, after 3 rounds" in text
    assert f"{(after.mean - before.mean) * 100:+.1f} points" in text


def test_rounds_table_has_the_figures_of_each_round(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    first, second, *_, last = build_page(run).rounds
    assert (first.alpha, first.requested, first.accepted, first.rows) == (None, None, None, 240)
    assert (first.judged, first.unscored) == (240, 1)
    assert first.mean_gap == pytest.approx(sum(run.rounds[0].gaps) / 239)
    assert first.hard_share == pytest.approx(sum(g > 2 for g in run.rounds[0].gaps) / 239)
    assert second.requested == sum(q.ordered for q in run.rounds[1].plan)
    assert second.accepted == len(run.rounds[1].expansions)
    assert second.unfilled
    assert second.unfilled == second.requested - second.accepted
    assert second.tokens == 90 * 2048
    assert (last.judged, last.mean_gap, last.hard_share) == (None, None, None)


def test_page_has_every_section(fake_run: MakeRun) -> None:
    assert set(Outline(page_of(fake_run())).ids) >= SECTIONS


def test_page_without_rounds_has_no_empty_sections(fake_run: MakeRun) -> None:
    html = page_of(fake_run(arm="vanilla_sft", rounds=0))
    assert not {"difficulty", "tasks", "samples", "lineage"} & set(Outline(html).ids)
    assert "trained on the seeds only" in html


def test_samples_section_shows_the_replies_of_the_judge(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    sample = build_page(RunView.load(run_dir)).samples[0]
    text = plain(page_of(run_dir))
    replies = [reply.raw for judged in sample.verdicts for reply in judged.verdict.replies]
    assert replies
    assert all(plain_text in text for plain_text in (" ".join(raw.split()) for raw in replies))


def test_samples_section_tells_unusable_from_not_judged(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    unusable = [replace(sample, after=None) for sample in build_page(run).samples if sample.after_round]
    html = render("run_page.html.jinja", page=replace(build_page(run), samples=unusable))
    assert html.count("no usable response") == len(unusable) > 0
    assert "not judged again" not in html


def test_settings_not_confirmed_by_the_paper_are_ours(fake_run: MakeRun) -> None:
    sources = {row.setting: row.source for row in build_page(RunView.load(fake_run())).settings}
    assert {sources[name] for name in ("threshold δ", "α by round", "rounds", "loss", "learning rate")} == {"ours"}
    assert sources["gap"] == "paper"


def test_times_are_summed_by_stage_longest_first(fake_run: MakeRun) -> None:
    page = build_page(RunView.load(fake_run()))
    assert {row.stage: row.artifacts for row in page.times}["train_mix"] == 3
    assert [row.seconds for row in page.times] == sorted((row.seconds for row in page.times), reverse=True)
    assert sum(row.share for row in page.times) == pytest.approx(1.0)


@pytest.mark.slow
def test_reports_import_no_heavy_library() -> None:
    code = (
        "import sys, tapir_exp.report.run_page, tapir_exp.report.sweep.page\n"
        "heavy = {'torch', 'litellm', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_judge_section_shows_bias_and_flip_rate(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    html, rows = page_of(run_dir), build_page(RunView.load(run_dir)).judge
    assert [row.judged for row in rows] == [len(r.verdicts) for r in RunView.load(run_dir).rounds[:3]]
    assert 'href="#judge"' in html
    section = plain(html[html.index('id="judge"') : html.index('id="tasks"')])
    for row in rows:
        bias, error = row.figures["position_bias"], row.figures["position_bias_se"]
        assert f"{bias:+.2f}".replace("-", "−") + f" ± {error:.2f}" in section
        assert f"{row.figures['flip_share'] * 100:.1f} %" in section
    assert "Warning" not in section


def test_judge_section_warns_of_self_preference(fake_run: MakeRun) -> None:
    run_dir = fake_run(settings={"judge.llm.model": "openai/gpt-3.5-turbo"})
    warning = build_page(RunView.load(run_dir)).self_preference
    assert warning is not None
    assert "openai/gpt-3.5-turbo" in warning
    assert f"Warning: {warning}" in plain(page_of(run_dir))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("score", "text"),
    [
        ("ifd", "by ifd: the 21.0 % of the rows with the highest score"),
        ("random", "by random: as many rows as have a gap"),
    ],
)
def test_difficulty_section_names_another_score(fake_run: MakeRun, score: str, text: str) -> None:
    usual, other = page_of(fake_run(name="runs/a")), page_of(fake_run(settings={"curriculum.difficulty": score}))
    assert text in plain(other)
    assert "not selected by the gap" not in usual


def test_page_without_verdicts_has_no_judge_section(fake_run: MakeRun) -> None:
    html = page_of(fake_run(rounds=0, arm="vanilla_sft"))
    assert 'id="judge"' not in html
    assert 'href="#judge"' not in html
