"""Settings that refer to another one, such as `${teacher.llm.model}`, which this command does not have."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tapir_exp.config.problems import Problem
from tapir_exp.config.schema import Schema


@dataclass(frozen=True)
class DeadReference(Problem):
    """A value that refers to a section that the command does not have."""

    section: str


def dead_reference(key: str, text: object, schema: Schema) -> DeadReference | None:
    """Return the problem of a value that refers to a section outside the schema; None if it refers to none.

    Args:
        key: Dotted key of the value.
        text: The value before it is resolved.
        schema: Schema of the command.
    """
    match = re.search(r"\$\{(\w+)\.", text) if isinstance(text, str) else None
    if match is None or match[1] in schema.names(""):
        return None
    group = key.partition(".")[0]
    expected = f"another choice of the group {group}, because this command has no {match[1]}"
    return DeadReference(key, f" = {text}", expected, match[1])


def merge_references(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems with one for all values of a group that refer to one missing section.

    A preset that follows a section refers to it in each of its keys, and has one remedy.
    """
    others: list[Problem] = []
    dead: dict[tuple[str, str], list[DeadReference]] = {}
    for problem in problems:
        if isinstance(problem, DeadReference):
            dead.setdefault((problem.key.partition(".")[0], problem.section), []).append(problem)
        else:
            others.append(problem)
    return [*others, *(_merge(group, same) for (group, _), same in dead.items())]


def _merge(group: str, same: Sequence[DeadReference]) -> Problem:
    more = f", and {len(same) - 1} more keys of {group} like it" if len(same) > 1 else ""
    return Problem(same[0].key, f"{same[0].value}{more}", same[0].expected)
