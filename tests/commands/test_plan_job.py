"""`tapir plan`: it calls no model, subtracts finished and cached work, and counts shared stages of a sweep once."""

import io
import json
import math
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from standins import write_lines

from tapir_exp.commands import plan, plan_job
from tapir_exp.commands.command_line import _composer
from tapir_exp.commands.dry_run import surely_cached
from tapir_exp.commands.plan_job import PlannedStage, SeedReader, StageCost, merge_jobs
from tapir_exp.commands.plan_table import plan_data, plan_lines
from tapir_exp.config import Config, SeedsConfig, SeedSource
from tapir_exp.config.compose import PRIMARY
from tapir_exp.config.paths import data_dir
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example
from tapir_exp.llm.ledger import Spend
from tapir_exp.pipeline.round_counts import Count
from tapir_exp.pipeline.stage_costs import Amounts, StageEstimate

SWEEPS = sorted(
    path.stem for path in data_dir("sweeps").glob("*.yaml") if "# Plan: " in path.read_text(encoding="utf-8")
)
SMALL = ["debug=tiny", "curriculum.rounds=1"]


SECOND = Count(1.0, 2.0)


def a_stage(name: str = "task_labels", calls: int = 10, usd: float | None = 1.0, share: str = "x") -> StageEstimate:
    amounts = Amounts(calls, 1000.0, 100.0, usd)
    return StageEstimate(name, "judge", amounts, amounts * 16, amounts * 2, share)


def text_of(planned: list[PlannedStage]) -> str:
    return "\n".join(plan_lines(planned))


