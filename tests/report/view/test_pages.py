"""The pages of `tapir view`: they show every row as text, export what is filtered, and answer this machine only."""

import asyncio
import csv
import io
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import httpx
import pytest
from synthetic_run import MARKUP

from tapir_exp.report.view.database import build_database
from tapir_exp.report.view.engine import Engine, guard
from tapir_exp.report.view.pages import Pages, is_page
from tapir_exp.report.view.source import find_runs

MakeRun = Callable[..., Path]


class Site:
    """The pages of a database, with a client in the same loop."""

    def __init__(self, path: Path) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._open(path))

    async def _open(self, path: Path) -> None:
        pages = Pages("lab")
        self.engine = Engine(path, pages)
        await pages.open(self.engine)
        transport = httpx.ASGITransport(app=guard(self.engine.datasette.app(), is_page))  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8642", trust_env=False)

    def get(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        return self.runner.run(self.client.request(method, path, headers=headers))

    def select(self, sql: str, **params: object) -> list[dict[str, Any]]:
        return self.runner.run(self.engine.select(sql, **params))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.run(self.engine.close())
        self.runner.close()


@pytest.fixture(scope="module")
def site(synthetic_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve a sweep of two synthetic runs."""
    path = tmp_path_factory.mktemp("view") / "view.sqlite"
    shared = {"size": 120, "held_out_instructions": 5}
    one, two = (synthetic_run(arm=arm, **shared) / "runs" / "lab" for arm in ("tapir", "lion"))
    runs = [*find_runs(one), *find_runs(two)]
    object.__setattr__(runs[1], "name", "other")
    build_database(runs, path)
    site = Site(path)
    yield site
    site.close()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?run=lab",
        "/rows",
        "/answers?run=lab&student=1",
        "/dropped",
        "/benchmark",
        "/held_out",
        "/compare",
        "/view",
    ],
)
def test_pages_answer(site: Site, path: str) -> None:
    response = site.get(path)
    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "path", ["/rows?q=script", "/answers?q=script&sort=-gap", "/compare", "/benchmark", "/held_out"]
)
def test_texts_of_models_are_text(site: Site, path: str) -> None:
    text = site.get(path).text
    assert "<script" not in text
    assert "onerror" not in text


def test_history_of_an_expansion_is_whole(site: Site) -> None:
    (row,) = site.select("select * from rows where origin = 'expansion' and judged > 0 and run = 'lab' limit 1")
    page = site.get(f"/row?run=lab&id={row['id']}")
    assert page.status_code == 200
    texts = [row["instruction"], "Written by the teacher in round", "in the training mix of"]
    texts += [reply["raw"] for reply in site.select("select raw from replies where row = :key", key=row["key"])]
    texts += [one["response"] for one in site.select("select response from answers where row = :key", key=row["key"])]
    parents = site.select(
        "select r.instruction from parents p join rows r on r.id = p.parent and r.run = p.run "
        "where p.child = :id and p.run = 'lab'",
        id=row["id"],
    )
    texts += [parent["instruction"] for parent in parents]
    assert parents
    for text in texts:
        if text:
            assert escape(text) in page.text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;"), text
    assert "<script" not in page.text


def test_history_of_a_seed_leads_to_its_expansions_and_other_runs(site: Site) -> None:
    (row,) = site.select("select * from rows where origin = 'seed' and run = 'lab' order by expansions desc limit 1")
    text = site.get(f"/row?run=lab&id={row['id']}").text
    children = site.select("select child from parents where run = 'lab' and parent = :id", id=row["id"])
    assert len(children) == row["expansions"] > 0
    assert all(f"id={child['child']}" in text for child in children[:40])
    assert "The same row in other runs" in text


def test_filters_search_and_order_reach_the_rows(site: Site) -> None:
    where = "task = 'Math' and part = 'hard' and run = 'lab' and last_gap >= 1"
    expected = site.select(f"select id from rows where {where} order by last_gap desc, key")
    assert expected
    exported = site.get("/export/rows.json?task=Math&part=hard&run=lab&min=1&sort=-last_gap").json()
    assert [row["id"] for row in exported] == [row["id"] for row in expected]
    page = site.get("/rows?task=Math&part=hard&run=lab&min=1&sort=-last_gap").text
    positions = [page.index(f"id={row['id']}") for row in expected[:50]]
    assert positions == sorted(positions)
    assert f"<b>{len(expected)}</b>" in page


@pytest.mark.parametrize(("sort", "order"), [("last_gap", "last_gap"), ("-last_gap", "last_gap desc")])
def test_pages_of_a_listing_show_each_row_once(site: Site, sort: str, order: str) -> None:
    path, seen, pages = f"/rows?run=lab&sort={sort}", [], 0
    while path:
        text = site.get(path).text
        seen += [part.split('"')[0] for part in text.split('class="ask" href="/row?run=lab&amp;id=')[1:]]
        following = text.split('rel="next" href="')
        path = following[1].split('"')[0].replace("&amp;", "&") if len(following) > 1 else ""
        pages += 1
    rows = site.select(f"select id from rows where run = 'lab' and last_gap is not null order by {order}, key")
    assert pages > 2
    assert seen == [row["id"] for row in rows]


def test_export_as_csv_is_safe_for_spreadsheets(site: Site) -> None:
    response = site.get("/export/answers.csv?run=lab&student=0")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert len(rows) == 120
    assert not [
        cell for row in rows for name, cell in row.items() if name == "response" and cell.startswith(("=", "@"))
    ]
    assert site.get("/view/rows.csv").status_code == 404


def test_compare_counts_the_rows_of_both_students(site: Site) -> None:
    (n,) = site.select(
        "select count(*) as n, sum(b.gap < a.gap) as better from answers a join answers b on a.id = b.id "
        "where a.run = 'lab' and a.student = 0 and b.run = 'other' and b.student = 0 "
        "and a.gap is not null and b.gap is not null"
    )
    text = site.get("/compare?a=lab:0&b=other:0&sort=worse").text
    assert f"{n['n']} rows: {n['better']} with a smaller gap" in text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?run=none", 404),
        ("/row?id=none&run=lab", 404),
        ("/row", 404),
        ("/row?run=none&id=x", 404),
        ("/rows?next=x,y,z", 200),
        ("/export/runs.json", 404),
        ("/compare?a=x&b=y:z&start=-1&sort=drop", 200),
        ('/rows?q="%28 OR', 200),
        ("/rows?q=---", 200),
        ("/view?sql=delete+from+rows", 400),
    ],
)
def test_wrong_addresses_have_an_answer(site: Site, path: str, status: int) -> None:
    assert site.get(path).status_code == status


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"host": "evil.example:8642"}, 421),
        ("GET", {"host": "127.0.0.1.evil.example"}, 421),
        ("GET", {"host": ""}, 421),
        ("GET", {"host": "localhost:8642"}, 200),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ("POST", {}, 405),
        ("DELETE", {}, 405),
    ],
)
def test_requests_of_others_are_refused(site: Site, method: str, headers: dict[str, str], status: int) -> None:
    response = site.get("/rows", method, **headers)
    assert response.status_code == status
    if status != 200:
        assert MARKUP not in response.text


def test_database_cannot_be_written(site: Site) -> None:
    with pytest.raises(Exception, match=r"readonly|read-only|not authorized"):
        site.select("delete from rows")
