"""The engine of `transformers`: a loop over the model itself, on whatever device there is, greedy or sampled."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tapir_exp.config import StudentConfig
from tapir_exp.core.batching import length_sorted_batches
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation, stop_token_ids
from tapir_exp.student.engines.kv_cache import GrowingLayer
from tapir_exp.student.engines.sampling import SamplingParams, Sampler
from tapir_exp.student.loading import load_model


@contextmanager
def open_transformers(student_dir: Path, chat: Chat, student: StudentConfig) -> Iterator["TransformersEngine"]:
    """The engine with the student in `student_dir`, on the GPU where there is one."""
    model = load_on_device(student_dir, student)
    yield TransformersEngine(
        model, stop_token_ids(model.generation_config, chat), chat.pad, student.generation_batch_size
    )


class TransformersEngine:
    """Batches of prompts of like length; a row leaves its batch when it is finished, one from the end takes its place.

    In float32 a row does not depend on its neighbours in the batch.
    """

    def __init__(self, model: PreTrainedModel, stops: frozenset[int], pad: int, batch: int) -> None:
        """stops: tokens that end a turn. pad: fills up short rows. batch: prompts continued at once."""
        self._model = model
        self._stops = torch.tensor(sorted(stops))
        self._pad = pad
        self._batch = batch

    def generate(
        self, prompts: Sequence[Sequence[int]], limit: int, draws: Sequence[SamplingParams] | None = None
    ) -> Iterator[tuple[int, Continuation]]:
        """As `Engine.generate`."""
        for places in length_sorted_batches([len(prompt) for prompt in prompts], self._batch):
            sampler = None if draws is None else Sampler([draws[place] for place in places])
            for row, continuation in self._write_batch([prompts[place] for place in places], limit, sampler):
                yield places[row], continuation

    def _write_batch(
        self, prompts: Sequence[Sequence[int]], limit: int, sampler: Sampler | None
    ) -> Iterator[tuple[int, Continuation]]:
        state = _Batch(self._model, prompts, self._pad)
        written: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        for _ in range(limit):
            tokens = state.step(sampler)
            stopped = torch.isin(tokens, self._stops).tolist()
            for row, token in zip(alive, tokens.tolist(), strict=True):
                written[row].append(token)
            if not any(stopped):
                continue
            kept = compacted_indices(stopped)
            if kept:
                state.keep(kept)
                if sampler is not None:
                    sampler.keep(kept)
            for row in [row for row, stop in zip(alive, stopped, strict=True) if stop]:
                yield row, Continuation(tuple(written[row][:-1]), finished=True)
            alive = [alive[place] for place in kept]
            if not alive:
                return
        for row in alive:
            yield row, Continuation(tuple(written[row]), finished=False)


def load_on_device(student_dir: Path, student: StudentConfig) -> PreTrainedModel:
    """The student, ready to answer: on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = load_model(student_dir, student).to(device).eval()  # type: ignore[arg-type]
    return model


def compacted_indices(stopped: Sequence[bool]) -> list[int]:
    """Places of the rows that go on, in an order that moves as few as possible: those at the end fill the gaps."""
    left = stopped.count(False)
    movers = iter([place for place in range(left, len(stopped)) if not stopped[place]])
    return [next(movers) if stopped[place] else place for place in range(left)]


class _Batch:
    """The state of a batch between two tokens: cache (left-padded), mask of real tokens, positions."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int) -> None:
        width = max(map(len, prompts))
        self._model = model
        self._cache = Cache(layer_class_to_replicate=GrowingLayer)
        self._next = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
        real = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        self._mask = real
        self._positions = (real.cumsum(1) - 1).clamp(min=0)

    @torch.inference_mode()
    def step(self, sampler: Sampler | None) -> Tensor:
        """The next token of every row, (rows,) on the CPU; the likeliest where nobody samples."""
        logits = self._model(
            input_ids=self._next,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        last = logits[:, -1]
        self._next = (last.argmax(-1) if sampler is None else sampler.choose(last))[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        return self._next[:, 0].cpu()

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        places = torch.tensor(rows, device=self._model.device)
        self._cache.batch_select_indices(places)
        self._next, self._mask, self._positions = (t[places] for t in (self._next, self._mask, self._positions))
