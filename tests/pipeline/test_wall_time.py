"""Wall time of a plan follows the concurrency, the limits, what a probe measured, and the size of the student."""

from dataclasses import replace

import pytest

from tapir_exp.config import (
    Config,
    CurriculumConfig,
    JudgeConfig,
    LLMConfig,
    StudentConfig,
    TeacherConfig,
    TrainerConfig,
)
from tapir_exp.pipeline.hardware import num_cores
from tapir_exp.pipeline.request_sizes import Assumptions, Measured, RequestKind, RequestSize
from tapir_exp.pipeline.round_counts import Count, exactly
from tapir_exp.pipeline.stage_costs import StageEstimate, call_stage, generation_stage
from tapir_exp.pipeline.student_hours import generation_hours
from tapir_exp.pipeline.wall_time import (
    AUTO_IN_FLIGHT,
    START_S,
    call_seconds,
    describe_assumptions,
    stage_seconds,
    without_overlap,
)

LABEL = RequestSize(RequestKind.LABEL, prompt=100.0, completion=20.0, most_prompt=200.0, limit=50)
EACH = 0.6 + 20 / 50
"""Assumed seconds of a call with 20 tokens."""


def stage(calls: float = 600, **settings: object) -> StageEstimate:
    llm = LLMConfig(model="a/m", **{"concurrency": 10, "max_attempts": 1, "timeout_s": 30.0, **settings})  # type: ignore[arg-type]
    return call_stage("task_labels", "classifier", llm, exactly(calls), LABEL, "share")


def seconds(planned: StageEstimate, assumed: Assumptions | None = None) -> Count:
    assert planned.llm is not None
    return call_seconds(planned, planned.llm, assumed or Assumptions())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 60 * EACH),
        ({"concurrency": 1}, 600 * EACH),
        ({"concurrency": "auto"}, 600 * EACH / AUTO_IN_FLIGHT),
        ({"concurrency": "auto", "max_concurrency": 5}, 120 * EACH),
        ({"requests_per_minute": 60}, 540.0),
        ({"tokens_per_minute": 7200}, 540.0),
        ({"batch": True}, 3600.0),
    ],
)
def test_calls_take_the_time_of_their_slots_or_limits(settings: dict[str, object], expected: float) -> None:
    assert seconds(stage(**settings)).expected == pytest.approx(expected)


def test_bound_counts_a_time_out_for_every_paid_call() -> None:
    # Each request twice: 1,200 calls of 30 s, ten or one at a time.
    assert seconds(stage()).most == pytest.approx(120 * 30)
    assert seconds(stage(concurrency="auto")).most == pytest.approx(1200 * 30)
    assert seconds(stage(max_attempts=2)).most > 2 * 120 * 30
    assert seconds(stage(batch=True)).most > 24 * 3600


def test_measured_time_replaces_the_assumed_one() -> None:
    measured = Measured(requests=5, prompt_ratio=1.0, completion=20.0, repeats=0.0, seconds=2.0)
    assumed = Assumptions(measured={RequestKind.LABEL: measured})
    assert seconds(stage(), assumed).expected == pytest.approx(60 * 2.0)
    served = stage()
    assert served.llm is not None
    served.llm.server.command = ["llama-server"]
    # A server on this machine is not faster with ten calls than with the five of the probe.
    assert seconds(served, assumed).expected == pytest.approx(120 * 2.0)


def test_verdicts_while_the_student_responds_count_what_they_take_longer() -> None:
    names = [("student_responses-0", "student"), ("verdicts-0", "judge"), ("fresh_verdicts-1", "judge")]
    stages = [(replace(stage(), stage=name, role=role), Count(50.0, 90.0)) for name, role in names]
    stages[1] = (stages[1][0], Count(70.0, 90.0))
    streamed = [time.expected for time in without_overlap(Config(name="x"), stages)]
    assert streamed == [50.0, 20.0, 50.0]
    apart = Config(name="x", judge=JudgeConfig(stream_while_generating=False))
    assert [time.expected for time in without_overlap(apart, stages)] == [50.0, 70.0, 50.0]


def test_student_takes_the_hours_of_its_processor() -> None:
    config = Config(
        name="x", student=StudentConfig(model="m", num_parameters=1e9), trainer=TrainerConfig(accelerator="gpu")
    )
    responses = generation_stage(config, "student_responses-0", 1000.0, 5000.0, "share")
    gpu = stage_seconds(config, responses, Assumptions())
    hours = generation_hours(config.student, 1000.0)
    assert hours is not None
    assert gpu.expected == pytest.approx(START_S + 3600 * hours.gpu)
    assert gpu.most == pytest.approx(10 * (START_S + 5 * 3600 * hours.gpu))
    on_cpu = stage_seconds(replace(config, trainer=TrainerConfig(accelerator="cpu")), responses, Assumptions())
    assert on_cpu.expected == pytest.approx(START_S + 3600 * hours.core / num_cores())
    unknown = generation_stage(Config(name="x", student=StudentConfig(model="m")), "s", 1000.0, 5000.0, "share")
    assert stage_seconds(config, unknown, Assumptions()).expected == START_S


def test_assumed_concurrency_is_told() -> None:
    teacher = TeacherConfig(llm=LLMConfig(model="a/m", concurrency="auto"))
    config = Config(name="x", teacher=teacher, judge=JudgeConfig(llm=LLMConfig(model="a/j")))
    text = " ".join(describe_assumptions(replace(config, curriculum=CurriculumConfig(rounds=1)), Assumptions()))
    assert f"auto is assumed to find teacher {AUTO_IN_FLIGHT} calls in flight" in text
