"""Files of AlpacaEval 2.0 in the formats of alpaca_eval 0.6.6: outputs, annotations and the annotator's prompt."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapir_exp.core.encodings import find_invalid_utf8
from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.json_rows import read_whole_rows, validate_row
from tapir_exp.core.json_values import contains_unreadable
from tapir_exp.core.records import Record
from tapir_exp.llm.chat import Message

HUB = "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json"
"""The 805 instructions with the outputs of the baseline, GPT-4."""
PROMPT_IN_PACKAGE = "evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"
PROMPT_FIELDS = {"instruction", "output_1", "output_2"}


class Output(Record):
    """Output of a model for an instruction: a row of model_outputs.json.

    Attributes:
        dataset: Source of the instruction.
        instruction: The instruction.
        output: The output; a failed one is an empty text.
        generator: Name of the model.
    """

    dataset: str | None = None
    instruction: str
    output: str
    generator: str


class Annotation(Record):
    """Comparison of baseline (1) and model (2) on one instruction: a row of annotations.json.

    Attributes:
        dataset: Source of the instruction.
        instruction: The instruction.
        output_1: Output of the baseline.
        generator_1: Name of the baseline.
        output_2: Output of the model.
        generator_2: Name of the model.
        annotator: Name of the annotator.
        preference: From 1 (the baseline is better) to 2 (the model is); None if the comparison failed.
        preference_raw_completion: The completion in alpaca_eval's format; None for identical outputs.
        failure: Reason why there is no preference; None if there is one.
    """

    dataset: str | None
    instruction: str
    output_1: str
    generator_1: str
    output_2: str
    generator_2: str
    annotator: str
    preference: float | None
    preference_raw_completion: Any = None
    failure: str | None = None


def load_outputs(path: Path) -> list[Output]:
    """Read a model_outputs.json, or reference outputs.

    Raises:
        EvaluationError: If a row is not an output, an instruction occurs twice, or there are several generators.
    """
    return _parse_outputs(read_whole_rows(path, EvaluationError), str(path))


def load_hub_reference() -> list[Output]:
    """Load the 805 instructions with GPT-4's outputs from the Hugging Face Hub.

    Raises:
        EvaluationError: If they cannot be downloaded.
    """
    from datasets import load_dataset

    try:
        rows = list(load_dataset("json", data_files=HUB, split="train"))
    except Exception as error:  # `datasets` passes on the exceptions of a dozen libraries
        raise EvaluationError(
            f"{HUB} cannot be loaded ({error.__cause__ or repr(error)}). Set evals.alpaca_eval.reference to a local "
            "copy of the file."
        ) from error
    return _parse_outputs(((f"{HUB}, row {number}", row) for number, row in enumerate(rows, 1)), HUB)


def load_template(path: str | None) -> tuple[Message, ...]:
    """Return the annotator's prompt as messages with the fields {instruction}, {output_1} and {output_2}.

    Args:
        path: A file in ChatML; None reads the file of an installed alpaca_eval.

    Raises:
        EvaluationError: If there is no such file, it is not in UTF-8, or its fields are different.
    """
    file = _packaged_prompt() if path is None else Path(path)
    if file is None or not file.is_file():
        raise EvaluationError(
            f"AlpacaEval's annotator prompt is missing, got {path}: set evals.alpaca_eval.prompt to "
            f"alpaca_eval_clf.txt. The package alpaca_eval contains it as {PROMPT_IN_PACKAGE} "
            "(`pip download --no-deps alpaca_eval`, then unzip the wheel)."
        )
    if failure := find_invalid_utf8(file):
        raise EvaluationError(f"{file} cannot be read: {failure}.")
    blocks = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", file.read_text(encoding="utf-8"), re.DOTALL)
    fields = set(re.findall(r"\{(\w+)\}", "".join(content for _, content in blocks)))
    if fields != PROMPT_FIELDS:
        raise EvaluationError(
            f"{file} is not a prompt of alpaca_eval: found the fields {sorted(fields)}, "
            f"expected ChatML with {sorted(PROMPT_FIELDS)}."
        )
    return tuple(Message(role=role, content=content.strip()) for role, content in blocks)


def load_annotations(path: Path) -> list[Annotation]:
    """Read an annotations.json. Columns that only alpaca_eval uses are dropped.

    Raises:
        EvaluationError: If a row is not an annotation.
    """
    annotations = []
    for name, row in read_whole_rows(path, EvaluationError):
        # The cache files of alpaca_eval have no generators, and an older name for the completion.
        fields = {**row, "dataset": row.get("dataset"), "preference": row.get("preference")}
        fields |= {column: row.get(column) or "" for column in ("generator_1", "generator_2")}
        raw = row.get("preference_raw_completion", row.get("raw_completion"))
        # It is kept for the record only, so an unreadable one does not cost the preference.
        fields["preference_raw_completion"] = None if contains_unreadable(raw) else raw
        annotations.append(validate_row(Annotation, fields, EvaluationError, name))
    return annotations


def to_json(rows: Sequence[Output | Annotation]) -> str:
    """Format rows as a file of alpaca_eval: a list of objects."""
    return json.dumps([row.model_dump() for row in rows], indent=2, ensure_ascii=False) + "\n"


def _packaged_prompt() -> Path | None:
    """Return the path of the prompt in an installed alpaca_eval, without importing the package."""
    spec = find_spec("alpaca_eval")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / PROMPT_IN_PACKAGE


def _parse_outputs(rows: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> list[Output]:
    """Return the outputs of rows, each given after its name for messages."""
    outputs = [_parse_output(row, name) for name, row in rows]
    if not outputs:
        raise EvaluationError(f"{source} has no rows, expected one output for each instruction.")
    if len({output.instruction for output in outputs}) < len(outputs):
        raise EvaluationError(f"{source}: an instruction occurs twice. Keep one output for each instruction.")
    generators = sorted({output.generator for output in outputs})
    if len(generators) > 1:
        raise EvaluationError(f"{source}: outputs of several generators {generators[:5]}. Keep those of one model.")
    return outputs


def _parse_output(row: Mapping[str, Any], source: str) -> Output:
    """Read a row with alpaca_eval's column names, which may have the prefix `reference_`."""
    values = {name: row.get(name, row.get(f"reference_{name}")) for name in ("output", "generator")}
    return validate_row(Output, {**row, **values}, EvaluationError, source)
