"""The published figures that our runs are put beside: `conf/paper/*.yaml`, each figure with how surely it is known."""

from enum import StrEnum
from pathlib import Path
from typing import Self

import yaml
from pydantic import ValidationError, model_validator

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record


class Status(StrEnum):
    """How surely a figure is known, as in docs/paper_facts.md."""

    PRIMARY = "P"
    SECOND_HAND = "S"
    DERIVED = "D"
    REMEMBERED = "R"
    UNKNOWN = "unknown"


FIGURES = Path(__file__).parent / "published_figures"
MEANINGS = {
    Status.PRIMARY: "seen in a primary source",
    Status.SECOND_HAND: "seen second-hand",
    Status.DERIVED: "derived",
    Status.REMEMBERED: "remembered, unconfirmed",
    Status.UNKNOWN: "not known",
}


class Figure(Record):
    """A published figure; `value` is None exactly where its status is unknown."""

    value: float | None
    status: Status

    @model_validator(mode="after")
    def _unknown_has_no_value(self) -> Self:
        if (self.value is None) != (self.status is Status.UNKNOWN):
            raise ValueError("an unknown figure has no value, and every other has one")
        return self


class Column(Record):
    """A figure of a suite: its heading, and the figure that is its error within one evaluation."""

    title: str
    error: str | None = None


class PublishedRow(Record):
    """A published line; `model` and `arm` name the evaluations of ours that belong beside it, None where none can."""

    label: str
    figures: dict[str, Figure]
    model: str | None = None
    arm: str | None = None


class Plan(Record):
    """Two figures that a reader compares: what would it take to tell them apart? `error` is the error of either."""

    first: float
    second: float
    error: float
    n: int


class PublishedTable(Record):
    """One table. judge: the model that judged the published figures; None where nobody did."""

    title: str
    suite: str
    judge: str | None
    columns: dict[str, Column]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...] = ()
    plan: Plan | None = None

    @model_validator(mode="after")
    def _figures_have_columns(self) -> Self:
        strangers = {name for row in self.rows for name in row.figures} - self.columns.keys()
        if strangers:
            raise ValueError(f"the figures {sorted(strangers)} have no column")
        return self


def load_tables() -> dict[str, PublishedTable]:
    """Every table of `published_figures/`, by the name of its file. Raises StoreError where one is not a table."""
    return {path.stem: load_table(path) for path in sorted(FIGURES.glob("*.yaml"))}


def load_table(path: Path) -> PublishedTable:
    """One table. Raises StoreError, which names the file and the mistakes."""
    try:
        return PublishedTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise StoreError(f"{path} is not a table of published figures: {error}") from error
