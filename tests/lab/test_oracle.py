"""The oracles read rendered prompts, reply in text that the real parsers read, and err at the configured rates."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import exp, sqrt
from random import Random
from statistics import fmean, stdev

import pytest
from assets import ROOT
from fakes import completion_of, example

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
from tapir_exp.lab.families.ladder import LADDER
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.oracle import LAB_VERSION, LEVEL_DRIFT, ROLES, UNKNOWN_TASK, prefer, respond
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


def reply(role: str, request: ChatRequest, options: Mapping[str, float]) -> str:
    messages = [message.model_dump() for message in request.messages]
    return respond(role, messages, options, request.temperature, request.sample)


def plain_request(instruction: str) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=instruction),), max_tokens=99)


def label_of(instruction: str, error_rate: float = 0.0) -> TaskType:
    request = build_classification_request(instruction, ClassifierConfig())
    return parse_task(completion_of(reply("labeller", request, {"error_rate": error_rate})))


def scores(match: ResponsePair, order: PresentationOrder, options: Mapping[str, float] = FAIR) -> tuple[float, float]:
    """Return the judge's scores of teacher and student."""
    request = build_judge_request(match, order, JudgeConfig())
    first, second = parse_pair_scores(completion_of(reply("judge", request, options)))
    return (first, second) if order is PresentationOrder.TEACHER_FIRST else (second, first)


def gaps(matches: Sequence[ResponsePair], order: PresentationOrder, options: Mapping[str, float]) -> list[float]:
    pairs = (scores(match, order, options) for match in matches)
    return [teacher - student for teacher, student in pairs]


def new_pairs(
    examples: Sequence[Example], task: TaskType, count: int, sample: int, options: Mapping[str, float] = RIGHT
) -> tuple[InstructionPair, ...]:
    request = build_expansion_request(ExpansionRequest(task, count, tuple(examples), sample), TEACHER)
    return parse_pairs(completion_of(reply("teacher", request, options)))


def within_binomial(hits: int, n: int, rate: float) -> bool:
    """Return whether a number of hits is within 4 standard deviations of the expected one."""
    return abs(hits - n * rate) <= 4 * sqrt(n * rate * (1 - rate))


def recognised(instruction: str) -> Known:
    result = recognise(instruction)
    assert result, instruction
    return result


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 1.0])
def test_teacher_responds_tersely_and_errs_at_its_rate(known: list[Known], rate: float) -> None:
    answers = [reply("teacher", plain_request(p.instruction), {**RIGHT, "error_rate": rate}) for _, p in known]
    wrong = sum(answer == problem.slip for answer, (_, problem) in zip(answers, known, strict=True))
    right = sum(answer == problem.terse for answer, (_, problem) in zip(answers, known, strict=True))
    assert wrong + right == len(known)
    assert within_binomial(wrong, len(known), rate)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_teacher_refines_any_draft_and_errs_at_its_rate(known: list[Known], rate: float) -> None:
    wrong = 0
    for family, problem in known:
        request = build_refinement_request(
            RefinementRequest("a", family.task, problem.instruction, "a wrong draft"), TEACHER
        )
        response = parse_response(completion_of(reply("teacher", request, {**RIGHT, "error_rate": rate})))
        assert response in (problem.refined, problem.slip)
        wrong += response != problem.refined
    assert within_binomial(wrong, len(known), rate)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_labeller_errs_at_its_rate(known: list[Known], rate: float) -> None:
    wrong = sum(label_of(problem.instruction, rate) is not family.task for family, problem in known)
    assert within_binomial(wrong, len(known), rate)


@pytest.mark.parametrize("role", ROLES)
def test_reply_depends_on_the_request_alone(role: str, known: list[Known]) -> None:
    options = {"error_rate": 0.5, "expansion_error_rate": 0.5, "noise": 2.0, "position_bias": 0.5}
    match = ResponsePair("a", known[0][1].instruction, known[0][1].refined, known[0][1].slip)
    requests = {
        "teacher": build_expansion_request(ExpansionRequest(TaskType.MATH, 3, (), 0), TEACHER),
        "judge": build_judge_request(match, PresentationOrder.TEACHER_FIRST, JudgeConfig()),
        "labeller": build_classification_request(known[0][1].instruction, ClassifierConfig()),
    }
    draws = [requests[role].model_copy(update={"sample": sample}) for sample in range(30)]
    replies = [reply(role, request, options) for request in draws]
    assert replies == [reply(role, request, options) for request in draws]
    assert len(set(replies)) > 5


def test_every_part_of_a_request_changes_the_draw() -> None:
    request = build_expansion_request(ExpansionRequest(TaskType.MATH, 3, (), 0), TEACHER)
    turn = Message(role="user", content="Reply again.")
    replies = {
        reply("teacher", request, RIGHT),
        reply("teacher", request.model_copy(update={"temperature": 0.1}), RIGHT),
        reply("teacher", request.model_copy(update={"messages": (*request.messages, turn)}), RIGHT),
        reply("teacher", request, {**RIGHT, "seed": 1}),
    }
    assert len(replies) == 4


