"""Tables that can be browsed, and the query strings that filter, search, sort and page through them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlencode

from tapir_exp.report.view.tables import NO_FAILURE

PAGE_SIZE = 50
FIRST = ("-1e308,0", "1e308,0")
"""Values and keys that come before every line, in ascending and in descending order."""
MAX_SEARCH = 400
"""Characters of a search that are used."""


class Column(NamedTuple):
    """A column of the database with its name on the page."""

    name: str
    label: str


@dataclass(frozen=True)
class Listing:
    """A table that can be browsed.

    Attributes:
        table: Name of the table, and of its page.
        title: Heading of the page.
        lead: One sentence about the lines.
        facets: Columns to filter by value.
        sorts: Columns to sort by; the descending order is `-name`.
        range: Column with a smallest and a largest value; None if there is none.
        search_key: Column with the row that the full-text search finds; None without search.
    """

    table: str
    title: str
    lead: str
    facets: tuple[Column, ...]
    sorts: tuple[Column, ...] = ()
    range: Column | None = None
    search_key: str | None = None

    @property
    def orders(self) -> tuple[Column, ...]:
        """Return every value of `sort`, with its name on the page."""
        return tuple(
            Column(f"{sign}{column.name}", f"{column.label}, {words}")
            for column in self.sorts
            for sign, words in (("-", "largest first"), ("", "smallest first"))
        )


RUN = Column("run", "run")
TASK, PART, ORIGIN = Column("task", "task type"), Column("part", "part"), Column("origin", "origin")
ORDERS, FAILURE = Column("orders", "orders of the judge"), Column("failure", "failure")
ROUND, VERDICT = Column("round", "round"), Column("verdict", "last verdict")
LISTINGS = {
    listing.table: listing
    for listing in (
        Listing(
            "rows",
            "Rows",
            "Every seed and every row that the teacher wrote.",
            (
                *(RUN, VERDICT, PART, Column("change", "change of the gap"), TASK, ORIGIN),
                *(Column("created", "written in round"), ORDERS, FAILURE),
            ),
            (
                Column("last_gap", "last gap"),
                Column("first_gap", "first gap"),
                Column("gap_change", "change of the gap"),
                Column("disagreement", "disagreement of the orders"),
                Column("expansions", "expansions"),
            ),
            Column("last_gap", "last gap"),
            "key",
        ),
        Listing(
            "answers",
            "Round by round",
            "Every row in every round: the student's response, the verdict, and the place in the mix.",
            (
                *(RUN, ROUND, Column("student", "student"), Column("verdict", "verdict"), PART),
                *(TASK, ORIGIN, ORDERS, Column("trained", "training"), FAILURE),
            ),
            (Column("gap", "gap"), Column("disagreement", "disagreement of the orders")),
            Column("gap", "gap"),
            "row",
        ),
        Listing(
            "dropped",
            "Dropped",
            "Rows of the source, and proposals of the teacher, that were not used.",
            (RUN, Column("reason", "reason"), Column("stage", "stage"), ROUND),
        ),
        Listing(
            "benchmark",
            "Benchmark",
            "The students' responses to the held-out problems of the lab.",
            (RUN, ROUND, Column("correct", "answer"), TASK, Column("level", "level"), Column("family", "family")),
            (Column("score", "score"),),
        ),
        Listing(
            "held_out",
            "Held-out",
            "Each student against its predecessor on instructions that were never trained on.",
            (RUN, ROUND, Column("outcome", "outcome")),
            (Column("gain", "gain"),),
            Column("gain", "gain"),
        ),
    )
}


@dataclass(frozen=True)
class Query:
    """What a page of a listing shows; everything else in a query string is ignored.

    Attributes:
        listing: The listing.
        filters: Value by column.
        failed: Whether only lines with a failure are shown.
        search: Words that the texts of a row must have.
        low: Smallest value of the range, as typed.
        high: Largest value.
        sort: Value of `Listing.orders`; empty for the order of the run.
        next: Where the page begins, in the words of the engine.
        start: Number of lines before the page.
    """

    listing: Listing
    filters: Mapping[str, str]
    failed: bool = False
    search: str = ""
    low: str = ""
    high: str = ""
    sort: str = ""
    next: str = ""
    start: int = 0

    @classmethod
    def parse(cls, listing: Listing, args: Mapping[str, str]) -> "Query":
        """Read a query string."""
        start = args.get("start", "")
        return cls(
            listing=listing,
            filters={column.name: args[column.name] for column in listing.facets if args.get(column.name)},
            failed=args.get("failed") == "1" and FAILURE in listing.facets,
            search=args.get("q", "").strip()[:MAX_SEARCH] if listing.search_key else "",
            low=_number(args.get("min", "")) if listing.range else "",
            high=_number(args.get("max", "")) if listing.range else "",
            sort=args.get("sort", "") if args.get("sort") in {order.name for order in listing.orders} else "",
            next=args.get("next", "")[:MAX_SEARCH],
            start=int(start) if start.isascii() and start.isdigit() and len(start) < 10 else 0,
        )

    @property
    def is_filtered(self) -> bool:
        """Return whether the query shows fewer lines than the table has."""
        return bool(self.filters or self.failed or self.search or self.low or self.high)

    def url(self, page: str = "", **changes: object) -> str:
        """Return the link to a changed query, from its first line unless `next` is given.

        Args:
            page: Path of the link; the page of the listing if empty.
            **changes: Fields to change.
        """
        changed = replace(self, **{"next": "", "start": 0, **changes})  # type: ignore[arg-type]
        query = urlencode(list(changed._parameters()))
        return f"{page or '/' + self.listing.table}{'?' if query else ''}{query}"

    def toggled(self, column: str, value: str) -> str:
        """Return the link with a filter set, or removed if it was set."""
        others = {name: filtered for name, filtered in self.filters.items() if name != column}
        return self.url(filters=others if self.filters.get(column) == value else {**others, column: value})

    def removals(self) -> list[tuple[str, str]]:
        """Return each condition in words, and the link without it."""
        labels = {column.name: column.label for column in self.listing.facets}
        ends = [(f"{labels[name]}: {value}", self.toggled(name, value)) for name, value in self.filters.items()]
        if self.failed:
            ends.append(("any failure", self.url(failed=False)))
        if self.search:
            ends.append((f"“{self.search}”", self.url(search="")))
        label = self.listing.range.label if self.listing.range else ""
        if self.low:
            ends.append((f"{label} ≥ {self.low}", self.url(low="")))
        if self.high:
            ends.append((f"{label} ≤ {self.high}", self.url(high="")))
        return ends

    def conditions(self) -> list[tuple[str, str]]:
        """Return the conditions as parameters of the engine."""
        found = [(f"{name}__exact", value) for name, value in self.filters.items()]
        if self.failed:
            found.append((f"{FAILURE.name}__not", NO_FAILURE))
        if self.search:
            found.append(("_search", self.search))
        if self.sort:  # a line without the value has no place in the order
            found.append((f"{self.sort.removeprefix('-')}__notnull", "1"))
        column = self.listing.range.name if self.listing.range else ""
        found += [(f"{column}__gte", self.low)] if self.low else []
        found += [(f"{column}__lte", self.high)] if self.high else []
        return found

    def page_parameters(self, size: int = PAGE_SIZE) -> list[tuple[str, str]]:
        """Return the parameters of the engine for the lines of one page."""
        found = [*self.conditions(), ("_shape", "objects"), ("_nofacet", "1"), ("_nocount", "1"), ("_size", str(size))]
        begin = self.next
        if self.sort:
            descending = self.sort.startswith("-")
            found.append(("_sort_desc" if descending else "_sort", self.sort.removeprefix("-")))
            # The engine orders equal values by key from the second page on only, so the first one must be such a page.
            begin = begin or FIRST[descending]
        return [*found, ("_next", begin)] if begin else found

    def count_parameters(self, columns: Sequence[Column]) -> list[tuple[str, str]]:
        """Return the parameters of the engine for the number of lines, and for those with each value of the columns."""
        facets = [("_facet", column.name) for column in columns]
        return [*self.conditions(), ("_size", "0"), *facets, ("_facet_size", "60")]

    def _parameters(self) -> Iterator[tuple[str, str]]:
        fields = {
            "failed": "1" if self.failed else "",
            "q": self.search,
            "min": self.low,
            "max": self.high,
            "sort": self.sort,
            "next": self.next,
        }
        yield from self.filters.items()
        yield from ((name, value) for name, value in fields.items() if value)
        if self.next and self.start:
            yield "start", str(self.start)


def _number(text: str) -> str:
    """Return a finite number as it was typed; an empty text for anything else."""
    text = text.strip().replace("−", "-").replace(",", ".")
    try:
        return text if math.isfinite(float(text)) and text.isascii() and len(text) < 20 else ""
    except ValueError:
        return ""
