"""Query strings of the listings: what they filter, and that nothing else of them reaches the engine."""

import pytest

from tapir_exp.report.view.listing import LISTINGS, Query
from tapir_exp.report.view.tables import INDEXED, SCHEMA

ROWS = LISTINGS["rows"]


def test_query_becomes_conditions_of_the_engine() -> None:
    args = {"task": "Math", "q": " egg ", "min": "2", "max": "−1,5", "sort": "-last_gap", "next": "3,4", "start": "50"}
    query = Query.parse(ROWS, args)
    assert query.conditions() == [
        ("task__exact", "Math"),
        ("_search", "egg"),
        ("last_gap__notnull", "1"),
        ("last_gap__gte", "2"),
        ("last_gap__lte", "-1.5"),
    ]
    assert dict(query.page_parameters(50))["_sort_desc"] == "last_gap"
    assert dict(query.page_parameters(50))["_next"] == "3,4"
    assert Query.parse(ROWS, {"failed": "1"}).conditions() == [("failure__not", "none")]


@pytest.mark.parametrize(
    "args",
    [{"_where": "1=1"}, {"sort": "id; drop"}, {"min": "nan"}, {"max": "1e999"}, {"_facet": "raw"}, {"start": "-1"}],
)
def test_query_ignores_everything_unknown(args: dict[str, str]) -> None:
    query = Query.parse(ROWS, args)
    assert query == Query(ROWS, {})
    assert query.url() == "/rows"


def test_query_links_set_and_remove_conditions() -> None:
    query = Query.parse(ROWS, {"task": "Math", "q": "a&b", "next": "7", "start": "50"})
    assert query.toggled("part", "hard") == "/rows?task=Math&part=hard&q=a%26b"
    assert query.toggled("task", "Math") == "/rows?q=a%26b"
    assert query.removals() == [("task type: Math", "/rows?q=a%26b"), ("“a&b”", "/rows?task=Math")]
    assert query.url(next="9", start=100) == "/rows?task=Math&q=a%26b&next=9&start=100"
    assert query.url("/export/rows.csv") == "/export/rows.csv?task=Math&q=a%26b"


def test_every_filtered_column_has_an_index() -> None:
    """52,000 rows are only smooth if no filter and no order reads the whole table."""
    indexed = {one.table: {*one.filtered, *one.sorted, "run"} for one in INDEXED}
    for listing in LISTINGS.values():
        used = {column.name for column in (*listing.facets, *listing.sorts)} | (
            {listing.range.name} if listing.range else set()
        )
        assert used - indexed[listing.table] == set(), listing.table
        assert f"create table {listing.table} (" in SCHEMA
