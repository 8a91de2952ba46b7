"""A preview takes rows through the real path of a run, and the run asks for none of its labels and responses again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from composing import compose_config
from fakes import ScriptedChat, prompt_of
from workspaces import open_test_workspace

from tapir_exp.commands.preview import print_preview
from tapir_exp.config import Config, StudentConfig
from tapir_exp.core.console import Terminal
from tapir_exp.core.records import Response
from tapir_exp.distillation.classifier.llm import LLMClassifier
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.pipeline import data
from tapir_exp.pipeline.preview import Preview, preview
from tapir_exp.pipeline.probe_rows import STEPS, probe_rows
from tapir_exp.pipeline.request_sizes import RequestKind
from tapir_exp.pipeline.sized_seeds import prepare_seeds

ROWS, SHOWN = 24, 4
PAIR = "<pair>\n<instruction>\nNew {}?\n</instruction>\n<response>\nYes.\n</response>\n</pair>"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("own")
    (folder / "student").mkdir()
    path = folder / "mine.json"
    path.write_text(json.dumps([{"instruction": f"Question {n} about {n * n}?", "output": "old"} for n in range(ROWS)]))
    options = ["experiment=own_data", "teacher=gpt_4o", f"student.model={folder}/student", f"seeds.path={path}"]
    return compose_config(*options, "seeds.dedup_threshold=null")


def answer(request: ChatRequest) -> str:
    prompt = prompt_of(request)
    if prompt.startswith("Name the type"):
        return "Math" if int(prompt.partition("Question ")[2].split()[0]) % 2 else "Writing"
    if "assistant_1" in prompt:
        teacher_first = prompt.index("says the teacher") < prompt.index("says the student")
        return "9 3\nThe first." if teacher_first else "3 9\nThe second."
    if "Write <count>" in prompt:
        return "\n".join(PAIR.format(n) for n in range(4))
    if "Rewrite the response" in prompt:
        return "<response>\nBetter.\n</response>"
    return "says the teacher"


def generate(_: Path, prompts: Sequence[tuple[str, str]], __: StudentConfig, ___: str) -> list[Response]:
    return [Response(id=row_id, text="says the student") for row_id, _ in prompts]


def take(
    config: Config,
    root: Path,
    script: Callable[[ChatRequest], str] = answer,
    student: Callable[..., list[Response]] = generate,
) -> tuple[Preview, ScriptedChat, ScriptedChat]:
    """Return a preview, the chat model that answered it, and the one that a run on the same rows has asked."""
    first, second = ScriptedChat(script), ScriptedChat(answer)
    for chat in (first, second):
        classifier = LLMClassifier(chat, config.classifier)
        with open_test_workspace(config, root, teacher=chat, judge=chat, classifier=classifier) as ws:
            if chat is first:
                result = preview(ws, SHOWN, lambda: None, student)
            else:
                seeds = prepare_seeds(ws)
                data.classify_seeds(ws, seeds)
                data.teacher_responses(ws, seeds)
    return result, first, second


def test_rows_pass_every_step(config: Config, tmp_path: Path) -> None:
    result, chat, run = take(config, tmp_path)
    assert len(result.rows) == SHOWN
    names = [step.name.partition(",")[0].partition(" (")[0] for step in result.steps[result.rows[0].id]]
    assert names == [
        *("task type", "response of the teacher", "answer of the student before any fit"),
        *("verdict", "verdict", "gap", "expansion", "refinement"),
    ]
    read = {step.name: step.parsed for step in result.steps[result.rows[0].id]}
    assert (read["verdict, teacher first"], read["gap"], read["refinement"]) == ("teacher 9, student 3", "6", "Better.")
    assert result.warnings == []
    assert len(result.calls()) == len(chat.requests) == SHOWN * 6
    # Equal requests have equal keys in the cache, so the run pays for none of these.
    asked = [request for request in chat.requests if request in run.requests]
    assert len(asked) == 2 * SHOWN


BAD: list[tuple[str, Callable[[str], str | None], str]] = [
    ("one label", lambda prompt: "Others" if prompt.startswith("Name the type") else None, "labelled Others; expected"),
    ("no label", lambda prompt: "?" if prompt.startswith("Name the type") else None, "4 of 4 labels failed"),
    ("judge by position", lambda prompt: "9 3\nok" if "assistant_1" in prompt else None, "on 4 of the first 4 rows"),
    ("judge without scores", lambda prompt: "good" if "assistant_1" in prompt else None, "8 of 8 replies of the judge"),
    ("no pairs", lambda prompt: "Sure!" if "Write <count>" in prompt else None, "4 of 4 expansions failed"),
    ("no tags", lambda prompt: "Better." if "Rewrite the" in prompt else None, "allow_untagged_refinements=true"),
    ("no response", lambda prompt: "" if prompt.startswith("Question") else None, "4 of 4 responses of the teacher"),
]


@pytest.mark.parametrize(("bad", "warning"), [(bad, warning) for _, bad, warning in BAD], ids=[n for n, _, _ in BAD])
def test_preview_warns_of_what_looks_wrong(
    config: Config, tmp_path: Path, bad: Callable[[str], str | None], warning: str
) -> None:
    def script(request: ChatRequest) -> str:
        wrong = bad(prompt_of(request))
        return answer(request) if wrong is None else wrong

    result, _, _ = take(config, tmp_path, script)
    assert [text for text in result.warnings if warning in text] != []


def test_cut_and_empty_answers_of_the_student_are_told(config: Config, tmp_path: Path) -> None:
    def cut(_: Path, prompts: Sequence[tuple[str, str]], __: StudentConfig, ___: str) -> list[Response]:
        return [Response(id=row_id, text="says the student", finished=False) for row_id, _ in prompts]

    result, _, _ = take(config, tmp_path, student=cut)
    (warning,) = result.warnings
    assert "0 of 4 answers of the student before any fit are empty, and 4 are cut" in warning


def test_reply_at_the_second_try_is_told(config: Config, tmp_path: Path) -> None:
    def second_try(request: ChatRequest) -> str:
        refines = "Rewrite the response" in prompt_of(request)
        return "Better." if refines and len(request.messages) == 1 else answer(request)

    result, _, _ = take(config, tmp_path, second_try)
    (warning,) = result.warnings
    assert warning.startswith("4 replies (refinement) did not have the requested form")


def test_probe_measures_what_a_plan_assumes(config: Config, tmp_path: Path) -> None:
    def script(request: ChatRequest) -> str:
        prompt = prompt_of(request)
        if prompt.startswith("Name the type"):
            return "Math"
        if "assistant_1" in prompt:
            return "9 3\nok"
        if prompt.startswith("Question"):
            return "old"  # as in the dataset, so that both orders of a verdict are one request
        return "Better." if "Rewrite the response" in prompt and len(request.messages) == 1 else answer(request)

    chat = ScriptedChat(script)
    classifier = LLMClassifier(chat, config.classifier)
    with open_test_workspace(config, tmp_path, teacher=chat, judge=chat, classifier=classifier) as ws:
        probe = probe_rows(ws, SHOWN, lambda: None)
    found = probe.assumptions
    # Each of four requests got the same four pairs, which are new once.
    assert (found.accepted, found.labelled) == (0.25, 0.25)
    assert (found.response, found.refined) == (len("old") / 4, len("Better.") / len("old"))
    assert set(found.measured) == set(STEPS.values())
    refinement, label = found.measured[RequestKind.REFINEMENT], found.measured[RequestKind.LABEL]
    assert (refinement.requests, refinement.repeats, label.repeats, label.completion) == (SHOWN, 1.0, 0.0, 1.0)
    assert found.measured[RequestKind.VERDICT].repeats == 0
    letters = sum(len(prompt_of(request)) for request in chat.requests[:SHOWN])
    assert label.prompt_ratio == pytest.approx(4 * SHOWN / letters)
    assert label.seconds is not None
    assert any("refinement: 1 tokens a reply" in line and "100% requested again" in line for line in probe.lines())


def test_without_rounds_nothing_is_labelled(config: Config, tmp_path: Path) -> None:
    none = replace(
        config, curriculum=replace(config.curriculum, rounds=0), evals=replace(config.evals, held_out_size=0)
    )
    result, _, _ = take(none, tmp_path)
    assert {step.name.partition(" (")[0] for steps in result.steps.values() for step in steps} == {
        "response of the teacher",
        "answer of the student before any fit",
    }


def test_printed_preview_shows_texts_as_they_are(config: Config, tmp_path: Path) -> None:
    def script(request: ChatRequest) -> str:
        prompt = prompt_of(request)
        return "9 3\nok" if "assistant_1" in prompt else "[red]\x1b[2Jx" if prompt.startswith("Q") else answer(request)

    result, _, _ = take(config, tmp_path, script)
    page = StringIO()
    print_preview(result, Terminal(page))
    text = page.getvalue()
    assert "[red]" in text
    assert "\x1b[2J" not in text
    assert "row 1 of 4" in text
    assert "prompt (1 + 1 tokens, price unknown" in text
    assert "24 calls, 0 of them cached, price unknown" in text
