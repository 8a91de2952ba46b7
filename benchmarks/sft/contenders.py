"""Train one contender in this process: `python contenders.py NAME PRECISION ROWS SEED`.

It prints one line of JSON with the figures of all steps after the first two. These are real tokens, CPU and wall
seconds, and the peak resident memory. The losses on held-out rows, before and after, come from the same code for all
contenders.

Trainer and SFTTrainer take the rows in the order of our batches: the loss after few steps depends mostly on the order.
Grouping by length and packing choose their own.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from rows import END, LONGEST, make_model, make_rows
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaForCausalLM

from tapir_exp.config import BudgetConfig, SFTConfig, TrainerConfig
from tapir_exp.core.determinism import deterministic_scope
from tapir_exp.core.records import Subset
from tapir_exp.student.cross_entropy import weighted_cross_entropy
from tapir_exp.student.packing import pack_attention, packed_hidden
from tapir_exp.student.training.batching import BatchPlan, StepLoader, plan_batches
from tapir_exp.student.training.encoded_rows import EncodedRow
from tapir_exp.student.training.lightning_module import StudentModule
from tapir_exp.student.training.schedule import restart_schedule
from tapir_exp.student.training.train import build_trainer

GLOBAL_BATCH_SIZE, LEARNING_RATE = 8, 1e-3
WARMUP_STEPS = 2
IGNORE_INDEX = -100


class Stopwatch:
    """Measures seconds and real tokens of the steps after the warmup."""

    def __init__(self) -> None:
        self._batches: list[int] = []
        self._steps, self._tokens, self._started = 0, 0, (0.0, 0.0)
        self.figures: dict[str, float] = {}

    def count(self, tokens: int) -> None:
        """Add the real tokens of the next batch. Loaders may prepare batches ahead of their steps."""
        self._batches.append(tokens)

    def step(self) -> None:
        """Record the end of a step."""
        self._steps += 1
        now = (time.process_time(), time.perf_counter())
        if self._steps <= WARMUP_STEPS:
            self._started = now
            return
        self._tokens += self._batches[self._steps - 1]
        cpu, wall = (end - start for end, start in zip(now, self._started, strict=True))
        self.figures = {"tokens": self._tokens, "cpu": cpu, "wall": wall}


def padded(rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
    """Pad rows on the right, as the other trainers do."""
    width = max(len(row.tokens) for row in rows)
    padding = [width - len(row.tokens) for row in rows]
    labels = [[IGNORE_INDEX] * row.prompt + list(row.tokens[row.prompt :]) for row in rows]
    return {
        "input_ids": torch.tensor([[*row.tokens, *[END] * pad] for row, pad in zip(rows, padding, strict=True)]),
        "attention_mask": torch.tensor([[1] * (width - pad) + [0] * pad for pad in padding]),
        "labels": torch.tensor([[*label, *[IGNORE_INDEX] * pad] for label, pad in zip(labels, padding, strict=True)]),
    }


def make_plan(rows: Sequence[EncodedRow], seed: int) -> BatchPlan:
    """Return the batches of our trainer, which the bare loops use too."""
    return plan_batches([len(row.tokens) for row in rows], BudgetConfig(epochs=1), GLOBAL_BATCH_SIZE, seed)


def ordered(rows: Sequence[EncodedRow], seed: int) -> list[EncodedRow]:
    """Return the rows in the order of our batches."""
    return [rows[index] for step in make_plan(rows, seed).steps for index in step]


def autocast(bf16: bool) -> Any:
    """Return the autocast context of mixed precision."""
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def train_ours(model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch) -> None:
    """Train with our module and loader under Lightning, as in a fit."""
    loader = StepLoader(rows, make_plan(rows, seed), SFTConfig().max_tokens_per_micro_batch)
    sft = SFTConfig(learning_rate=LEARNING_RATE, warmup_ratio=0.0)
    weights = {Subset.HARD: 1.0, Subset.REST: 1.0}
    module = StudentModule(model, weights, sft, restart_schedule(sft), len(loader), seed)

    class Watch(pl.Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            watch.count(arguments[3].tokens)
            watch.step()

    config = TrainerConfig(accelerator="cpu", precision="bf16-mixed" if bf16 else "32-true")
    with deterministic_scope(seed):
        build_trainer(config, [Watch()], sft.max_grad_norm).fit(module, loader)


def train_bare(model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch) -> None:
    """Train in a plain PyTorch loop with our batches and kernels: the upper limit for a framework."""
    loader = StepLoader(rows, make_plan(rows, seed), SFTConfig().max_tokens_per_micro_batch)
    pack_attention(model.train())

    def loss_of(step: Any) -> torch.Tensor:
        (batch,) = step.micro_batches
        hidden = packed_hidden(model.get_decoder(), batch.tokens, batch.bounds)[batch.predictor_positions]
        weights = torch.full(batch.targets.shape, 1 / step.supervised)
        return weighted_cross_entropy(hidden, model.lm_head.weight, batch.targets, weights)[0]

    _loop(model, loader, len(loader), loss_of, lambda step: step.tokens, bf16, watch)


def train_padded(model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch) -> None:
    """Train in a plain PyTorch loop on our batches, padded, with the model's attention and full logits."""
    steps = [[rows[index] for index in step] for step in make_plan(rows, seed).steps]
    kernel = sdpa_kernel(SDPBackend.MATH) if bf16 else nullcontext()  # faster than the fused kernel on a CPU

    def loss_of(step: list[EncodedRow]) -> torch.Tensor:
        batch = padded(step)
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1].float()
        return functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX
        )

    with kernel:
        _loop(model.train(), steps, len(steps), loss_of, lambda step: sum(len(r.tokens) for r in step), bf16, watch)


