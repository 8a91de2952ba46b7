"""Load students: whole Hugging Face models, or PEFT adapters over a base. Remote code runs only if it is allowed."""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.student.model_files import ModelFileError, check_adapter_files, check_model_files, check_vocabulary

# A tokenizer alone needs no class of models, which take seconds to load; they are imported where they are used.
if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GENERATION_CONFIG = "generation_config.json"

# For a hub model that has pickles only, transformers would open a pull request at its repository.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@dataclass(frozen=True)
class AdapterBase:
    """The base model of an adapter.

    Attributes:
        name: A hub id, a directory, or a path relative to the adapter's directory, so that both can move together.
        revision: Revision of a hub model; None for a directory.
    """

    name: str
    revision: str | None = None

    def locate(self, adapter: Path) -> Path:
        """Return the directory or hub id of the base, for the adapter in this directory."""
        relative = adapter / self.name
        return relative if relative.is_dir() else Path(self.name)


def load_model(source: Path, student: StudentConfig) -> "PreTrainedModel":
    """Load a model in the configured precision; an adapter is merged into its base.

    Args:
        source: Directory or hub id of the model or adapter.
        student: Settings of the student.

    Raises:
        ConfigError: The model cannot be read, or needs code or pickles that the configuration does not allow.
    """
    adapter = find_adapter(source, student)
    if adapter is None:
        return load_full_model(source, student, student.revision)
    base = read_adapter_base(adapter)
    peft_model = attach_adapter(load_full_model(base.locate(adapter), student, base.revision), adapter)
    merged: PreTrainedModel = peft_model.merge_and_unload()
    _set_eos_from(merged, adapter)
    return merged


def find_adapter(source: Path, student: StudentConfig) -> Path | None:
    """Return the directory of the adapter in `source`, or None if it holds a whole model.

    Raises:
        ConfigError: The adapter's weights are a pickle, and pickles are not allowed.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    with _as_config_error(source):
        if find_adapter_config_file(str(source), revision=_hub_revision(source, student.revision)) is None:
            return None
        directory = source if source.is_dir() else _download_adapter(source, student)
    if not (directory / ADAPTER_WEIGHTS).is_file() and not student.allow_pickle:
        raise ConfigError([_pickle_error(source, ADAPTER_WEIGHTS)])
    with _as_config_error(source):
        check_adapter_files(directory, ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    return directory


def read_adapter_base(adapter: Path) -> AdapterBase:
    """Return the base model that an adapter's configuration names."""
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    return AdapterBase(settings["base_model_name_or_path"], settings.get("revision"))


def resolve_commit(source: Path, revision: str | None) -> str | None:
    """Return the commit of a hub model, which stays valid when its branch moves; None for a directory."""
    if source.is_dir():
        return None
    from transformers.utils.hub import cached_file, extract_commit_hash

    with _as_config_error(source):
        return extract_commit_hash(cached_file(str(source), "config.json", revision=revision), None) or revision


def attach_adapter(model: "PreTrainedModel", adapter: Path, *, is_trainable: bool = False) -> Any:
    """Return a PeftModel of the base with the adapter in this directory.

    Args:
        model: The base model.
        adapter: Directory of the adapter.
        is_trainable: Leave the adapter's weights unfrozen.
    """
    from peft import PeftModel, get_peft_model_state_dict

    with warnings.catch_warnings(), _as_config_error(adapter):
        # peft uses deprecated names of transformers
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        # peft only warns of an adapter with a part that would be random.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        peft_model = PeftModel.from_pretrained(model, str(adapter), is_trainable=is_trainable)
        # The default of save_embedding_layers, "auto", sends a request to the hub.
        _check_finite(adapter, get_peft_model_state_dict(peft_model, save_embedding_layers=False).items())
        return peft_model


