"""From a file of instructions to a chat: preview, plan, run, export and chat, with an endpoint and a tiny student."""

import json
import re
from io import StringIO
from pathlib import Path
from random import Random

import pytest
from aiohttp import web
from loopback import completion
from serving import serving
from tiny import qwen_base

import tapir_exp
from tapir_exp.commands import export
from tapir_exp.commands.chat import converse, find_speakers
from tapir_exp.commands.preview import make_preview
from tapir_exp.core.console import Terminal
from tapir_exp.student.chat_session import open_session

ROWS, SHOWN = 24, 3
WORDS = ("market", "river", "poem", "function", "history", "table", "alpha", "delta")


class Endpoint:
    """An endpoint that replies to each prompt of the package in its form, and counts the prompts."""

    base = ""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        prompt = str((await request.json())["messages"][0]["content"])
        self.prompts.append(prompt)
        return web.json_response(completion(self.reply(prompt), usage={"prompt_tokens": 5, "completion_tokens": 2}))

    def reply(self, prompt: str) -> str:
        if prompt.startswith("Name the type"):
            return "Math" if len(prompt) % 2 else "Writing"
        if "<assistant_1>" in prompt:
            # The students of the held-out rows are alike.
            if "The teacher" not in prompt:
                return "5 5\nAlike."
            first = prompt.index("The teacher") < prompt.index("</assistant_1>")
            return "9 2\nThe first." if first else "2 9\nThe second."
        if "Write <count>" in prompt:
            draw = Random(prompt)
            words = [
                " ".join(draw.choices(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"], k=8)) for _ in range(4)
            ]
            return "\n".join(
                f"<pair>\n<instruction>\nSay {one} now {len(one)}\n</instruction>\n<response>\nThe teacher.\n"
                f"</response>\n</pair>"
                for one in words
            )
        return "<response>\nThe teacher.\n</response>" if "Rewrite the response" in prompt else "The teacher."


@pytest.mark.slow
def test_file_becomes_a_student_to_chat_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    draw = Random(0)
    texts = [
        " ".join(draw.choices(["market", "river", "poem", "function", "history", "table"], k=12)) for _ in range(ROWS)
    ]
    Path("mine.json").write_text(
        json.dumps([{"question": f"{n} {text}?", "answer": "Yes."} for n, text in enumerate(texts)])
    )
    (tmp_path / "base").mkdir()
    qwen_base(tmp_path / "base")
    with serving(Endpoint()) as endpoint:
        config = tapir_exp.compose(
            [
                *("experiment=own_data", "seeds.path=mine.json", "teacher=local_openai_compatible"),
                *("teacher.llm.model=openai/mock", f"teacher.llm.api_base={endpoint.base}", "student.model=base"),
                *("student.chat_template=chatml", "student.max_new_tokens=4", "student.max_length=512"),
                *("curriculum.rounds=1", "sft.seed_stage.epochs=1", "sft.round_stage.epochs=1"),
                "judge.max_unusable_responses=1",
            ]
        )
        preview = make_preview(config, SHOWN)
        asked = [call.request.messages[0].content for call in preview.calls()]
        assert [text for text in preview.warnings if "answers of the student" not in text] == []
        run = tapir_exp.run(config)
    reused = [prompt for prompt in asked if prompt.startswith("Name the type") or re.match(r"\d+ \w+", prompt)]
    assert len(reused) == 2 * SHOWN
    assert {prompt: endpoint.prompts.count(prompt) for prompt in reused} == dict.fromkeys(reused, 1)
    export.main([str(run.path), "my-student"])
    for source in (run.path, Path("my-student")):
        speakers = find_speakers(source)
        assert list(speakers) == ["before", "after"]
        page = StringIO()
        one = speakers["after"]
        with open_session(one.source, one.student, tokenizer=one.tokenizer) as session:
            converse({"after": session}, ["Hi"], Terminal(page))
        assert page.getvalue().startswith("after (")
