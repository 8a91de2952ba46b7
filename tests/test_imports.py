"""What a module may import, and what must not be loaded before a job starts."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tapir_exp"
HEAVY = ("torch", "litellm", "transformers", "wandb", "pytorch_lightning", "lightning", "peft", "datasets")
LAYERS = {
    0: {"__init__", "errors", "taxonomy", "schema", "console", "places", "words", "inspection"},
    1: {"records", "validate", "prompts", "source"},
    2: {"config", "store"},
    3: {
        "manifest",
        "explain",
        "llm",
        "local",
        "evals/__init__",
        "evals/statistics",
        "evals/files",
        "tracking",
        "memory",
    },
    4: {
        *{"apart", "evals/labels", "replies", "lab", "tasks", "difficulty", "novelty", "duplicates", "decontamination"},
        *{"evaluation", "evals/held_out", "evals/win_rate", "provenance"},
    },
    5: {"schedule", "seeds", "judge", "labellers", "teacher", "student", "evals/lab", "evals/length_control"},
    6: {"pool", "expansion", "bench", "estimate", "metrics", "report", "reread", "subject", "export"},
    7: {"stages", "scoring", "evals/alpaca_eval", "evals/mt_bench", "evals/ifeval"},
    8: {"held_out", "suites"},
    9: {"rounds"},
    10: {"run"},
    11: {"evaluate", "labelling"},
    12: {"cli"},
    13: {"__main__", "label_cli", "plan"},
    14: {"inspect_cli"},
}
"""Every module, by its own name or that of its room (a directory): imports go to lower layers or stay in the room."""
TORCH_ROOMS = {"apart", "student", "lab/base_student", "local/convert", "labellers/encoder", "labellers/deberta"}
WHOLE_RUN = {"bench", "run", "evaluate", "explain", "cli", "estimate", "plan", "inspect_cli"}
"""The modules that may know the whole configuration."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


MODULES = {name_of(path): path for path in modules()}
STAGES = {
    "seeds": {name for name in MODULES if name.startswith("seeds/")},
    "judge": {name for name in MODULES if name.startswith("judge/")},
    "labellers": {name for name in MODULES if name.startswith("labellers/")},
    "teacher": {"teacher", "expansion", "novelty"},
}
"""The stages that talk to models or fetch the seeds, each with the modules it is made of."""
each_module = pytest.mark.parametrize("name", MODULES)


def places_of(name: str) -> list[str]:
    """A module's own name and those of the rooms that it is in, the smallest first."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def entry_of(name: str) -> tuple[int, str]:
    """Layer and name of the most particular entry that a module has in the table."""
    for place in places_of(name):
        for layer, names in LAYERS.items():
            if place in names:
                return layer, place
    pytest.fail(f"{name} has no layer: give it one in LAYERS")


def imported(path: Path) -> set[str]:
    """Every dotted name that `path` imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.update({f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def own(path: Path) -> set[str]:
    """The modules of the package that `path` imports."""
    dotted = {name.removeprefix("tapir_exp").removeprefix(".") for name in imported(path) if is_own(name)}
    names = {name.replace(".", "/") for name in dotted}
    return {found for name in names for found in (name or "__init__", f"{name}/__init__") if found in MODULES}


def is_own(dotted: str) -> bool:
    return dotted.split(".")[0] == "tapir_exp"


@each_module
def test_every_module_has_a_layer(name: str) -> None:
    assert entry_of(name)


def test_the_table_of_layers_names_what_there_is_and_once() -> None:
    named = [place for names in LAYERS.values() for place in names]
    assert len(set(named)) == len(named)
    assert set(named) <= {place for name in MODULES for place in places_of(name)}


@each_module
def test_imports_stay_in_the_room_or_point_to_lower_layers(name: str) -> None:
    layer, room = entry_of(name)
    entries = {other: entry_of(other) for other in own(MODULES[name])}
    assert [other for other, (its, place) in entries.items() if its >= layer and (its, place) != (layer, room)] == []


def test_the_imports_are_seen() -> None:
    assert own(MODULES["stages"]) >= {"__init__", "expansion", "teacher", "bench", "lab/base_student", "student/train"}
    assert own(MODULES["lab/provider"]) == {"lab/__init__", "lab/oracle", "llm/providers"}
    assert own(MODULES["student/module"]) >= {"config", "student/data"}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_import_no_other_stage(stage: str) -> None:
    others = set().union(*(parts for name, parts in STAGES.items() if name != stage))
    for part in STAGES[stage]:
        assert not own(MODULES[part]) & others


@each_module
def test_only_what_carries_out_the_run_knows_the_whole_configuration(name: str) -> None:
    if name in WHOLE_RUN or name == "config":
        return
    assert "tapir_exp.config.Config" not in imported(MODULES[name])
    assert "tapir_exp.config" not in aliases(MODULES[name])


def aliases(path: Path) -> set[str]:
    """The modules that `path` imports as a whole, so that all of their names are at hand."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "tapir_exp"]
    return {alias.name for alias in plain} | {f"tapir_exp.{alias.name}" for node in froms for alias in node.names}


@each_module
def test_only_the_student_rooms_import_torch(name: str) -> None:
    if TORCH_ROOMS & set(places_of(name)):
        return
    tops = {dotted.split(".")[0] for dotted in imported(MODULES[name])}
    assert not tops & {"torch", "transformers", "peft", "pytorch_lightning", "lightning"}


def test_nothing_but_the_student_rooms_loads_anything_heavy() -> None:
    names = [name for name in MODULES if not TORCH_ROOMS & set(places_of(name)) and name != "__main__"]
    dotted = ["tapir_exp." + name.replace("/", ".") for name in names]
    code = (
        "import importlib, sys\n"
        f"for name in {dotted!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    if heavy: sys.exit(f'{name} loads {heavy}')\n"
        "print(len(sys.modules) > 100)"
    )
    assert run_python("-c", code).stdout.strip() == "True"


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["teacher=gpt4"]], ids=" ".join)
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['tapir', *arguments]!r}\n"
        "from tapir_exp.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    assert run_python("-c", code).stderr.strip().endswith("[]")


def test_help_takes_less_than_a_second_of_work() -> None:
    code = (
        "import sys, time; sys.argv = ['tapir', '--help']\n"
        "from tapir_exp.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    seconds = min(float(run_python("-c", code).stderr.split()[-1]) for _ in range(2))
    assert seconds < 1  # about 0.3


def run_python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    started = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    return done
