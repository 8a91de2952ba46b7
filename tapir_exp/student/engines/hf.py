"""The `transformers` engine: a generation loop over the model in this process, on any device, greedy or sampled."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tapir_exp.config import StudentConfig
from tapir_exp.core.batching import length_sorted_batches
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation, stop_token_ids
from tapir_exp.student.engines.kv_cache import GrowingLayer
from tapir_exp.student.engines.sampling import Sampler, SamplingParams
from tapir_exp.student.loading import load_model

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels of attention, without cuDNN's: it prepares a plan for every new number of tokens, and so at each step.

A step of 32 rows took 25 instead of 65 ms without it (LLaMA2-7B's shape, H200, torch 2.11)."""


@contextmanager
def open_transformers(student_dir: Path, chat: Chat, student: StudentConfig) -> Iterator["TransformersEngine"]:
    """Open the engine with the student in `student_dir`, on the GPU if there is one."""
    model = load_on_device(student_dir, student)
    yield TransformersEngine(
        model, stop_token_ids(model.generation_config, chat), chat.pad, student.generation_batch_size
    )


def load_on_device(student_dir: Path, student: StudentConfig) -> PreTrainedModel:
    """Load the student for inference, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = load_model(student_dir, student).to(device).eval()  # type: ignore[arg-type]
    return model


class TransformersEngine:
    """Generates batches of prompts of similar length; a finished row leaves its batch.

    In float32 a continuation does not depend on the other rows of its batch.
    """

    def __init__(self, model: PreTrainedModel, stop_ids: frozenset[int], pad_id: int, batch_size: int) -> None:
        """Create an engine.

        Args:
            model: The student, on its device.
            stop_ids: Ids of the tokens that end a turn.
            pad_id: Id that fills short rows.
            batch_size: Prompts per batch.
        """
        self._model = model
        self._stop_ids = torch.tensor(sorted(stop_ids))
        self._pad_id = pad_id
        self._batch_size = batch_size

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        params: Sequence[SamplingParams] | None = None,
        done: AbstractSet[int] = frozenset(),
    ) -> Iterator[tuple[int, Continuation]]:
        """Yield continuations as `Engine.generate` specifies."""
        for indices in length_sorted_batches([len(prompt) for prompt in prompts], self._batch_size):
            if done >= set(indices):
                continue
            sampler = None if params is None else Sampler([params[index] for index in indices])
            batch = [prompts[index] for index in indices]
            for row, continuation in self._generate_batch(batch, max_new_tokens, sampler):
                yield indices[row], continuation

    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampler: Sampler | None
    ) -> Iterator[tuple[int, Continuation]]:
        """Yield each continuation with the row of its prompt in the batch, as soon as it is finished."""
        decoder, rows = _BatchDecoder(self._model, prompts, self._pad_id), ActiveRows(len(prompts))
        for _ in range(max_new_tokens):
            tokens = decoder.step(sampler)  # (active rows,)
            stopped = torch.isin(tokens, self._stop_ids).tolist()
            rows.append(tokens.tolist())
            if not any(stopped):
                continue
            finished, remaining = rows.remove(stopped)
            # The smaller batch is ready before the first yield, which may run other code in between.
            if remaining:
                decoder.select(remaining)
                if sampler is not None:
                    sampler.select(remaining)
            for row, written in finished:
                yield row, Continuation(tuple(written[:-1]), finished=True)
            if not remaining:
                return
        for row, written in rows:
            yield row, Continuation(tuple(written), finished=False)


class ActiveRows:
    """The unfinished rows of a batch, with the tokens generated so far.

    A slot is an index into the tensors of the shrinking batch; a row is an index into the original batch.
    """

    def __init__(self, size: int) -> None:
        self._rows = list(range(size))  # row of each slot
        self._written: list[list[int]] = [[] for _ in range(size)]  # tokens of each slot

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        """Yield the row and the tokens of each slot."""
        return zip(self._rows, self._written, strict=True)

    def append(self, tokens: Sequence[int]) -> None:
        """Append one token to each slot."""
        for written, token in zip(self._written, tokens, strict=True):
            written.append(token)

    def remove(self, stopped: Sequence[bool]) -> tuple[list[tuple[int, list[int]]], list[int]]:
        """Remove the stopped slots.

        Args:
            stopped: One flag per slot.

        Returns:
            Row and tokens of each stopped slot, and the former slot of each slot that remains.
        """
        finished = [pair for pair, stop in zip(self, stopped, strict=True) if stop]
        remaining = compacted_indices(stopped)
        self._rows = [self._rows[slot] for slot in remaining]
        self._written = [self._written[slot] for slot in remaining]
        return finished, remaining


def compacted_indices(stopped: Sequence[bool]) -> list[int]:
    """Return the indices that have not stopped, in an order that moves few of them: the last ones fill the gaps."""
    left = stopped.count(False)
    movers = iter([index for index in range(left, len(stopped)) if not stopped[index]])
    return [next(movers) if stopped[index] else index for index in range(left)]


class _BatchDecoder:
    """Decodes a batch token by token; rows are padded on the left."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        width = max(map(len, prompts))
        self._model = model
        self._cache = Cache(layer_class_to_replicate=GrowingLayer)
        # Input ids of the next step: (rows, width) for the prompts, then (rows, 1).
        self._next = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=model.device)
        # Mask of real tokens, (rows, tokens so far), and positions of the input ids.
        self._mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)

    @torch.inference_mode()
    def step(self, sampler: Sampler | None) -> Tensor:
        """Return the next token of every row, (rows,) on the CPU; greedy without a sampler."""
        with sdpa_kernel(ATTENTION):
            logits = self._model(
                input_ids=self._next,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits  # (rows, 1, vocabulary)
        last = logits[:, -1]
        self._next = (last.argmax(-1) if sampler is None else sampler.sample(last))[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        return self._next[:, 0].cpu()

    @torch.inference_mode()
    def select(self, rows: list[int]) -> None:
        """Keep these rows only, in this order."""
        indices = torch.tensor(rows, device=self._model.device)
        self._cache.batch_select_indices(indices)
        self._next, self._mask, self._positions = (t[indices] for t in (self._next, self._mask, self._positions))
