"""The command: exit codes, what a mistake prints, and where runs and sweeps go."""

import io
import os
import subprocess
import sys
import types
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from assets import ROOT
from rich.console import Console
from yaml import YAMLError

from tapir_exp.commands import hydra_app
from tapir_exp.commands.hydra_app import _file_name, _run_name, _sweep_name, data_dir
from tapir_exp.config import paths

STUBS = '''
"""Stands in for the run itself and for the sweep's report, in this process and in every worker."""
import os, sys, types

def run(config, run_dir, resolved, sweep_dir=None):
    threads = os.environ.get("OMP_NUM_THREADS")
    with open("runs.log", "a") as log:
        log.write(f"{run_dir.relative_to(os.getcwd())} {config.arm} {config.seed} {threads}\\n")
    (run_dir / "config.yaml").write_text(resolved)
    if config.name == "interrupted": raise KeyboardInterrupt
    if config.name == "failing":
        from tapir_exp.core.errors import StoreError
        raise StoreError("the artifact is damaged")
    if config.name == "refused":
        from tapir_exp.core.errors import ConfigError
        raise ConfigError(["no key"])
    if config.name == "unreadable":
        import yaml
        yaml.safe_load("[")
    if config.name == "broken": raise RuntimeError("a bug")

def write_sweep_report(sweep_dir):
    if os.environ.get("REPORT") == "broken": raise RuntimeError("no report")
    (sweep_dir / "report.txt").write_text("done")

modules = {"tapir_exp.commands.run": types.ModuleType("run"), "tapir_exp.report.sweep.page": types.ModuleType("sweep")}
modules["tapir_exp.commands.run"].run = run
modules["tapir_exp.report.sweep.page"].write_sweep_report = write_sweep_report
sys.modules.update(modules)
'''


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