def load_full_model(
    source: Path, student: StudentConfig, revision: str | None, quantization_config: object | None = None
) -> "PreTrainedModel":
    """Load a whole model, as opposed to an adapter.

    Args:
        source: Directory or hub id of the model.
        student: Settings of the student.
        revision: Revision of a hub model; ignored for a directory.
        quantization_config: A quantization config of transformers, or None.

    Raises:
        ConfigError: The model cannot be read, or needs code or pickles that the configuration does not allow.
    """
    import torch
    from transformers import AutoModelForCausalLM

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"revision": revision} if _hub_revision(source, revision) else {}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    with _as_config_error(source):
        if source.is_dir():
            check_model_files(source)
        # Its type lacks the pair that it returns with `output_loading_info`.
        load: Any = AutoModelForCausalLM.from_pretrained
        model: PreTrainedModel
        loaded: Mapping[str, Any]
        model, loaded = load(
            str(source),
            dtype=getattr(torch, student.precision.value),
            use_safetensors=None if student.allow_pickle else True,
            weights_only=True,  # from a pickle, read tensors and never code
            trust_remote_code=student.trust_remote_code,
            output_loading_info=True,
            **options,
        )
        _check_loaded(source, loaded)
        _check_finite(source, model.named_parameters())
    return model


def base_model_of(model: Any) -> Any:
    """Return the causal language model under a PEFT adapter, or the model itself if it has no adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_tokenizer(source: Path, student: StudentConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `source`, a directory or hub id.

    Raises:
        ConfigError: The tokenizer cannot be read, or needs code that the configuration does not allow.
    """
    from transformers import AutoTokenizer  # loads torch, which the other functions may not need

    revision = _hub_revision(source, student.revision)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    with _as_config_error(source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(source), trust_remote_code=student.trust_remote_code, **options
        )
        check_vocabulary(source, tokenizer.get_vocab())
    return tokenizer


@contextmanager
def _as_config_error(source: Path) -> Iterator[None]:
    try:
        yield
    except TapirError:
        raise
    except Exception as error:  # a damaged directory raises errors of every kind in transformers and peft
        raise ConfigError([_describe_failure(source, error)]) from error


def _check_loaded(source: Path, loaded: Mapping[str, Any]) -> None:
    """Reject a model of which transformers has filled a part with random numbers."""
    missing = sorted(loaded.get("missing_keys") or ())
    if missing:
        raise ModelFileError(
            f"{source} lacks {len(missing)} of its tensors, such as {missing[0]}, which would be random; copy or "
            "download the weights again"
        )


def _check_finite(source: Path, tensors: "Iterable[tuple[str, Tensor]]") -> None:
    """Reject NaN and infinity; reading every weight takes about a second for 7 billion."""
    import torch

    for name, tensor in tensors:
        # Weights of a quantised model are packed integers, or floats of a byte that have no comparison.
        if tensor.is_floating_point() and tensor.element_size() > 1 and tensor.numel() and not tensor.is_meta:
            low, high = torch.aminmax(tensor.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise ModelFileError(
                    f"{source} holds NaN or infinity in {name}, so its responses would be noise; use another student, "
                    "copy or download the weights again, or set student.precision=float32 if they exceed the precision"
                )


def _describe_failure(source: Path, error: Exception) -> str:
    """Describe why a model cannot be loaded, and name the setting that would allow it."""
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"student.trust_remote_code = False: {source} needs to run its own Python code, which has all your "
            "permissions. Read the code, and set student.trust_remote_code=true if you trust it"
        )
    if isinstance(error, UnpicklingError):
        return f"student.model: the pickles in {source} hold more than tensors and are not loaded"
    if isinstance(error, ModelFileError):
        return f"student.model: {text}"
    if "safetensors" in text and "file named" in text:
        return _pickle_error(source, "safetensors")
    # Many errors of transformers have a headline without a fact, so the class is named, too.
    reason = " ".join(text.split())[:300] or "no reason given"
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return f"student.model: {source} cannot be loaded: {kind}{reason}. Copy or download the model again"


def _pickle_error(source: Path, missing: str) -> str:
    return (
        f"student.allow_pickle = False: {source} has no {missing}, and pickles can run code when they are loaded. "
        "Use a revision with safetensors, or set student.allow_pickle=true, which loads tensors only"
    )


def _hub_revision(source: Path, revision: str | None) -> str | None:
    return None if source.is_dir() else revision


def _download_adapter(source: Path, student: StudentConfig) -> Path:
    patterns = ["*.json", "*.jinja", "*.safetensors", *(["*.bin"] if student.allow_pickle else [])]
    return Path(snapshot_download(str(source), revision=student.revision, allow_patterns=patterns))


def _set_eos_from(model: "PreTrainedModel", adapter: Path) -> None:
    """End turns at the tokens that the adapter was trained with, which may differ from those of its base."""
    if (adapter / GENERATION_CONFIG).is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(str(adapter))
        model.config.eos_token_id = model.generation_config.eos_token_id
