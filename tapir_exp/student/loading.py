"""Students on disk, opened: whole Hugging Face models, or adapters over a base. Nobody's code is run unasked."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GENERATION_CONFIG = "generation_config.json"

# Where a hub model has pickles only, transformers would have a bot propose a conversion to its owner.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@dataclass(frozen=True)
class AdapterBase:
    """The model to which an adapter belongs.

    name: a hub id, a directory, or a path as seen from the adapter's own directory, so that both can move together.
    revision: of a hub model.
    """

    name: str
    revision: str | None = None

    def locate(self, adapter: Path) -> Path:
        """Where the base is, for the adapter in this directory: a directory or hub id."""
        beside = adapter / self.name
        return beside if beside.is_dir() else Path(self.name)


def load_model(source: Path, student: StudentConfig) -> PreTrainedModel:
    """The model in `source`, a directory or hub id, in the configured precision; an adapter comes merged into its base.

    Raises ConfigError where it cannot be read, or not without code or pickles that the configuration does not allow.
    """
    adapter = find_adapter(source, student)
    if adapter is None:
        return load_full_model(source, student, student.revision)
    base = read_adapter_base(adapter)
    over = attach_adapter(load_full_model(base.locate(adapter), student, base.revision), adapter)
    merged: PreTrainedModel = over.merge_and_unload()
    _set_eos_from(merged, adapter)
    return merged


def find_adapter(source: Path, student: StudentConfig) -> Path | None:
    """The directory of the adapter that `source` is; None for a whole model. Raises ConfigError for a pickled one."""
    with _as_config_error(source):
        if find_adapter_config_file(str(source), revision=_hub_revision(source, student.revision)) is None:
            return None
        directory = source if source.is_dir() else _download_adapter(source, student)
    if not (directory / ADAPTER_WEIGHTS).is_file() and not student.allow_pickle:
        raise ConfigError([_pickle_error(source, ADAPTER_WEIGHTS)])
    return directory


def read_adapter_base(adapter: Path) -> AdapterBase:
    """What an adapter says of its base."""
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    return AdapterBase(settings["base_model_name_or_path"], settings.get("revision"))


def resolve_commit(source: Path, revision: str | None) -> str | None:
    """The commit of a hub model, by which it is found again however its branch moves on; None for a directory."""
    if source.is_dir():
        return None
    with _as_config_error(source):
        return extract_commit_hash(cached_file(str(source), "config.json", revision=revision), None) or revision


def attach_adapter(model: PreTrainedModel, adapter: Path, *, is_trainable: bool = False) -> Any:
    """The base with the adapter over it, a PeftModel; `trained`: whether it is to be trained on."""
    from peft import PeftModel

    with warnings.catch_warnings(), _as_config_error(adapter):
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # peft uses its old names
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=is_trainable)


def load_full_model(
    source: Path, student: StudentConfig, revision: str | None, quantisation: object | None = None
) -> PreTrainedModel:
    """The whole model in `source`. Raises ConfigError as `load_model` does."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"revision": revision} if _hub_revision(source, revision) else {}
    if quantisation is not None:
        options["quantization_config"] = quantisation
    with _as_config_error(source):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=getattr(torch, student.precision.value),
            use_safetensors=None if student.allow_pickle else True,
            weights_only=True,  # of a pickle: tensors, and never code
            trust_remote_code=student.trust_remote_code,
            **options,
        )
    return model


def base_model_of(model: Any) -> Any:
    """Return the causal language model under a PEFT adapter, or the model itself if it has no adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_tokenizer(source: Path, student: StudentConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in `source`, a directory or hub id. Raises ConfigError as `load_model` does."""
    revision = _hub_revision(source, student.revision)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    with _as_config_error(source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(source), trust_remote_code=student.trust_remote_code, **options
        )
    return tokenizer


@contextmanager
def _as_config_error(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, UnpicklingError) as error:
        raise ConfigError([_describe_failure(source, error)]) from error


def _describe_failure(source: Path, error: Exception) -> str:
    """What is wrong with a model that cannot be opened, and which setting would open it."""
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"student.trust_remote_code = False: {source} needs code of its own to be run, which may do whatever you "
            "may; read it, and set student.trust_remote_code=true if you trust it"
        )
    if isinstance(error, UnpicklingError):
        return f"student.model: the pickles in {source} hold more than tensors, and are not read"
    if "safetensors" in text:
        return _pickle_error(source, "safetensors")
    return f"student.model: {source} cannot be opened: {text.strip().splitlines()[0]}"


def _pickle_error(source: Path, wanted: str) -> str:
    return (
        f"student.allow_pickle = False: {source} has no {wanted}; pickles can run code when they are read. "
        "Take a revision with safetensors, or set student.allow_pickle=true, which reads their tensors only"
    )


def _hub_revision(source: Path, revision: str | None) -> str | None:
    return None if source.is_dir() else revision


def _download_adapter(source: Path, student: StudentConfig) -> Path:
    patterns = ["*.json", "*.jinja", "*.safetensors", *(["*.bin"] if student.allow_pickle else [])]
    return Path(snapshot_download(str(source), revision=student.revision, allow_patterns=patterns))


def _set_eos_from(model: PreTrainedModel, adapter: Path) -> None:
    """End turns as the adapter was taught to, not as its base does."""
    if (adapter / GENERATION_CONFIG).is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(adapter))
        model.config.eos_token_id = model.generation_config.eos_token_id
