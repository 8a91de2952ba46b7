"""Convert a GGUF file to a Hugging Face directory that can be trained."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from tapir_exp.core.store import write_text_atomic

ORIGIN_FIELDS = ("transformers_version", "_name_or_path")
"""Settings that name the software or the path of the conversion; they are dropped, so that its bytes are stable."""


def convert_gguf(gguf: Path, directory: Path) -> None:
    """Write the model in `gguf`, dequantised to float32, with its tokenizer and chat template."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    convert_gguf_tokenizer(gguf, directory)
    # Without dequantize the model counts as quantised, and a quantised model cannot be trained.
    dequantised = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, quantization_config=dequantised
    )
    model.save_pretrained(str(directory))
    for path in directory.glob("*config.json"):
        settings = {key: value for key, value in json.loads(path.read_text()).items() if key not in ORIGIN_FIELDS}
        write_text_atomic(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def convert_gguf_tokenizer(gguf: Path, directory: Path) -> None:
    """Write the tokenizer in `gguf` with its chat template."""
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(str(directory))
