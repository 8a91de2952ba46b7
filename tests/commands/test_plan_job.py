"""`tapir plan`: it calls no model, subtracts finished and cached work, and counts shared stages of a sweep once."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tapir_exp.commands import plan, plan_job
from tapir_exp.commands.plan_job import PlannedStage, RemainingCost, SeedReader, merge_jobs
from tapir_exp.commands.plan_table import plan_lines
from tapir_exp.config import SeedsConfig, SeedSource
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example
from tapir_exp.pipeline.estimate import StageEstimate

SMALL = ["debug=tiny", "curriculum.rounds=1"]


def a_stage(name: str = "task_labels", calls: int = 10, usd: float | None = 1.0, share: str = "x") -> StageEstimate:
    return StageEstimate(name, "judge", calls, 1000.0, 100.0, usd, None, share)


def text_of(planned: list[PlannedStage]) -> str:
    return "\n".join(plan_lines(planned))


def output_of(*arguments: str) -> str:
    with redirect_stdout(io.StringIO()) as out:
        plan.main(arguments)
    return out.getvalue()


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of each line of the table that counts jobs, as in `0/1`."""
    return [line.split() for line in text.splitlines() if re.search(r" \d+/\d+ ", line)]


def test_finished_stage_costs_nothing() -> None:
    assert PlannedStage(a_stage(usd=None), 0, finished=True).remaining == RemainingCost(cached=10)


def test_cached_calls_are_subtracted() -> None:
    cost = PlannedStage(a_stage(), 4, finished=False).remaining
    assert (cost.calls, cost.cached, cost.prompt_tokens, cost.usd) == pytest.approx((6, 4, 600, 0.6))


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    rows = [
        PlannedStage(a_stage(), 0, finished=False),
        PlannedStage(a_stage("train_mix-1", usd=None), 0, finished=False),
    ]
    assert (rows[0].remaining + rows[1].remaining).usd is None
    assert rows_of(text_of(rows))[-1][-2] == "unknown"


def test_shared_stage_of_several_jobs_is_counted_once() -> None:
    jobs = [[PlannedStage(a_stage(share=share), 0, finished=False)] for share in ("x", "x", "y")]
    assert len(merge_jobs(jobs)) == 2


def test_table_fits_eighty_columns() -> None:
    assert max(map(len, text_of([PlannedStage(a_stage("expansions-3", 12345), 17, finished=False)]).splitlines())) <= 80


def test_plan_of_a_fresh_run_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = output_of(*SMALL)
    assert [cells[0] for cells in rows_of(text)] == [
        *(
            "student-0",
            "task_labels",
            "teacher_responses",
            "verdicts-0",
            "expansions-1",
            "expansions-1",
            "train_mix-1",
            "student-1",
            "all",
        )
    ]
    assert list(tmp_path.iterdir()) == []


def test_plan_of_a_sweep_file_covers_all_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = output_of("--config-name", "lab_delta", *SMALL)
    done = {cells[0]: cells[2] for cells in rows_of(text)}
    assert (done["student-0"], done["verdicts-0"], done["student-1"]) == ("0/1", "0/1", "0/5")


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(ConfigError) as mistakes:
        output_of("teacher=gtp_4o", "curriculum.dleta=1")
    assert len(mistakes.value.problems) == 2


def test_seeds_are_read_once_for_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[SeedsConfig] = []

    def load(config: SeedsConfig) -> list[Example]:
        read.append(config)
        return []

    monkeypatch.setattr(plan_job, "load_seeds", load)
    reader = SeedReader()
    for size in (5, 5, 6):
        reader(SeedsConfig(source=SeedSource.lab, size=size))
    assert [config.size for config in read] == [5, 6]
