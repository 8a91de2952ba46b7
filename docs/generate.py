"""Pages of the documentation that follow from the code, written by MkDocs as a hook while it builds the site.

`pages` returns the reference as Markdown: configuration, presets, commands, formats and the Python interface. The hooks
add them to the site, with the root's CONTRIBUTING, CHANGELOG and NOTES, and check links that leave `docs/`.
"""

import ast
import inspect
import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import MISSING, fields
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest import mock

from tapir_exp import api
from tapir_exp.commands.main import COMMANDS
from tapir_exp.config.ranges import _ranges_of
from tapir_exp.config.root import CLASSIFY_SCHEMA, SCHEMA
from tapir_exp.config.schema import Schema
from tapir_exp.core import events, records
from tapir_exp.core.evaluation_manifest import Evaluation
from tapir_exp.core.manifest import Entry, Manifest
from tapir_exp.core.records import Record
from tapir_exp.core.step_timing import StepTiming

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
INCLUDED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "NOTES.md": "diary.md"}
"""Pages at the root of the repository that are pages of the site, too."""
IMAGES = (".svg", ".png", ".jpg")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FILLED = {"Guides": "guides", "Results": "results", "Tutorials": "tutorials"}
"""Sections of the navigation that list every page of a folder."""
STATUS = {"P": "seen in a primary source", "S": "seen second-hand", "D": "derived", "R": "remembered, not confirmed"}
RECORDS = (StepTiming, Manifest, Entry, Evaluation)
"""Records of other modules, in files of a student or of a run directory."""
log = logging.getLogger("mkdocs.hooks.tapir")


def pages() -> dict[str, str]:
    """Return the generated pages of the reference by path below `docs`."""
    return {
        "reference/config.md": config_page(),
        "reference/presets.md": presets_page(),
        "reference/commands.md": commands_page(),
        "reference/formats.md": formats_page(),
        "reference/api.md": api_page(),
    }


# Configuration


def config_page() -> str:
    """Return the page of every key of `tapir run`, `tapir evaluate` and `tapir classify`."""
    marks = ", ".join(f"{letter} ({text})" for letter, text in STATUS.items())
    head = f"""# Configuration

Every key of `tapir run` and `tapir evaluate`, then those that only `tapir classify` has. Set a key on the command line
(`curriculum.delta=1`) or in a preset ([presets](presets.md)). A wrong key or value is an error before anything runs.

*Paper* marks a value of the paper with its [status](../paper_facts.md): {marks}. Every other default is ours.
"""
    run = [text for name in SCHEMA.names("") for text in _section(SCHEMA, name, "")]
    only = [name for name in CLASSIFY_SCHEMA.names("") if name not in SCHEMA.keys]
    classify = [text for name in only for text in _section(CLASSIFY_SCHEMA, name, "classify-")]
    return "\n".join([head, *run, "\n# Keys of `tapir classify`\n", *classify])


def _section(schema: Schema, name: str, prefix: str) -> Iterator[str]:
    """Yield a key of the root, with all keys below it if it is a section."""
    if not schema.is_section(name):
        yield f"## {name} {{#{prefix}{name}}}\n" + _key(schema, name)
        return
    yield f"## {name} {{#{prefix}{name}}}\n\n{_help(schema, name)} File: `tapir_exp/config/{_module(schema, name)}`.\n"
    for key in schema.keys:
        if not key.startswith(f"{name}."):
            continue
        if schema.is_section(key):
            yield f"\n{_help(schema, key)} (`{key}`)\n"
        else:
            yield f"### `{key}` {{#{prefix}{key.replace('.', '-')}}}\n" + _key(schema, key)


def _key(schema: Schema, key: str) -> str:
    text = _help(schema, key)
    marks = [mark for mark in STATUS if re.search(rf"\({mark}\b", text)]
    facts = [schema.expects(key), f"default {_default(schema, key)}"]
    facts += [limits.text for limits in _ranges_of(key)[:1]]
    facts += [f"paper: {', '.join(marks)}" if marks else "ours"]
    return f"\n<small>{' · '.join(facts)}</small>\n\n{text}\n"


def _default(schema: Schema, key: str) -> str:
    item = next(item for item in fields(_parent(schema, key)) if item.name == key.rpartition(".")[2])
    value = item.default
    if value is MISSING:
        value = item.default_factory() if item.default_factory is not MISSING else "???"
    if value == "???":
        return "none: a preset or you must set it"
    if isinstance(value, Enum):
        value = value.name
    shown = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    return f"`{shown or value}`" if value != "" else "empty"


def _help(schema: Schema, key: str) -> str:
    text = field_docs(_parent(schema, key)).get(key.rpartition(".")[2], "")
    return " ".join(text.split())


def _parent(schema: Schema, key: str) -> type:
    parent = schema.keys[key.rpartition(".")[0]].section
    assert parent is not None
    return parent