class Tapir:
    """The command in a directory of its own, with the run replaced by a note of its arguments."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._patch = monkeypatch

    def __call__(self, *arguments: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        self._patch.setattr(sys, "argv", ["tapir", *arguments])
        self._patch.setattr(hydra_app, "console", Console(file=err, width=80, highlight=False))
        with redirect_stdout(out), redirect_stderr(err):
            code = self._main()
        return Done(code, out.getvalue(), err.getvalue())

    def _main(self) -> int:
        try:
            hydra_app.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def in_processes(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """The same in a process of its own, and with whatever processes it starts."""
        (self.home / "sitecustomize.py").write_text(STUBS)
        path = f"{self.home}{os.pathsep}{ROOT}"
        command = [sys.executable, "-m", "tapir_exp", *arguments]
        env = {**os.environ, **environment, "PYTHONPATH": path}
        return subprocess.run(command, capture_output=True, text=True, cwd=self.home, env=env, timeout=300)

    def runs(self) -> list[str]:
        log = self.home / "runs.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def tapir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tapir:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for name in ("tapir_exp.commands.run", "tapir_exp.report.sweep.page"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    exec(STUBS, {})
    return Tapir(tmp_path, monkeypatch)


def test_the_plain_command_runs_the_lab_quietly_in_its_directory(tapir: Tapir) -> None:
    done = tapir()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [line.split()[:2] for line in tapir.runs()] == [["outputs/runs/lab", "tapir"]]


def test_the_same_command_finds_its_directory_again_and_another_has_another(tapir: Tapir) -> None:
    for seed in ("3", "3", "4"):
        tapir(f"seed={seed}", "outputs=elsewhere")
    first, second, third = (line.split()[0] for line in tapir.runs())
    assert first == second != third
    assert first.startswith("elsewhere/runs/lab-")
    assert len(first.removeprefix("elsewhere/runs/lab-")) == 8


def test_the_run_gets_the_resolved_configuration(tapir: Tapir) -> None:
    tapir("lab.teacher_error_rate=0.25", "arm=vanilla_sft")
    text = (tapir.home / tapir.runs()[0].split()[0] / "config.yaml").read_text()
    assert "error_rate: 0.25" in text
    assert "rounds: 0" in text
    assert "${" not in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["teacher=gtp_4o"], ("teacher = gtp_4o: expected one of gpt_3_5_turbo, gpt_4o, lab, local_openai_compatible, "
         "qwen2_5_coder_1_5b_local, qwen_max (did you mean gpt_4o?) [command line]")),
        (["teacherr=lab"], "teacherr = lab: expected a key or a group (did you mean teacher?) [command line]"),
        (["studnt.model=3"], "studnt.model = 3: expected a key of the schema (did you mean student?) [command line]"),
        (["sft.lerning_rate=1"], ("sft.lerning_rate = 1: expected a key of the schema (did you mean "
         "sft.learning_rate?) [command line]")),
        (["student.max_length=abc"], "student.max_length = abc: expected an integer [command line]"),
        (["student.precision=fp16"], "student.precision = fp16: expected one of float32, bfloat16 [command line]"),
        (["seeds.size=x"], "seeds.size = x: expected an integer or null [command line]"),
        (["task_mix.target_distribution.Maths=0"], ("task_mix.target_distribution.Maths = 0: expected a task type of the preset (did you mean Math?); "
         "another takes a plus: +task_mix.target_distribution.Maths [command line]")),
        (["+logger.zz=1"], "logger.zz: expected a key of the schema (there are: mode, project, entity) [command line]"),
        (["seed=1,2"], ("seed = 1,2: expected one value; several are a sweep, which takes --multirun; quote a text "
         "that holds a comma [command line]")),
        (["seed"], "seed: expected key=value; Error parsing override 'seed' missing EQUAL at '<EOF>' [command line]"),
        (["llm@teacher.lm=openai"], ("llm@teacher.lm = openai: expected a key or a group (did you mean llm?) "
         "[command line]")),
        (["--config-name", "lab_ablaton"], ("--config-name = lab_ablaton: expected a config (did you mean "
         "lab_ablation?) [command line]")),
        (["student={max_length: 0}"], "student.max_length = 0: expected at least 1 [command line]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_typo_is_told_in_one_line_before_anything_runs(tapir: Tapir, arguments: list[str], expected: str) -> None:
    done = tapir(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["tapir: The configuration holds one mistake:", f"  - {expected}"]
    assert tapir.runs() == []
    assert not (tapir.home / "outputs").exists()


def test_mistakes_of_every_kind_come_together(tapir: Tapir) -> None:
    done = tapir("teacher=gtp", "student.lr=1", "++studnt.lr=3", "seed=-1", "seeds.size=many")
    assert done.returncode == 2
    keys = [line.split()[1].rstrip(":") for line in done.stderr.splitlines()[1:]]
    assert sorted(keys) == ["seed", "seeds.size", "student.lr", "studnt", "teacher"]


def test_a_secret_reaches_neither_terminal_nor_disk(tapir: Tapir) -> None:
    for override in ("teacher.llm.api_key_env=sk-hidden1", "+teacher.llm.extra_params.api_key=sk-hidden1"):
        for arguments in ([override], ["-m", override, "seed=1,2"], ["-m", f"{override},sk-hidden1b"]):
            done = tapir(*arguments)
            assert done.returncode == 2
            assert "hidden1" not in done.stderr + done.stdout
    written = [path for path in tapir.home.rglob("*") if path.is_file() and "hidden1" in path.read_text()]
    assert written == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lrr: 1", "student.lrr: expected a key of the schema (there are: "),
        ("max_length: abc", "student.max_length = abc: expected an integer [mine/student/odd.yaml]"),
        ("model: x\nmax_length: 0", "student.max_length = 0: expected at least 1 [mine/student/odd.yaml]"),
        ("model: ???", "student.model is missing: expected a text [mine/student/odd.yaml]"),
        ("model: ${lab.sed}", "student.model cannot be read: expected a text; Interpolation key 'lab.sed' not found"),
        ("model: [x", "[mine/student/odd.yaml, line 1]"),
        ("defaults:\n  - /llm@llm: opnai", ("llm = opnai: expected one of dashscope, lab, local_gguf, "
         "local_openai_compatible, openai (did you mean openai?) [mine/student/odd.yaml]")),
    ],
    ids=lambda text: text.split(":")[0],
)  # fmt: skip
def test_a_mistake_in_a_file_names_the_file(tapir: Tapir, text: str, expected: str) -> None:
    (tapir.home / "mine" / "student").mkdir(parents=True)
    (tapir.home / "mine" / "student" / "odd.yaml").write_text(text)
    done = tapir("--config-dir", "mine", "student=odd")
    assert done.returncode == 2
    assert expected in done.stderr
    assert "mine/student/odd.yaml" in done.stderr


def test_a_sweep_runs_every_combination_in_directories_without_time_and_reports(tapir: Tapir) -> None:
    done = tapir("-m", "arm=tapir,lion", "seed=1,2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [line.split()[1:3] for line in tapir.runs()] == [
        ["tapir", "1"],
        ["tapir", "2"],
        ["lion", "1"],
        ["lion", "2"],
    ]
    paths = [Path(line.split()[0]) for line in tapir.runs()]
    assert [place.name for place in paths] == [f"arm-{a}_seed-{s}" for a in ("tapir", "lion") for s in (1, 2)]
    assert {place.parent.parent.as_posix() for place in paths} == {"outputs/sweeps"}
    assert (tapir.home / paths[0].parent / "report.txt").exists()


def test_every_job_of_a_sweep_is_checked_before_the_first_one_starts(tapir: Tapir) -> None:
    done = tapir("-m", "arm=tapir,lionn", "curriculum.delta=1,20", "+student.lrr=1")
    assert done.returncode == 2
    assert tapir.runs() == []
    assert not (tapir.home / "outputs").exists()
    lines = done.stderr.splitlines()
    assert any(
        "arm = lionn" in line and "(in 2 of 4 jobs, first: arm=lionn curriculum.delta=1" in line for line in lines
    )
    assert any("curriculum.delta = 20" in line and "(in 2 of 4 jobs" in line for line in lines)
    assert any("student.lrr" in line and "of 4 jobs" not in line for line in lines)


def test_the_values_that_a_sweep_s_file_lists_are_checked_too(tapir: Tapir) -> None:
    (tapir.home / "mine").mkdir()
    text = (data_dir("sweeps") / "lab_delta.yaml").read_text().replace("0,1,2,3,4", "0,1,20")
    (tapir.home / "mine" / "odd.yaml").write_text(text)
    done = tapir("--config-dir", "mine", "--config-name", "odd")
    assert done.returncode == 2
    assert "curriculum.delta = 20.0: expected from -9 to 9, in points of the judge [mine/odd.yaml]" in done.stderr
    assert tapir.runs() == []


@pytest.mark.parametrize("place", [[], ["--config-dir", str(data_dir("sweeps"))]], ids=["anywhere", "config-dir"])
def test_a_sweep_is_found_by_its_name(tapir: Tapir, place: list[str]) -> None:
    assert tapir(*place, "--config-name", "lab_delta").returncode == 0
    names = [line.split()[0] for line in tapir.runs()]
    assert names == [f"outputs/sweeps/lab_delta/curriculum.delta-{delta}" for delta in range(5)]


@pytest.mark.slow
def test_two_processes_run_with_one_thread_each(tapir: Tapir) -> None:
    done = tapir.in_processes("-m", "launcher=two_processes", "seed=1,2,3", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert sorted(line.split()[2:] for line in tapir.runs()) == [["1", "1"], ["2", "1"], ["3", "1"]]
    assert len({Path(line.split()[0]).parent for line in tapir.runs()}) == 1


@pytest.mark.slow
def test_an_error_comes_back_from_a_worker_as_it_was(tapir: Tapir) -> None:
    done = tapir.in_processes("-m", "launcher=two_processes", "name=refused,lab")
    assert done.returncode == 1
    assert "failed: name-refused: The configuration holds one mistake:\n  - no key" in done.stderr
    assert len(tapir.runs()) == 2


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [("failing", 1, "tapir: the artifact is damaged\n"), ("interrupted", 130, "The same command resumes")],
)
def test_exit_codes_tell_what_happened(tapir: Tapir, name: str, code: int, text: str) -> None:
    done = tapir(f"name={name}")
    assert done.returncode == code
    assert text in done.stderr


def test_a_bug_is_a_traceback(tapir: Tapir) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        tapir("name=broken")


def test_a_bug_of_the_run_is_no_mistake_of_the_configuration(tapir: Tapir) -> None:
    with pytest.raises(YAMLError):
        tapir("name=unreadable")


def test_python_m_is_the_same_command(tapir: Tapir) -> None:
    done = tapir.in_processes("name=failing")
    assert (done.returncode, done.stderr) == (1, "tapir: the artifact is damaged\n")
    done = tapir.in_processes("seed=x")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)


def test_a_failing_job_of_a_sweep_does_not_hide_the_others_and_fails_the_command(tapir: Tapir) -> None:
    done = tapir("-m", "name=failing,broken,lab")
    assert done.returncode == 1
    assert "failed: name-failing: the artifact is damaged" in done.stderr
    assert "failed: name-broken: a bug" in done.stderr
    assert len(tapir.runs()) == 3


def test_a_report_that_fails_is_an_error(tapir: Tapir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORT", "broken")
    with pytest.raises(RuntimeError, match="no report"):
        tapir("-m", "seed=1,2")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_group_and_choice(tapir: Tapir, flag: str) -> None:
    done = tapir(flag)
    assert done.returncode == 0
    leaves = [leaf for leaf in (ROOT / "conf").glob("*/*.yaml")]
    for leaf in leaves:
        line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [leaf.parent.name])
        assert leaf.stem in line
    assert "lab_ablation" in done.stdout


def test_names_of_directories() -> None:
    assert _run_name("lab", "") == "lab"
    assert _run_name("lab", "seed-1") == _run_name("lab", "seed-1") != _run_name("lab", "seed-2")
    assert _sweep_name("lab_delta", "lab", "") == "lab_delta"
    assert _sweep_name("config", "lab", "seed-1,2").startswith("lab-")
    assert _file_name("arm-lion_seed-1") == "arm-lion_seed-1"
    assert "/" not in _file_name("seeds.path-/a/b")
    assert _file_name("seeds.path-/a/b") != _file_name("seeds.path-/a-b")
    assert len(_file_name("x" * 500)) < 140


def test_conf_is_found_in_the_package_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tapir_exp"
    package.mkdir()
    monkeypatch.setattr(paths, "__file__", str(package / "config" / "paths.py"))
    assert data_dir("conf") == tmp_path / "conf"
    (package / "conf").mkdir()
    assert data_dir("conf") == package / "conf"


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True
    )
    env = {**os.environ, "PYTHONPATH": str(target)}
    for arguments in (["--cfg", "job"], ["--help"], ["--config-name", "lab_ablation", "--cfg", "job"]):
        command = [sys.executable, "-c", "from tapir_exp.commands.hydra_app import main; main()", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "lab_ablation" in done.stdout or "name: lab" in done.stdout
    assert (target / "tapir_exp" / "conf" / "config.yaml").exists()
    assert (target / "tapir_exp" / "sweeps" / "lab_delta.yaml").exists()
    assert sorted(p.name for p in (target / "tapir_exp" / "distillation" / "prompts").glob("*")) == sorted(
        p.name for p in (ROOT / "tapir_exp" / "distillation" / "prompts").glob("*")
    )


def build_wheel(where: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(where), str(ROOT)], check=True, timeout=300
    )
    return next(where.glob("*.whl"))
