"""The page: whole, self-contained, escaped, honest about what is ours, and the same when rebuilt."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tapir_exp.commands.report import main
from tapir_exp.evals.statistics import macro_accuracy
from tapir_exp.report.run_page import build_page, write_report
from tapir_exp.report.run_view import RunView
from tapir_exp.report.templates import render

MakeRun = Callable[..., Path]
NASTY = "<script>alert('x')</script> & \"quotes\""
"""What the models of a fake run say, among other things."""
VOID = {"meta", "line", "rect", "circle", "path", "br"}


class Outline(HTMLParser):
    """Tags, their balance and the ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(run_dir: Path) -> str:
    return write_report(run_dir).read_text()


def plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html))


@pytest.mark.parametrize("changes", [{}, {"rounds": 0, "arm": "vanilla_sft"}, {"benchmark": False}, {"rounds": 1}])
def test_every_kind_of_run_has_a_well_formed_page(fake_run: MakeRun, changes: dict[str, object]) -> None:
    outline = Outline(page_of(fake_run(**changes)))
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert all(link.startswith("#") and link[1:] in outline.ids for link in outline.links)


def test_the_page_needs_nothing_from_outside(fake_run: MakeRun) -> None:
    html = page_of(fake_run()).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(", html)
    assert not {"script", "link", "img", "iframe"} & Outline(html).seen


def test_what_models_wrote_is_text_and_never_markup(fake_run: MakeRun) -> None:
    html = page_of(fake_run())
    assert "<script" not in html
    assert "&lt;script&gt;alert(" in html


def test_a_rebuilt_page_is_the_same_page(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    first = write_report(run_dir).read_bytes()
    moved = run_dir.parent.parent.parent / "elsewhere"
    shutil.move(run_dir.parent.parent, moved)
    assert write_report(moved / "runs" / "lab").read_bytes() == first


def test_the_headline_is_the_benchmark_before_and_after(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    run = RunView.load(run_dir)
    before, after = macro_accuracy(run.rounds[0].benchmark), macro_accuracy(run.rounds[-1].benchmark)
    assert before.error is not None
    assert after.error is not None
    text = " ".join(plain(page_of(run_dir)).split())
    assert f"{before.mean * 100:.1f} ± {before.error * 100:.1f} % S₀, before" in text
    assert f"{after.mean * 100:.1f} ± {after.error * 100:.1f} % S₃, after 3 rounds" in text
    assert f"{(after.mean - before.mean) * 100:+.1f} points" in text


def test_the_table_tells_each_round(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    first, second, *_, last = build_page(run).rounds
    assert (first.alpha, first.asked, first.kept, first.rows) == (None, None, None, 240)
    assert (first.judged, first.unscored) == (240, 1)
    assert first.mean_gap == pytest.approx(sum(run.rounds[0].gaps) / 239)
    assert first.hard_share == pytest.approx(sum(g > 2 for g in run.rounds[0].gaps) / 239)
    assert second.asked == sum(q.ordered for q in run.rounds[1].plan)
    assert second.kept == len(run.rounds[1].expansions)
    assert second.unfilled
    assert second.unfilled == second.asked - second.kept
    assert second.tokens == 90 * 2048
    assert (last.judged, last.mean_gap, last.hard_share) == (None, None, None)


def test_every_section_that_was_promised_is_there(fake_run: MakeRun) -> None:
    outline = Outline(page_of(fake_run()))
    promised = {
        "how",
        "rounds",
        "difficulty",
        "tasks",
        "training",
        "benchmark",
        "samples",
        "lineage",
        "cost",
        "provenance",
    }
    assert promised <= set(outline.ids)


def test_a_plain_fit_shows_no_empty_sections(fake_run: MakeRun) -> None:
    html = page_of(fake_run(arm="vanilla_sft", rounds=0))
    assert not {"difficulty", "tasks", "samples", "lineage"} & set(Outline(html).ids)
    assert "trained on the seeds alone" in html


def test_the_judges_raw_words_and_refusals_are_shown(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    run = RunView.load(run_dir)
    shown = plain(page_of(run_dir))
    sample = build_page(run).samples[0]
    assert all(ballot.raw in shown for judged in sample.judged for ballot in judged.verdict.replies)


def test_an_unusable_answer_is_not_called_unasked(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    mute = [replace(sample, after=None) for sample in build_page(run).samples if sample.after_round]
    html = render("run_page.html.jinja", page=replace(build_page(run), samples=mute))
    assert html.count("no usable answer") == len(mute) > 0
    assert "not asked again" not in html


def test_what_the_paper_does_not_confirm_is_called_ours(fake_run: MakeRun) -> None:
    choices = {row.what: row.whose for row in build_page(RunView.load(fake_run())).choices}
    assert {choices[what] for what in ("threshold δ", "α by round", "rounds", "loss", "learning rate")} == {"ours"}
    assert choices["gap"] == "paper"


def test_time_is_summed_by_stage_and_the_longest_comes_first(fake_run: MakeRun) -> None:
    page = build_page(RunView.load(fake_run()))
    assert {row.stage: row.artifacts for row in page.times}["mix"] == 3
    assert [row.seconds for row in page.times] == sorted((row.seconds for row in page.times), reverse=True)
    assert sum(row.share for row in page.times) == pytest.approx(1.0)


def test_the_command_rebuilds_a_run_and_says_where(fake_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = fake_run()
    main([str(run_dir)])
    assert capsys.readouterr().out.strip() == str(run_dir / "report.html")
    assert (run_dir / "report.html").is_file()


def test_the_command_explains_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no job"):
        main([str(tmp_path)])


def test_reports_load_neither_torch_nor_litellm() -> None:
    code = (
        "import sys, tapir_exp.report.run_page, tapir_exp.report.sweep.page\n"
        "heavy = {'torch', 'litellm', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_tells_how_far_the_judge_can_be_trusted(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    page, rows = page_of(run_dir), build_page(RunView.load(run_dir)).judge
    assert [row.judged for row in rows] == [len(r.verdicts) for r in RunView.load(run_dir).rounds[:3]]
    assert 'href="#judge"' in page
    section = " ".join(plain(page[page.index('id="judge"') : page.index('id="tasks"')]).split())
    for row in rows:
        bias, error = row.figures["position_bias"], row.figures["position_bias_se"]
        assert f"{bias:+.2f}".replace("-", "−") + f" ± {error:.2f}" in section
        assert f"{row.figures['flip_share'] * 100:.1f} %" in section
    assert "Warning" not in section


def test_a_judge_of_the_teacher_s_family_is_warned_of(fake_run: MakeRun) -> None:
    page = plain(page_of(fake_run(settings={"judge.llm.model": "openai/gpt-3.5-turbo"})))
    assert "judge (openai/gpt-3.5-turbo) and teacher (openai/gpt-4o) are of one family, GPT" in page


@pytest.mark.parametrize(
    ("score", "words"),
    [("ifd", "by ifd: the 21.0 % of the rows that score highest"), ("random", "by random: as many rows as have a gap")],
)
def test_a_run_whose_hard_set_another_score_chose_says_so(fake_run: MakeRun, score: str, words: str) -> None:
    usual, other = page_of(fake_run(name="runs/a")), page_of(fake_run(settings={"curriculum.difficulty": score}))
    assert words in " ".join(plain(other).split())
    assert "not chosen by the gap" not in usual


def test_a_run_without_verdicts_has_no_judge_to_speak_of(fake_run: MakeRun) -> None:
    page = page_of(fake_run(rounds=0, arm="vanilla_sft"))
    assert 'id="judge"' not in page
    assert 'href="#judge"' not in page


def test_what_was_gained_on_what_is_kept_out_is_told_with_its_interval(fake_run: MakeRun) -> None:
    run_dir = fake_run(rounds=1, held_out_instructions=2)
    first, last = build_page(RunView.load(run_dir)).held_out
    assert (first.change, last.duel.won, last.duel.lost) == (None, 2, 0)
    assert last.change is not None
    assert last.change.mean == pytest.approx(-0.5)
    html = page_of(run_dir)
    assert not Outline(html).open
    assert {"held_out", "gallery"} <= set(Outline(html).ids)
    shown = plain(html)
    assert "75.0 %" in shown
    assert f"{math.exp(1.55):.2f}" in shown
    assert "the base model" in shown


def test_the_gallery_shows_everybody_s_words_as_text(fake_run: MakeRun) -> None:
    run_dir = fake_run(rounds=1, held_out_instructions=9)
    page = build_page(RunView.load(run_dir))
    assert len(page.gallery) == 6
    assert page.gallery[0].last == f"held_out_student_responses-1 says {NASTY}"
    assert page.gallery[0].preferred == ((0, 0.75), (1, 0.75))
    html = page_of(run_dir)
    assert NASTY not in html
    assert f"base-answers says {NASTY}" in unescape(html)


def test_a_run_that_kept_nothing_out_says_nothing_of_it(fake_run: MakeRun) -> None:
    assert not {"held_out", "gallery"} & set(Outline(page_of(fake_run(rounds=1))).ids)
