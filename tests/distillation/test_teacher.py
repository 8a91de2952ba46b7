"""The requests to the teacher, and the strict parsing of its replies."""

import pytest
from fakes import ScriptedChat, completion_of, example, prompt_of, tagged, timeout_error

from tapir_exp.config import LLMConfig, TeacherConfig
from tapir_exp.core.errors import ReplyError, TooManyFailures
from tapir_exp.core.records import Response
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.prompts import refinement_style
from tapir_exp.distillation.teacher import (
    ExpansionRequest,
    InstructionPair,
    RefinementRequest,
    build_expansion_request,
    build_refinement_request,
    expand,
    parse_pairs,
    parse_response,
    parse_response_or_text,
    parse_text,
    refine,
    respond,
)
from tapir_exp.llm.chat import Completion

CONFIG = TeacherConfig(llm=LLMConfig(model="m", concurrency=1), temperature=0.6, max_tokens=99, max_failure_rate=0.5)
A, B = example("Add 2 and 3.", "5"), example("Add 4 and 4.", "8")


def block(instruction: str = "i", response: str = "r") -> str:
    return f"<pair>\n<instruction>\n{instruction}\n</instruction>\n<response>\n{response}\n</response>\n</pair>"


def draft(name: str, task: TaskType = TaskType.MATH) -> RefinementRequest:
    return RefinementRequest(name, task, f"instruction {name}", f"response {name}")


