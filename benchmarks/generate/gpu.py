"""Compare generation on one GPU: `student.engine=transformers` and Hugging Face's `generate`, in bfloat16, greedy.

    python benchmarks/generate/gpu.py [--prompts 128] [--only STUDENT ...]

The students have the shapes of `conf/student` and random weights. Prompts have 60 to 200 random tokens. A random model
rarely ends a response, so a hook on its forward pass ends each one after 16 to 256 tokens. The number follows from the
length of the prompt. So all contenders generate equally many tokens. Each student is a fresh process, and each
contender begins with a warm-up.

The share of the peak is defined as in the estimate of `tapir plan`: two FLOPs per parameter and new token, without the
prompts. It is relative to the card's dense bf16 peak by its data sheet.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

HERE = Path(__file__).parent
STUDENTS = ("llama2_7b", "qwen1_5_0_5b")
DEVICE = torch.device("cuda")
PAD, END = 0, 1
FLOPS_PER_TOKEN = 2
"""FLOPs per parameter and new token."""
SHORTEST, LONGEST = 60, 200
"""Bounds of the length of a prompt in tokens; all lengths between them are equally frequent."""
MEDIAN, SPREAD, FEWEST, LIMIT = 100, 0.6, 16, 256
"""Lognormal distribution of the new tokens of a response, including its end, and their bounds."""

Prompts = Sequence[Sequence[int]]
Generate = Callable[[Prompts, int], list[int]]
"""Prompts and the most new tokens of each, to the number of new tokens of each response, in order."""


class FixedLengths:
    """A forward hook that makes the end token the most likely one at the given length, and impossible before."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """Create a hook.

        Args:
            lengths: New tokens of a response, by the number of tokens of its prompt.
        """
        self._lengths = torch.tensor(lengths, device=DEVICE)
        self._width = 0
        self.steps = 0

    def __call__(self, _module: Any, _inputs: Any, arguments: dict[str, Any], output: Any) -> None:
        """Change the logits of the last token, (rows, tokens, vocabulary), in place."""
        mask = arguments["attention_mask"]  # (rows, tokens so far)
        if arguments["input_ids"].shape[1] > 1:
            self._width = mask.shape[1]
        generated = mask.shape[1] - self._width
        ends = self._lengths[mask.sum(1) - generated] <= generated + 1
        output.logits[:, -1, END] = torch.where(ends, torch.inf, -torch.inf).to(output.logits.dtype)
        self.steps += 1


def load_shape(name: str) -> dict[str, Any]:
    """Return the architecture of a student of `conf/student`."""
    shape: dict[str, Any] = yaml.safe_load((HERE.parents[1] / f"conf/student/{name}.yaml").read_text())["architecture"]
    return shape


def make_model(shape: dict[str, Any]) -> Any:
    """Return a randomly initialised model on the device; Qwen's has biases in attention, LLaMA's has none."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    settings = {name: value for name, value in shape.items() if name != "qkv_bias"}
    ends = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": PAD}
    config = (Qwen2Config if shape.get("qkv_bias") else LlamaConfig)(**settings, **ends)
    torch.manual_seed(0)
    with DEVICE:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def make_prompts(count: int, vocab_size: int) -> list[list[int]]:
    """Return prompts of random tokens."""
    random = Random(0)
    lengths = [random.randint(SHORTEST, LONGEST) for _ in range(count)]
    return [[random.randrange(2, vocab_size) for _ in range(length)] for length in lengths]


def make_lengths() -> list[int]:
    """Return the number of new tokens by the length of the prompt."""
    random = Random(1)
    draws = (round(random.lognormvariate(0, SPREAD) * MEDIAN) for _ in range(LONGEST + 1))
    return [min(LIMIT, max(FEWEST, drawn)) for drawn in draws]


