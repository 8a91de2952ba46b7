"""Prompt templates: text files with {{fields}}, filled strictly.

Each file in `prompts/` is one template. A field that gets no value, and a value that has no field, are errors.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tapir_exp.core.errors import PromptError
from tapir_exp.core.task_types import TaskType

PROMPTS = Path(__file__).parent / "prompts"
_FIELD = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Prompt:
    """A template by its name; its text is part of the key of every artifact made with it."""

    name: str
    text: str

    @property
    def fields(self) -> frozenset[str]:
        """Names of the values that the template needs."""
        return frozenset(_FIELD.findall(self.text))

    def fill(self, **values: str) -> str:
        """The text with every field replaced, in one pass, so that braces in a value stay as they are.

        Raises PromptError where fields and values do not match.
        """
        if values.keys() != self.fields:
            raise PromptError(
                f"Prompt {self.name} has the fields {sorted(self.fields)} but was given {sorted(values)}."
            )
        return _FIELD.sub(lambda field: values[field[1]], self.text)


@cache
def load_prompt(name: str) -> Prompt:
    """Read `prompts/<name>.md`. Raises PromptError where there is no such file."""
    path = PROMPTS / f"{name}.md"
    if not path.is_file():
        raise PromptError(f"There is no prompt {path}; write that file, or name one of {_names()}.")
    return Prompt(name, path.read_text().strip())


def refinement_style(task: TaskType) -> Prompt:
    """How a response to a task of this type should read: its own file in `prompts/style/`, or the general one."""
    name = task.lower().replace(" ", "_").replace("-", "_")
    own = PROMPTS / "style" / f"{name}.md"
    return load_prompt(f"style/{name}" if own.is_file() else "style/general")


def _names() -> list[str]:
    return sorted(str(path.relative_to(PROMPTS).with_suffix("")) for path in PROMPTS.rglob("*.md"))
