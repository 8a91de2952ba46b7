"""LLaMA2-7B on one GPU, random weights: ours beside TRL, full fine-tuning and LoRA, rows packed up to 2048 tokens.

`python benchmarks/sft/gpu.py [--steps 8] [--only NAME ...] [--out FILE]`, with `pip install trl==1.16.0 accelerate
liger-kernel` beside us and about 80 GB of GPU memory, or 140 for float32 master weights. Every contender is a fresh
process. A step is 32,768 tokens at most. Tokens are real ones; MFU is of the card's dense bf16 peak by its data sheet,
by the multiplications that the model needs (`tapir_exp.student.training.throughput`), which are the same for everybody.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).parent
WORDS = 32000
LONGEST = 2048
STEP_TOKENS = 32_768
WARMUP_STEPS = 3
IGNORED = -100
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"r": 16, "lora_alpha": 32, "target_modules": TARGETS}


def make_model(kind: torch.dtype) -> Any:
    """LLaMA2-7B's shape, drawn on the GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(kind)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    torch.set_default_dtype(torch.float32)
    return model


def kind_of(method: str, precision: str) -> torch.dtype:
    """Frozen weights are bfloat16 always, trained ones under mixed precision float32."""
    return torch.float32 if method == "full" and precision == "bf16-mixed" else torch.bfloat16


