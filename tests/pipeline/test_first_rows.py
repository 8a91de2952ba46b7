"""A run looks at the first rows of a stage, and stops before it pays for the rest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from composing import compose_config
from fakes import ScriptedChat, example, prompt_of
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Label
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.llm import LLMClassifier
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.distillation.judge.score import score_pairs
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.pipeline import data
from tapir_exp.pipeline.first_rows import FIRST, check_judge, check_trained_labels, judge_requests, spread
from tapir_exp.pipeline.workspace import StageOutput

ROWS = 100
AT_ONCE = 4


@pytest.fixture(scope="module")
def config() -> Config:
    whole = compose_config("classifier=as_teacher", "allow_lab_parts=true")
    one = replace(whole.teacher.llm, concurrency=AT_ONCE)
    return replace(
        whole,
        teacher=replace(whole.teacher, llm=one),
        classifier=replace(whole.classifier, llm=one),
        judge=replace(whole.judge, llm=one),
        task_mix=replace(whole.task_mix, target_distribution=None),
    )


def run_stage(config: Config, root: Path, answer: Callable[[ChatRequest], str], stage: str) -> ScriptedChat:
    chat = ScriptedChat(answer)
    rows = [example(f"Instruction {number}") for number in range(ROWS)]
    classifier = LLMClassifier(chat, config.classifier)
    with open_test_workspace(config, root, teacher=chat, judge=chat, classifier=classifier) as ws:
        seeds = ws.rows("seeds", None, {}, lambda: StageOutput(rows, {}))
        STAGES[stage](ws, seeds)
    return chat


STAGES: dict[str, Callable[..., object]] = {"labels": data.classify_seeds, "responses": data.teacher_responses}


def label(name: str) -> Callable[[ChatRequest], str]:
    return lambda _: name


@pytest.mark.parametrize(
    ("stage", "answer", "words"),
    [
        ("labels", label("Others"), ["all of the first 20 rows are labelled Others", "classifier=minilm"]),
        ("labels", label("no type"), ["of the first 20 labels failed", "It must be the name of one type"]),
        ("responses", label(""), ["of the first 20 responses of the teacher failed", "It is empty", "teacher.max_tok"]),
    ],
    ids=["one label", "no labels", "empty responses"],
)
def test_bad_first_rows_stop_before_the_rest(
    config: Config, tmp_path: Path, stage: str, answer: Callable[[ChatRequest], str], words: list[str]
) -> None:
    tolerant = replace(config, teacher=replace(config.teacher, max_failure_rate=0.45))
    tolerant = replace(tolerant, classifier=replace(config.classifier, max_failure_rate=0.45))
    calls: list[ChatRequest] = []

    def counted(request: ChatRequest) -> str:
        calls.append(request)
        return answer(request)

    with pytest.raises(TapirError) as caught:
        run_stage(tolerant, tmp_path, counted, stage)
    assert [word for word in [*words, "check_first_rows=false"] if word not in str(caught.value)] == []
    assert len(calls) <= 2 * (FIRST + 2 * AT_ONCE)  # a failed one is asked twice


def test_switched_off_check_asks_about_all(config: Config, tmp_path: Path) -> None:
    off = replace(config, check_first_rows=False)
    assert len(run_stage(off, tmp_path, label("Others"), "labels").requests) == ROWS


def test_one_type_of_a_natural_mix_goes_on(config: Config, tmp_path: Path) -> None:
    assert len(run_stage(config, tmp_path, label("Math"), "labels").requests) == ROWS


def test_one_type_under_a_target_of_several_stops(config: Config, tmp_path: Path) -> None:
    mix = replace(config.task_mix, name="tapir", target_distribution={"Math": 0.5, "Others": 0.5})
    with pytest.raises(TapirError, match="task_mix=natural, since the target mix tapir has other types"):
        run_stage(replace(config, task_mix=mix), tmp_path, label("Math"), "labels")


def test_labels_keep_the_order_of_the_rows(config: Config, tmp_path: Path) -> None:
    tasks = list(TaskType)

    def by_number(request: ChatRequest) -> str:
        number = int(prompt_of(request).partition("Instruction ")[2].split()[0])
        return str(tasks[number % len(tasks)])

    chat = ScriptedChat(by_number)
    rows = [example(f"Instruction {number}") for number in range(ROWS)]
    with open_test_workspace(config, tmp_path, classifier=LLMClassifier(chat, config.classifier)) as ws:
        labels = data.classify_seeds(ws, ws.rows("seeds", None, {}, lambda: StageOutput(rows, {}))).rows(Label)
    assert [(one.id, one.task) for one in labels] == [(row.id, tasks[n % len(tasks)]) for n, row in enumerate(rows)]


def test_first_asked_rows_are_spread() -> None:
    order = spread(ROWS)
    assert sorted(order) == list(range(ROWS))
    assert order[:FIRST] == list(range(0, ROWS, ROWS // FIRST))
    assert spread(3) == [0, 1, 2]


def test_trained_labels_of_one_type_stop(config: Config) -> None:
    trained = replace(config, classifier=replace(config.classifier, kind=type(config.classifier.kind).encoder))
    rows = [Label(id=str(n), task=TaskType.OTHERS, raw="", source="x") for n in range(ROWS)]
    with pytest.raises(TapirError, match="labelled Others"):
        check_trained_labels(rows, trained)
    check_trained_labels([*rows, Label(id="m", task=TaskType.MATH, raw="", source="x")], trained)


def judge_all(config: Config, answer: Callable[[ChatRequest], str]) -> ScriptedChat:
    chat = ScriptedChat(answer)
    pairs = [ResponsePair(str(n), f"Instruction {n}", "teacher", "student") for n in range(ROWS)]
    score_pairs(pairs, chat, config.judge, "judge", check_judge(config, len(pairs), judge_requests(config, pairs)))
    return chat


def first_wins(request: ChatRequest) -> str:
    return "9 2\nThe first is better."


def teacher_wins(request: ChatRequest) -> str:
    return "9 2\nok" if prompt_of(request).index("teacher") < prompt_of(request).index("student") else "2 9\nok"


def test_judge_of_positions_is_stopped(config: Config) -> None:
    calls: list[ChatRequest] = []

    def counted(request: ChatRequest) -> str:
        calls.append(request)
        return first_wins(request)

    with pytest.raises(TapirError, match=r"on 20 of the first 20 rows its two orders have different winners"):
        judge_all(config, counted)
    assert len(calls) <= 2 * FIRST + 2 * AT_ONCE


def test_judge_of_responses_goes_on(config: Config) -> None:
    assert len(judge_all(config, teacher_wins).requests) == 2 * ROWS
