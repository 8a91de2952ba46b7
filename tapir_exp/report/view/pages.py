"""Our pages on top of Datasette: overview, listings, the history of a row, comparisons and exports."""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from datasette import Response, hookimpl
from datasette.utils.asgi import AsgiStream
from markupsafe import Markup

from tapir_exp.core.markup import escape_csv
from tapir_exp.report import charts
from tapir_exp.report.templates import render
from tapir_exp.report.view import tables
from tapir_exp.report.view.engine import EXPORT_PAGE, Engine, EngineError
from tapir_exp.report.view.history import COMPARED_ORDERS, Comparison, Student, compare, find_history
from tapir_exp.report.view.listing import LISTINGS, PAGE_SIZE, Query
from tapir_exp.report.view.overview import find_overview, find_runs_table

Args = Mapping[str, str]
ORDER_LABELS = {
    "better": "gap became smaller",
    "worse": "gap became larger",
    "gap": "largest gap of the second",
    "same": "least change",
}
EXPORTED = {"csv": "text/csv; charset=utf-8", "json": "application/json; charset=utf-8"}
MAPPED_BYTES = 1 << 31
PAGES = ("/", "/row", "/compare", "/style.css", *(f"/{name}" for name in LISTINGS))


def is_page(path: str) -> bool:
    """Return whether a path belongs to these pages, and not to those of Datasette."""
    return path in PAGES or path.startswith("/export/")


class Pages:
    """The pages of one database, as a plugin of Datasette.

    Args:
        subject: Name of the run or the sweep.
        report: Path of its written page; None if it has none.
    """

    __name__ = "tapir_view"
    """Datasette expects a module, which has a name."""

    def __init__(self, subject: str, report: str | None = None) -> None:
        self._subject = subject
        self._report = report
        self._engine: Engine | None = None
        self._runs: list[dict[str, Any]] = []
        self._students: list[dict[str, Any]] = []
        self._sizes: dict[str, int] = {}
        self._kept: dict[str, str] = {}

    async def open(self, engine: Engine) -> None:
        """Read what every page shows: the runs, their students and the size of each listing."""
        await engine.datasette.invoke_startup()
        self._engine = engine
        self._runs = await engine.select("select * from runs order by run")
        self._students = await find_runs_table(engine)
        for name in LISTINGS:
            self._sizes[name] = (await engine.select(f"select count(*) as n from {name}"))[0]["n"]

    @hookimpl  # type: ignore[untyped-decorator]
    def register_routes(self) -> list[tuple[str, Callable[..., Any]]]:
        """Return the pages by path."""
        handlers: list[tuple[str, Callable[..., Any]]] = [
            (r"^/$", self._page("/", self.overview)),
            (r"^/row$", self._page("/row", self.row)),
            (r"^/compare$", self._page("/compare", self.compare)),
            (r"^/style\.css$", self.style),
            (r"^/export/(?P<table>\w+)\.(?P<format>csv|json)$", self.export),
        ]
        listed = [(rf"^/{name}$", self._page(f"/{name}", partial(self.listing, name))) for name in LISTINGS]
        return [*handlers, *listed]

    @hookimpl  # type: ignore[untyped-decorator]
    def prepare_connection(self, conn: Any) -> None:
        """Map the file into memory: counting a facet reads its rows at random."""
        conn.execute(f"pragma mmap_size = {MAPPED_BYTES}")

    def _page(self, path: str, make: Callable[[Args], Any]) -> Callable[..., Any]:
        async def respond(request: Any) -> Any:
            args = {name: request.args[name] for name in request.args}
            try:
                status, body = await make(args)
            except EngineError as error:
                status, body = 400, self._render("view/message.html.jinja", path, title="Not found", text=str(error))
            return Response.html(body, status=status)

        return respond

    @property
    def engine(self) -> Engine:
        """Return the engine; `open` has set it."""
        assert self._engine is not None, "Pages.open was not called"
        return self._engine

    def _render(self, template: str, path: str, **context: Any) -> str:
        shown = [name for name, size in self._sizes.items() if size or name in ("rows", "answers")]
        return render(
            template,
            subject=self._subject,
            report=self._report,
            runs=self._runs,
            several=len(self._runs) > 1,
            path=path,
            listings=[LISTINGS[name] for name in shown],
            sizes=self._sizes,
            sql_page=self.engine.sql_page,
            words=tables,
            **context,
        )

    async def style(self) -> Any:
        """Return the style sheet."""
        return Response(render("view/view.css.jinja"), content_type="text/css; charset=utf-8")

    async def overview(self, args: Args) -> tuple[int, str]:
        """Show a run, or the runs of a sweep."""
        names = [run["run"] for run in self._runs]
        chosen = args.get("run", names[0] if len(names) == 1 else "")
        if chosen and chosen not in names:
            return 404, self._missing("/", f"There is no run {chosen!r} here.")
        if chosen not in self._kept:
            students = [student for student in self._students if chosen in ("", student["run"])]
            overview = await find_overview(self.engine, chosen, students) if chosen else None
            run = next((run for run in self._runs if run["run"] == chosen), None)
            self._kept[chosen] = self._render(
                "view/overview.html.jinja", "/", run=run, overview=overview, students=students
            )
        return 200, self._kept[chosen]

    async def listing(self, name: str, args: Args) -> tuple[int, str]:
        """Show a page of a table."""
        query = Query.parse(LISTINGS[name], args)
        page = await self.engine.page(query, PAGE_SIZE)
        counts = await self.engine.counts(query)
        rows = page["rows"]
        for row in rows:
            row["gaps"] = json.loads(row["gaps"]) if "gaps" in row else []
        facets = [
            (column, _facet(counts["facet_results"].get(column.name)))
            for column in query.listing.facets
            if column.name != "run" or len(self._runs) > 1
        ]
        return 200, self._render(
            "view/listing.html.jinja",
            f"/{name}",
            query=query,
            rows=rows,
            next=page.get("next"),
            page_size=PAGE_SIZE,
            total=counts["filtered_table_rows_count"],
            facets=[(column, values) for column, values in facets if values],
            deltas={run["run"]: run["delta"] for run in self._runs},
        )

    async def row(self, args: Args) -> tuple[int, str]:
        """Show the whole history of a row."""
        run = args.get("run") or self._runs[0]["run"]
        history = await find_history(self.engine, run, args.get("id", ""))
        if history is None:
            return 404, self._missing("/row", f"The run {run!r} has no row {args.get('id', '')!r}.")
        settings = next(one for one in self._runs if one["run"] == run)
        alphas = json.loads(settings["alphas"])
        return 200, self._render(
            "view/row.html.jinja", "/row", history=history, run=settings, delta=settings["delta"], alphas=alphas
        )

    async def compare(self, args: Args) -> tuple[int, str]:
        """Compare two students: of two rounds, or of two runs."""
        judged = [Student(one["run"], one["student"]) for one in self._students if one["scored"]]
        known = set(judged)
        a, b = (Student.parse(args.get(name, "")) for name in ("a", "b"))
        if a not in known or b not in known:
            a, b = _default_pair(judged)
        if a is None or b is None:
            return 200, self._missing("/compare", "A comparison needs two students with verdicts; there are none yet.")
        order = args.get("sort", "") if args.get("sort") in COMPARED_ORDERS else "better"
        start = int(text) if (text := args.get("start", "")).isascii() and text.isdigit() and len(text) < 9 else 0
        task = args.get("task", "")
        found = await compare(self.engine, a, b, task=task, order=order, size=PAGE_SIZE, start=start)
        tasks = await self.engine.select("select task, count(*) as n from rows group by task order by n desc")
        return 200, self._render(
            "view/compare.html.jinja",
            "/compare",
            a=a,
            b=b,
            students=judged,
            found=found,
            chart=_change_chart(found),
            order=order,
            orders=ORDER_LABELS,
            task=task,
            tasks=tasks,
            start=start,
            page_size=PAGE_SIZE,
            deltas={run["run"]: run["delta"] for run in self._runs},
        )

    async def export(self, request: Any) -> Any:
        """Return every line of a filtered listing as CSV or JSON."""
        name, kind = request.url_vars["table"], request.url_vars["format"]
        if name not in LISTINGS:
            return Response.html(self._missing("/", f"There is no table {name!r}."), status=404)
        query = Query.parse(LISTINGS[name], {key: request.args[key] for key in request.args})
        write = _write_csv if kind == "csv" else _write_json

        async def stream(writer: Any) -> None:
            async for chunk in write(self._lines(query)):
                await writer.write(chunk)

        headers = {"content-disposition": f'attachment; filename="{name}.{kind}"'}
        return AsgiStream(stream, headers=headers, content_type=EXPORTED[kind])

    async def _lines(self, query: Query) -> AsyncIterator[Mapping[str, Any]]:
        following = ""
        while True:
            page = await self.engine.page(Query(**{**vars(query), "next": following}), EXPORT_PAGE)
            for row in page["rows"]:
                yield row
            following = page.get("next") or ""
            if not following:
                return

    def _missing(self, path: str, text: str) -> str:
        return self._render("view/message.html.jinja", path, title="Nothing here", text=text)


