"""Students on disk: ordinary Hugging Face directories, whose bytes do not tell when or where they were made."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from tapir_exp.config import StudentConfig
from tapir_exp.store import write_whole
from tapir_exp.student.chat_template import Chat

ORIGIN = ("transformers_version", "name_or_path", "is_local", "local_files_only")
"""Settings that name the software or the place of a file's making; a student's bytes must not depend on them."""


def load_model(source: Path, student: StudentConfig) -> PreTrainedModel:
    """The model in `source`, a directory or hub id, in the configured precision; an adapter comes merged."""
    _hush()
    options: dict[str, Any] = {"dtype": getattr(torch, student.precision.value)}
    if not source.is_dir() and student.revision:
        options["revision"] = student.revision
    if not (source / "adapter_config.json").is_file():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(source), **options)
        return model
    from peft import AutoPeftModelForCausalLM

    adapted: Any = AutoPeftModelForCausalLM.from_pretrained(str(source), **options)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def save_student(model: PreTrainedModel, chat: Chat, directory: Path) -> None:
    """Save weights, tokenizer with chat template, and the tokens at which generation stops."""
    _hush()
    # The parent's own generation settings may be ones that transformers refuses to save (LLaMA-2's are).
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=chat.tokenizer.bos_token_id, eos_token_id=chat.end, pad_token_id=chat.pad, do_sample=False
    )
    model.save_pretrained(str(directory))
    chat.tokenizer.save_pretrained(str(directory))
    for path in directory.glob("*config.json"):
        _forget_origin(path)


def _hush() -> None:
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _forget_origin(path: Path) -> None:
    settings = json.loads(path.read_text())
    kept = {key: value for key, value in settings.items() if key not in ORIGIN}
    write_whole(path, json.dumps(kept, indent=2, sort_keys=True) + "\n")
