"""The engine of CTranslate2: the same greedy tokens on a CPU at more than the loop's speed, after a conversion."""

import json
from collections.abc import Iterator, Sequence
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
"""Model types whose conversion the tests show to be exact; others are left to transformers."""


@contextmanager
def open_ctranslate2(student_dir: Path, chat: Chat, student: StudentConfig) -> Iterator["Ctranslate2Engine"]:
    """The engine with the student in `student_dir`, an adapter merged; the conversion is kept as long as it is open.

    Raises ConfigError where CTranslate2 is not installed, or would not write what transformers writes.
    """
    library = _import_ctranslate2()
    if student.precision is not Precision.float32:
        raise _unsupported(f"precision {student.precision.value}: it is exact in float32 alone")
    model = load_model(student_dir, student)
    _check_model(model)
    with TemporaryDirectory(prefix="tapir-ctranslate2-") as folder:
        converted = _convert(model, chat, Path(folder))
        generator = library.Generator(
            str(converted), device="cpu", compute_type="float32", intra_threads=torch.get_num_threads()
        )
        stops, names = stop_token_ids(model.generation_config, chat), _read_vocabulary(converted, chat)
        yield Ctranslate2Engine(generator, names, stops, student.generation_batch_size)


class Ctranslate2Engine:
    """Batches of prompts of like length, in float32, with as many threads as PyTorch has."""

    def __init__(self, generator: Any, names: Sequence[str], stops: frozenset[int], batch: int) -> None:
        """names: the texts by which the library calls the tokens. batch: prompts continued at once."""
        self._generator = generator
        self._names = names
        self._stops = stops
        self._batch = batch

    def generate(
        self, prompts: Sequence[Sequence[int]], limit: int, draws: Sequence[SamplingParams] | None = None
    ) -> Iterator[tuple[int, Continuation]]:
        """As `Engine.generate`, greedy only: the rows of a batch come together, when the last of them is finished."""
        if draws is not None:
            raise _unsupported("sampled answers")
        for places in _split_single_token_prompts(
            length_sorted_batches([len(prompt) for prompt in prompts], self._batch), prompts
        ):
            rows = self._write_batch([prompts[place] for place in places], limit)
            for place, tokens in zip(places, rows, strict=True):
                finished = bool(tokens) and tokens[-1] in self._stops
                yield place, Continuation(tuple(tokens[:-1] if finished else tokens), finished)

    def _write_batch(self, prompts: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
        found = self._generator.generate_batch(
            [[self._names[token] for token in prompt] for prompt in prompts],
            max_length=limit,
            end_token=sorted(self._stops),
            return_end_token=True,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in found]


def _split_single_token_prompts(found: Iterator[list[int]], prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The batches with prompts of one token by themselves: beside them, others would come back with their prompts."""
    for places in found:
        longer = [place for place in places if len(prompts[place]) > 1]
        yield from filter(None, (longer, places[len(longer) :]))  # a batch is sorted, the longest first


def _check_model(model: PreTrainedModel) -> None:
    """Raises ConfigError where the conversion of this model is not known to be exact."""
    config = model.config
    if config.model_type not in EXACT_MODEL_TYPES:
        raise _unsupported(f"a model of type {config.model_type}: it is exact for {' and '.join(EXACT_MODEL_TYPES)}")
    rope = config.rope_parameters["rope_type"]
    if rope != "default" or getattr(config, "use_sliding_window", False):
        raise _unsupported(f"rotary embeddings of type {rope}, or a sliding window: it is exact for neither")


def _convert(model: PreTrainedModel, chat: Chat, folder: Path) -> Path:
    """Write the model into `folder` in CTranslate2's format."""
    from ctranslate2.converters import TransformersConverter

    source, converted = folder / "student", folder / "converted"
    model.save_pretrained(str(source))
    chat.tokenizer.save_pretrained(str(source))
    TransformersConverter(str(source)).convert(str(converted))
    settings = json.loads((converted / "config.json").read_text())
    # Its loader wants a text here, though we send every token ourselves; Qwen's tokenizer has no BOS, ours neither.
    settings["bos_token"] = settings["bos_token"] or ""
    write_text_atomic(converted / "config.json", json.dumps(settings))
    return converted


def _read_vocabulary(converted: Path, chat: Chat) -> list[str]:
    """The texts by which the library calls the tokens, in the order of their ids.

    Raises ConfigError where they do not tell the tokens apart.
    """
    names: list[str] = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))
    if len(set(names)) < len(names) or any(
        names[i : i + 1] != [name] for name, i in chat.tokenizer.get_vocab().items()
    ):
        raise _unsupported("a tokenizer whose ids have gaps, or whose tokens share a text")
    return names


def _import_ctranslate2() -> Any:
    try:
        import ctranslate2
    except ModuleNotFoundError:
        raise ConfigError(
            ["student.engine: ctranslate2, but it is not installed: pip install 'tapir-exp[fast]', or =transformers"]
        ) from None
    return ctranslate2


def _unsupported(what: str) -> ConfigError:
    return ConfigError([f"student.engine: ctranslate2 does not take {what}; set student.engine=transformers"])
