"""Sequence classifiers on disk: float32, eager attention, safetensors only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tapir_exp.core.errors import ConfigError
from tapir_exp.core.task_types import TaskType

CONVERT = (
    "Only safetensors are read, since other weights may run code. On the hub, name the revision of the bot's "
    "conversion, such as classifier_training.revision=refs/pr/<number>; a directory is converted by save_pretrained."
)


def load_classifier(
    source: str, tasks: Sequence[TaskType], revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder in `source`, a directory or hub id, with an output a type, and its tokenizer.

    Raises ConfigError where it cannot be had as safetensors, or needs code of its own.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the head is new: that is meant
    where: dict[str, Any] = {} if revision is None or Path(source).is_dir() else {"revision": revision}
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            source,
            id2label=dict(enumerate(map(str, tasks))),
            label2id={str(task): place for place, task in enumerate(tasks)},
            dtype=torch.float32,
            attn_implementation="eager",  # DeBERTa's disentangled attention has no other
            use_safetensors=True,
            trust_remote_code=False,
            **where,
        )
        return model, AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ConfigError([f"{source} needs code of its own, which is not run for a classifier"]) from error
    except OSError as error:
        raise ConfigError([f"{source} cannot be read: {str(error).splitlines()[0]} {CONVERT}"]) from error
    finally:
        logging.set_verbosity(level)