def call(count: int = 2, sample: int = 0, shown: int = 2) -> ExpansionRequest:
    return ExpansionRequest(TaskType.MATH, count, (A, B)[:shown], sample)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (block("a", "b"), [("a", "b")]),
        (f"\n{block('a', 'b')}\n\n{block('c', 'd')}\n", [("a", "b"), ("c", "d")]),
        (block("a", "b") + block("c", "d"), [("a", "b"), ("c", "d")]),
        ("<pair><instruction> a </instruction> <response>b</response></pair>", [("a", "b")]),
        (block("two\n\nparagraphs", "x < 3 and <b>y</b>"), [("two\n\nparagraphs", "x < 3 and <b>y</b>")]),
        (block("def f(x):\n    return x", "  1\n  2"), [("def f(x):\n    return x", "1\n  2")]),
    ],
)
def test_parse_pairs_reads_whole_pairs(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_pairs(completion_of(text)) == tuple(InstructionPair(*pair) for pair in pairs)


@pytest.mark.parametrize(
    "text",
    [
        "Here they are:\n" + block(),
        block() + "\nI hope this helps.",
        f"{block()}\nAnd one more:\n{block()}",
        f"1. {block()}\n2. {block()}",
        f"```\n{block()}\n```",
        block() + "\n<pair>\n<instruction>\ncut",
        block() + "\n<pair>\n<instruction>\nx\n</instruction>\n</pair>",
        "<pair><instruction>lost</instruction></pair>" + block(),
        "<pair><response>r</response><instruction>i</instruction></pair>",
        block(response="one</response>\n<response>two"),
        block(instruction=block()),
        block(instruction=" "),
        block(response=" \n "),
        "<pair><instruction></instruction><response></response></pair>",
        "<pair></pair>",
        "I cannot write such pairs.",
        "",
        " \n",
    ],
)
def test_parse_pairs_rejects_anything_but_whole_pairs(text: str) -> None:
    with pytest.raises(ReplyError):
        parse_pairs(completion_of(text))


@pytest.mark.timeout(20)
def test_parse_pairs_rejects_a_long_reply_quickly() -> None:
    with pytest.raises(ReplyError):
        parse_pairs(completion_of(f"{block()}\n" * 60 + "That is all."))


@pytest.mark.parametrize(
    "text", ["<response>\n4\n</response>", "<response>4</response>", "\n <response> 4 </response> \n"]
)
def test_parse_response_reads_between_the_tags(text: str) -> None:
    assert parse_response(completion_of(text)) == "4"


@pytest.mark.parametrize(
    "text",
    [
        "4",
        "Sure! <response>4</response>",
        "<response>4</response> Done.",
        "<response>4</response> or <response>5</response>",
        "<response>4",
        "<response></response>",
        "<response>\n \n</response>",
        "",
    ],
)
def test_parse_response_rejects_other_text(text: str) -> None:
    with pytest.raises(ReplyError):
        parse_response(completion_of(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("<response>\n4\n</response>", "4"), (" 4\n", "4"), ("By adding,\nAnswer: 4", "By adding,\nAnswer: 4")],
)
def test_parse_response_or_text_accepts_untagged_text(text: str, expected: str) -> None:
    assert parse_response_or_text(completion_of(text)) == expected


@pytest.mark.parametrize("text", ["Sure! <response>4</response>", "<response>4", "4</response>", "<pair>4</pair>", " "])
def test_parse_response_or_text_rejects_an_incomplete_form(text: str) -> None:
    with pytest.raises(ReplyError):
        parse_response_or_text(completion_of(text))


def test_parse_text_returns_the_whole_reply() -> None:
    assert parse_text(completion_of(" 2 + 2\nis 4. \n")) == "2 + 2\nis 4."


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_parse_text_rejects_an_empty_reply(text: str) -> None:
    with pytest.raises(ReplyError, match="empty"):
        parse_text(completion_of(text))


@pytest.mark.parametrize("parse", [parse_text, parse_response, parse_response_or_text, parse_pairs])
@pytest.mark.parametrize("text", [block(), "<response>4</response>", "4"])
def test_parsers_reject_a_cut_reply_even_if_complete(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(ReplyError, match="cut at the length limit"):
        parse(completion_of(text, finish_reason="length"))


def test_respond_sends_the_bare_instruction() -> None:
    chat = ScriptedChat(["5", "8"])
    assert respond([A, B], chat, CONFIG, "answering") == [Response(id=A.id, text="5"), Response(id=B.id, text="8")]
    assert [prompt_of(request) for request in chat.requests] == ["Add 2 and 3.", "Add 4 and 4."]
    assert [(request.temperature, request.max_tokens) for request in chat.requests] == [(0, 99), (0, 99)]


def test_respond_records_the_reason_of_a_failure() -> None:
    cut = completion_of("5 and then", finish_reason="length")
    cut_response, complete = respond([A, B], ScriptedChat([cut, cut, "8"]), CONFIG, "answering")
    assert (cut_response.id, cut_response.text) == (A.id, None)
    assert "cut at the length limit" in (cut_response.failure or "")
    assert (complete.text, complete.failure) == ("8", None)


@pytest.mark.parametrize("task", [TaskType.MATH, TaskType.CODE_DEBUG, TaskType.BIOLOGY])
def test_refinement_request_shows_instruction_response_style(task: TaskType) -> None:
    request = build_refinement_request(draft("a {{style}}", task), CONFIG)
    prompt = prompt_of(request)
    assert tagged(prompt, "instruction") == ["instruction a {{style}}"]
    assert tagged(prompt, "response")[0] == "response a {{style}}"
    assert f"<task>{task}</task>" in prompt
    assert refinement_style(task).text in prompt
    assert (request.temperature, request.max_tokens, request.sample) == (0, 99, 0)


def test_refine_keeps_the_order_of_the_drafts() -> None:
    chat = ScriptedChat(lambda request: f"<response>{tagged(prompt_of(request), 'response')[0]}!</response>")
    assert refine([draft("a"), draft("b")], chat, CONFIG, "refining") == [
        Response(id="a", text="response a!"),
        Response(id="b", text="response b!"),
    ]


def test_refine_records_the_reason_of_a_failure() -> None:
    chat = ScriptedChat(["no tags", "no tags again", "<response>b</response>", timeout_error()])
    untagged, good, late = refine(
        [draft("a"), draft("b"), draft("c")], chat, TeacherConfig(llm=CONFIG.llm, max_failure_rate=0.7), "refining"
    )
    assert untagged.text is None
    assert "one <response>...</response>" in (untagged.failure or "")
    assert (good.text, good.failure) == ("b", None)
    assert (late.text, late.failure) == (None, "time-out: no reply in 1 s")


@pytest.mark.parametrize("allowed", [False, True])
def test_refine_accepts_untagged_text_only_if_configured(allowed: bool) -> None:
    config = TeacherConfig(llm=CONFIG.llm, allow_untagged_refinements=allowed, max_failure_rate=1)
    (refined,) = refine([draft("a")], ScriptedChat(["The sum is 4."] * 2), config, "refining")
    assert refined.text == ("The sum is 4." if allowed else None)


def test_refine_with_too_many_failures_raises() -> None:
    config = TeacherConfig(llm=CONFIG.llm, max_failure_rate=0.3)  # one of three
    replies = ["?"] * 4 + ["<response>c</response>"]
    with pytest.raises(TooManyFailures, match="refining: 2 of 3 rows failed"):
        refine([draft(name) for name in "abc"], ScriptedChat(replies), config, "refining")


def test_expansion_request_shows_examples_and_count() -> None:
    request = build_expansion_request(call(count=3, sample=1002), CONFIG)
    prompt = prompt_of(request)
    assert block(A.instruction, A.response) in prompt
    assert block(B.instruction, B.response) in prompt
    assert "<task>Math</task>" in prompt
    assert "<count>3</count>" in prompt
    assert (request.temperature, request.sample, request.max_tokens) == (0.6, 1002, 99)


def test_expansion_request_samples_share_the_prompt() -> None:
    first, second = (build_expansion_request(call(sample=sample), CONFIG) for sample in (0, 1))
    assert first != second
    assert first.messages == second.messages


def test_expansion_request_without_examples_says_so() -> None:
    prompt = prompt_of(build_expansion_request(call(shown=0), CONFIG))
    assert "No pair of this type is at hand" in prompt
    assert len(tagged(prompt, "pair")) == 1  # the form to reply in


def test_expand_returns_pairs_per_call_and_none_for_a_failure() -> None:
    chat, instructions = ScriptedChat([block("a", "b") + block("c", "d"), "?", "??", block("e", "f")]), list[str]()
    assert expand([call(sample=n) for n in range(3)], chat, CONFIG, "expanding", instructions.append) == [
        (InstructionPair("a", "b"), InstructionPair("c", "d")),
        (),
        (InstructionPair("e", "f"),),
    ]
    assert sorted(instructions) == ["a", "c", "e"]


def test_expand_retries_a_cut_reply_with_a_larger_limit() -> None:
    cut: Completion = completion_of(block("a", "b"), finish_reason="length")
    chat = ScriptedChat([cut, block("c", "d")])
    assert expand([call()], chat, CONFIG, "expanding") == [(InstructionPair("c", "d"),)]
    assert [request.max_tokens for request in chat.requests] == [CONFIG.max_tokens, 2 * CONFIG.max_tokens]
