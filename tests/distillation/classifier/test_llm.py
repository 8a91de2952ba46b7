"""A reply must be the name of one type; any other reply leaves the row unlabelled."""

from dataclasses import replace

import pytest
from fakes import Scripted, ScriptedChat, completion_of, example, prompt_of, timeout_error

from tapir_exp.config import ClassifierConfig, LLMConfig
from tapir_exp.core.errors import ReplyError, TooManyFailures
from tapir_exp.core.records import Label
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.llm import LLMClassifier, build_classification_request, parse_task
from tapir_exp.distillation.prompts import load_prompt

CONFIG = ClassifierConfig(llm=LLMConfig(model="m", concurrency=1), max_failure_rate=0.5)


@pytest.mark.parametrize("task", TaskType)
def test_parse_task_reads_every_type(task: TaskType) -> None:
    for text in (task.value, f" {task.value}.\n", task.value.lower(), task.value.upper()):
        assert parse_task(completion_of(text)) is task


@pytest.mark.parametrize(
    "text",
    [
        "This is not Math; it is Writing.",
        "Math or Reasoning",
        "Math, Reasoning",
        "Math\nReasoning",
        "Type: Math",
        "**Math**",
        "'Math'",
        "Maths",
        "Code",
        "Code-Debug",
        "Common Sense",
        "Other",
        "None",
        "",
        ".",
    ],
)
def test_parse_task_rejects_and_quotes_any_other_reply(text: str) -> None:
    with pytest.raises(ReplyError) as caught:
        parse_task(completion_of(text))
    assert f"the name of one type and nothing else, but it is {text.strip()!r}" in str(caught.value)


def test_request_shows_every_type_and_the_instruction() -> None:
    request = build_classification_request("Add {{types}} 2 and 3.", ClassifierConfig(max_tokens=9))
    assert all(task in prompt_of(request) for task in TaskType)
    assert "<instruction>\nAdd {{types}} 2 and 3.\n</instruction>" in prompt_of(request)
    assert (request.max_tokens, request.temperature) == (9, 0)


def test_label_keeps_the_order_of_the_examples() -> None:
    chat = ScriptedChat(["Math", "Law.", "Art"])
    seeds = [example(name) for name in "abc"]
    assert LLMClassifier(chat, CONFIG).label(seeds, "classifying") == [
        Label(id=seed.id, task=task, raw=raw, source="scripted")
        for seed, task, raw in zip(
            seeds, (TaskType.MATH, TaskType.LAW, TaskType.ART), ("Math", "Law.", "Art"), strict=True
        )
    ]


@pytest.mark.parametrize(
    ("reply", "raw", "reason"),
    [
        (
            "This is not Math; it is Writing.",
            "This is not Math; it is Writing.",
            "unreadable reply: It must be the name",
        ),
        (timeout_error(), "", "time-out: no reply in 1 s"),
    ],
)
def test_label_of_a_failed_row_has_the_reason(reply: Scripted, raw: str, reason: str) -> None:
    chat = ScriptedChat(lambda request: reply if "first" in prompt_of(request) else "Math")
    first, second = LLMClassifier(chat, CONFIG).label([example("first"), example("second")], "classifying")
    assert (first.task, first.raw) == (None, raw)
    assert (first.failure or "").startswith(reason)
    assert (second.task, second.failure) == (TaskType.MATH, None)


def test_label_retries_a_rejected_reply_once() -> None:
    chat = ScriptedChat(["It is Math", "Math"])
    (label,) = LLMClassifier(chat, CONFIG).label([example("a")], "classifying")
    assert (label.task, label.raw, label.failure) == (TaskType.MATH, "Math", None)
    assert "'It is Math'" in chat.requests[1].messages[-1].content


def test_label_with_too_many_failures_raises() -> None:
    config, chat = replace(CONFIG, max_failure_rate=0.3), ScriptedChat(["?"] * 4 + ["Math"])  # one of three
    with pytest.raises(TooManyFailures, match=r"classifying: 2 of 3 rows failed(.|\n)*2  unreadable reply: .*'\?'"):
        LLMClassifier(chat, config).label([example(name) for name in "abc"], "classifying")


def test_recipe_has_model_settings_and_prompt() -> None:
    recipe = LLMClassifier(ScriptedChat([]), ClassifierConfig(max_tokens=9, batch_size=7)).recipe()
    assert recipe == {
        "classifier": {"model": {"model": "scripted"}, "max_tokens": 9},
        "label prompt": load_prompt("label").text,
    }
