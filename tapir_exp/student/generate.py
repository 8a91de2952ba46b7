"""Answers of a student, many prompts at a time: greedy, or drawn at a temperature."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from tapir_exp.config import StudentConfig
from tapir_exp.console import Progress
from tapir_exp.records import Answer
from tapir_exp.student.chat_template import Chat, load_chat
from tapir_exp.student.load import load_model
from tapir_exp.student.sampler import Draw, Sampler

ROOM = 64
"""Token positions by which a key-value cache grows."""


@dataclass
class Continuation:
    """Tokens written after a prompt, the end of turn excluded; `finished` is False where a limit cut them."""

    tokens: list[int]
    finished: bool = False


def answer_all(
    student_dir: Path, prompts: Sequence[tuple[str, str]], student: StudentConfig, label: str
) -> list[Answer]:
    """The student's greedy answers, in the order of `prompts`, which are (id, instruction) pairs.

    An answer of `student.max_new_tokens` tokens counts as cut; an empty one, and a prompt that fills
    `student.max_length`, are failures. In float32 an answer does not depend on its neighbours in the batch.
    """
    chat = load_chat(student_dir, student)
    model = load_on_device(student_dir, student)
    encoded = chat.encode_prompts([instruction for _, instruction in prompts])
    with Progress(label, len(prompts)) as progress:
        return answer_encoded(model, chat, [name for name, _ in prompts], encoded, student, progress.advance)


def load_on_device(student_dir: Path, student: StudentConfig) -> PreTrainedModel:
    """The student, ready to answer: on the GPU where there is one."""
    model: PreTrainedModel = load_model(student_dir, student).to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type]
    return model


def answer_encoded(
    model: PreTrainedModel,
    chat: Chat,
    names: Sequence[str],
    encoded: Sequence[Sequence[int]],
    student: StudentConfig,
    advance: Callable[[int], None],
    draws: Sequence[Draw] | None = None,
) -> list[Answer]:
    """An answer to each encoded prompt, in their order and under their names; greedy where there are no `draws`."""
    answers: dict[int, Answer] = {}
    for batch in _batches(encoded, student.generation_batch):
        taken = [index for index in batch if len(encoded[index]) < student.max_length]
        drawn = None if draws is None else Sampler([draws[index] for index in taken])
        written = decode(model, chat, [encoded[i] for i in taken], student.max_new_tokens, advance, drawn)
        answers |= {i: _answer(names[i], chat, text) for i, text in zip(taken, written, strict=True)}
        answers |= {i: _too_long(names[i], len(encoded[i])) for i in set(batch) - set(taken)}
    return [answers[index] for index in range(len(names))]


def decode(
    model: PreTrainedModel,
    chat: Chat,
    prompts: Sequence[Sequence[int]],
    limit: int,
    advance: Callable[[int], None],
    sampler: Sampler | None = None,
) -> list[Continuation]:
    """Continue each prompt, by its most likely tokens or those drawn, until the end of turn or `limit` tokens.

    A row leaves the batch when it is finished, and one from the end takes its place; `advance` hears how many left.
    """
    if not prompts:
        return []
    continuations = [Continuation([]) for _ in prompts]
    alive = list(range(len(prompts)))
    stops = torch.tensor(sorted(_stops(model, chat)))
    state = _Decoder(model, prompts, chat.pad)
    for _ in range(limit):
        tokens = state.step(None if sampler is None else sampler.choose)
        stopped = torch.isin(tokens, stops).tolist()
        for row, token, stop in zip(alive, tokens.tolist(), stopped, strict=True):
            continuations[row].finished = stop
            continuations[row].tokens += [] if stop else [token]
        if any(stopped):
            kept = _close_ranks(stopped)
            advance(len(alive) - len(kept))
            alive = [alive[place] for place in kept]
            if not alive:
                break
            state.keep(kept)
            if sampler is not None:
                sampler.keep(kept)
    advance(len(alive))
    return continuations


def _close_ranks(stopped: Sequence[bool]) -> list[int]:
    """Places of the rows that go on, in an order that moves as few as possible: those at the end fill the gaps."""
    left = stopped.count(False)
    movers = iter([place for place in range(left, len(stopped)) if not stopped[place]])
    return [next(movers) if stopped[place] else place for place in range(left)]


class _Decoder:
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
    def step(self, choose: Callable[[Tensor], Tensor] | None) -> Tensor:
        """The next token of every row, (rows,) on the CPU; the likeliest where nobody chooses."""
        logits = self._model(
            input_ids=self._next,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        last = logits[:, -1]
        self._next = (last.argmax(-1) if choose is None else choose(last))[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        return self._next[:, 0].cpu()

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        places = torch.tensor(rows, device=self._model.device)
        self._cache.batch_select_indices(places)
        self._next, self._mask, self._positions = (t[places] for t in (self._next, self._mask, self._positions))


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer that grows by `ROOM` positions; copying all of it for every token would be half of the work."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, tokens, width) keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._roomy_keys, self._roomy_values = key_states[:, :, :0], value_states[:, :, :0]
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        if end > self._roomy_keys.shape[2]:
            self._roomy_keys = _roomier(self._roomy_keys, end + ROOM)
            self._roomy_values = _roomier(self._roomy_values, end + ROOM)
        self._roomy_keys[:, :, start:end], self._roomy_values[:, :, start:end] = key_states, value_states
        self.keys, self.values = self._roomy_keys[:, :, :end], self._roomy_values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; only rows that change their place are copied."""
        rows = torch.arange(len(indices), device=indices.device)
        places, end = rows[indices != rows], self.get_seq_length()
        for states in (self._roomy_keys[:, :, :end], self._roomy_values[:, :, :end]):
            states.index_copy_(0, places, states.index_select(0, indices[places]))
        self._roomy_keys, self._roomy_values = self._roomy_keys[: len(indices)], self._roomy_values[: len(indices)]
        self.keys, self.values = self._roomy_keys[:, :, :end], self._roomy_values[:, :, :end]


def _roomier(states: Tensor, length: int) -> Tensor:
    rows, heads, used, width = states.shape
    roomy = states.new_zeros(rows, heads, length, width)
    roomy[:, :, :used] = states
    return roomy


def _batches(encoded: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of prompts, neighbours in length together; the longest first, so that a lack of memory shows early."""
    order = sorted(range(len(encoded)), key=lambda index: -len(encoded[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _stops(model: PreTrainedModel, chat: Chat) -> set[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ends = configured if isinstance(configured, list) else [configured]
    return {chat.end, *(end for end in ends if end is not None)}


def _answer(name: str, chat: Chat, written: Continuation) -> Answer:
    text = chat.decode(written.tokens)
    if not text:
        return Answer(id=name, text=None, finished=written.finished, failure="empty answer")
    return Answer(id=name, text=text, finished=written.finished)


def _too_long(name: str, tokens: int) -> Answer:
    return Answer(id=name, text=None, failure=f"the prompt's {tokens} tokens leave no room for an answer")
