"""Table of the rounds of each arm: means over the finished jobs that have a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapir_exp.report.sweep.curriculum_section import rounds_of_arms
from tapir_exp.report.sweep.jobs import Job
from tapir_exp.report.sweep.page import write_sweep_report


def job(*rounds: Mapping[str, Any], problem: str | None = None) -> Job:
    return Job(Path("job"), {}, None, ({}, *rounds), problem)


def test_rounds_of_arms_are_means_over_the_jobs_that_have_a_figure() -> None:
    arms = {
        "tapir": [
            job({"teacher/rows": 10, "fresh_gap/hard_share": 0.5}, {"teacher/rows": 4}),
            job({"teacher/rows": 20, "fresh_gap/hard_share": None}, {"teacher/rows": 6}),
            job({"teacher/rows": 900}, problem="killed"),
        ],
        "vanilla_sft": [job()],
        "lost": [job({"teacher/rows": 1}, problem="killed")],
    }
    ((first, second),) = rounds_of_arms(arms)
    assert (first.label, first.student, second.student) == ("tapir", 1, 2)
    assert (first.figures["teacher/rows"], second.figures["teacher/rows"]) == (15, 5)
    assert first.figures["fresh_gap/hard_share"] == 0.5
    assert second.figures["trained_gap/hard_share"] is None


def test_sweep_page_has_a_curriculum_of_every_arm(ablation: Path) -> None:
    page = write_sweep_report(ablation).read_text()
    section = page[page.index('<section id="curriculum">') :].partition("</section>")[0]
    assert all(arm in section for arm in ("natural_mix", "tapir", "fixed_alpha"))
    assert '<a href="#curriculum">' in page
