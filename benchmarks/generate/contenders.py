"""One contender answers all prompts, in a process of its own: `python contenders.py NAME STUDENT PROMPTS SEED`.

It prints one line of JSON: the new tokens, the end of turn among them, of every answer, and the processor and wall
seconds of writing them. Loading and conversion are not in it, nor a first batch to warm up, whose seconds are `ready`.
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
Write = Callable[[Prompts], list[list[int]]]
"""Prompts to answers, in their order."""


def hf_generate(directory: Path, batch: int, *, longest_first: bool = False) -> Write:
    """transformers' own `generate`, in batches as the prompts come, or sorted by their length."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory).eval()

    def write(prompts: Prompts) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]) if longest_first else place)
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            width = max(len(prompts[place]) for place in places)
            gaps = [width - len(prompts[place]) for place in places]
            ids = torch.tensor([[PAD] * gap + [*prompts[place]] for gap, place in zip(gaps, places, strict=True)])
            real = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
            ends = {"eos_token_id": END, "pad_token_id": PAD}
            rows = model.generate(ids, attention_mask=real, max_new_tokens=LIMIT, do_sample=False, **ends)
            found.update(zip(places, map(_to_the_end, rows[:, width:].tolist()), strict=True))
        return [found[place] for place in range(len(prompts))]

    return write


def ours(directory: Path, kind: EngineKind, batch: int) -> Write:
    """One of our engines, as a stage opens it."""
    student = StudentConfig(model=str(directory), engine=kind, generation_batch_size=batch)
    chat = Chat(_tokenizer(directory), None, END, ())
    opened = open_engine(directory, chat, student)
    engine: Engine = opened.__enter__()  # for as long as the process lives

    def write(prompts: Prompts) -> list[list[int]]:
        found = dict(engine.generate(prompts, LIMIT))
        return [[*found[place].tokens, *([END] * found[place].finished)] for place in range(len(prompts))]

    return write


def llama_cpp(directory: Path, streams: int) -> Write:
    """llama.cpp's server within the process (xllamacpp), float32, so many prompts at once."""
    from llama_cpp_student import LlamaCpp

    return LlamaCpp(directory, streams).write


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def _to_the_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


CONTENDERS: dict[str, Callable[[Path], Write]] = {
    "HF generate, 8 at once": lambda student: hf_generate(student, 8),
    "HF generate, 32 at once": lambda student: hf_generate(student, 32),
    "HF generate, 64 at once": lambda student: hf_generate(student, 64),
    "HF generate, 32 sorted": lambda student: hf_generate(student, 32, longest_first=True),
    "ours, transformers": lambda student: ours(student, EngineKind.transformers, 64),
    "ours, ctranslate2": lambda student: ours(student, EngineKind.ctranslate2, 64),
    "llama.cpp, 1 at once": lambda student: llama_cpp(student, 1),
    "llama.cpp, 16 at once": lambda student: llama_cpp(student, 16),
}
"""In the order in which they take turns; all in float32, greedy, on one thread."""


def main() -> None:
    """Measure one contender and print its figures."""
    name, directory, count, seed = sys.argv[1:]
    torch.set_num_threads(1)
    started = time.process_time()
    write = CONTENDERS[name](Path(directory))
    write(make_prompts(8, -1))
    began = time.process_time(), time.perf_counter()
    answers = write(make_prompts(int(count), int(seed)))
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    print(json.dumps({"answers": answers, "cpu": cpu, "wall": wall, "ready": began[0] - started}))


if __name__ == "__main__":
    main()