def _loop(
    model: LlamaForCausalLM,
    steps: Any,
    count: int,
    loss_of: Callable[[Any], torch.Tensor],
    tokens_of: Callable[[Any], int],
    bf16: bool,
    watch: Stopwatch,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    for step in steps:
        with autocast(bf16):
            loss = loss_of(step)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        loss.item()
        watch.count(tokens_of(step))
        watch.step()


def train_hf(
    model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch, **settings: Any
) -> None:
    """Train with Hugging Face's Trainer and a usual padding collator."""
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        chosen = [rows[item["index"]] for item in batch]
        watch.count(sum(len(row.tokens) for row in chosen))
        return padded(chosen)

    rows = ordered(rows, seed)
    lengths = [len(row.tokens) for row in rows]
    data = Dataset.from_dict({"index": list(range(len(rows))), "length": lengths})
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(remove_unused_columns=False, **{**common(folder, bf16, seed), **settings})
        Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[Watch()]).train()


def train_trl(
    model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch, **settings: Any
) -> None:
    """Train with TRL's SFTTrainer, its collator and its packing."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "<end>": END}, unk_token="<unk>")),
        eos_token="<end>",
        pad_token="<unk>",
    )
    rows = ordered(rows, seed)
    labels = [[IGNORE_INDEX] * row.prompt + list(row.tokens[row.prompt :]) for row in rows]
    data = Dataset.from_dict({"input_ids": [list(row.tokens) for row in rows], "labels": labels})
    with TemporaryDirectory() as folder:
        arguments = TrlConfig(max_length=LONGEST, **{**common(folder, bf16, seed), **settings})
        trainer = SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()])
        collate = trainer.data_collator

        def counting(batch: list[dict[str, Any]]) -> Any:
            watch.count(sum(len(item["input_ids"]) for item in batch))
            return collate(batch)

        trainer.data_collator = counting
        trainer.train()


def common(folder: str, bf16: bool, seed: int) -> dict[str, Any]:
    """Return the settings that make Trainer and SFTTrainer train like ours."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": GLOBAL_BATCH_SIZE,
        "num_train_epochs": 1,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": bf16,
        "use_cpu": True,
        "seed": seed,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def train_hf_grouped(*arguments: Any) -> None:
    """Train with Trainer and batches grouped by length."""
    train_hf(*arguments, train_sampling_strategy="group_by_length", length_column_name="length")


def train_trl_packed(*arguments: Any) -> None:
    """Train with SFTTrainer and packing. Two packed rows of 512 tokens have about as many tokens as our batches."""
    train_trl(*arguments, packing=True, per_device_train_batch_size=2)


CONTENDERS: dict[str, Callable[..., None]] = {
    "ours": train_ours,
    "bare loop, our batches": train_bare,
    "bare loop, padded": train_padded,
    "HF Trainer": train_hf,
    "HF Trainer, grouped": train_hf_grouped,
    "TRL SFTTrainer": train_trl,
    "TRL SFTTrainer, packing": train_trl_packed,
}


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM) -> float:
    """Return the mean loss of supervised tokens of held-out rows, in nats, in float32 and row by row."""
    model.eval().set_attn_implementation("sdpa")
    losses = [_row_losses(model, row) for row in make_rows(32, seed=-1)]
    return torch.cat(losses).mean().item()


def _row_losses(model: LlamaForCausalLM, row: EncodedRow) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([row.tokens])).logits[0, row.prompt - 1 : -1]
    return functional.cross_entropy(logits, torch.tensor(row.tokens[row.prompt :]), reduction="none")


def main() -> None:
    """Train one contender and print its figures."""
    name, precision, count, seed = sys.argv[1:]
    torch.set_num_threads(1)
    model, watch = make_model(), Stopwatch()
    before = held_out_loss(model)
    CONTENDERS[name](model, make_rows(int(count), int(seed)), precision == "bf16", int(seed), watch)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    losses = {"before": before, "after": held_out_loss(model)}
    print(json.dumps({**watch.figures, **losses, "memory": memory}))


if __name__ == "__main__":
    main()
