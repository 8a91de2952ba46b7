"""Compare fine-tuning of LLaMA2-7B on one GPU: ours and TRL, full fine-tuning and LoRA, packed to 2048 tokens.

    pip install trl==1.16.0 accelerate liger-kernel
    python benchmarks/sft/gpu.py [--steps 8] [--only NAME ...] [--out FILE]

The weights are random. It needs about 80 GB of GPU memory, or 140 GB for float32 master weights. Each contender is a
fresh process, and a step has at most 32,768 tokens. Throughput counts real tokens. MFU is relative to the card's dense
bf16 peak by its data sheet. Its FLOPs follow from the model (`tapir_exp.student.training.throughput`), so they are the
same for all contenders.
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
VOCAB_SIZE = 32000
LONGEST = 2048
STEP_TOKENS = 32_768
WARMUP_STEPS = 3
IGNORE_INDEX = -100
ARCHITECTURE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"r": 16, "lora_alpha": 32, "target_modules": TARGET_MODULES}


def make_model(dtype: torch.dtype) -> Any:
    """Return a randomly initialised model on the GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**ARCHITECTURE))
    torch.set_default_dtype(torch.float32)
    return model


def weight_dtype(method: str, precision: str) -> torch.dtype:
    """Return float32 for weights that mixed precision trains, and bfloat16 otherwise."""
    return torch.float32 if method == "full" and precision == "bf16-mixed" else torch.bfloat16


