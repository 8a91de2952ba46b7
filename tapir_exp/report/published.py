"""Load the published figures to compare our evaluations with, from `published_figures/*.yaml`."""

from enum import StrEnum
from pathlib import Path
from typing import Self

import yaml
from pydantic import ValidationError, model_validator

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record


class Status(StrEnum):
    """Certainty of a figure, as in docs/paper_facts.md."""

    PRIMARY = "P"
    SECOND_HAND = "S"
    DERIVED = "D"
    REMEMBERED = "R"
    UNKNOWN = "unknown"


TABLES_DIR = Path(__file__).parent / "published_figures"
MEANINGS = {
    Status.PRIMARY: "seen in a primary source",
    Status.SECOND_HAND: "seen second-hand",
    Status.DERIVED: "derived from other facts",
    Status.REMEMBERED: "remembered, not confirmed",
    Status.UNKNOWN: "unknown",
}
"""Legend of the tables."""


class PublishedFigure(Record):
    """A published figure.

    Attributes:
        value: The figure; None exactly if its status is unknown.
        status: How certain the figure is.
    """

    value: float | None
    status: Status

    @model_validator(mode="after")
    def _unknown_has_no_value(self) -> Self:
        if (self.value is None) != (self.status is Status.UNKNOWN):
            raise ValueError(
                f"value {self.value} has status {self.status}: an unknown figure has no value, and every other has one"
            )
        return self


class Column(Record):
    """A column of a table.

    Attributes:
        title: Heading.
        error: Name of the figure that is its standard error within one evaluation; None if there is none.
    """

    title: str
    error: str | None = None


class PublishedRow(Record):
    """A row of published figures.

    Attributes:
        label: Name of the row.
        figures: Figures by column; a column that is absent is unknown.
        model: Hub id of the model of our evaluations to compare with; None if we cannot evaluate it.
        arm: Arm of these evaluations; None for the model without training.
        aliases: Names of the model in files of outputs, such as the generator on AlpacaEval's leaderboard. Evaluations
            of given outputs with one of these names are in this row.
    """

    label: str
    figures: dict[str, PublishedFigure]
    model: str | None = None
    arm: str | None = None
    aliases: tuple[str, ...] = ()


class Plan(Record):
    """Two figures to compare; the report computes how many instructions are needed to separate them.

    Attributes:
        first: One figure.
        second: The other figure.
        error: Standard error of each.
        n: Number of instructions of the benchmark.
    """

    first: float
    second: float
    error: float
    n: int


class PublishedTable(Record):
    """A table of published figures.

    Attributes:
        title: Heading.
        suite: Suite of `tapir evaluate` that measures the same.
        judge: Model that judged the published figures; None for a suite without a judge.
        columns: Columns by the name of their figure.
        rows: Published rows.
        notes: Sentences to show below the table.
        plan: Two figures to compare; None if there are none.
        arms_only: True if the table has only students that were trained by an arm.
    """

    title: str
    suite: str
    judge: str | None
    columns: dict[str, Column]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...] = ()
    plan: Plan | None = None
    arms_only: bool = False

    @model_validator(mode="after")
    def _figures_have_columns(self) -> Self:
        # A misspelt name would otherwise be an empty column.
        unexpected = {name for row in self.rows for name in row.figures} - self.columns.keys()
        if unexpected:
            raise ValueError(f"the figures {sorted(unexpected)} have no column; expected {sorted(self.columns)}")
        return self


def load_tables() -> dict[str, PublishedTable]:
    """Load every table of `published_figures/` by file name. Raises StoreError if one is not valid."""
    return {path.stem: load_table(path) for path in sorted(TABLES_DIR.glob("*.yaml"))}


def load_table(path: Path) -> PublishedTable:
    """Load a table.

    Raises:
        StoreError: The file is not YAML or not a table; the message names the file and the mistakes.
    """
    try:
        return PublishedTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise StoreError(f"{path} is not a valid table of published figures (see PublishedTable): {error}") from error
