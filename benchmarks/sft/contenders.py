"""One contender trains on the rows, in a process of its own: `python contenders.py NAME PRECISION ROWS SEED`.

It prints one line of JSON: real tokens, processor and wall seconds of all steps but the first two, the mean loss on
held-out rows before and after, which everybody's model gets from the same plain code, and the peak of resident memory.
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
from tapir_exp.student.training.train import build_trainer

BATCH_ROWS, RATE = 8, 1e-3
WARMUP_STEPS = 2
IGNORED = -100


class Stopwatch:
    """Seconds and real tokens of the steps after the first ones."""

    def __init__(self) -> None:
        self._batches: list[int] = []
        self._steps, self._tokens, self._started = 0, 0, (0.0, 0.0)
        self.figures: dict[str, float] = {}

    def count(self, tokens: int) -> None:
        """So many real tokens are in the next batch; loaders may prepare some batches ahead of their steps."""
        self._batches.append(tokens)

    def step(self) -> None:
        """A step has ended."""
        self._steps += 1
        now = (time.process_time(), time.perf_counter())
        if self._steps <= WARMUP_STEPS:
            self._started = now
            return
        self._tokens += self._batches[self._steps - 1]
        cpu, wall = (end - start for end, start in zip(now, self._started, strict=True))
        self.figures = {"tokens": self._tokens, "cpu": cpu, "wall": wall}


def padded(rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
    """Rows padded on the right, as everybody else pads them."""
    width = max(len(row.tokens) for row in rows)
    fill = [width - len(row.tokens) for row in rows]
    labels = [[IGNORED] * row.prompt + list(row.tokens[row.prompt :]) for row in rows]
    return {
        "input_ids": torch.tensor([[*row.tokens, *[END] * gap] for row, gap in zip(rows, fill, strict=True)]),
        "attention_mask": torch.tensor([[1] * (width - gap) + [0] * gap for gap in fill]),
        "task_labels": torch.tensor([[*label, *[IGNORED] * gap] for label, gap in zip(labels, fill, strict=True)]),
    }


def plan_of(rows: Sequence[EncodedRow], seed: int) -> BatchPlan:
    """The batches that ours takes, and the bare loops with it."""
    return plan_batches([len(row.tokens) for row in rows], BudgetConfig(epochs=1), BATCH_ROWS, seed)


def autocast(bf16: bool) -> Any:
    """What mixed precision is made of."""
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def train_ours(model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch) -> None:
    """Our module and loader under Lightning, as a fit has them."""
    loader = StepLoader(rows, plan_of(rows, seed), SFTConfig().max_tokens_per_micro_batch)
    sft = SFTConfig(learning_rate=RATE, warmup_ratio=0.0)
    weights = {Subset.HARD: 1.0, Subset.REST: 1.0}
    module = StudentModule(model, weights, sft, len(loader), seed)

    class Watch(pl.Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            watch.count(arguments[3].tokens)
            watch.step()

    config = TrainerConfig(accelerator="cpu", precision="bf16-mixed" if bf16 else "32-true")
    with deterministic_scope(seed):
        build_trainer(config, [Watch()], sft.max_grad_norm).fit(module, loader)


def train_bare(model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch) -> None:
    """A loop of plain PyTorch over our batches with our kernels: what a framework could reach at most."""
    loader = StepLoader(rows, plan_of(rows, seed), SFTConfig().max_tokens_per_micro_batch)
    pack_attention(model.train())

    def loss_of(step: Any) -> torch.Tensor:
        (batch,) = step.micro_batches
        hidden = packed_hidden(model.get_decoder(), batch.tokens, batch.bounds)[batch.predictor_positions]
        weights = torch.full(batch.targets.shape, 1 / step.supervised)
        return weighted_cross_entropy(hidden, model.lm_head.weight, batch.targets, weights)[0]

    _loop(model, loader, len(loader), loss_of, lambda step: step.tokens, bf16, watch)


def train_padded(model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch) -> None:
    """A loop of plain PyTorch over the rows of our batches, padded, with the model's own attention and logits."""
    steps = [[rows[place] for place in step] for step in plan_of(rows, seed).steps]
    kernel = sdpa_kernel(SDPBackend.MATH) if bf16 else nullcontext()  # the faster one here

    def loss_of(step: list[EncodedRow]) -> torch.Tensor:
        batch = padded(step)
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1].float()
        return functional.cross_entropy(
            logits.flatten(0, 1), batch["task_labels"][:, 1:].flatten(), ignore_index=IGNORED
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
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
    """Hugging Face's Trainer, with the padding collator that its users write."""
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        chosen = [rows[item["place"]] for item in batch]
        watch.count(sum(len(row.tokens) for row in chosen))
        return padded(chosen)

    lengths = [len(row.tokens) for row in rows]
    data = Dataset.from_dict({"place": list(range(len(rows))), "length": lengths})
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(remove_unused_columns=False, **common(folder, bf16, seed), **settings)
        Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[Watch()]).train()


def train_trl(
    model: LlamaForCausalLM, rows: list[EncodedRow], bf16: bool, seed: int, watch: Stopwatch, **settings: Any
) -> None:
    """TRL's SFTTrainer with its own collator and packing."""
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
    labels = [[IGNORED] * row.prompt + list(row.tokens[row.prompt :]) for row in rows]
    data = Dataset.from_dict({"input_ids": [list(row.tokens) for row in rows], "task_labels": labels})
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
    """Settings that Trainer and SFTTrainer share, to train as ours does."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH_ROWS,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": bf16,
        "use_cpu": True,
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def grouped(*arguments: Any) -> None:
    """Trainer with its length-grouped batches."""
    train_hf(*arguments, train_sampling_strategy="group_by_length", length_column_name="length")


def trl_packed(*arguments: Any) -> None:
    """SFTTrainer with packing; two packed rows of 512 tokens are a batch of about as many tokens."""
    train_trl(*arguments, packing=True, per_device_train_batch_size=2)


CONTENDERS: dict[str, Callable[..., None]] = {
    "ours": train_ours,
    "bare loop, our batches": train_bare,
    "bare loop, padded": train_padded,
    "HF Trainer": train_hf,
    "HF Trainer, grouped": grouped,
    "TRL SFTTrainer": train_trl,
    "TRL SFTTrainer, packing": trl_packed,
}


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM) -> float:
    """Mean loss of supervised tokens over rows that nobody trains on, in nats, in float32 and one by one."""
    model.eval().set_attn_implementation("sdpa")
    losses = [_row_losses(model, row) for row in make_rows(32, seed=-1)]
    return torch.cat(losses).mean().item()


def _row_losses(model: LlamaForCausalLM, row: EncodedRow) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([row.tokens])).logits[0, row.prompt - 1 : -1]
    return functional.cross_entropy(logits, torch.tensor(row.tokens[row.prompt :]), reduction="none")


def main() -> None:
    """Train and print the figures."""
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