def _module(schema: Schema, key: str) -> str:
    return Path(inspect.getfile(schema.keys[key].hint)).name


@cache
def field_docs(owner: type) -> dict[str, str]:
    """Return the text below each field of a class, or each member of an enum, by name."""
    found: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        with suppress(OSError, TypeError):
            node = ast.parse(dedent(inspect.getsource(base))).body[0]
            if isinstance(node, ast.ClassDef):
                found |= _texts_of(node)
    return found


def _texts_of(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for before, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            target = before.target if isinstance(before, ast.AnnAssign) else getattr(before, "targets", [None])[0]
            if isinstance(target, ast.Name):
                found[target.id] = str(after.value.value)
    return found


def presets_page() -> str:
    """Return the page of the YAML files of `conf` and `sweeps`, by group."""
    lines = ["# Presets\n\nA choice of a group is a file, such as `conf/teacher/gpt_4o.yaml` for `teacher=gpt_4o`."]
    lines += ["Its content is below its name. [Add your own](../guides/extending.md) with one file and no Python.\n"]
    for folder in [*sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir()), ROOT / "sweeps"]:
        lines += [f"## {folder.name}\n"]
        for leaf in sorted(folder.glob("*.yaml")):
            text = leaf.read_text(encoding="utf-8").rstrip()
            indented = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
            lines += [f'??? note "`{leaf.stem}`"\n\n    ```yaml\n{indented}\n    ```\n']
    return "\n".join(lines)


# Commands


def commands_page() -> str:
    """Return the page of every verb of `tapir`, with its help."""
    table = "\n".join(f"| [`tapir {name}`](#{name}) | {text} |" for name, text in COMMANDS.items())
    head = f"""# Commands

| command | purpose |
|---|---|
{table}

Without a verb, the arguments are those of `tapir run`. Exit codes: 0 done, 1 an error that you can fix, 2 a wrong
configuration or command line, 130 interrupted.
"""
    parts = [f"## {name}\n\n```text\n{command_help(name).rstrip()}\n```\n" for name in COMMANDS]
    return "\n".join([head, *parts])


def command_help(name: str) -> str:
    """Return the help of a verb, without the list of choices, which is the page of presets."""
    module = import_module(f"tapir_exp.commands.{name.replace('-', '_')}")
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit), mock.patch.dict(os.environ, {"COLUMNS": "100"}):
        module.main(["--help"])
    return shown.getvalue().split("\nGroups and their choices")[0]


# Formats


def formats_page() -> str:
    """Return the page of the files of a run and their records."""
    lines = [(DOCS / "reference" / "formats_head.md").read_text(encoding="utf-8")]
    stages: dict[str, list[str]] = {}
    for stage, record in api.STAGES.items():
        stages.setdefault(record.__name__, []).append(f"`{stage}`")
    for record in _records():
        where = stages.get(record.__name__)
        lines += [f"### {record.__name__}\n\n{_markdown(record)}"]
        lines += [f"\nRows of {', '.join(where)}.\n" if where else ""]
        lines += ["| field | type | meaning |", "|---|---|---|"]
        texts = _attributes(record)
        for name, item in record.model_fields.items():
            kind = re.sub(r"\b\w+\.(?=\w)", "", inspect.formatannotation(item.annotation)).replace("|", "\\|")
            lines += [f"| `{name}` | {kind} | {texts.get(name, '').replace('|', chr(92) + '|')} |"]
        lines += [""]
    lines += ["## Events\n", "Kinds of the lines of `events.jsonl`; each also has `time`, in seconds since 1970.\n"]
    lines += ["| event | fields |", "|---|---|"]
    texts = field_docs(events.Kind)
    lines += [f"| `{kind.value}` | {' '.join(texts.get(kind.name, '').split())} |" for kind in events.Kind]
    return "\n".join(lines) + "\n"


def _records() -> list[type[Record]]:
    found = [item for item in vars(records).values() if isinstance(item, type) and issubclass(item, Record)]
    return [item for item in found if item is not Record] + list(RECORDS)


def _markdown(owner: object) -> str:
    """Return the text of a docstring before its first section."""
    text = inspect.getdoc(owner) or ""
    return re.split(r"\n(?:Args|Attributes|Returns|Raises|Example|Examples):\n", text)[0].strip()


def _attributes(owner: object, section: str = "Attributes") -> dict[str, str]:
    """Return the entries of a Google section of a docstring."""
    text = inspect.getdoc(owner) or ""
    block = re.search(rf"\n{section}:\n((?:    .*\n?|\n)*)", text)
    entries = re.findall(r"(?m)^    (\w+): ((?:.*\n?)(?:     +.*\n?)*)", block.group(1) if block else "")
    return {name: " ".join(value.split()) for name, value in entries}


# Python interface


