"""The files of other tools' benchmarks: JSON lists and JSON lines, read strictly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import EvaluationError


def read_json_rows(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a JSON list or of JSON lines. Raises EvaluationError where the file is missing or is neither."""
    if not path.is_file():
        raise EvaluationError(f"There is no file {path}.")
    text = path.read_text(encoding="utf-8")
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path} is neither a JSON list nor JSON lines: {error}.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise EvaluationError(f"{path} holds something else than objects.")
    return list(rows)


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]  # splitlines would split at U+2028


def text_of(value: object, name: str, source: object) -> str:
    """A text field of a row. Raises EvaluationError where the row has none."""
    if not isinstance(value, str):
        raise EvaluationError(f"{source}: a row has no text as {name!r}, but {value!r}.")
    return value
