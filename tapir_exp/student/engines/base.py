"""Who writes a student's answers: token ids go in, and continuations come out as they are finished.

- `transformers` runs the model itself, everywhere, greedy or sampled.
- `ctranslate2` writes the same greedy tokens on a CPU, faster; the student is converted each time it is opened.
- `vllm` asks an OpenAI-compatible server, which runs in an environment of its own for as long as the engine is open.

Only `transformers` draws from the streams of `sampler.py`, so sampled answers are always its work, and
the terminal says so. What an engine cannot do is an error that names the engine that can.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import GenerationConfig

from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.sampling import SamplingParams


@dataclass(frozen=True)
class Continuation:
    """Tokens written after a prompt, the end of turn excluded; `finished` is False where a limit cut them."""

    tokens: tuple[int, ...]
    finished: bool


class Engine(Protocol):
    """Writes on after prompts."""

    def generate(
        self, prompts: Sequence[Sequence[int]], limit: int, draws: Sequence[SamplingParams] | None = None
    ) -> Iterator[tuple[int, Continuation]]:
        """Continue each prompt until an end of turn or `limit` tokens, the end of turn among them.

        Gives every continuation with the place of its prompt, as it is finished. Where there are `draws`, one for each
        prompt, tokens are drawn by them; else the likeliest are taken.
        """
        ...


def stop_token_ids(generation: GenerationConfig | None, chat: Chat) -> frozenset[int]:
    """The tokens that end an answer: the chat's end of turn, and all that the model's generation settings name."""
    configured = generation.eos_token_id if generation else None
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset({chat.end, *(end for end in ends if end is not None)})