def make_rows(tokens: int) -> list[Any]:
    """Rows of random tokens, of Alpaca's lengths times two, so that some reach the limit."""
    from random import Random

    from tapir_exp.core.records import Subset
    from tapir_exp.student.training.encoded_rows import EncodedRow

    random, rows, total = Random(0), [], 0
    while total < tokens:
        length = min(LONGEST, max(16, round(random.lognormvariate(0, 0.9) * 216)))
        rows.append(EncodedRow(tuple(random.randrange(WORDS) for _ in range(length)), max(1, length // 4), Subset.REST))
        total += length
    return rows


def ours(
    steps: int, method: str, precision: str, micro: int, *, checkpointing: bool = False, liger: bool = False
) -> list[dict[str, Any]]:
    """Our module and loader under Lightning."""
    from tapir_exp.config import LoraConfig, Method, SFTConfig, TrainerConfig
    from tapir_exp.core.records import Subset
    from tapir_exp.student.training.adapter import add_adapter, prepare_for_training
    from tapir_exp.student.training.batching import BatchPlan, StepLoader
    from tapir_exp.student.training.lightning_module import StudentModule
    from tapir_exp.student.training.train import build_trainer, ThroughputCallback

    config = TrainerConfig(
        precision=precision, deterministic=False, activation_checkpointing=checkpointing, liger_kernels=liger
    )
    lora = LoraConfig(rank=LORA["r"], alpha=LORA["lora_alpha"], dropout=0.0, target_modules=LORA["target_modules"])
    sft = SFTConfig(method=Method[method], lora=lora, max_tokens_per_micro_batch=micro)
    rows, plan = make_rows(steps * STEP_TOKENS), []
    chosen, total = [], 0
    for place, row in enumerate(rows):
        if total + len(row.tokens) > STEP_TOKENS:
            plan.append(tuple(chosen))
            chosen, total = [], 0
        chosen.append(place)
        total += len(row.tokens)
    loader = StepLoader(rows, BatchPlan(tuple(plan)), micro)
    model = prepare_for_training(make_model(kind_of(method, precision)), config)
    model = add_adapter(model, lora) if method == "lora" else model
    module = StudentModule(model, {Subset.HARD: 1.0, Subset.REST: 1.0}, sft, len(loader), 0)

    class Silent:
        def advance(self, count: int = 1) -> None:
            pass

    clock = ThroughputCallback(Silent(), None)  # type: ignore[arg-type]
    build_trainer(config, [clock], sft.max_grad_norm).fit(module, loader)
    return [pace.model_dump() for pace in clock.paces]


def trl(
    steps: int, method: str, precision: str, batch: int, *, checkpointing: bool = False, liger: bool = False
) -> list[dict[str, Any]]:
    """TRL's SFTTrainer, packing to 2048 tokens, the same tokens a step."""
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from tapir_exp.student.training.batching import StepBatch
    from tapir_exp.student.training.throughput import ThroughputMeter, count_model_flops

    rows = make_rows(steps * STEP_TOKENS)
    labels = [[IGNORED] * row.prompt + list(row.tokens[row.prompt :]) for row in rows]
    data = Dataset.from_dict({"input_ids": [list(row.tokens) for row in rows], "task_labels": labels})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>")),
        eos_token="<end>",
        pad_token="<unk>",
    )
    settings = SFTConfig(
        output_dir="/tmp/trl",
        max_length=LONGEST,
        packing=True,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=STEP_TOKENS // LONGEST // batch,
        max_steps=steps,
        learning_rate=2e-5,
        bf16=precision == "bf16-mixed",
        gradient_checkpointing=checkpointing,
        use_liger_kernel=liger,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        warmup_steps=0,
    )
    peft_config = None
    if method == "lora":
        peft_config = LoraConfig(**LORA, lora_dropout=0.0, task_type="CAUSAL_LM")
    model = make_model(kind_of(method, precision))
    trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer, peft_config=peft_config)
    meter = ThroughputMeter(count_model_flops(trainer.model), torch.device("cuda"), 1, None)
    packed: list[tuple[tuple[int, ...], int]] = []
    collate, per_step = trainer.data_collator, STEP_TOKENS // LONGEST

    def counting(batch: list[dict[str, Any]]) -> Any:
        for item in batch:
            lengths = item.get("seq_lengths", [len(item["input_ids"])])
            packed.append((tuple(lengths), sum(label != IGNORED for label in item["task_labels"])))
        return collate(batch)

    class Watch(TrainerCallback):  # type: ignore[misc]
        last = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.last = self.last or time.perf_counter()

        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            torch.cuda.synchronize()
            now, mine = time.perf_counter(), packed[(state.global_step - 1) * per_step : state.global_step * per_step]
            lengths = tuple(length for some, _ in mine for length in some)
            meter.measure(state.global_step, StepBatch([], lengths, sum(count for _, count in mine)), now - self.last)
            self.last = now

    trainer.data_collator = counting
    trainer.add_callback(Watch())
    trainer.train()
    return [pace.model_dump() for pace in meter.paces]


CONTENDERS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "ours, full, bf16": lambda steps: ours(steps, "full", "bf16-true", 8192),
    "ours, full, bf16, Liger": lambda steps: ours(steps, "full", "bf16-true", 8192, liger=True),
    "TRL, full, bf16": lambda steps: trl(steps, "full", "bf16-true", 4),
    "TRL, full, bf16, Liger": lambda steps: trl(steps, "full", "bf16-true", 4, liger=True),
    "ours, LoRA": lambda steps: ours(steps, "lora", "bf16-mixed", 8192),
    "ours, LoRA, Liger": lambda steps: ours(steps, "lora", "bf16-mixed", 8192, liger=True),
    "TRL, LoRA": lambda steps: trl(steps, "lora", "bf16-mixed", 4),
    "ours, full, float32 masters, checkpointing": lambda steps: ours(
        steps, "full", "bf16-mixed", 8192, checkpointing=True
    ),
    "TRL, full, float32 masters, checkpointing": lambda steps: trl(steps, "full", "bf16-mixed", 4, checkpointing=True),
}


def summary(paces: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the steps after the first ones."""
    counted = paces[WARMUP_STEPS:]
    mfus = [pace["mfu"] for pace in counted if pace["mfu"] is not None]
    return {
        "tokens_per_second": round(median(pace["tokens"] / pace["seconds"] for pace in counted)),
        "mfu": round(median(mfus), 3) if mfus else None,
        "peak_gib": round(paces[-1]["memory_mb"] / 1024, 1),
        "steps": len(counted),
    }


def main() -> None:
    """Run every contender in its own process, or the one that is named, in this."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(summary(CONTENDERS[asked.one](asked.steps))))
        return
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    for name in asked.only:
        command = [sys.executable, __file__, "--one", name, "--steps", str(asked.steps)]
        environment = os.environ | {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        started = time.perf_counter()
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, env=environment)
        told = done.stdout.splitlines()[-1] if done.returncode == 0 else f"failed: {done.stderr[-1500:]}"
        line = f"{name}: {told} ({time.perf_counter() - started:.0f} s in all)"
        print(line, flush=True)
        if asked.out:
            with asked.out.open("a") as out:
                out.write(line + "\n")


if __name__ == "__main__":
    main()
