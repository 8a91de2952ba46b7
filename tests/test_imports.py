"""Imports point one way, the whole configuration stays with those who compose it, and torch stays in its rooms."""

import ast
import subprocess
import sys
from pathlib import Path

from assets import HEAVY, ROOT

PACKAGE = ROOT / "tapir_exp"
ROOMS = (
    ("core",),
    ("config",),
    ("llm",),
    ("lab",),
    ("data", "student", "evals"),
    ("distillation",),
    ("pipeline", "report"),
    ("tapir",),
    ("commands",),
    ("api",),
    ("__init__", "__main__"),
)
"""The rooms from the ground up. A room imports lower floors only; rooms on one floor do not import each other."""
INDEPENDENT = ("judge", "classifier", "curriculum")
"""Rooms inside `distillation` that import no sibling."""
TORCH = ("core/determinism", "student", "lab/base_student", "distillation/classifier/encoder")
TORCH += ("distillation/classifier/deberta",)
TORCH += ("report/trackers/tensorboard", "report/trackers/mlflow", "report/trackers/csv_files")  # Lightning's loggers
"""Where torch and transformers may be imported."""
WHOLE_CONFIG = ("config", "pipeline", "tapir", "commands", "api")
"""Rooms that may know the whole configuration; all others get the section of their own."""


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imported(tree: ast.Module) -> set[str]:
    """Return every dotted name that a module imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.update({f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


# Each file is parsed once; every test below reads this table.
IMPORTS = {name_of(path): imported(ast.parse(path.read_text(encoding="utf-8"))) for path in PACKAGE.rglob("*.py")}
FLOOR = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}


def own_imports(name: str) -> set[str]:
    """Return the modules of the package that a module imports, as paths below the package."""
    dotted = [other for other in IMPORTS[name] if other.startswith("tapir_exp.")]
    paths = [other.removeprefix("tapir_exp.").replace(".", "/") for other in dotted]
    return {module for path in paths for module in (path, f"{path}/__init__") if module in IMPORTS} - {name}


def room_of(name: str) -> str:
    return name.split("/")[0]


def is_within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(f"{room}/") for room in rooms)


def test_every_room_has_a_floor() -> None:
    assert {room_of(name) for name in IMPORTS} == set(FLOOR)


def test_imports_point_down_or_stay_in_the_room() -> None:
    upward = {
        f"{name} -> {other}"
        for name in IMPORTS
        for other in own_imports(name)
        if room_of(other) != room_of(name) and FLOOR[room_of(other)] >= FLOOR[room_of(name)]
    }
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Remove modules that import nothing left, again and again: what stays is a circle."""
    # A package's face names its parts, and the parts import their package's name: that is no circle of code.
    faces = {name for name in IMPORTS if name.endswith("__init__")}
    left = {name: own_imports(name) - faces for name in IMPORTS if name not in faces}
    while free := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in free}
    assert sorted(left) == []


def test_imports_are_found() -> None:
    assert own_imports("student/training/lightning_module") >= {"config/__init__", "student/training/batching"}


def test_parts_of_the_method_are_independent() -> None:
    for part in INDEPENDENT:
        others = tuple(f"distillation/{other}" for other in ("teacher", "expansion", *INDEPENDENT) if other != part)
        for name in IMPORTS:
            if name.startswith(f"distillation/{part}/"):
                assert not [other for other in own_imports(name) if is_within(other, others)], name


def test_only_the_upper_rooms_know_the_whole_configuration() -> None:
    knowing = {room_of(name) for name, names in IMPORTS.items() if "tapir_exp.config.Config" in names}
    assert knowing - set(WHOLE_CONFIG) == set()


def test_torch_stays_in_its_rooms() -> None:
    heavy = {"torch", "transformers", "peft", "pytorch_lightning", "lightning"}
    importing = {name for name, names in IMPORTS.items() if heavy & {other.split(".")[0] for other in names}}
    assert {name for name in importing if not is_within(name, TORCH)} == set()


def test_only_torch_rooms_load_anything_heavy() -> None:
    """Import every other module in one process and see that no heavy library came along."""
    names = [name for name in IMPORTS if not is_within(name, TORCH) and name != "__main__"]
    dotted = ["tapir_exp." + name.removesuffix("/__init__").replace("/", ".") for name in names if name != "__init__"]
    code = (
        "import importlib, sys\n"
        f"for name in {dotted!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    if heavy: sys.exit(f'{name} loads {heavy}')\n"
        "print(len(sys.modules) > 100)"
    )
    assert run_python("-c", code).stdout.strip() == "True"


def run_python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_modules_have_at_most_400_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