def make_rows(tokens: int) -> list[Any]:
    """Return rows of random tokens, twice as long as those of Alpaca, so that some reach the limit."""
    from random import Random

    from tapir_exp.core.records import Subset
    from tapir_exp.student.training.encoded_rows import EncodedRow

    random, rows, total = Random(0), [], 0
    while total < tokens:
        length = min(LONGEST, max(16, round(random.lognormvariate(0, 0.9) * 216)))
        ids = tuple(random.randrange(VOCAB_SIZE) for _ in range(length))
        rows.append(EncodedRow(ids, max(1, length // 4), Subset.REST))
        total += length
    return rows


def train_ours(
    steps: int, method: str, precision: str, micro: int, *, checkpointing: bool = False, liger: bool = False
) -> list[dict[str, Any]]:
    """Train with our module and loader under Lightning, and return the timings of the steps."""
    from tapir_exp.config import LoraConfig, Method, SFTConfig, TrainerConfig
    from tapir_exp.core.records import Subset
    from tapir_exp.student.training.adapter import add_adapter, prepare_for_training
    from tapir_exp.student.training.batching import StepLoader
    from tapir_exp.student.training.callbacks import ThroughputCallback
    from tapir_exp.student.training.lightning_module import StudentModule
    from tapir_exp.student.training.schedule import restart_schedule
    from tapir_exp.student.training.train import build_trainer

    config = TrainerConfig(
        precision=precision, deterministic=False, activation_checkpointing=checkpointing, liger_kernels=liger
    )
    lora = LoraConfig(rank=LORA["r"], alpha=LORA["lora_alpha"], dropout=0.0, target_modules=LORA["target_modules"])
    sft = SFTConfig(method=Method[method], lora=lora, max_tokens_per_micro_batch=micro)
    rows = make_rows(steps * STEP_TOKENS)
    loader = StepLoader(rows, make_plan(rows), micro)
    model = prepare_for_training(make_model(weight_dtype(method, precision)), config)
    model = add_adapter(model, lora) if method == "lora" else model
    module = StudentModule(model, {Subset.HARD: 1.0, Subset.REST: 1.0}, sft, restart_schedule(sft), len(loader), 0)

    class Silent:
        def advance(self, count: int = 1) -> None:
            pass

    throughput = ThroughputCallback(Silent(), None)  # type: ignore[arg-type]
    build_trainer(config, [throughput], sft.max_grad_norm).fit(module, loader)
    return [timing.model_dump() for timing in throughput.timings]


def make_plan(rows: list[Any]) -> Any:
    """Return steps of consecutive rows with at most STEP_TOKENS tokens each."""
    from tapir_exp.student.training.batching import BatchPlan

    plan = []
    step: list[int] = []
    total = 0
    for index, row in enumerate(rows):
        if total + len(row.tokens) > STEP_TOKENS:
            plan.append(tuple(step))
            step, total = [], 0
        step.append(index)
        total += len(row.tokens)
    return BatchPlan(tuple(plan))


def train_trl(
    steps: int, method: str, precision: str, batch: int, *, checkpointing: bool = False, liger: bool = False
) -> list[dict[str, Any]]:
    """Train with TRL's SFTTrainer and as many tokens per step, and return the timings of the steps."""
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    rows = make_rows(steps * STEP_TOKENS)
    labels = [[IGNORE_INDEX] * row.prompt + list(row.tokens[row.prompt :]) for row in rows]
    data = Dataset.from_dict({"input_ids": [list(row.tokens) for row in rows], "labels": labels})
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
    adapter = LoraConfig(**LORA, lora_dropout=0.0, task_type="CAUSAL_LM") if method == "lora" else None
    model = make_model(weight_dtype(method, precision))
    trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer, peft_config=adapter)
    meter = measure_trl(trainer)
    trainer.train()
    return [timing.model_dump() for timing in meter.timings]


def measure_trl(trainer: Any) -> Any:
    """Attach our throughput meter to a trainer of TRL."""
    from transformers import TrainerCallback

    from tapir_exp.student.training.batching import StepBatch
    from tapir_exp.student.training.throughput import ThroughputMeter, count_model_flops

    meter = ThroughputMeter(count_model_flops(trainer.model), torch.device("cuda"), 1, None)
    packed: list[tuple[tuple[int, ...], int]] = []  # row lengths and supervised tokens of each packed sequence
    collate, per_step = trainer.data_collator, STEP_TOKENS // LONGEST

    def count_and_collate(batch: list[dict[str, Any]]) -> Any:
        for item in batch:
            lengths = item.get("seq_lengths", [len(item["input_ids"])])
            packed.append((tuple(lengths), sum(label != IGNORE_INDEX for label in item["labels"])))
        return collate(batch)

    class Watch(TrainerCallback):  # type: ignore[misc]
        last = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.last = self.last or time.perf_counter()

        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            torch.cuda.synchronize()
            now = time.perf_counter()
            # The loader may have prepared later steps already.
            step = packed[(state.global_step - 1) * per_step : state.global_step * per_step]
            lengths = tuple(length for row_lengths, _ in step for length in row_lengths)
            batch = StepBatch([], lengths, sum(supervised for _, supervised in step))
            meter.record(state.global_step, batch, now - self.last)
            self.last = now

    trainer.data_collator = count_and_collate
    trainer.add_callback(Watch())
    return meter


CONTENDERS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "ours, full, bf16": lambda steps: train_ours(steps, "full", "bf16-true", 8192),
    "ours, full, bf16, Liger": lambda steps: train_ours(steps, "full", "bf16-true", 8192, liger=True),
    "TRL, full, bf16": lambda steps: train_trl(steps, "full", "bf16-true", 4),
    "TRL, full, bf16, Liger": lambda steps: train_trl(steps, "full", "bf16-true", 4, liger=True),
    "ours, LoRA": lambda steps: train_ours(steps, "lora", "bf16-mixed", 8192),
    "ours, LoRA, Liger": lambda steps: train_ours(steps, "lora", "bf16-mixed", 8192, liger=True),
    "TRL, LoRA": lambda steps: train_trl(steps, "lora", "bf16-mixed", 4),
    "ours, full, float32 masters, checkpointing": lambda steps: train_ours(
        steps, "full", "bf16-mixed", 8192, checkpointing=True
    ),
    "TRL, full, float32 masters, checkpointing": lambda steps: train_trl(
        steps, "full", "bf16-mixed", 4, checkpointing=True
    ),
}


def summarize(timings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the steps after the warmup."""
    counted = timings[WARMUP_STEPS:]
    mfus = [timing["mfu"] for timing in counted if timing["mfu"] is not None]
    return {
        "tokens_per_second": round(median(timing["tokens"] / timing["seconds"] for timing in counted)),
        "mfu": round(median(mfus), 3) if mfus else None,
        "peak_gib": round(timings[-1]["memory_mb"] / 1024, 1),
        "steps": len(counted),
    }


def main() -> None:
    """Run each contender in a fresh process, or the contender of --one in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(summarize(CONTENDERS[arguments.one](arguments.steps))))
        return
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    for name in arguments.only:
        command = [sys.executable, __file__, "--one", name, "--steps", str(arguments.steps)]
        environment = os.environ | {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        started = time.perf_counter()
        process = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, env=environment)
        failed = process.returncode != 0
        figures = f"failed: {process.stderr[-1500:]}" if failed else process.stdout.splitlines()[-1]
        line = f"{name}: {figures} ({time.perf_counter() - started:.0f} s in all)"
        print(line, flush=True)
        if arguments.out:
            with arguments.out.open("a") as out:
                out.write(line + "\n")


if __name__ == "__main__":
    main()
