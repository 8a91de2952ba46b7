"""A GGUF file as an ordinary Hugging Face directory, whose weights can be trained."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from tapir_exp.core.store import write_text_atomic


def convert_gguf(gguf: Path, directory: Path) -> None:
    """Write the model in `gguf`, its quantised weights spelt out in float32, with its tokenizer and chat template."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    convert_gguf_tokenizer(gguf, directory)
    plain = GgufConfig(dequantize=True)  # else it counts as quantised, and nothing that is quantised can be trained
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, quantization_config=plain
    )
    model.save_pretrained(str(directory))
    for path in directory.glob("*config.json"):
        settings = json.loads(path.read_text())
        kept = {key: value for key, value in settings.items() if key not in ("transformers_version", "_name_or_path")}
        write_text_atomic(path, json.dumps(kept, indent=2, sort_keys=True) + "\n")


def convert_gguf_tokenizer(gguf: Path, directory: Path) -> None:
    """Write the tokenizer in `gguf` with its chat template."""
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(str(directory))
