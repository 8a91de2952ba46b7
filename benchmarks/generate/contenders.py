"""Run one contender on all prompts in its own process: `python contenders.py NAME STUDENT PROMPTS SEED`.

It prints one line of JSON. The line has the new tokens of every response, including the end of turn, and the processor
and wall seconds of generating them. The field `ready` has the processor seconds of loading, conversion and a warm-up
batch.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from task import END, LIMIT, PAD, make_prompts
from transformers import AutoModelForCausalLM

from tapir_exp.config import EngineKind, StudentConfig
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Engine
from tapir_exp.student.engines.factory import open_engine

Prompts = Sequence[Sequence[int]]
Generate = Callable[[Prompts], list[list[int]]]
"""Prompts to the tokens of their responses, in order."""


def hf_generate(directory: Path, batch: int, *, longest_first: bool = False) -> Generate:
    """Return transformers' `generate`, in batches of prompts in their order, or sorted by length."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory).eval()

    def generate(prompts: Prompts) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]) if longest_first else index)
        responses: dict[int, list[int]] = {}
        for start in range(0, len(order), batch):
            indices = order[start : start + batch]
            width = max(len(prompts[index]) for index in indices)
            gaps = [width - len(prompts[index]) for index in indices]
            ids = torch.tensor([[PAD] * gap + [*prompts[index]] for gap, index in zip(gaps, indices, strict=True)])
            real = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
            ends = {"eos_token_id": END, "pad_token_id": PAD}
            rows = model.generate(ids, attention_mask=real, max_new_tokens=LIMIT, do_sample=False, **ends)
            responses.update(zip(indices, map(_cut_after_end, rows[:, width:].tolist()), strict=True))
        return [responses[index] for index in range(len(prompts))]

    return generate


def ours(directory: Path, kind: EngineKind, batch: int) -> Generate:
    """Return one of our engines, opened as a pipeline stage opens it."""
    student = StudentConfig(model=str(directory), engine=kind, generation_batch_size=batch)
    chat = Chat(_tokenizer(directory), None, END, ())
    opened = open_engine(directory, chat, student)
    engine: Engine = opened.__enter__()  # never closed: the process ends with it

    def generate(prompts: Prompts) -> list[list[int]]:
        continuations = dict(engine.generate(prompts, LIMIT))
        return [
            [*continuations[index].tokens, *([END] * continuations[index].finished)] for index in range(len(prompts))
        ]

    return generate


def llama_cpp(directory: Path, streams: int) -> Generate:
    """Return llama.cpp's in-process server (xllamacpp) in float32, with this many prompts at once."""
    from llama_cpp_student import LlamaCpp

    return LlamaCpp(directory, streams).generate


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def _cut_after_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


CONTENDERS: dict[str, Callable[[Path], Generate]] = {
    "HF generate, 8 at once": lambda student: hf_generate(student, 8),
    "HF generate, 32 at once": lambda student: hf_generate(student, 32),
    "HF generate, 64 at once": lambda student: hf_generate(student, 64),
    "HF generate, 32 sorted": lambda student: hf_generate(student, 32, longest_first=True),
    "ours, transformers": lambda student: ours(student, EngineKind.transformers, 64),
    "ours, ctranslate2": lambda student: ours(student, EngineKind.ctranslate2, 64),
    "llama.cpp, 1 at once": lambda student: llama_cpp(student, 1),
    "llama.cpp, 16 at once": lambda student: llama_cpp(student, 16),
}
"""Contenders in the order of each repetition; all in float32, greedy, on one thread."""


def main() -> None:
    """Measure one contender and print the result."""
    name, directory, count, seed = sys.argv[1:]
    torch.set_num_threads(1)
    started = time.process_time()
    generate = CONTENDERS[name](Path(directory))
    generate(make_prompts(8, -1))
    began = time.process_time(), time.perf_counter()
    responses = generate(make_prompts(int(count), int(seed)))
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    print(json.dumps({"responses": responses, "cpu": cpu, "wall": wall, "ready": began[0] - started}))


if __name__ == "__main__":
    main()