def test_reply_is_the_same_in_every_process() -> None:
    prompt = "<task>Math</task><count>3</count>"
    code = (
        "from tapir_exp.lab.oracle import respond\n"
        f"print(respond('teacher', [{{'content': '{prompt}'}}], {dict(RIGHT)}, 0.7, 4), end='')"
    )
    here = respond("teacher", [{"content": prompt}], RIGHT, 0.7, 4)
    root = str(ROOT)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": root}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == here


@pytest.fixture(scope="module")
def matches(known: list[Known]) -> list[ResponsePair]:
    """Return 300 problems with two different responses of equal score, well within the scale."""
    alike = [
        ResponsePair(str(n), problem.instruction, problem.slip, f"Answer: {problem.slip}")
        for n, (family, problem) in enumerate(known)
        if 3 <= family.grade(problem, problem.slip).score <= 7
        and family.grade(problem, problem.slip) == family.grade(problem, f"Answer: {problem.slip}")
    ]
    return alike[:300]


def test_fair_judge_gives_the_scores_of_the_family(known: list[Known]) -> None:
    for family, problem in known[:200]:
        match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
        expected = (family.grade(problem, problem.refined).score, family.grade(problem, problem.slip).score)
        assert (
            scores(match, PresentationOrder.TEACHER_FIRST) == scores(match, PresentationOrder.STUDENT_FIRST) == expected
        )


def test_position_bias_cancels_over_both_orders(matches: list[ResponsePair]) -> None:
    assert len(matches) == 300
    options = {"noise": 0.5, "position_bias": 0.7}
    ahead, behind = (gaps(matches, order, options) for order in BOTH_ORDERS)
    assert fmean(ahead) == pytest.approx(0.7, abs=0.2)
    assert fmean(behind) == pytest.approx(-0.7, abs=0.2)
    both = [(one + other) / 2 for one, other in zip(ahead, behind, strict=True)]
    assert fmean(both) == pytest.approx(0, abs=0.15)


def test_noise_shrinks_over_both_orders(matches: list[ResponsePair]) -> None:
    options = {"noise": 1.0, "position_bias": 0.0}
    one, other = (gaps(matches, order, options) for order in BOTH_ORDERS)
    assert {*gaps(matches, PresentationOrder.TEACHER_FIRST, FAIR)} == {0}
    assert stdev(one) == pytest.approx(sqrt(2), abs=0.25)
    both = [(first + second) / 2 for first, second in zip(one, other, strict=True)]
    assert stdev(both) == pytest.approx(1, abs=0.2)
    assert stdev(both) < stdev(one)


def test_scores_stay_on_the_scale(matches: list[ResponsePair]) -> None:
    results = [
        score
        for match in matches
        for score in scores(match, PresentationOrder.TEACHER_FIRST, {"noise": 9, "position_bias": 3})
    ]
    assert (min(results), max(results)) == (1, 10)


def test_judge_gives_reasons_after_the_scores() -> None:
    problem = draw(FAMILIES[0], 1, Random(1), held_out=False)
    match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
    head, reasons = reply(
        "judge", build_judge_request(match, PresentationOrder.STUDENT_FIRST, JudgeConfig()), FAIR
    ).split("\n")
    assert head.split()[1] == "10"
    assert reasons.startswith("Assistant 1 is wrong: expected")
    assert reasons.endswith("Assistant 2 is right, with the detail the task wants.")


@pytest.mark.parametrize("response", ["", "  ", "</assistant_2>", "é"])
def test_judge_scores_an_empty_response_low(response: str) -> None:
    problem = draw(FAMILIES[0], 1, Random(1), held_out=False)
    match = ResponsePair("a", problem.instruction, problem.refined, response)
    assert scores(match, PresentationOrder.TEACHER_FIRST) == scores(match, PresentationOrder.STUDENT_FIRST) == (10, 1)


def test_single_score_equals_the_score_in_a_pair(known: list[Known]) -> None:
    config = JudgeConfig(protocol=JudgeProtocol.single_score)
    for _, problem in known[:50]:
        match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
        alone = [
            parse_single_score(completion_of(reply("judge", build_judge_request(match, order, config), FAIR)))
            for order in (PresentationOrder.TEACHER_ALONE, PresentationOrder.STUDENT_ALONE)
        ]
        assert tuple(score for (score,) in alone) == scores(match, PresentationOrder.TEACHER_FIRST)


