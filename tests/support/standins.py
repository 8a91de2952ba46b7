"""Small files in the formats of the benchmarks, and a chat endpoint that annotates and judges by a rule."""

import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

INSTRUCTIONS = [
    f"Name {n} things that a ship's cook keeps in {storage}." for n in range(1, 7) for storage in ("jars", "tins")
]
ANNOTATOR_PROMPT = """<|im_start|>system
Two answers, one choice.
<|im_end|>
<|im_start|>user
Asked: {instruction}
m wrote <<{output_1}>>
M wrote <<{output_2}>>
Say m or M.
<|im_end|>"""
QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Describe {a} harbour.", "Now in one line."]},
    {"question_id": 2, "category": "math", "turns": ["What is 6 times 7?", "And half of it?"], "reference": ["42"]},
    {"question_id": 3, "category": "stem", "turns": ["Why does ice float?", "On what else?"]},
    {"question_id": 4, "category": "coding", "turns": ["Reverse a list.", "Without a loop."]},
]
REFERENCES = [
    {"question_id": 2, "model_id": "us", "choices": [{"index": 0, "turns": ["42", "21"]}]},
    {"question_id": 4, "model_id": "us", "choices": [{"index": 0, "turns": ["xs[::-1]", "reversed(xs)"]}]},
]
_SINGLE = "Rate this.\n\nQ: {question}\nA: {answer}"
_MULTI = "Q: {question_1}\nA: {answer_1}\nQ: {question_2}\nA: {answer_2}"
_TEMPLATES = {
    "single-v1": ("Be fair.", _SINGLE),
    "single-math-v1": ("Be fair.", _SINGLE + "\nR: {ref_answer_1}"),
    "single-v1-multi-turn": ("Rate the last.\n\n", _MULTI),
    "single-math-v1-multi-turn": ("Rate the last.\n\n", _MULTI + "\nR: {ref_answer_1}, {ref_answer_2}"),
}
JUDGE_PROMPTS = [
    {"name": "pair-v2", "type": "pairwise", "system_prompt": "", "prompt_template": "{question}"},
    *(
        {"name": name, "type": "single", "system_prompt": system, "prompt_template": template}
        for name, (system, template) in _TEMPLATES.items()
    ),
]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reference_rows() -> list[dict[str, Any]]:
    """Return the baseline's outputs, of very different lengths."""
    return [
        {
            "dataset": "ours",
            "instruction": text,
            "output": f"{'salt and rope ' * (n % 5 + 1)}{n}",
            "generator": "baseline",
        }
        for n, text in enumerate(INSTRUCTIONS)
    ]


def write_alpaca(folder: Path) -> dict[str, str]:
    """Write the files of AlpacaEval; return their paths by setting."""
    (folder / "reference.json").write_text(json.dumps(reference_rows()))
    (folder / "clf.txt").write_text(ANNOTATOR_PROMPT)
    (folder / "gamed.csv").write_text(length_control_csv())
    files = {"reference": "reference.json", "prompt": "clf.txt", "length_control_data": "gamed.csv"}
    return {setting: f"{folder}/{name}" for setting, name in files.items()}


def length_control_csv(instructions: int = len(INSTRUCTIONS)) -> str:
    """Return a df_gamed.csv: two baselines that differ only in length, and an annotator that prefers long outputs."""
    rng, lines = random.Random(0), ["model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    difficulty = [rng.gauss(0, 1) for _ in range(instructions)]
    for model, shift in (("verbose", -1.0), ("concise", 1.0)):
        for index, hard in enumerate(difficulty):
            delta = shift + rng.gauss(0, 0.3)
            lines.append(f"{model},{index},{1 / (1 + math.exp(1.5 * math.tanh(delta)))},{delta},{hard},False")
    return "\n".join(lines) + "\n"


def write_mt_bench(folder: Path) -> dict[str, str]:
    """Write the files of MT-Bench; return their paths by setting."""
    files = {"questions": QUESTIONS, "references": REFERENCES, "judge_prompts": JUDGE_PROMPTS}
    return {name: str(write_lines(folder / f"{name}.jsonl", rows)) for name, rows in files.items()}


Rule = Callable[[dict[str, Any]], dict[str, Any]]


def longer_is_better(body: dict[str, Any]) -> dict[str, Any]:
    """Return a choice of the endpoint: m or M by length if log-probabilities are requested, otherwise a rating."""
    text = body["messages"][-1]["content"]
    if not body.get("logprobs"):
        return {"message": {"role": "assistant", "content": f"Fair.\n\nRating: [[{1 + len(text) % 10}]]"}}
    first, second = (len(output) for output in re.findall(r"wrote <<(.*?)>>", text, re.DOTALL))
    log_odds = (second - first) / 20
    top = [{"token": "m", "logprob": -math.log1p(math.exp(log_odds))}]
    top += [{"token": "M", "logprob": -math.log1p(math.exp(-log_odds))}, {"token": "The", "logprob": -12.0}]
    top = [{**row, "bytes": None} for row in sorted(top, key=lambda row: -float(str(row["logprob"])))]
    return {
        "finish_reason": "length",  # max_tokens is 1
        "message": {"role": "assistant", "content": top[0]["token"]},
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
    }


class Endpoint:
    """An OpenAI-compatible endpoint on the loopback interface that answers every request by `rule`."""

    def __init__(self, rule: Rule = longer_is_better) -> None:
        self.rule = rule
        self.bodies: list[dict[str, Any]] = []
        self.base = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Record the body of a request and answer it."""
        body = await request.json()
        self.bodies.append(body)
        choice = {"index": 0, "finish_reason": "stop", **self.rule(body)}
        usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
        return web.json_response(completion)
