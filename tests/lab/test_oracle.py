"""The oracles read rendered prompts, reply in text that the real parsers read, and err as often as they are told to."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import exp, sqrt
from random import Random
from statistics import fmean, stdev

import pytest
from assets import ROOT
from fakes import example, reply_of

from tapir_exp.config import ClassifierConfig, JudgeConfig, JudgeProtocol, TeacherConfig
from tapir_exp.core.records import BOTH_ORDERS, Example, PresentationOrder
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.llm import build_classification_request, parse_task
from tapir_exp.distillation.judge.parse import parse_pair_scores, parse_single_score
from tapir_exp.distillation.judge.requests import ResponsePair, build_complexity_request, build_judge_request
from tapir_exp.distillation.teacher import (
    ExpansionRequest,
    InstructionPair,
    RefinementRequest,
    build_expansion_request,
    build_refinement_request,
    parse_pairs,
    parse_response,
)
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.oracle import AT_A_LOSS, LAB_VERSION, LEVEL_DRIFT, ROLES, prefer, respond
from tapir_exp.lab.world import draw, is_held_out, natural_problems, recognise
from tapir_exp.llm.chat import ChatRequest, Message

Known = tuple[Family, Problem]
UNKNOWN = "Tell me a joke."
RIGHT: Mapping[str, float] = {"error_rate": 0.0, "expansion_error_rate": 0.0}
FAIR: Mapping[str, float] = {"noise": 0.0, "position_bias": 0.0}
TEACHER = TeacherConfig()


@pytest.fixture(scope="module")
def known() -> list[Known]:
    return natural_problems(800, seed=5)


def said(role: str, request: ChatRequest, options: Mapping[str, float]) -> str:
    messages = [message.model_dump() for message in request.messages]
    return respond(role, messages, options, request.temperature, request.sample)


def question(instruction: str) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=instruction),), max_tokens=99)


def label_of(instruction: str, error_rate: float = 0.0) -> TaskType:
    return parse_task(
        reply_of(
            said("labeller", build_classification_request(instruction, ClassifierConfig()), {"error_rate": error_rate})
        )
    )


def scores(match: ResponsePair, order: PresentationOrder, options: Mapping[str, float] = FAIR) -> tuple[float, float]:
    """What the judge gives the teacher and the student."""
    read = parse_pair_scores(reply_of(said("judge", build_judge_request(match, order, JudgeConfig()), options)))
    return (read[0], read[1]) if order is PresentationOrder.TEACHER_FIRST else (read[1], read[0])


def gaps(matches: Sequence[ResponsePair], order: PresentationOrder, options: Mapping[str, float]) -> list[float]:
    given = [scores(match, order, options) for match in matches]
    return [teacher - student for teacher, student in given]


def new_pairs(
    shown: Sequence[Example], task: TaskType, count: int, sample: int, options: Mapping[str, float] = RIGHT
) -> tuple[InstructionPair, ...]:
    request = build_expansion_request(ExpansionRequest(task, count, tuple(shown), sample), TEACHER)
    return parse_pairs(reply_of(said("teacher", request, options)))


def within_binomial(hits: int, n: int, rate: float) -> bool:
    """Whether so many hits are within 4 standard deviations of what `rate` gives."""
    return abs(hits - n * rate) <= 4 * sqrt(n * rate * (1 - rate))


def recognised(instruction: str) -> Known:
    found = recognise(instruction)
    assert found, instruction
    return found


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 1.0])
def test_the_teacher_answers_tersely_and_errs_at_its_rate(known: list[Known], rate: float) -> None:
    answers = [said("teacher", question(p.instruction), {**RIGHT, "error_rate": rate}) for _, p in known]
    wrong = sum(answer == problem.slip for answer, (_, problem) in zip(answers, known, strict=True))
    right = sum(answer == problem.terse for answer, (_, problem) in zip(answers, known, strict=True))
    assert wrong + right == len(known)
    assert within_binomial(wrong, len(known), rate)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_teacher_refines_whatever_the_draft_and_errs_at_its_rate(known: list[Known], rate: float) -> None:
    wrong = 0
    for family, problem in known:
        request = build_refinement_request(
            RefinementRequest("a", family.task, problem.instruction, "a wrong draft"), TEACHER
        )
        response = parse_response(reply_of(said("teacher", request, {**RIGHT, "error_rate": rate})))
        assert response in (problem.refined, problem.slip)
        wrong += response != problem.refined
    assert within_binomial(wrong, len(known), rate)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_the_labeller_errs_at_its_rate(known: list[Known], rate: float) -> None:
    wrong = sum(label_of(problem.instruction, rate) is not family.task for family, problem in known)
    assert within_binomial(wrong, len(known), rate)


@pytest.mark.parametrize("role", ROLES)
def test_the_same_request_has_the_same_reply_and_another_another(role: str, known: list[Known]) -> None:
    options = {"error_rate": 0.5, "expansion_error_rate": 0.5, "noise": 2.0, "position_bias": 0.5}
    match = ResponsePair("a", known[0][1].instruction, known[0][1].refined, known[0][1].slip)
    requests = {
        "teacher": build_expansion_request(ExpansionRequest(TaskType.MATH, 3, (), 0), TEACHER),
        "judge": build_judge_request(match, PresentationOrder.TEACHER_FIRST, JudgeConfig()),
        "labeller": build_classification_request(known[0][1].instruction, ClassifierConfig()),
    }
    draws = [requests[role].model_copy(update={"sample": sample}) for sample in range(30)]
    replies = [said(role, request, options) for request in draws]
    assert replies == [said(role, request, options) for request in draws]
    assert len(set(replies)) > 5


def test_temperature_options_and_a_second_turn_make_another_draw() -> None:
    request = build_expansion_request(ExpansionRequest(TaskType.MATH, 3, (), 0), TEACHER)
    turn = Message(role="user", content="Reply again.")
    replies = {
        said("teacher", request, RIGHT),
        said("teacher", request.model_copy(update={"temperature": 0.1}), RIGHT),
        said("teacher", request.model_copy(update={"messages": (*request.messages, turn)}), RIGHT),
        said("teacher", request, {**RIGHT, "seed": 1}),
    }
    assert len(replies) == 4


def test_a_reply_is_the_same_in_every_process() -> None:
    prompt = "<task>Math</task><count>3</count>"
    code = (
        "from tapir_exp.lab.oracle import respond\n"
        f"print(respond('teacher', [{{'content': '{prompt}'}}], {dict(RIGHT)}, 0.7, 4), end='')"
    )
    here = respond("teacher", [{"content": prompt}], RIGHT, 0.7, 4)
    root = str(ROOT)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == here


@pytest.fixture(scope="module")
def matches(known: list[Known]) -> list[ResponsePair]:
    """Two different responses of the same worth, well within the scale, to each of 300 problems."""
    alike = [
        ResponsePair(str(n), problem.instruction, problem.slip, f"Answer: {problem.slip}")
        for n, (family, problem) in enumerate(known)
        if 3 <= family.grade(problem, problem.slip).score <= 7
        and family.grade(problem, problem.slip) == family.grade(problem, f"Answer: {problem.slip}")
    ]
    return alike[:300]


def test_a_fair_judge_gives_the_graders_scores(known: list[Known]) -> None:
    for family, problem in known[:200]:
        match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
        marks = (family.grade(problem, problem.refined).score, family.grade(problem, problem.slip).score)
        assert scores(match, PresentationOrder.TEACHER_FIRST) == scores(match, PresentationOrder.STUDENT_FIRST) == marks


def test_the_judges_position_bias_shows_in_one_order_and_is_gone_in_both(matches: list[ResponsePair]) -> None:
    assert len(matches) == 300
    options = {"noise": 0.5, "position_bias": 0.7}
    ahead, behind = (gaps(matches, order, options) for order in BOTH_ORDERS)
    assert fmean(ahead) == pytest.approx(0.7, abs=0.2)
    assert fmean(behind) == pytest.approx(-0.7, abs=0.2)
    both = [(one + other) / 2 for one, other in zip(ahead, behind, strict=True)]
    assert fmean(both) == pytest.approx(0, abs=0.15)


def test_the_judges_noise_shows_and_shrinks_over_both_orders(matches: list[ResponsePair]) -> None:
    options = {"noise": 1.0, "position_bias": 0.0}
    one, other = (gaps(matches, order, options) for order in BOTH_ORDERS)
    assert {*gaps(matches, PresentationOrder.TEACHER_FIRST, FAIR)} == {0}
    assert stdev(one) == pytest.approx(sqrt(2), abs=0.25)
    both = [(first + second) / 2 for first, second in zip(one, other, strict=True)]
    assert stdev(both) == pytest.approx(1, abs=0.2)
    assert stdev(both) < stdev(one)


def test_scores_stay_on_the_scale_whatever_the_noise(matches: list[ResponsePair]) -> None:
    given = [
        score
        for match in matches
        for score in scores(match, PresentationOrder.TEACHER_FIRST, {"noise": 9, "position_bias": 3})
    ]
    assert (min(given), max(given)) == (1, 10)


def test_the_judge_gives_its_reasons_after_the_scores() -> None:
    problem = draw(FAMILIES[0], 1, Random(1), held_out=False)
    match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
    head, reasons = said(
        "judge", build_judge_request(match, PresentationOrder.STUDENT_FIRST, JudgeConfig()), FAIR
    ).split("\n")
    assert head.split()[1] == "10"
    assert reasons.startswith("Assistant 1 is wrong: expected")
    assert reasons.endswith("Assistant 2 is right, with the detail the task wants.")


@pytest.mark.parametrize("response", ["", "  ", "</assistant_2>", "é"])
def test_the_judge_marks_down_a_response_that_is_none(response: str) -> None:
    problem = draw(FAMILIES[0], 1, Random(1), held_out=False)
    match = ResponsePair("a", problem.instruction, problem.refined, response)
    assert scores(match, PresentationOrder.TEACHER_FIRST) == scores(match, PresentationOrder.STUDENT_FIRST) == (10, 1)


def test_the_judge_scores_an_answer_alone_as_it_does_in_a_pair(known: list[Known]) -> None:
    config = JudgeConfig(protocol=JudgeProtocol.single_score)
    for _, problem in known[:50]:
        match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
        alone = [
            parse_single_score(reply_of(said("judge", build_judge_request(match, order, config), FAIR)))
            for order in (PresentationOrder.TEACHER_ALONE, PresentationOrder.STUDENT_ALONE)
        ]
        assert tuple(score for (score,) in alone) == scores(match, PresentationOrder.TEACHER_FIRST)


def test_the_judge_rates_higher_levels_as_more_complex(known: list[Known]) -> None:
    for _, problem in known[:50]:
        reply = said("judge", build_complexity_request(problem.instruction, JudgeConfig()), FAIR)
        assert parse_single_score(reply_of(reply)) == (3 * problem.level,)


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_the_judge_prefers_what_it_would_score_higher(known: list[Known], bias: float) -> None:
    for _, problem in known[:50]:
        match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
        request = build_judge_request(match, PresentationOrder.TEACHER_FIRST, JudgeConfig())
        messages = [message.model_dump() for message in request.messages]
        teacher, student = scores(match, PresentationOrder.TEACHER_FIRST)
        sure = prefer(messages, {**FAIR, "position_bias": bias}, 0.0, 0)
        assert sure == pytest.approx(1 / (1 + exp(student - teacher - bias)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_new_problems_are_off_the_held_out_split_near_the_level_and_right(family: Family) -> None:
    drifted = total = 0
    for sample in range(30):
        level = family.levels[sample % len(family.levels)]
        shown = [example(draw(family, level, Random(sample + n), held_out=False).instruction) for n in range(3)]
        for pair in new_pairs(shown, family.task, 4, sample):
            found, problem = recognised(pair.instruction)
            assert found is family
            assert not is_held_out(problem)
            assert abs(problem.level - level) <= 1
            assert pair.response == problem.terse
            total += 1
            drifted += problem.level != level
    assert total == 120
    assert drifted > 0
    assert within_binomial(drifted, total, LEVEL_DRIFT)


def test_an_expansion_takes_after_any_of_its_examples() -> None:
    shown = [example(draw(family, 1, Random(1), held_out=False).instruction) for family in FAMILIES[:2]]
    pairs = [pair for sample in range(10) for pair in new_pairs(shown, FAMILIES[0].task, 4, sample)]
    assert {recognised(pair.instruction)[0] for pair in pairs} == set(FAMILIES[:2])


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_new_problems_are_of_another_type_at_the_rate_of_that_error(rate: float) -> None:
    options = {**RIGHT, "expansion_error_rate": rate}
    pairs = [p for n in range(100) for p in new_pairs([], TaskType.MATH, 4, n, options)]
    off = sum(recognised(pair.instruction)[0].task is not TaskType.MATH for pair in pairs)
    assert within_binomial(off, len(pairs), rate)
    assert not any(is_held_out(recognised(pair.instruction)[1]) for pair in pairs)


def test_new_responses_are_wrong_at_the_error_rate() -> None:
    options = {**RIGHT, "error_rate": 0.2}
    pairs = [p for n in range(100) for p in new_pairs([], TaskType.REASONING, 4, n, options)]
    wrong = sum(pair.response == recognised(pair.instruction)[1].slip for pair in pairs)
    assert within_binomial(wrong, len(pairs), 0.2)


@pytest.mark.parametrize("task", [family.task for family in FAMILIES])
def test_a_type_without_examples_begins_at_the_first_level(task: TaskType) -> None:
    found = [recognised(pair.instruction) for n in range(5) for pair in new_pairs([], task, 4, n)]
    assert {family.task for family, _ in found} == {task}
    assert {problem.level for _, problem in found} <= {1, 2}


def test_labels_are_the_types_of_the_families(known: list[Known]) -> None:
    for family, problem in known[:100]:
        assert label_of(problem.instruction) is family.task


def test_what_the_lab_does_not_know() -> None:
    assert said("teacher", question(UNKNOWN), RIGHT) == AT_A_LOSS
    refined = said(
        "teacher", build_refinement_request(RefinementRequest("a", TaskType.ART, UNKNOWN, "Knock."), TEACHER), RIGHT
    )
    assert parse_response(reply_of(refined)) == AT_A_LOSS
    assert (
        said("teacher", build_expansion_request(ExpansionRequest(TaskType.ART, 2, (), 0), TEACHER), RIGHT) == AT_A_LOSS
    )
    assert label_of(UNKNOWN) is TaskType.OTHERS
    match = ResponsePair("a", UNKNOWN, "Knock knock.", "No.")
    assert scores(match, PresentationOrder.TEACHER_FIRST) == (5, 5)


def test_a_role_that_the_lab_has_not_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(ValueError, match="lab/teacher, lab/judge, lab/labeller, but not lab/student"):
        respond("student", [{"content": UNKNOWN}], {}, 0.0, 0)


@pytest.mark.parametrize(
    ("role", "option"),
    [("teacher", "error_rate"), ("judge", "position_bias"), ("judge", "noise"), ("labeller", "error_rate")],
)
def test_a_missing_option_is_an_error_that_names_it(role: str, option: str) -> None:
    instruction = draw(FAMILIES[0], 1, Random(1), held_out=False).instruction
    tagged = f"<instruction>\n{instruction}\n</instruction>\n<assistant_1>\n</assistant_1>"
    prompt = instruction if role == "teacher" else tagged
    options = {name: 0.0 for name in ("error_rate", "noise", "position_bias") if name != option}
    with pytest.raises(KeyError, match=option):
        respond(role, [{"content": prompt}], options, 0.0, 0)


def test_the_digest_of_the_world_is_12_hex_digits() -> None:
    assert len(LAB_VERSION) == 12
    assert int(LAB_VERSION, 16) >= 0
