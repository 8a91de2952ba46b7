"""Losses of given responses under a student, with and without their instructions."""

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric.utilities import move_data_to_device
from transformers import PreTrainedModel

from tapir_exp.config import StudentConfig
from tapir_exp.core.batching import length_sorted_batches
from tapir_exp.core.console import Progress
from tapir_exp.core.records import ResponseLoss, Subset
from tapir_exp.core.stored_rows import MeasuredLoss, ShiftedRows
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.engines.hf import load_on_device
from tapir_exp.student.generate import report_kept
from tapir_exp.student.packing import pack_attention
from tapir_exp.student.training.batching import collate
from tapir_exp.student.training.encoded_rows import EncodedRow
from tapir_exp.student.training.lightning_module import response_nll

NO_INSTRUCTION = ""
"""The instruction of a loss without instruction. The chat template's frame stays, so that the first token of a response
has a context. Also, a missing format would raise the loss of a chat model."""


@dataclass(frozen=True)
class LossRow:
    """A response to measure.

    Attributes:
        id: Row id.
        instruction: The instruction of the response.
        response: The response, usually the teacher's.
    """

    id: str
    instruction: str
    response: str


def response_losses(
    student_dir: Path,
    rows: Sequence[LossRow],
    student: StudentConfig,
    label: str,
    kept: MutableMapping[int, MeasuredLoss] | None = None,
) -> list[ResponseLoss]:
    """Return the losses of each response with its instruction and without one; both include the end of turn.

    A response that does not fit into `student.max_length` tokens with its instruction fails. If it were cut, its two
    losses would be those of different texts.

    Args:
        student_dir: Directory of the student.
        rows: The responses, with their instructions.
        student: Settings of the student.
        label: Label of the progress bar.
        kept: Losses that an earlier process measured, and new ones as they come: those with an instruction, in the
            order of `rows`, then those without.

    Returns:
        The losses, mean over the tokens of a response, in nats, in the order of `rows`.
    """
    kept = {} if kept is None else kept
    chat, model = load_chat(student_dir, student), pack_attention(load_on_device(student_dir, student))
    prompts = chat.encode_prompts([row.instruction for row in rows])
    responses = chat.encode_responses([row.response for row in rows])
    (bare,) = chat.encode_prompts([NO_INSTRUCTION])
    with Progress(label, 2 * len(rows)) as progress:
        report_kept(kept, lambda _: progress.advance(), label, 2 * len(rows))
        pairs = list(zip(prompts, responses, strict=True))
        instructed = _mean_losses(model, pairs, student, progress, ShiftedRows(kept, 0))
        pairs = [(bare, response) for response in responses]
        alone = _mean_losses(model, pairs, student, progress, ShiftedRows(kept, len(rows)))
    return [
        _to_response_loss(row.id, len(response), with_instruction, without)
        for row, response, with_instruction, without in zip(rows, responses, instructed, alone, strict=True)
    ]


def _mean_losses(
    model: PreTrainedModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    student: StudentConfig,
    progress: Progress,
    kept: MutableMapping[int, MeasuredLoss],
) -> list[float | None]:
    """Return the mean negative log-likelihood of each response after its prompt, in nats; None if it does not fit."""
    rows = [EncodedRow((*prompt, *response), len(prompt), Subset.REST) for prompt, response in pairs]
    for batch in _batches_that_fit(rows, student):
        # A batch is measured as a whole, so that a resumed run has the batches, and the rounding, of any other.
        if all(index in kept for index in batch):
            continue
        micro = move_data_to_device(collate([rows[index] for index in batch]), model.device)
        # (supervised tokens of the batch,), split by row
        nll = torch.split(response_nll(model, micro).double(), [rows[index].supervised for index in batch])
        for index, row_nll in zip(batch, nll, strict=True):
            kept[index] = MeasuredLoss(loss=row_nll.mean().item())
        progress.advance(len(batch))
    return [kept[index].loss if index in kept else None for index in range(len(rows))]


def _batches_that_fit(rows: Sequence[EncodedRow], student: StudentConfig) -> Iterator[list[int]]:
    """Yield the indices of the rows that fit into the model, in batches of similar length."""
    fitting = [index for index, row in enumerate(rows) if len(row.tokens) <= student.max_length]
    for batch in length_sorted_batches([len(rows[index].tokens) for index in fitting], student.generation_batch_size):
        yield [fitting[index] for index in batch]


def _to_response_loss(row_id: str, tokens: int, instructed: float | None, alone: float | None) -> ResponseLoss:
    if instructed is None or alone is None:
        failure = f"the response's {tokens} tokens do not fit behind the instruction"
        return ResponseLoss(id=row_id, instructed=None, alone=None, tokens=tokens, failure=failure)
    return ResponseLoss(id=row_id, instructed=instructed, alone=alone, tokens=tokens)
