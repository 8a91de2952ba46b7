"""The command tapir-plan: it calls nobody, counts what is there, and knows what the jobs of a sweep share."""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from tapir_exp.commands import plan
from tapir_exp.commands.plan import PlannedStage, RemainingCost, SeedReader, merge_jobs, table_of
from tapir_exp.config import SeedsConfig, SeedSource
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example
from tapir_exp.pipeline.estimate import StageEstimate

SMALL = ["seeds.size=40", "curriculum.rows_per_round=20", "curriculum.rounds=1"]


def a_stage(name: str = "task_labels", calls: int = 10, usd: float | None = 1.0, share: str = "x") -> StageEstimate:
    return StageEstimate(name, "judge", calls, 1000.0, 100.0, usd, None, share)


def text_of(planned: list[PlannedStage]) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(table_of(planned))
    return out.getvalue()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["tapir-plan", *arguments])
    with redirect_stdout(io.StringIO()) as out:
        plan.main()
    return out.getvalue()


def test_what_is_finished_costs_nothing_more() -> None:
    assert PlannedStage(a_stage(usd=None), 0, finished=True).ahead == RemainingCost(cached=10)


def test_what_is_cached_is_taken_off() -> None:
    ahead = PlannedStage(a_stage(), 4, finished=False).ahead
    assert (ahead.calls, ahead.cached, ahead.prompt_tokens, ahead.usd) == pytest.approx((6, 4, 600, 0.6))


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    rows = [
        PlannedStage(a_stage(), 0, finished=False),
        PlannedStage(a_stage("train_mix-1", usd=None), 0, finished=False),
    ]
    assert (rows[0].ahead + rows[1].ahead).usd is None
    assert "not known" in text_of(rows).splitlines()[-2]


def test_jobs_make_what_they_share_once() -> None:
    jobs = [[PlannedStage(a_stage(share=share), 0, finished=False)] for share in ("x", "x", "y")]
    assert len(merge_jobs(jobs)) == 2


def test_the_table_fits_eighty_columns() -> None:
    assert max(map(len, text_of([PlannedStage(a_stage("expansions-3", 12345), 17, finished=False)]).splitlines())) <= 80


def test_the_plan_of_a_fresh_run_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    said = command(monkeypatch, *SMALL)
    assert [line.split()[1] for line in said.splitlines() if "│" in line] == [
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


def test_a_sweep_of_a_file_is_planned_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    said = command(monkeypatch, "--config-name", "lab_delta", *SMALL)
    made = {line.split()[1]: line.split()[5] for line in said.splitlines() if "│" in line}
    assert (made["student-0"], made["verdicts-0"], made["student-1"]) == ("0/1", "0/1", "0/5")


def test_mistakes_are_told_all_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Exception] = []
    monkeypatch.setattr(plan, "leave", lambda error: told.append(error) or sys.exit(2))
    with pytest.raises(SystemExit):
        command(monkeypatch, "teacher=gtp_4o", "curriculum.dleta=1")
    assert isinstance(told[0], ConfigError)
    assert len(told[0].problems) == 2


def test_seeds_are_read_once_for_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[SeedsConfig] = []

    def load(config: SeedsConfig) -> list[Example]:
        read.append(config)
        return []

    monkeypatch.setattr(plan, "load_seeds", load)
    reader = SeedReader()
    for size in (5, 5, 6):
        reader(SeedsConfig(source=SeedSource.lab, size=size))
    assert [config.size for config in read] == [5, 6]