def _facet(found: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the values of a facet: numbers in their order, words by the number of their lines."""
    values = [] if found is None else [value for value in found["results"] if value["value"] is not None]
    # Rounds and levels have an order of their own.
    if all(isinstance(value["value"], int) for value in values):
        return sorted(values, key=lambda value: value["value"])
    return values


def _default_pair(judged: Sequence[Student]) -> tuple[Student | None, Student | None]:
    """Return the first two students of one run with verdicts, or the first ones of two runs."""
    if len(judged) < 2:
        return None, None
    same = [student for student in judged if student.run == judged[0].run]
    return (same[0], same[1]) if len(same) > 1 else (judged[0], judged[1])


def _change_chart(found: Comparison) -> Markup:
    panels = [(f"Change on {found.rows:,} rows".replace(",", "\u202f"), found.changes)]
    return Markup("".join(charts.histograms(panels, 0.0, "change of the gap, points", "worse")))  # escaped already


async def _write_csv(lines: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[str]:
    """Yield CSV with cells that no spreadsheet runs as formulas."""
    first = True
    async for line in lines:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        if first:
            writer.writerow(line)
            first = False
        writer.writerow([escape_csv(value) for value in line.values()])
        yield buffer.getvalue()


async def _write_json(lines: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[str]:
    """Yield a JSON list, one line of text for each row."""
    separator = "[\n"
    async for line in lines:
        yield separator + json.dumps(line, ensure_ascii=False)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"
