"""The CTranslate2 engine: the greedy tokens of `transformers`, faster on a CPU, after a conversion of the student."""

import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from tapir_exp.config import Precision, StudentConfig
from tapir_exp.core.batching import length_sorted_batches
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.store import write_text_atomic
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation, stop_token_ids
from tapir_exp.student.engines.sampling import SamplingParams
from tapir_exp.student.loading import load_model

EXACT_MODEL_TYPES = ("llama", "qwen2")
"""Model types that the tests show to convert exactly; other types need `transformers`."""


@contextmanager
def open_ctranslate2(student_dir: Path, chat: Chat, student: StudentConfig) -> Iterator["Ctranslate2Engine"]:
    """Open the engine with the student in `student_dir`, an adapter merged; the conversion is deleted on exit.

    Raises:
        ConfigError: CTranslate2 is not installed, or would not generate the tokens of transformers.
    """
    library = _import_ctranslate2()
    if student.precision is not Precision.float32:
        raise _unsupported(f"student.precision={student.precision.value} (expected float32)")
    model = load_model(student_dir, student)
    _check_model(model)
    with TemporaryDirectory(prefix="tapir-ctranslate2-") as folder:
        converted = _convert(model, chat, Path(folder))
        generator = library.Generator(
            str(converted), device="cpu", compute_type="float32", intra_threads=torch.get_num_threads()
        )
        stop_ids, vocabulary = stop_token_ids(model.generation_config, chat), _read_vocabulary(converted, chat)
        yield Ctranslate2Engine(generator, vocabulary, stop_ids, student.generation_batch_size)


class Ctranslate2Engine:
    """Generates batches of prompts of similar length in float32, with as many threads as PyTorch has."""

    def __init__(self, generator: Any, vocabulary: Sequence[str], stop_ids: frozenset[int], batch_size: int) -> None:
        """Create an engine.

        Args:
            generator: A `ctranslate2.Generator`.
            vocabulary: The library's text of each token, in the order of their ids.
            stop_ids: Ids of the tokens that end a turn.
            batch_size: Prompts per batch.
        """
        self._generator = generator
        self._vocabulary = vocabulary
        self._stop_ids = stop_ids
        self._batch_size = batch_size

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        params: Sequence[SamplingParams] | None = None,
        done: AbstractSet[int] = frozenset(),
    ) -> Iterator[tuple[int, Continuation]]:
        """Yield continuations as `Engine.generate` specifies, greedy only; those of a batch come together.

        Raises:
            ConfigError: There are sampling parameters.
        """
        if params is not None:
            raise _unsupported("sampled responses")
        batches = length_sorted_batches([len(prompt) for prompt in prompts], self._batch_size)
        for indices in _split_single_token_prompts(batches, prompts):
            if done >= set(indices):
                continue
            rows = self._generate_batch([prompts[index] for index in indices], max_new_tokens)
            for index, tokens in zip(indices, rows, strict=True):
                finished = bool(tokens) and tokens[-1] in self._stop_ids
                yield index, Continuation(tuple(tokens[:-1] if finished else tokens), finished)

    def _generate_batch(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        results = self._generator.generate_batch(
            [[self._vocabulary[token] for token in prompt] for prompt in prompts],
            max_length=max_new_tokens,
            end_token=sorted(self._stop_ids),
            return_end_token=True,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]


def _split_single_token_prompts(batches: Iterator[list[int]], prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the batches with single-token prompts apart from longer ones.

    In a mixed batch, CTranslate2 returns the longer prompts at the beginning of their continuations.
    """
    for indices in batches:
        longer = [index for index in indices if len(prompts[index]) > 1]
        yield from filter(None, (longer, indices[len(longer) :]))  # a batch is sorted, the longest first


def _check_model(model: PreTrainedModel) -> None:
    """Raise ConfigError if the conversion of this model is not known to be exact."""
    config = model.config
    if config.model_type not in EXACT_MODEL_TYPES:
        raise _unsupported(f"a model of type {config.model_type} (expected {' or '.join(EXACT_MODEL_TYPES)})")
    rope = config.rope_parameters["rope_type"]
    if rope != "default" or getattr(config, "use_sliding_window", False):
        raise _unsupported(f"rotary embeddings of type {rope} (expected default), or a sliding window")


def _convert(model: PreTrainedModel, chat: Chat, folder: Path) -> Path:
    """Write the model into `folder` in CTranslate2's format, and return its directory."""
    from ctranslate2.converters import TransformersConverter

    source, converted = folder / "student", folder / "converted"
    model.save_pretrained(str(source))
    chat.tokenizer.save_pretrained(str(source))
    TransformersConverter(str(source)).convert(str(converted))
    settings = json.loads((converted / "config.json").read_text())
    # The library's loader requires a BOS text. It is never used, since prompts come with all their tokens, and some
    # tokenizers (Qwen's, the lab's) have no BOS.
    settings["bos_token"] = settings["bos_token"] or ""
    write_text_atomic(converted / "config.json", json.dumps(settings))
    return converted


def _read_vocabulary(converted: Path, chat: Chat) -> list[str]:
    """Return the library's text of each token, in the order of their ids.

    Raises:
        ConfigError: Two tokens share a text, or the ids have gaps, so texts do not identify tokens.
    """
    names: list[str] = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))
    if len(set(names)) < len(names) or any(
        names[i : i + 1] != [name] for name, i in chat.tokenizer.get_vocab().items()
    ):
        raise _unsupported("a tokenizer with gaps in its ids, or with tokens that share a text")
    return names


def _import_ctranslate2() -> Any:
    try:
        import ctranslate2
    except ModuleNotFoundError:
        raise ConfigError(
            [
                (
                    "student.engine=ctranslate2 needs CTranslate2, which is not installed; "
                    "run pip install 'tapir-exp[fast]', or set student.engine=transformers"
                )
            ]
        ) from None
    return ctranslate2


def _unsupported(feature: str) -> ConfigError:
    return ConfigError([f"student.engine=ctranslate2 does not support {feature}; set student.engine=transformers"])
