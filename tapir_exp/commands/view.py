"""`tapir view`: browse every row of a run or a sweep in a local page."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Browse every row of a run or a sweep in a browser, from its seed to the last verdict.

    The pages are served to this machine only (127.0.0.1), and only read. They come from view.sqlite in the directory,
    which is made from the artifacts, and again when the run has changed. A run may be in progress or incomplete.
    Needs the extra [view].
    """
    options = _parser().parse_args(arguments)
    from tapir_exp.commands.view_job import build, serve

    if options.build_only:
        build(options.directory)
    else:
        serve(options.directory, options.port, open_browser=not options.no_open)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapir view", description=main.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="RUN",
        nargs="?",
        default=Path("outputs/latest"),
        help="directory of a run or a sweep; default: outputs/latest",
    )
    text = "port; default: 8642, or a free one if that is in use; 0 takes a free one"
    parser.add_argument("--port", type=int, metavar="N", help=text)
    parser.add_argument("--no-open", action="store_true", help="open no browser")
    parser.add_argument("--build-only", action="store_true", help="write the SQLite file, print its path, and stop")
    return parser