def ours(model: Any, batch: int) -> Generate:
    """Return our engine."""
    from tapir_exp.student.engines.hf import TransformersEngine

    engine = TransformersEngine(model, frozenset({END}), PAD, batch)

    def generate(prompts: Prompts, limit: int) -> list[int]:
        found = dict(engine.generate(prompts, limit))
        return [len(found[index].tokens) + found[index].finished for index in range(len(prompts))]

    return generate


def hf_generate(model: Any, batch: int) -> Generate:
    """Return transformers' `generate` in batches of prompts in their order."""

    def generate(prompts: Prompts, limit: int) -> list[int]:
        return [
            count for start in range(0, len(prompts), batch) for count in run(prompts[start : start + batch], limit)
        ]

    def run(prompts: Prompts, limit: int) -> Iterator[int]:
        width = max(map(len, prompts))
        gaps = [width - len(prompt) for prompt in prompts]
        ids = [[PAD] * gap + [*prompt] for gap, prompt in zip(gaps, prompts, strict=True)]
        real = [[0] * gap + [1] * (width - gap) for gap in gaps]
        inputs = {"input_ids": torch.tensor(ids, device=DEVICE), "attention_mask": torch.tensor(real, device=DEVICE)}
        rows = model.generate(**inputs, max_new_tokens=limit, do_sample=False)[:, width:].tolist()
        return (row.index(END) + 1 if END in row else len(row) for row in rows)

    return generate


CONTENDERS: dict[str, Callable[[Any], Generate]] = {
    "HF generate, 32 at once": lambda model: hf_generate(model, 32),
    "ours, 32 at once": lambda model: ours(model, 32),
    "HF generate, 128 at once": lambda model: hf_generate(model, 128),
    "ours, 128 at once": lambda model: ours(model, 128),
}


def measure(name: str, model: Any, hook: FixedLengths, prompts: Prompts, flops_per_token: float) -> dict[str, Any]:
    """Measure one contender on all prompts.

    Raises:
        SystemExit: It did not generate the given number of tokens.
    """
    from tapir_exp.student.training.throughput import card_peak_tflops

    generate, lengths = CONTENDERS[name](model), make_lengths()
    generate(prompts, 4)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    hook.steps, started = 0, time.perf_counter()
    counts = generate(prompts, LIMIT)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if counts != [lengths[len(prompt)] for prompt in prompts]:
        raise SystemExit(f"{name}: the responses do not have the given lengths: {counts[:8]} ...")
    rate, peak = sum(counts) / seconds, card_peak_tflops(DEVICE)
    return {
        "tokens_per_second": round(rate),
        "peak_share": round(rate * flops_per_token / (peak * 1e12), 5) if peak else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "new_tokens": sum(counts),
        "seconds": round(seconds, 2),
        "steps": hook.steps,
        "ms_per_step": round(1000 * seconds / hook.steps, 2),
    }


def run_student(name: str, count: int) -> None:
    """Measure every contender with one student, and print a line of JSON for each."""
    from tapir_exp.config import ArchitectureConfig
    from tapir_exp.student.training.memory import count_parameters

    shape = load_shape(name)
    model, hook = make_model(shape), FixedLengths(make_lengths())
    model.register_forward_hook(hook, with_kwargs=True)
    flops = FLOPS_PER_TOKEN * count_parameters(ArchitectureConfig(**shape))
    prompts = make_prompts(count, shape["vocab_size"])
    for contender in CONTENDERS:
        figures = measure(contender, model, hook, prompts, flops)
        print(f"{name}: {contender}: {json.dumps(figures)}", flush=True)


def main() -> None:
    """Run each student in a fresh process, or the student of --one in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=list(STUDENTS))
    parser.add_argument("--one")
    arguments = parser.parse_args()
    if arguments.one:
        run_student(arguments.one, arguments.prompts)
        return
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    for name in arguments.only:
        command = [sys.executable, __file__, "--one", name, "--prompts", str(arguments.prompts)]
        if subprocess.run(command, cwd=HERE, check=False).returncode:
            print(f"{name}: failed", flush=True)


if __name__ == "__main__":
    main()
