"""The work of `tapir view`: make the database of a run or a sweep, and serve its pages until Ctrl-C."""

import asyncio
import socket
import webbrowser
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path

from tapir_exp.core.console import console, write_line
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.events import EVENTS
from tapir_exp.core.manifest import MANIFEST
from tapir_exp.report.sweep.jobs import find_job_dirs, is_job_dir
from tapir_exp.report.templates import REPORT
from tapir_exp.report.view.database import build_database, database_path, fingerprint, is_current
from tapir_exp.report.view.source import RunSource, find_runs

HOST, DEFAULT_PORT = "127.0.0.1", 8642
POLL_S = 10.0
"""Time between two looks for changes of the runs."""
SWEEP_PAGE = "index.html"


def build(directory: Path) -> Path:
    """Write the database of a run or a sweep unless it is current, print its path, and return it.

    Raises:
        StoreError: If the directory has no run.
    """
    path, runs = prepare(directory)
    for problem in (f"{run.name}: {problem}" for run in runs for problem in run.problems):
        console.print(f"warning: {problem}", markup=False, soft_wrap=True)
    write_line(str(path))
    return path


def prepare(directory: Path) -> tuple[Path, list[RunSource]]:
    """Return the database of a run or a sweep, and its runs; it is made if it is missing or the runs have changed."""
    runs = find_runs(directory)
    path = database_path(directory)
    if not is_current(path, runs):
        console.print(f"Reading {_count(runs)} into {path} …", markup=False, soft_wrap=True)
        build_database(runs, path)
    return path, runs


def serve(directory: Path, port: int | None, *, open_browser: bool) -> None:
    """Serve the pages of a run or a sweep until Ctrl-C, and make them again when the run has changed.

    Args:
        directory: The directory of the run or the sweep.
        port: The port; 0 takes a free one, and so does None if the default one is in use.
        open_browser: Whether to open the page in a browser.

    Raises:
        StoreError: If the directory has no run.
        ConfigError: If the extra [view] is not installed, or the port is in use.
    """
    _check_extra()
    with closing(_listen(port)) as listener, suppress(KeyboardInterrupt):
        path, runs = prepare(directory)
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        write_line(f"{_count(runs)}: {address}  (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(address)
        while asyncio.run(_serve_until_changed(directory, path, runs, listener)):
            path, runs = prepare(directory)


async def _serve_until_changed(directory: Path, path: Path, runs: Sequence[RunSource], listener: socket.socket) -> bool:
    """Serve one database, and return True when it has been made again, False when the server was stopped."""
    import uvicorn

    from tapir_exp.report.view.engine import Engine, guard
    from tapir_exp.report.view.pages import Pages, is_page

    pages = Pages(directory.resolve().name, _report(directory))
    engine = Engine(path, pages)
    await pages.open(engine)
    app = guard(engine.datasette.app(), is_page)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(settings)
    # Ctrl-C ends the loop, as in every command; the server's own handlers would print it as an error.
    server.capture_signals = nullcontext  # type: ignore[assignment]
    watching = asyncio.create_task(_wait_for_change(directory, fingerprint(runs)))
    # The server closes what it is given; the listener stays open, so that no request is refused in between.
    serving = asyncio.create_task(server.serve(sockets=[listener.dup()]))
    try:
        await asyncio.wait([serving, watching], return_when=asyncio.FIRST_COMPLETED)
        return watching.done()
    finally:
        server.should_exit = True
        watching.cancel()
        await serving
        await engine.close()


async def _wait_for_change(directory: Path, known: str) -> None:
    """Return when the runs have changed, with their database made again."""
    seen: list[tuple[str, int]] = _times(directory)
    while True:
        await asyncio.sleep(POLL_S)
        if (times := _times(directory)) == seen:
            continue
        seen = times
        # A directory that vanished, or that is being moved, may come back.
        with suppress(TapirError, OSError):
            runs = await asyncio.to_thread(find_runs, directory)
            if fingerprint(runs) != known:
                await asyncio.to_thread(build_database, runs, database_path(directory))
                return


def _times(directory: Path) -> list[tuple[str, int]]:
    """Return the files that change when a run goes on, with their times: cheap enough to be looked at often."""
    try:
        dirs = [directory] if is_job_dir(directory) else [directory, *find_job_dirs(directory)]
        files = (path / name for path in dirs for name in (EVENTS, MANIFEST))
        return [(str(file), file.stat().st_mtime_ns) for file in files if file.is_file()]
    except OSError:
        return []


def _listen(port: int | None) -> socket.socket:
    """Return a listening socket on this machine's own address."""
    for wanted in (port,) if port is not None else (DEFAULT_PORT, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, wanted))
        except (OSError, OverflowError) as error:
            listener.close()
            problem = error
            continue
        listener.listen(128)
        return listener
    raise ConfigError([f"--port {port}: cannot be used ({problem}); expected a free port, or 0 for any"])


def _check_extra() -> None:
    missing = [name for name in ("datasette", "uvicorn", "httpx") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            [
                (
                    f"`tapir view` needs {', '.join(missing)}, which is not installed: pip install 'tapir-exp[view]'. "
                    "`tapir view --build-only` needs nothing and writes the same rows as SQLite."
                )
            ]
        )


def _report(directory: Path) -> str | None:
    """Return the path of the page that the run or the sweep has written; None if there is none."""
    return next((str(path) for name in (REPORT, SWEEP_PAGE) if (path := directory / name).is_file()), None)


def _count(runs: Sequence[RunSource]) -> str:
    return f"the run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
