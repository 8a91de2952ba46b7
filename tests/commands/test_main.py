"""The command `tapir`: its commands, help, version and exit codes."""

import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from assets import HEAVY, ROOT

from tapir_exp import __version__
from tapir_exp.commands.main import COMMANDS, main
from tapir_exp.core.errors import TapirError


def run_python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120)


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(arguments)
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]], ids=" ".join)
def test_help_lists_commands_and_overrides(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    text = output_of(capsys, *arguments)
    lines = [line.split() for line in text.splitlines()]
    for name, summary in COMMANDS.items():
        assert [name, *summary.split()] in lines
    assert "tapir arm=no_refinement seed=3" in text
    assert "tapir -sc install=bash" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_command_prints_its_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    def help_of(*arguments: str) -> str:
        with suppress(SystemExit):  # argparse exits after its help
            main(arguments)
        return capsys.readouterr().out

    text = help_of(name, "--help")
    assert f"tapir {name}" in text
    assert help_of("help", name) == help_of(name, "-h") == text


def test_every_command_module_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "tapir_exp/commands").glob("*.py")}
    shared = {"__init__", "main", "hydra_app", "command_line", "naming", "registration", "finished"}
    jobs = {"run_job", "evaluate_job", "plan_job", "classify_jobs", "doctor_job", "judge_check_job"}
    jobs |= {"classify_pool", "plan_table", "student_names", "tracking", "view_job"}
    jobs |= {"dry_run", "plan_evaluation", "recording"}
    assert modules - shared - jobs == {name.replace("-", "_") for name in COMMANDS}
    assert all(callable(import_module(f"tapir_exp.commands.{name.replace('-', '_')}").main) for name in COMMANDS)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, "--version") == f"tapir_exp {__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("evalute", "did you mean `tapir evaluate`?"),
        ("plna", "did you mean `tapir plan`?"),
        ("seed", "`tapir --help` lists the commands"),
    ],
)
def test_unknown_command_suggests_a_near_one(capsys: pytest.CaptureFixture[str], word: str, hint: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([word, "seed=1"])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"tapir: {word}: expected a command, or an override such as key=value ({hint}).\n")


def test_only_script_of_the_package_is_tapir() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"tapir": "tapir_exp.commands.main:main"}


@pytest.mark.slow
def test_python_m_is_the_same_command() -> None:
    assert run_python("-m", "tapir_exp", "--version").stdout == f"tapir_exp {__version__}\n"
    done = run_python("-m", "tapir_exp", "seed=x")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["--cfg", "job"],
        ["teacher=gpt4"],
        ["classify", "--help"],
        ["classify", "--cfg", "job=train"],
        ["classify", "folds=1"],
        ["plan", "--help"],
        ["plan", "teacher=gpt4"],
        ["inspect", "seed=x"],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from tapir_exp.commands.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {(*HEAVY, 'numpy', 'sklearn')!r} if m in sys.modules], file=sys.stderr)"
    )
    done = run_python("-c", code)
    assert done.stderr.strip().endswith("[]"), done.stderr


def test_help_imports_only_the_standard_library() -> None:
    code = (
        "import sys\n"
        "from tapir_exp.commands.main import main\n"
        "main(['--help'])\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(str(sorted(names & {'hydra', 'omegaconf', 'rich', 'pydantic', 'yaml', 'numpy'})))"
    )
    assert run_python("-c", code).stderr.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["plan", "debug=tiny"], ("aiohttp", "httpx", "numpy", "pyarrow", "huggingface_hub.hf_api")),
        (["inspect", "seeds.size=8", "--rows", "1"], ("torch", "datasets", "transformers.modeling_utils")),
    ],
    ids=["plan", "inspect"],
)
def test_command_that_only_looks_loads_few_libraries(
    tmp_path: Path, arguments: list[str], absent: tuple[str, ...]
) -> None:
    code = (
        "import sys\n"
        "from tapir_exp.commands.main import main\n"
        f"main({[*arguments, f'outputs={tmp_path}']!r})\n"
        f"sys.exit(str([m for m in {absent!r} if m in sys.modules]))"
    )
    assert run_python("-c", code).stderr.strip().endswith("[]")


@pytest.mark.timing
@pytest.mark.parametrize(("arguments", "limit_s"), [(["--help"], 0.5), (["run", "--help"], 1.0)], ids=["tapir", "run"])
def test_help_takes_little_cpu_time(arguments: list[str], limit_s: float) -> None:
    code = f"from tapir_exp.commands.main import main; main({arguments!r}); import time; print(time.process_time())"
    assert float(run_python("-c", code).stdout.split()[-1]) < limit_s


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("command", [[], ["run"]], ids=["tapir", "run"])
def test_shell_completion_is_installed_by_hydra(command: list[str], shell: str) -> None:
    done = run_python("-m", "tapir_exp", *command, "-sc", f"install={shell}")
    assert done.returncode == 0, done.stderr
    assert "hydra" in done.stdout
    assert "-sc query=" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("line", ["tapir student=sm", "tapir run student=sm", "tapir evaluate student=sm"])
def test_shell_completion_lists_choices(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert "student=smollm2_135m" in run_python("-m", "tapir_exp", "-sc", "query=bash").stdout.split()


def test_shell_completion_lists_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "tapir re")
    monkeypatch.setenv("COMP_POINT", "8")
    assert {"report", "reparse"} <= set(run_python("-m", "tapir_exp", "-sc", "query=bash").stdout.split())


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "nohup"])
def test_hang_up_stops_as_a_termination_unless_ignored(
    monkeypatch: pytest.MonkeyPatch, before: signal.Handlers
) -> None:
    class Hanging:
        @staticmethod
        def main(arguments: list[str]) -> None:
            signal.raise_signal(signal.SIGHUP)
            raise TapirError("went on")

    monkeypatch.setattr("tapir_exp.commands.main.import_module", lambda name: Hanging)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, before)
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["cache"])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert stopped.value.code == (130 if before is signal.SIG_DFL else 1)