def output_of(*arguments: str) -> str:
    with redirect_stdout(io.StringIO()) as out:
        plan.main(arguments)
    return out.getvalue()


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of each line of the table, the sum included."""
    _, _, rows, after = re.split(r"(?m)^─+$|^Remaining work.*$", text)
    return [line.split() for line in [*rows.strip().splitlines(), after.strip().splitlines()[0]]]


def test_finished_stage_costs_nothing_and_shows_what_it_paid() -> None:
    paid = Spend(calls=9, cached=1, prompt_tokens=90, completion_tokens=9, usd=0.25)
    stage = PlannedStage(a_stage(usd=None), SECOND, finished=True, spent=paid)
    assert stage.remaining == StageCost(spent=paid)
    row = rows_of(text_of([stage]))[0]
    assert row[-2:] == ["9", "0.25"]
    assert plan_data([stage])["stages"][0]["spent"]["calls"] == 9


def test_cached_calls_are_subtracted() -> None:
    cost = PlannedStage(a_stage(), SECOND, 4).remaining
    assert (cost.expected.calls, cost.cached, cost.expected.prompt_tokens, cost.expected.usd) == pytest.approx(
        (6, 4, 600, 0.6)
    )
    assert (cost.most.calls, cost.usable.calls, cost.seconds.most) == pytest.approx((96, 12, 1.2))


@pytest.mark.parametrize(
    ("found", "sampled", "rows", "cached"),
    [(3, 7, 7, 3), (0, 2000, 52_000, 0), (2000, 2000, 52_000, 52_000), (1000, 2000, 52_000, 24_837)],
)
def test_cached_calls_of_a_sample_are_rather_too_few(found: int, sampled: int, rows: int, cached: int) -> None:
    assert surely_cached(found, sampled, rows) == cached


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    rows = [PlannedStage(a_stage(), SECOND), PlannedStage(a_stage("train_mix-1", usd=None), SECOND)]
    assert (rows[0].remaining + rows[1].remaining).expected.usd is None
    assert rows_of(text_of(rows))[-1].count("unknown") == 2


def test_stage_adds_the_spend_of_its_passes_once() -> None:
    paid = {"spend": {"judge": {"calls": 2, "cached": 0, "prompt_tokens": 1, "completion_tokens": 1, "usd": 0.5}}}
    names = ("fresh_verdicts-1", "pass0_fresh_verdicts-1", "pass1_fresh_verdicts-1", "verdicts-1")
    finished = {name: SimpleNamespace(figures=paid) for name in names}
    stages = [a_stage("fresh_verdicts-1", share=share) for share in ("first judge", "second judge")]
    planned = plan_job.plan_stages(Config(name="x"), stages, finished=finished)
    assert [stage.spent.calls for stage in planned] == [6, 0]


def test_shared_stage_of_several_jobs_is_counted_once() -> None:
    jobs = [[PlannedStage(a_stage(share=share), SECOND)] for share in ("x", "x", "y")]
    assert len(merge_jobs(jobs)) == 2


def test_no_figure_is_cut_in_a_pipe_of_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long = PlannedStage(a_stage("fresh_rollout_verdicts-12" * 3, 1_234_567_890), SECOND)
    monkeypatch.setattr(plan_job, "plan_job", lambda config, read, assumed: [long])
    text = output_of(*SMALL)
    assert "1,234,567,890" in rows_of(text)[-1]
    assert long.estimate.stage in text
    assert "disk: 0 students to store" in text


def test_plan_as_json_has_the_figures_of_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(output_of(*SMALL, "--json"))
    assert found["jobs"] == 1
    for total, stages in (
        (found["total"], found["stages"]),
        (found["total"]["most"], [stage["most"] for stage in found["stages"]]),
    ):
        assert total["calls"] == pytest.approx(sum(stage["calls"] for stage in stages))
        assert total["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages))
    assert [stage["stage"] for stage in found["stages"]][:3] == ["student-0", "benchmark-0", "task_labels"]
    assert found["disk"]["free_bytes"] > 0


@pytest.mark.parametrize("command", [["evaluate"], ["--config-name", "evaluate"]], ids=" ".join)
def test_plan_of_an_evaluation_counts_the_calls_of_its_judge(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = output_of(*command, "evals=mt_bench", "judge=gpt_4", "student=qwen1_5_0_5b", f"student.model={tmp_path}")
    rows = {cells[0]: cells for cells in rows_of(text)}
    assert list(rows) == ["mt-answers", "mt-judgments", "all"]
    assert rows["mt-judgments"][2] == rows["all"][1] == "160"
    assert rows["mt-judgments"][3] == "2,560"
    usd, most_usd = (float(cell.replace(",", "")) for cell in rows["all"][5:7])
    assert most_usd > usd > 0
    assert "warning: suite mt_bench: MT-Bench's" in text


def test_setting_below_a_judge_that_is_null_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"a choice for evals\.mt_bench\.judge first"):
        output_of("evals.mt_bench.judge.llm.model=x")


@pytest.mark.slow
# Composing takes a third of a second for each: the first job here, the others in `benchmarks/sweeps/plans.py`.
@pytest.mark.parametrize("name", SWEEPS)
def test_first_job_of_a_sweep_file_is_planned(name: str, tmp_path: Path) -> None:
    seeds = write_lines(tmp_path / "seeds.jsonl", [{"instruction": f"{n} things", "output": "a"} for n in range(9)])
    text = (data_dir("sweeps") / f"{name}.yaml").read_text(encoding="utf-8")
    own = ["seeds=file", f"seeds.path={seeds}"] if "override experiment:" in text else ["seeds.size=9"]
    params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    first = [f"{key}={str(values).partition(',')[0]}" for key, values in params.items()]
    composer, _ = _composer(["--config-name", name], PRIMARY)
    config = composer.config([*first, *own, f"outputs={tmp_path}/none"])
    stages = plan_job.plan_job(config, SeedReader())
    names = {planned.estimate.stage for planned in stages}
    last = config.curriculum.rounds
    assert f"student-{last}" in names
    judged = {f"alpaca-annotations-{last}", f"mt-judgments-{last}"}
    assert judged & names == (judged if "paper" in text and "evals: paper" in text else set())
    head = text.splitlines()
    assert head[1].startswith("# ")
    assert "?" in head[1] or "table" in head[1]
    jobs = math.prod(len(str(values).split(",")) for values in params.values())
    assert head[2].startswith("# Feeds: ")
    assert head[3].startswith(f"# Plan: {jobs} jobs, ")


def test_plan_of_a_fresh_run_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = output_of(*SMALL)
    assert [cells[0] for cells in rows_of(text)] == [
        *(
            "student-0",
            "benchmark-0",
            "task_labels",
            "teacher_responses",
            "student_responses-0",
            "verdicts-0",
            "expansions-1",
            "expansions-1",
            "train_mix-1",
            "student-1",
            "benchmark-1",
            "all",
        )
    ]
    assert list(tmp_path.iterdir()) == []
    assert max(map(len, text.splitlines()[: len(rows_of(text)) + 4])) <= 100


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

    monkeypatch.setattr(plan_job, "skim_seeds", load)
    reader = SeedReader()
    for size in (5, 5, 6):
        reader(SeedsConfig(source=SeedSource.lab, size=size))
    assert [config.size for config in read] == [5, 6]


def test_probe_corrects_the_plan_and_pays_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = output_of(*SMALL, "--probe", "2")
    assert "Corrected by the probe" in text
    assert re.search(r"probe of 2 rows: \d\d calls paid", text)
    again = json.loads(output_of(*SMALL, "--probe", "2", "--json"))
    assert again["probe"]["calls"] == 0
    before, after = again["assumed"]["total"], again["total"]
    assert after["completion_tokens"] != before["completion_tokens"]
    assert (after["most"]["calls"], after["most"]["prompt_tokens"]) == (
        before["most"]["calls"],
        before["most"]["prompt_tokens"],
    )


def test_probe_of_an_evaluation_is_refused() -> None:
    with pytest.raises(ConfigError, match="--probe 3: expected one run, got an evaluation"):
        output_of("evaluate", "evals=mt_bench", "judge=gpt_4", "--probe", "3")
