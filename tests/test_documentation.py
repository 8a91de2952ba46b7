"""Pages, examples and README are true: commands work, links lead somewhere, and the reference holds everything."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assets import ROOT
from scripts import load_script
from synthetic_run import SyntheticRun

from tapir_exp.commands.command_line import _composer, split_jobs, split_sweep
from tapir_exp.commands.main import COMMANDS
from tapir_exp.config import Config
from tapir_exp.config.compose import Composer
from tapir_exp.config.root import CLASSIFY_SCHEMA, SCHEMA, parse_classify
from tapir_exp.core.records import Record

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.sh"))]
FENCE = re.compile(r"^( *)(<!-- run -->\n)? *```(console|python|bash)\n(.*?)^ *```", re.M | re.S)
COMPOSED = {"run": "config", "plan": "config", "inspect": "config", "judge-check": "config", "evaluate": "evaluate"}
"""Verbs whose arguments are overrides, each with its primary configuration."""
OWN_OPTIONS = {
    "--rows": 1,
    "--probe": 1,
    "--pairs": 1,
    "--limit": 1,
    "--replies": 1,
    "--delta": 1,
    "--output-dir": 1,
    "--cfg": 1,
}
"""Options of these verbs, with their number of values."""
ELIDED = ("experiment=llama2_7b_paper", "allow_lab_parts=true")
FILE_MISSING = r"that exists|directory of a finished run|expected a (file|directory)"
OTHER_PROGRAMS = (
    "cd",
    "curl",
    "eval",
    "export",
    "git",
    "hf",
    "mkdir",
    "mlflow",
    "open",
    "rm",
    "set",
    "tensorboard",
    "vllm",
    "wandb",
)
"""Programs that are not ours, and whose commands are not checked."""


GENERATOR = load_script("docs/generate.py")


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    pages: dict[str, str] = GENERATOR.pages()
    return pages


def commands_of(text: str, suffix: str) -> Iterator[tuple[bool, str, str]]:
    """Yield (run, language, command) of each fence of a page, or of each line of a script."""
    if suffix == ".sh":
        joined = text.replace("\\\n", " ")
        yield from ((False, "console", line) for line in joined.splitlines() if line and not line.startswith("#"))
        return
    for match in FENCE.finditer(text):
        marked, language, body = bool(match.group(2)), match.group(3), match.group(4)
        if language == "console":
            lines = re.findall(r"^ *\$ (.*)$", body.replace("\\\n", " "), re.M)
            yield from ((marked, language, line) for line in lines)
        elif language == "python" and marked:
            yield marked, language, body


def check_command(line: str) -> list[str]:
    """Return what is wrong with a command, without running it."""
    words = shlex.split(line.replace("…", ""), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if not words or words[0] in OTHER_PROGRAMS:
        return []
    match Path(words[0]).name, words[1:]:
        case "make", [target, *_]:
            return [] if re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) else [f"no target {target}"]
        case "pip", [*rest]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            asked = {name for word in rest for found in re.findall(r"\[(.*)\]", word) for name in found.split(",")}
            return [f"no extra {name}" for name in asked - set(extras)]
        case "python", ["-m", "tapir_exp", *rest]:
            return check_tapir(rest)
        case "python", [script, *_]:
            return [] if (ROOT / script).is_file() or script == "-m" else [f"no file {script}"]
        case "tapir", rest:
            # An ellipsis stands for the choice of the other parts.
            return check_tapir([*ELIDED, *rest] if "…" in line else rest)
    return [f"an unknown program: {words[0]}"]


def check_tapir(words: list[str]) -> list[str]:
    verb, arguments = (words[0], words[1:]) if words and words[0] in COMMANDS else ("run", words)
    if {"--help", "-h", "--version", "-sc"} & set(arguments):
        return []
    if (verb, arguments[:1]) == ("plan", ["evaluate"]):
        verb, arguments = "evaluate", arguments[1:]
    if verb == "classify":
        return problems_of(arguments, "classify")
    if verb in COMPOSED:
        judges = verb == "judge-check"
        arguments = without_options([*arguments, "allow_lab_parts=true"] if judges else arguments)
        return problems_of(arguments, COMPOSED[verb], sweep=judges)
    shown = GENERATOR.command_help(verb)
    named = [word for word in arguments if word.startswith("--")]
    return [f"{verb} has no {word}" for word in named if verb != "cache" and word.split("=")[0] not in shown]


def without_options(arguments: list[str]) -> list[str]:
    left, skipped = [], 0
    for word in arguments:
        if skipped:
            skipped -= 1
        elif word in OWN_OPTIONS:
            skipped = OWN_OPTIONS[word]
        else:
            left.append(word)
    return left


def problems_of(arguments: list[str], config_name: str, *, sweep: bool = False) -> list[str]:
    composer, multirun = _composer(arguments, config_name)
    if config_name == "classify":
        composer = Composer(composer.loader, config_name, composer.typed, CLASSIFY_SCHEMA, parse_classify)
    jobs = split_sweep(composer.typed) if sweep else [list(composer.typed)]
    jobs = split_jobs(composer) if multirun else jobs
    # Files that a command names are those of its reader.
    return [problem for problem in composer.problems(jobs[0]) if not re.search(FILE_MISSING, problem)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p not in TUTORIALS], ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_of_a_page_compose(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overrides are composed, options are compared with the help: what a page shows is at least accepted."""
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for _, language, line in commands_of(page.read_text(encoding="utf-8"), page.suffix):
        if language == "console" and (problems := check_command(line)):
            wrong[line] = problems
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        *("make runs", "pip install -e '.[lokal]'", "tapir techer=lab", "tapir export a b --puhs x", "tapri"),
        *("tapir evaluate evals=mtbench", "tapir classify jobb=train", "python examples/none.py"),
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    assert check_command(line) != []