def test_complexity_rating_follows_the_level(known: list[Known]) -> None:
    for _, problem in known[:50]:
        text = reply("judge", build_complexity_request(problem.instruction, JudgeConfig()), FAIR)
        assert parse_single_score(completion_of(text)) == (3 * problem.level,)


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_preference_follows_the_scores(known: list[Known], bias: float) -> None:
    for _, problem in known[:50]:
        match = ResponsePair("a", problem.instruction, problem.refined, problem.slip)
        request = build_judge_request(match, PresentationOrder.TEACHER_FIRST, JudgeConfig())
        messages = [message.model_dump() for message in request.messages]
        teacher, student = scores(match, PresentationOrder.TEACHER_FIRST)
        probability = prefer(messages, {**FAIR, "position_bias": bias}, 0.0, 0)
        assert probability == pytest.approx(1 / (1 + exp(student - teacher - bias)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_new_problems_are_near_the_level_of_their_example(family: Family) -> None:
    """They are also right, and never held out."""
    drifted = total = 0
    for sample in range(30):
        level = family.levels[sample % len(family.levels)]
        examples = [example(draw(family, level, Random(sample + n), held_out=False).instruction) for n in range(3)]
        for pair in new_pairs(examples, family.task, 4, sample):
            new_family, problem = recognised(pair.instruction)
            assert new_family is family
            assert not is_held_out(problem)
            assert abs(problem.level - level) <= 1
            assert pair.response == problem.terse
            total += 1
            drifted += problem.level != level
    assert total == 120
    assert drifted > 0
    assert within_binomial(drifted, total, LEVEL_DRIFT)


def test_expansion_follows_any_of_its_examples() -> None:
    examples = [example(draw(family, 1, Random(1), held_out=False).instruction) for family in FAMILIES[:2]]
    pairs = [pair for sample in range(10) for pair in new_pairs(examples, FAMILIES[0].task, 4, sample)]
    assert {recognised(pair.instruction)[0] for pair in pairs} == set(FAMILIES[:2])


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_expansion_error_rate_changes_the_task_type(rate: float) -> None:
    options = {**RIGHT, "expansion_error_rate": rate}
    pairs = [p for n in range(100) for p in new_pairs([], TaskType.MATH, 4, n, options)]
    off = sum(recognised(pair.instruction)[0].task is not TaskType.MATH for pair in pairs)
    assert within_binomial(off, len(pairs), rate)
    assert not any(is_held_out(recognised(pair.instruction)[1]) for pair in pairs)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_expansions_of_the_ladder_stay_in_their_world(rate: float) -> None:
    examples = [example(draw(LADDER[0], 3, Random(1), held_out=False).instruction)]
    pairs = new_pairs(examples, LADDER[0].task, 40, 1, {**RIGHT, "expansion_error_rate": rate})
    families = {recognised(pair.instruction)[0] for pair in pairs}
    assert families <= set(LADDER)
    assert (LADDER[0] in families) is (rate == 0.0)


def test_new_responses_are_wrong_at_the_error_rate() -> None:
    options = {**RIGHT, "error_rate": 0.2}
    pairs = [p for n in range(100) for p in new_pairs([], TaskType.REASONING, 4, n, options)]
    wrong = sum(pair.response == recognised(pair.instruction)[1].slip for pair in pairs)
    assert within_binomial(wrong, len(pairs), 0.2)


@pytest.mark.parametrize("task", [family.task for family in FAMILIES])
def test_expansion_without_examples_starts_at_level_one(task: TaskType) -> None:
    results = [recognised(pair.instruction) for n in range(5) for pair in new_pairs([], task, 4, n)]
    assert {family.task for family, _ in results} == {task}
    assert {problem.level for _, problem in results} <= {1, 2}


def test_labels_are_the_task_types_of_the_families(known: list[Known]) -> None:
    for family, problem in known[:100]:
        assert label_of(problem.instruction) is family.task


def test_unknown_instruction_gets_a_neutral_reply() -> None:
    assert reply("teacher", plain_request(UNKNOWN), RIGHT) == UNKNOWN_TASK
    refined = reply(
        "teacher", build_refinement_request(RefinementRequest("a", TaskType.ART, UNKNOWN, "Knock."), TEACHER), RIGHT
    )
    assert parse_response(completion_of(refined)) == UNKNOWN_TASK
    expansion = build_expansion_request(ExpansionRequest(TaskType.ART, 2, (), 0), TEACHER)
    assert reply("teacher", expansion, RIGHT) == UNKNOWN_TASK
    assert label_of(UNKNOWN) is TaskType.OTHERS
    match = ResponsePair("a", UNKNOWN, "Knock knock.", "No.")
    assert scores(match, PresentationOrder.TEACHER_FIRST) == (5, 5)


def test_unknown_role_fails_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no model lab/student; expected one of lab/teacher, lab/judge, lab/labeller"):
        respond("student", [{"content": UNKNOWN}], {}, 0.0, 0)


@pytest.mark.parametrize(
    ("role", "option"),
    [("teacher", "error_rate"), ("judge", "position_bias"), ("judge", "noise"), ("labeller", "error_rate")],
)
def test_missing_option_fails_with_its_name(role: str, option: str) -> None:
    instruction = draw(FAMILIES[0], 1, Random(1), held_out=False).instruction
    tagged = f"<instruction>\n{instruction}\n</instruction>\n<assistant_1>\n</assistant_1>"
    prompt = instruction if role == "teacher" else tagged
    options = {name: 0.0 for name in ("error_rate", "noise", "position_bias") if name != option}
    with pytest.raises(KeyError, match=option):
        respond(role, [{"content": prompt}], options, 0.0, 0)


def test_lab_version_has_12_hex_digits() -> None:
    assert len(LAB_VERSION) == 12
    assert int(LAB_VERSION, 16) >= 0