def api_page() -> str:
    """Return the page of the Python interface."""
    example = inspect.cleandoc((inspect.getdoc(api) or "").split("Example:\n")[1].split("\n\n")[0]).replace(">>> ", "")
    lines = ["# Python interface\n", f"```python\n{example}\n```\n"]
    lines += ["Errors are subclasses of `tapir_exp.core.errors.TapirError`, with a message for people.\n"]
    for function in (api.compose, api.run, api.open_run):
        lines += [_function(function, f"tapir_exp.{function.__name__}", "##")]
    for owner in (api.Run, api.Lineage, api.LineageStep, api.Student):
        lines += [f"## tapir_exp.{owner.__name__}\n\n{_markdown(owner)}\n"]
        lines += [f"- `{name}`: {text}" for name, text in _attributes(owner).items()]
        for name, member in vars(owner).items():
            if not name.startswith("_") and (inspect.isfunction(member) or hasattr(member, "__doc__")):
                lines += _member(owner, name, member)
    return "\n".join(lines) + "\n"


def _member(owner: type, name: str, member: Any) -> list[str]:
    if inspect.isfunction(member):
        return [_function(member, f"{owner.__name__}.{name}", "###")]
    getter = getattr(member, "fget", None) or getattr(member, "func", None)
    if getter is None:
        return []
    kind = inspect.signature(getter).return_annotation
    shown = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return [f"\n### {owner.__name__}.{name}\n\n```python\n{name}: {_short(shown)}\n```\n\n{_markdown(getter)}\n"]


def _function(function: Any, title: str, level: str) -> str:
    signature = _short(str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()"))
    lines = [f"\n{level} {title}\n\n```python\n{function.__name__}{signature}\n```\n", _markdown(function), ""]
    for section in ("Args", "Raises"):
        word = "" if section == "Args" else "raises "
        lines += [f"- {word}`{name}`: {text}" for name, text in _attributes(function, section).items()]
    return "\n".join(lines) + "\n"


def _short(text: str) -> str:
    """Drop modules and quotes from an annotation."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace("'", "")


# Hooks of MkDocs


def on_config(config: Any) -> Any:
    """List every page of the folders of `FILLED` in the navigation."""
    for section in config.nav:
        for title, listed in section.items():
            if title in FILLED:
                known = {next(iter(item.values())) if isinstance(item, dict) else item for item in listed}
                found = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / FILLED[title]).glob("*.md"))
                listed.extend(path for path in found if path not in known)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the included pages, and the images that pages outside `docs` show."""
    from mkdocs.structure.files import File

    included = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in INCLUDED.items()}
    for path, text in {**pages(), **included}.items():
        files.append(File.generated(config, path, content=text))
    for image in [*(ROOT / "sweeps").glob("*.svg"), *(ROOT / "docs").glob("assets/*.svg")]:
        path = f"assets/{image.name}"
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files outside `docs` into links to their pages, or into names of files."""
    uri = page.file.src_uri
    source = next((name for name, shown in INCLUDED.items() if shown == uri), None)
    base = ROOT if source else (DOCS / uri).parent
    return link_inside(markdown, base, uri)


def link_inside(markdown: str, base: Path, uri: str) -> str:
    """Return the text with links that stay inside the site; a link to a missing file is logged as a warning.

    Args:
        markdown: The text of a page.
        base: Directory that its links are relative to.
        uri: Path of the page below `docs`.
    """

    def replace(match: re.Match[str]) -> str:
        bang, text, target, anchor = match.group(1), match.group(2), match.group(3), match.group(4) or ""
        if re.match(r"[a-z]+:", target):
            return match.group(0)
        path = Path(os.path.normpath(base / target))
        inside = _page_of(path)
        if inside is None:
            generated = path.is_relative_to(DOCS) and path.relative_to(DOCS).as_posix() in GENERATED
            if generated:
                inside = path.relative_to(DOCS).as_posix()
            elif not path.exists():
                log.warning(f"{uri}: the link to {target} leads to no file of the repository")
                return match.group(0)
            else:
                name = path.relative_to(ROOT).as_posix()
                return f"`{name}`" if text.strip("`") in (name, target) else f"{text} (`{name}`)"
        start = os.path.dirname(uri)
        return f"{bang}[{text}]({os.path.relpath(inside, start or '.')}{anchor})"

    return LINK.sub(replace, markdown)


GENERATED = {f"reference/{name}.md" for name in ("config", "presets", "commands", "formats", "api")}


def _page_of(path: Path) -> str | None:
    """Return the path in the site of a file of the repository; None if the site does not have it."""
    if not path.is_file():
        return None
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    if path.parent == ROOT and path.name in INCLUDED:
        return INCLUDED[path.name]
    if path == ROOT / "README.md":
        return "index.md"
    return f"assets/{path.name}" if path.suffix in IMAGES else None
