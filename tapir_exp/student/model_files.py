"""Check the files of a model directory before they are loaded: what is missing, cut off or contradictory.

transformers fills missing weights with random numbers, and ends in a traceback at most other damage.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
GENERATION = "generation_config.json"
MAX_JSON_BYTES = 2**26
"""Largest file of settings that is read."""
MAX_HEADER_BYTES = 100_000_000
"""Largest header of a safetensors file, as the format limits it."""
LENGTH_BYTES = 8
MAX_SIZE = 2**31
"""Largest count in a config.json."""
COUNTS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"),
    *("num_key_value_heads", "head_dim"),
)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings)\.weight$")
AGAIN = "copy or download it again"

Header = Mapping[str, Any]


ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", TOKENIZER_CONFIG, "vocab.json", "vocab.txt", "spiece.model")
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


class ModelFileError(ValueError):
    """A model directory is damaged; the message is one sentence with the remedy."""


def find_missing_part(directory: Path, *, needs_template: bool) -> str:
    """Return what a directory of a model or an adapter lacks, by the names of its files; empty if it lacks nothing.

    Args:
        directory: The directory.
        needs_template: Whether the tokenizer has to bring the chat template.
    """
    if (directory / ADAPTER_CONFIG).is_file():
        return ""  # its base may be elsewhere, and brings what it lacks
    if not (directory / CONFIG).is_file():
        return f"{directory} holds no {CONFIG}; expected a Hugging Face model directory"
    if not any(next(directory.glob(pattern), None) for pattern in ("*.safetensors", "*.bin")):
        return f"{directory} holds no weights, such as {WEIGHTS}; {AGAIN}"
    if not any((directory / name).is_file() for name in TOKENIZERS):
        return f"{directory} holds no tokenizer, such as {TOKENIZERS[0]}; copy the files of the model's tokenizer there"
    if needs_template and not _has_template(directory):
        return f"the tokenizer of {directory} has no chat template; set student.chat_template=chatml or llama2"
    return ""


def _has_template(directory: Path) -> bool:
    settings = directory / TOKENIZER_CONFIG
    if settings.is_file() and read_settings(settings).get("chat_template"):
        return True
    return any((directory / name).exists() for name in TEMPLATES)


def check_model_files(directory: Path) -> None:
    """Check configuration and safetensors of a whole model; pickles are not read.

    Raises:
        ModelFileError: With what is wrong.
    """
    config = read_settings(directory / CONFIG)
    _check_config(directory, config)
    if (directory / GENERATION).is_file():
        read_settings(directory / GENERATION)  # transformers ignores a damaged one, and with it the end of turns
    tensors = _read_tensors(directory)
    if tensors and not config.get("quantization_config"):
        _check_shapes(directory, config, tensors)


def check_adapter_files(directory: Path, config_name: str, weights_name: str) -> None:
    """Check the configuration and the safetensors of a PEFT adapter. Raises ModelFileError."""
    config = read_settings(directory / config_name)
    path = directory / config_name
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelFileError(f"{path} has peft_type {kind!r:.50}; expected LORA, the only kind that can be merged here")
    # PEFT imports the module that these settings name.
    if config.get("megatron_config") is not None:
        raise ModelFileError(f"{path} has a megatron_config, which names code to import; remove it")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelFileError(f"{path} names no base model; set base_model_name_or_path to a directory or hub id")
    if (directory / weights_name).is_file():
        read_header(directory / weights_name)


def check_vocabulary(directory: Path, vocabulary: Mapping[str, int]) -> None:
    """Check that a tokenizer has tokens, and that the model next to it has an embedding for each of them.

    Raises:
        ModelFileError: If not.
    """
    if not vocabulary:
        raise ModelFileError(f"the tokenizer of {directory} has no tokens; {AGAIN}")
    if not (directory / CONFIG).is_file():
        return  # an adapter without its base, or a hub id
    size, last = read_settings(directory / CONFIG).get("vocab_size"), max(vocabulary.values())
    if isinstance(size, int) and last >= size:
        raise ModelFileError(
            f"the tokenizer of {directory} has {last + 1} tokens, but the model embeds only {size}; use the tokenizer "
            "that belongs to the model"
        )


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ModelFileError if it is missing, too large, or something else."""
    if not path.is_file():
        raise ModelFileError(f"{path.parent} has no {path.name}; give the directory of a whole model, or {AGAIN}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelFileError(f"{path} is larger than {MAX_JSON_BYTES} bytes; expected settings; {AGAIN}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not JSON ({str(error)[:80]}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds no settings, but {str(content)[:30]!r}; {AGAIN}")
    return content


def read_header(path: Path) -> Header:
    """Return the tensors of a safetensors file by name, after a check that all bytes are there.

    Raises:
        ModelFileError: If the file is cut off, has more bytes than in its header, or is something else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise ModelFileError(f"{path} is cut off or is no safetensors file ({size} bytes); {AGAIN}")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        shapes = [list(map(int, entry["shape"])) for entry in header.values()]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path} has a damaged header; {AGAIN}") from error
    end = LENGTH_BYTES + length + max(ends, default=0)
    if end != size:
        raise ModelFileError(f"{path} has {size} bytes, but its header promises {end}; {AGAIN}")
    if any(count < 0 for shape in shapes for count in shape):
        raise ModelFileError(f"{path} has a tensor of negative size; {AGAIN}")
    return header  # type: ignore[no-any-return]


def _check_config(directory: Path, config: Mapping[str, Any]) -> None:
    path = directory / CONFIG
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelFileError(f"{path} has no model_type; expected a name such as llama; {AGAIN}")
    for name in COUNTS:
        count = config.get(name)
        whole = isinstance(count, int) and not isinstance(count, bool)
        if count is not None and not (whole and 1 <= count <= MAX_SIZE):
            raise ModelFileError(f"{path}: {name} = {str(count)[:30]}; expected a whole number from 1 to {MAX_SIZE}")
    # transformers downloads and runs the kernels of a repository that is named here.
    for name in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
        if "/" in str(config.get(name, "")):
            raise ModelFileError(f"{path}: {name} names code of a hub repository, which is never run; remove it")


def _read_tensors(directory: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor in the safetensors of a directory; empty if there are none."""
    shapes: dict[str, list[int]] = {}
    for name, wanted in _weight_files(directory):
        path = directory / name
        if not path.is_file():
            raise ModelFileError(f"{directory} has no {name}, which {INDEX} names; {AGAIN}")
        header = read_header(path)
        if missing := sorted(wanted - set(header)):
            raise ModelFileError(f"{path} has no tensor {missing[0]}, which {INDEX} names; {AGAIN}")
        shapes |= {tensor: entry["shape"] for tensor, entry in header.items()}
    return shapes


def _weight_files(directory: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield the name of each file of weights, and the tensors that it must hold."""
    if (directory / WEIGHTS).is_file():
        yield WEIGHTS, set()
        return
    if not (directory / INDEX).is_file():
        return
    weight_map = read_settings(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise ModelFileError(f"{directory / INDEX} has no weight_map of tensors and files; {AGAIN}")
    for name in sorted(set(weight_map.values())):
        if not re.fullmatch(r"\w[\w.-]*\.safetensors", name):
            raise ModelFileError(f"{directory / INDEX} names {name[:80]!r}; expected a .safetensors file next to it")
        yield name, {tensor for tensor, file in weight_map.items() if file == name}


def _check_shapes(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, list[int]]) -> None:
    """Compare numbers of layers and tokens, which determine what transformers would fill with random numbers."""
    layers = {int(match[1]) for name in tensors if (match := _LAYER.search(name))}
    expected = config.get("num_hidden_layers")
    # Layers that predict further tokens come after the others, and transformers does not load them.
    further = config.get("num_nextn_predict_layers") or 0
    if layers and expected is not None and max(layers) + 1 not in (expected, expected + further):
        raise ModelFileError(
            f"{directory / CONFIG} says num_hidden_layers = {expected}, but the weights have {max(layers) + 1} layers; "
            f"correct the number, or {AGAIN}"
        )
    tokens = next((shape[0] for name, shape in tensors.items() if _EMBEDDING.search(name) and shape), None)
    vocabulary = config.get("vocab_size")
    if tokens is not None and vocabulary is not None and tokens != vocabulary:
        raise ModelFileError(
            f"{directory / CONFIG} says vocab_size = {vocabulary}, but the weights have embeddings of {tokens} tokens; "
            f"correct the number, or {AGAIN}"
        )
