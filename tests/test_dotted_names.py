"""Dotted names of the package in texts, such as `tapir_exp.commands.main`, resolve to modules and attributes.

Tools do not see such names: `_target_` in YAML, `-m` in command lines, entry points, patched names in tests.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from assets import ROOT

SUFFIXES = {".py", ".yaml", ".toml", ".md", ".jinja"}
FOLDERS = ("tapir_exp", "conf", "sweeps", "tests", "benchmarks", "docs", "examples")
THIS = Path(__file__)
DOTTED = re.compile(r"(?<![\w./-])(tapir_exp(?:\.[A-Za-z_]\w*)+(?::\w+)?)")
PATH = re.compile(r"(?<![\w./-])tapir_exp/[\w/]+(?:\.(?:py|md|yaml|json|jinja))?(?![\w/.-]*[*<{])")


@cache
def texts() -> dict[str, str]:
    """Return the texts of the repository's files, by path; this file names modules that do not exist."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    files += [ROOT / name for name in ("pyproject.toml", "Makefile", "README.md")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files if path != THIS}


def resolves(dotted: str) -> bool:
    """Return whether a name is a module of the package, or begins with a module and one of its names."""
    parts = dotted.replace(":", ".").split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        for module in (path / "__init__.py", path.with_suffix(".py")):
            if module.is_file():
                return length == len(parts) or parts[length] in module_names(module)
    return False


@cache
def module_names(module: Path) -> frozenset[str]:
    """Return the names that a module defines or imports at its top level."""
    names = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
            case ast.Assign() | ast.AnnAssign():
                names.update(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):  # names that `__getattr__` imports when they are used
                imports = [part for part in node.body if isinstance(part, ast.ImportFrom)]
                names.update(alias.name for part in imports for alias in part.names)
    return frozenset(names)


def test_dotted_names_resolve() -> None:
    names = {match[1]: path for path, text in texts().items() for match in DOTTED.finditer(text)}
    assert len(names) > 100
    assert {name: path for name, path in names.items() if not resolves(name)} == {}


def test_paths_of_the_package_exist() -> None:
    """Documents may name files of an example; pyproject.toml names those that the wheel adds."""
    own = {path: text for path, text in texts().items() if path.split("/")[0] not in ("docs", "pyproject.toml")}
    paths = {match[0]: path for path, text in own.items() for match in PATH.finditer(text)}
    assert len(paths) > 1
    assert {name: path for name, path in paths.items() if not exists(ROOT / name)} == {}


def exists(path: Path) -> bool:
    """Return whether a file, a directory, or a module without its suffix exists."""
    return path.exists() or path.with_name(f"{path.name}.py").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tapir_exp.commands", True),
        ("tapir_exp.commands.main", True),
        ("tapir_exp.commands.main:main", True),
        ("tapir_exp.config.Config", True),
        ("tapir_exp.commands.main.nothing", False),
        ("tapir_exp.nothing", False),
    ],
)
def test_only_known_names_resolve(name: str, expected: bool) -> None:
    assert resolves(name) is expected
