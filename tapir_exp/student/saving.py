"""Save a student as a Hugging Face or PEFT directory, byte for byte the same wherever and whenever it is trained."""

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tapir_exp.config import StudentConfig
from tapir_exp.core.store import write_text_atomic
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.loading import ADAPTER_CONFIG, GENERATION_CONFIG, AdapterBase, load_model, load_tokenizer

ORIGIN_FIELDS = ("transformers_version", "peft_version", "name_or_path", "is_local", "local_files_only")
"""Settings that name the software or the path of a training run; without them, equal fits have equal bytes."""


def save_student(model: PreTrainedModel, chat: Chat, directory: Path, base: AdapterBase | None = None) -> None:
    """Save weights, tokenizer with chat template, and the tokens at which generation stops.

    Args:
        model: The trained model.
        chat: Its tokenizer and conversation format.
        directory: Where to save it.
        base: The base of an adapter, of which only the adapter is saved; None for a whole model.
    """
    _align_eos(model, chat)
    if base is None:
        model.save_pretrained(str(directory))
    else:
        _save_adapter(model, directory, base)
    chat.tokenizer.save_pretrained(str(directory))
    _remove_origin_fields(directory)


def save_merged(source: Path, student: StudentConfig, directory: Path) -> None:
    """Save the student in `source` as a whole model, with its tokenizer; an adapter is merged into its base."""
    model, tokenizer = load_model(source, student), load_tokenizer(source, student)
    if not (source / GENERATION_CONFIG).is_file():
        model.generation_config = _generation_config(tokenizer, tokenizer.eos_token_id, tokenizer.pad_token_id)
    model.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))
    _remove_origin_fields(directory)


def _align_eos(model: PreTrainedModel, chat: Chat) -> None:
    """Make one token end a turn for tokenizer, model and generation; the base's own may differ, as in Qwen."""
    chat.tokenizer.eos_token = chat.tokenizer.convert_ids_to_tokens(chat.end)
    model.config.eos_token_id = chat.end
    model.generation_config = _generation_config(chat.tokenizer, chat.end, chat.pad)


def _generation_config(tokenizer: PreTrainedTokenizerBase, end: int | None, pad: int | None) -> GenerationConfig:
    # The parent's generation settings are not reused: transformers rejects some of them on saving (LLaMA-2's).
    return GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=pad, do_sample=False
    )


def _save_adapter(model: Any, directory: Path, base: AdapterBase) -> None:
    # The default of save_embedding_layers, "auto", sends a request to the hub.
    model.save_pretrained(str(directory), save_embedding_layers=False)
    model.generation_config.save_pretrained(str(directory))
    (directory / "README.md").unlink()  # written by peft, with peft's version
    config = json.loads((directory / ADAPTER_CONFIG).read_text())
    targets = sorted(config["target_modules"])  # a set in peft, so its order varies
    names = {"base_model_name_or_path": base.name, "revision": base.revision, "target_modules": targets}
    _update_json(directory / ADAPTER_CONFIG, names)


def _remove_origin_fields(directory: Path) -> None:
    for path in directory.glob("*config.json"):
        _update_json(path, {})


def _update_json(path: Path, changes: dict[str, Any]) -> None:
    """Rewrite a file of settings with these changes, sorted keys and no origin fields."""
    settings = json.loads(path.read_text()) | changes
    settings = {key: value for key, value in settings.items() if key not in ORIGIN_FIELDS}
    write_text_atomic(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