@pytest.mark.parametrize("schema", [SCHEMA, CLASSIFY_SCHEMA], ids=["run", "classify"])
def test_every_key_is_in_the_reference_with_its_help(schema: Any, reference: dict[str, str]) -> None:
    page = reference["reference/config.md"]
    keys = [key for key in schema.keys if key and not schema.is_section(key)]
    missing = [key for key in keys if f"`{key}`" not in page and f"## {key} " not in page]
    silent = [key for key in schema.keys if key and not GENERATOR._help(schema, key)]
    assert (missing, silent) == ([], [])


def test_every_verb_and_preset_is_in_the_reference(reference: dict[str, str]) -> None:
    assert all(f"## {name}\n" in reference["reference/commands.md"] for name in COMMANDS)
    leaves = [leaf.stem for leaf in (ROOT / "conf").glob("*/*.yaml")]
    assert [name for name in leaves if f"`{name}`" not in reference["reference/presets.md"]] == []


def test_every_metric_of_a_run_is_in_the_reference(base: Config, tmp_path: Path) -> None:
    SyntheticRun(tmp_path, base, held_out_instructions=8, size=60).write()
    lines = (tmp_path / SyntheticRun.name / "metrics.jsonl").read_text().splitlines()
    found = {name for line in lines for name in json.loads(line)}
    names = {re.sub(r"/level/.*", "/level/N", re.sub(r"/task/.*", "/task/TYPE", name)) for name in found}
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.fixture
def base(compose_config: Any) -> Config:
    config: Config = compose_config("logger=disabled")
    return config


def test_every_record_and_field_is_in_the_reference(reference: dict[str, str]) -> None:
    page = reference["reference/formats.md"]
    for record in GENERATOR._records():
        assert issubclass(record, Record)
        assert all(f"| `{name}` |" in page for name in record.model_fields), record


def test_a_link_to_a_missing_file_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    inside = GENERATOR.link_inside("[a](../README.md) [b](../gone.md) [c](../tapir_exp/api.py)", ROOT / "docs", "x.md")
    assert inside == "[a](index.md) [b](../gone.md) c (`tapir_exp/api.py`)"
    assert "gone.md" in caplog.text


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "AGENTS.md", "examples/README.md", "llms.txt"])
def test_links_of_a_page_at_the_root_lead_to_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)|(?:src|srcset)=\"([^\"]+)\"", text)
    targets = [first or second for first, second in links if not (first or second).startswith("http")]
    assert targets != []
    assert [target for target in targets if not (ROOT / name).parent.joinpath(target).exists()] == []


def test_readme_is_one_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1100


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    built = run_in(ROOT, [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)])
    assert "Documentation built" in built
    assert (tmp_path / "reference" / "config.html").is_file()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which the smallest run is finished, so that the pages reuse its stages."""
    directory = tmp_path_factory.mktemp("pages")
    run_in(directory, ["tapir", "debug=tiny"])
    return directory


def run_in(directory: Path, command: list[str]) -> str:
    """Run a command as a reader would, and return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_runs_as_written(page: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fences after `<!-- run -->` are executed in order; the other commands are composed, after what they build on."""
    monkeypatch.chdir(workdir)
    for marked, language, text in commands_of(page.read_text(encoding="utf-8"), page.suffix):
        if language == "python":
            run_in(workdir, [sys.executable, "-c", text])
        elif marked:
            run_in(workdir, ["bash", "-c", text])
        else:
            assert check_command(text) == [], text


@pytest.mark.slow
def test_library_example_prints_a_lineage(workdir: Path) -> None:
    printed = run_in(workdir, [sys.executable, str(ROOT / "examples" / "use_as_library.py")])
    assert "S_2: loss" in printed
    assert "teacher_responses" in printed


@pytest.mark.slow
def test_notebook_runs(workdir: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra [docs]")
    nbformat = pytest.importorskip("nbformat")
    run_in(workdir, ["tapir", "debug=tiny"])  # commands of a page may have made another run the latest
    notebook = nbformat.read(ROOT / "examples" / "explore_a_run.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(workdir)}}).execute()
    assert "train_mix-2" in str(notebook.cells[-1].outputs)
