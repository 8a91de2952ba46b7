"""The pool of `tapir classify`: its instructions, and the rows that cannot be read."""

import json
from collections.abc import Iterator
from pathlib import Path

from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import SeedError, SourceError
from tapir_exp.core.json_rows import RawRow, read_json_rows
from tapir_exp.core.json_values import Unreadable
from tapir_exp.core.records import Example, example_id
from tapir_exp.core.store import write_text_atomic
from tapir_exp.distillation.classifier.dataset import instruction_text

UNREADABLE = "unreadable.jsonl"
NO_INSTRUCTION = "no instruction; expected `instruction`, and optionally `input`"


class Pool:
    """The instructions of a file, read row by row; a bad row is kept with its number and its reason.

    Attributes:
        path: The file.
        unreadable: Number and reason of each bad row so far, in the order of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[Example]:
        """Yield the readable rows.

        Raises:
            SeedError: If the file cannot be read, or none of its rows.
        """
        self.unreadable, count = [], 0
        try:
            for row in read_json_rows(self.path):
                text, failure = _read(row)
                if failure:
                    self.unreadable.append((row.number, failure))
                    continue
                count += 1
                yield Example(id=example_id(text), instruction=text, response="")
        except SourceError as failure:
            raise SeedError(str(failure)) from failure
        if not count:
            raise SeedError(f"{self.path} has no readable row{self._first()}.")

    def report(self, output_dir: Path) -> None:
        """Print the number of bad rows and write them to `unreadable.jsonl`; remove that file if there are none."""
        path = output_dir / UNREADABLE
        if not self.unreadable:
            path.unlink(missing_ok=True)
            return
        lines = [json.dumps({"row": number, "reason": reason}) + "\n" for number, reason in self.unreadable]
        write_text_atomic(path, "".join(lines))
        rows = "1 row" if len(lines) == 1 else f"{len(lines)} rows"
        print_warning(f"{rows} of {self.path} cannot be read{self._first()}. All: {path}")

    def _first(self) -> str:
        return f"; the first is row {self.unreadable[0][0]}: {self.unreadable[0][1]}" if self.unreadable else ""


def _read(row: RawRow) -> tuple[str, str]:
    """Return the instruction of a row, and the reason if it has none."""
    if row.fields is None:
        return "", row.failure
    for value in (row.fields.get("instruction"), row.fields.get("input")):
        if isinstance(value, Unreadable):
            return "", value.reason
    text = instruction_text(row.fields)
    return text, "" if text else NO_INSTRUCTION
