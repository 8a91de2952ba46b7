"""The interface of a generation engine: token ids in, continuations out as soon as they are finished.

- `transformers` runs the model in this process, on any device, greedy or sampled.
- `ctranslate2` generates the same greedy tokens faster on a CPU; the student is converted each time it is opened.
- `vllm` sends requests to an OpenAI-compatible server, which runs in its own environment while the engine is open.

Only `transformers` samples from the random streams of `sampling.py`, so it generates all sampled responses, and the
console reports this. If an engine does not support a request, its error names the engine that does.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from transformers import GenerationConfig

from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.sampling import SamplingParams


@dataclass(frozen=True)
class Continuation:
    """Tokens generated after a prompt.

    Attributes:
        tokens: Ids of the tokens, without the end of turn.
        finished: False if the limit cut the continuation.
    """

    tokens: tuple[int, ...]
    finished: bool


class Engine(Protocol):
    """Generates continuations of prompts."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        params: Sequence[SamplingParams] | None = None,
        done: AbstractSet[int] = frozenset(),
    ) -> Iterator[tuple[int, Continuation]]:
        """Yield each continuation with the index of its prompt, as soon as it is finished.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: Most tokens of a continuation, including its end of turn.
            params: Sampling parameters of each prompt; None generates greedily.
            done: Indices of prompts that need no continuation. A batch is left out only as a whole, so that a resumed
                run has the batches of an uninterrupted one. In low precision they change the rounding.
        """
        ...


def stop_token_ids(generation: GenerationConfig | None, chat: Chat) -> frozenset[int]:
    """Return the tokens that end a response: the chat's end of turn and those of the model's generation settings."""
    configured = generation.eos_token_id if generation else None
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset({chat.end, *(end for end in ends if end is not None)})
