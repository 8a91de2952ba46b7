"""Loading of sequence classifiers: float32, eager attention, safetensors only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tapir_exp.core.errors import ConfigError
from tapir_exp.core.task_types import TaskType

CONVERT = (
    "Only safetensors are read, because other weights may run code. On the hub, set the revision of the bot's "
    "conversion, such as classifier_training.revision=refs/pr/<number>; save_pretrained converts a directory."
)


def load_classifier(
    source: str, tasks: Sequence[TaskType], revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder with one output per type, and its tokenizer.

    Args:
        source: A directory or a hub id.
        tasks: The types, in the order of the outputs.
        revision: Revision on the hub; ignored for a directory.

    Raises:
        ConfigError: If the encoder cannot be loaded as safetensors, or if it needs remote code.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # a warning about the new head is expected
    hub_options: dict[str, Any] = {} if revision is None or Path(source).is_dir() else {"revision": revision}
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            source,
            id2label=dict(enumerate(map(str, tasks))),
            label2id={str(task): index for index, task in enumerate(tasks)},
            dtype=torch.float32,
            attn_implementation="eager",  # the only one for DeBERTa's disentangled attention
            use_safetensors=True,
            trust_remote_code=False,
            **hub_options,
        )
        return model, AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub_options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ConfigError([f"{source} needs remote code, which is never run; use another encoder"]) from error
    except OSError as error:
        raise ConfigError([f"{source} cannot be read: {str(error).splitlines()[0]} {CONVERT}"]) from error
    finally:
        logging.set_verbosity(level)
