"""What a module may import, and what must not be loaded before a job starts."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tapir_exp"
HEAVY = ("torch", "litellm", "transformers", "wandb", "pytorch_lightning", "peft", "datasets")
TORCH_ROOMS = ("student/", "lab/base_student.py")
FOUNDATION = {"errors", "records", "taxonomy", "schema", "validate", "console"}
STAGES = {
    "seeds": {"seeds"},
    "judge": {"judge"},
    "classify": {"classify"},
    "teacher": {"teacher", "expansion", "novelty"},
}
"""The stages that talk to models, each with the modules it is made of."""
ENTRIES = {"run", "cli", "evaluate", "plan", "__main__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imported(path: Path, *, everywhere: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def rooms(path: Path, *, everywhere: bool = True) -> set[str]:
    """First part of every module of the package that `path` imports."""
    parts = [name.split(".") for name in imported(path, everywhere=everywhere)]
    known = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in modules()}
    return {part[1] for part in parts if part[0] == "tapir_exp" and len(part) > 1 and part[1] in known}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_entry_points_know_the_whole_run(path: Path) -> None:
    if name_of(path) in ENTRIES:
        return
    assert not rooms(path) & ENTRIES


@pytest.mark.parametrize("name", sorted(FOUNDATION))
def test_the_foundation_imports_nothing_above_it(name: str) -> None:
    assert rooms(PACKAGE / f"{name}.py") <= FOUNDATION - {name}


def test_the_configuration_rests_on_the_foundation_alone() -> None:
    assert rooms(PACKAGE / "config.py") <= FOUNDATION


@pytest.mark.parametrize("stage", STAGES)
def test_stages_import_no_other_stage_and_never_the_whole_configuration(stage: str) -> None:
    others = set().union(*(parts for name, parts in STAGES.items() if name != stage))
    for part in STAGES[stage]:
        assert not rooms(PACKAGE / f"{part}.py") & others
        assert "tapir_exp.config.Config" not in imported(PACKAGE / f"{part}.py")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_student_rooms_import_torch(path: Path) -> None:
    if name_of(path).startswith("student/") or f"{name_of(path)}.py" in TORCH_ROOMS:
        return
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"torch", "transformers", "peft", "pytorch_lightning", "lightning"}


@pytest.mark.parametrize("module", ["config", "records", "cli", "explain"])
def test_a_light_module_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, tapir_exp.{module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python("-c", code).stdout.strip() == "[]"


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
