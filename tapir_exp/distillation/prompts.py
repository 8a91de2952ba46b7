"""Prompt templates: text files with {{fields}}, filled strictly.

Each file in `prompts/` is one template. A field without a value and a value without a field are errors.
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
    """A named template; its text is part of the key of every artifact made with it."""

    name: str
    text: str

    @property
    def fields(self) -> frozenset[str]:
        """Names of the values that the template needs."""
        return frozenset(_FIELD.findall(self.text))

    def fill(self, **values: str) -> str:
        """Return the text with every field replaced.

        Raises:
            PromptError: If fields and values do not match.
        """
        if values.keys() != self.fields:
            raise PromptError(
                f"Prompt {self.name} has the fields {sorted(self.fields)} but was given {sorted(values)}. "
                "Give each field a value, or edit the template."
            )
        # One pass: braces inside a value are not fields.
        return _FIELD.sub(lambda field: values[field[1]], self.text)


@cache
def load_prompt(name: str) -> Prompt:
    """Read `prompts/<name>.md`.

    Raises:
        PromptError: If there is no such file.
    """
    path = PROMPTS / f"{name}.md"
    if not path.is_file():
        names = sorted(str(file.relative_to(PROMPTS).with_suffix("")) for file in PROMPTS.rglob("*.md"))
        raise PromptError(f"There is no prompt {path}. Write that file, or use one of {names}.")
    return Prompt(name, path.read_text().strip())


def refinement_style(task: TaskType) -> Prompt:
    """Return the style of refined responses for a task type: its file in `prompts/style/`, or the general one."""
    name = task.lower().replace(" ", "_").replace("-", "_")
    path = PROMPTS / "style" / f"{name}.md"
    return load_prompt(f"style/{name}" if path.is_file() else "style/general")
