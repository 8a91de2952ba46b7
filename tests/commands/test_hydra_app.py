"""`tapir run`: exit codes, messages for mistakes, and the directories of runs and sweeps."""

import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from assets import ROOT
from filelock import FileLock
from yaml import YAMLError

from tapir_exp.commands import hydra_app
from tapir_exp.commands.main import main
from tapir_exp.commands.sweeps import session
from tapir_exp.config.paths import data_dir
from tapir_exp.core import console as console_module
from tapir_exp.core.console import Terminal
from tapir_exp.core.file_names import text_digest

STUBS = '''
"""Replaces the run itself and the report of a sweep, in this process and in every worker."""
import os, sys, types

def run(config, run_dir, resolved, sweep_dir=None):
    threads = os.environ.get("OMP_NUM_THREADS")
    with open("runs.log", "a") as log:
        log.write(f"{run_dir.relative_to(os.getcwd())} {config.arm} {config.seed} {threads}\\n")
    (run_dir / "config.yaml").write_text(resolved)
    if config.name == "interrupted": raise KeyboardInterrupt
    if config.name == "full":
        import errno
        raise OSError(errno.ENOSPC, "No space left on device", str(run_dir))
    if config.name == "failing":
        from tapir_exp.core.errors import StoreError
        raise StoreError("the artifact is damaged")
    if config.name == "refused":
        import warnings
        warnings.warn("foreign \\x1b[2J")
        from tapir_exp.core.errors import ConfigError
        raise ConfigError(["no key"])
    if config.name == "unreadable":
        import yaml
        yaml.safe_load("[")
    if config.name == "broken": raise RuntimeError("a bug")
    from tapir_exp.core.events import Outcome
    from tapir_exp.core.manifest import Manifest
    fields = {"name": "lab", "arm": "tapir", "seed": 0, "store": "store", "delta": 1, "alphas": (), "target": None}
    Manifest(**fields, artifacts=()).write(run_dir)
    for name in ("metrics.jsonl", "report.html"):
        (run_dir / name).write_text("")
    return Outcome(figure="accuracy", value=0.5)

def write_sweep_report(sweep_dir):
    if os.environ.get("REPORT") == "broken": raise RuntimeError("no report")
    (sweep_dir / "report.txt").write_text("done")
    return sweep_dir / "report.txt"

job = types.ModuleType("run_job")
job.run = run
job.show_finished = lambda run_dir, outputs: None
page = types.ModuleType("page")
page.write_sweep_report = write_sweep_report
sys.modules.update({"tapir_exp.commands.run_job": job, "tapir_exp.report.sweep.page": page})
'''


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


class Tapir:
    """The command in an own directory, with the run replaced by a log of its arguments."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._patch = monkeypatch

    def __call__(self, *arguments: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        console = Terminal(err)
        for module in (hydra_app, session, console_module):
            self._patch.setattr(module, "console", console)
        with redirect_stdout(out), redirect_stderr(err):
            code = self._exit_code(arguments)
        return Result(code, out.getvalue(), err.getvalue())

    def _exit_code(self, arguments: Sequence[str]) -> int:
        try:
            main(arguments)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def in_processes(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the command in another process, with the processes that it starts."""
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
    for name in ("tapir_exp.commands.run_job", "tapir_exp.report.sweep.page"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    exec(STUBS, {})
    return Tapir(tmp_path, monkeypatch)


def test_plain_command_runs_the_lab_in_its_directory(tapir: Tapir) -> None:
    result = tapir()
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert [line.split()[:2] for line in tapir.runs()] == [["outputs/runs/lab", "tapir"]]


@pytest.mark.slow
def test_finished_run_is_repeated_only_with_other_settings(tapir: Tapir) -> None:
    results = [tapir(), tapir(), tapir("logger.tags=[b]")]
    assert [result.returncode for result in results] == [0, 0, 0]
    assert ["finished already" in result.stderr for result in results] == [False, True, False]
    assert len(tapir.runs()) == 2


@pytest.mark.parametrize(
    ("arguments", "planted"),
    [
        (["name=x"], "runs/x-{}/.hydra/config.yaml"),
        (["-m", "seed=1,2", "sweep.name=x"], "sweeps/x/seed-1/.hydra/config.yaml"),
        (["-m", "seed=1,2", "sweep.name=x"], "sweeps/x/seed-2"),
    ],
    ids=["run", "file of a job", "job"],
)
def test_link_in_a_foreign_directory_is_not_followed(tapir: Tapir, arguments: list[str], planted: str) -> None:
    target = tapir.home / ("outside" if planted.endswith("seed-2") else "precious.txt")
    target.mkdir() if planted.endswith("seed-2") else target.write_text("kept")
    link = tapir.home / "outputs" / planted.format(text_digest("name-x"))
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    result = tapir(*arguments)
    assert result.returncode == 2
    assert f"{link} is a link to {target}; remove it" in result.stderr
    assert (list(target.iterdir()) == []) if target.is_dir() else (target.read_text() == "kept")
    assert tapir.runs() == []


@pytest.mark.slow
def test_run_directory_depends_on_overrides_alone(tapir: Tapir) -> None:
    for seed in ("3", "3", "4"):
        tapir(f"seed={seed}", "outputs=elsewhere")
    first, other = (line.split()[0] for line in tapir.runs())  # the second command found its run
    assert first != other
    assert first.startswith("elsewhere/runs/lab-")
    assert len(first.removeprefix("elsewhere/runs/lab-")) == 8


def test_run_gets_the_resolved_configuration(tapir: Tapir) -> None:
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
        (["task_mix.target_distribution.Maths=0"], ("task_mix.target_distribution.Maths = 0: expected a task type "
         "of the preset (did you mean Math?); add another with +task_mix.target_distribution.Maths [command line]")),
        (["+logger.zz=1"], ("logger.zz: expected a key of the schema (choices: report_to, mode, project, entity, tags, "
         "tracking_uri, curriculum_rows) [command line]")),
        (["seed=1,2"], ("seed = 1,2: expected one value; use --multirun for a sweep over "
         "several, or quote a text that contains a comma [command line]")),
        (["seed=1", "seed"], ("seed: expected key=value, such as seed=VALUE "
         "[command line]")),
        (["llm@teacher.lm=openai"], ("llm@teacher.lm = openai: expected a key or a group (did you mean llm?) "
         "[command line]")),
        (["--config-name", "lab_ablaton"], ("--config-name = lab_ablaton: expected a config (did you mean "
         "lab_ablation?) [command line]")),
        (["student={max_length: 0}"], "student.max_length = 0: expected at least 1 [command line]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_typo_is_reported_in_one_line_before_any_run(tapir: Tapir, arguments: list[str], expected: str) -> None:
    result = tapir(*arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["tapir: The configuration holds one mistake:", f"  - {expected}"]
    assert tapir.runs() == []
    assert not (tapir.home / "outputs").exists()


def test_all_kinds_of_mistakes_are_reported_together(tapir: Tapir) -> None:
    result = tapir("teacher=gtp", "student.lr=1", "++studnt.lr=3", "seed=-1", "seeds.size=many")
    assert result.returncode == 2
    keys = [line.split()[1].rstrip(":") for line in result.stderr.splitlines()[1:]]
    assert sorted(keys) == ["seed", "seeds.size", "student.lr", "studnt", "teacher"]


@pytest.mark.slow
def test_secret_is_neither_printed_nor_written(tapir: Tapir) -> None:
    for override in ("teacher.llm.api_key_env=sk-hidden1", "+teacher.llm.extra_params.api_key=sk-hidden1"):
        for arguments in ([override], ["-m", override, "seed=1,2"], ["-m", f"{override},sk-hidden1b"]):
            result = tapir(*arguments)
            assert result.returncode == 2
            assert "hidden1" not in result.stderr + result.stdout
    written = [path for path in tapir.home.rglob("*") if path.is_file() and "hidden1" in path.read_text()]
    assert written == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lrr: 1", "student.lrr: expected a key of the schema (choices: "),
        ("max_length: abc", "student.max_length = abc: expected an integer [mine/student/odd.yaml]"),
        ("model: x\nmax_length: 0", "student.max_length = 0: expected at least 1 [mine/student/odd.yaml]"),
        ("model: ???", "student.model is missing: expected a text: a preset such as student=qwen1_5_0_5b, or "),
        ("model: ${lab.sed}", "student.model cannot be read: expected a text; Interpolation key 'lab.sed' not found"),
        ("model: [x", "[mine/student/odd.yaml, line 1]"),
        ("defaults:\n  - /llm@llm: opnai", ("llm = opnai: expected one of dashscope, lab, local_gguf, "
         "local_openai_compatible, openai (did you mean openai?) [mine/student/odd.yaml]")),
    ],
    ids=lambda text: text.split(":")[0],
)  # fmt: skip
def test_mistake_in_a_file_names_the_file(tapir: Tapir, text: str, expected: str) -> None:
    (tapir.home / "mine" / "student").mkdir(parents=True)
    (tapir.home / "mine" / "student" / "odd.yaml").write_text(text)
    result = tapir("--config-dir", "mine", "student=odd")
    assert result.returncode == 2
    assert expected in result.stderr
    assert "mine/student/odd.yaml" in result.stderr


@pytest.mark.slow
def test_sweep_runs_every_combination_and_reports(tapir: Tapir) -> None:
    result = tapir("-m", "arm=tapir,lion", "seed=1,2")
    assert (result.returncode, result.stdout) == (0, "")
    assert [line.split()[1:3] for line in tapir.runs()] == [
        ["tapir", "1"],
        ["tapir", "2"],
        ["lion", "1"],
        ["lion", "2"],
    ]
    paths = [Path(line.split()[0]) for line in tapir.runs()]
    assert [path.name for path in paths] == [f"arm-{a}_seed-{s}" for a in ("tapir", "lion") for s in (1, 2)]
    assert {path.parent.parent.as_posix() for path in paths} == {"outputs/sweeps"}
    assert (tapir.home / paths[0].parent / "report.txt").exists()
    *_, last, page = result.stderr.splitlines()
    assert last.split()[:5] == ["arm=lion", "seed=2", "finished", "accuracy", "0.5"]
    assert page == f"page: {paths[0].parent}/report.txt"


def test_sweep_is_checked_before_its_first_job_starts(tapir: Tapir) -> None:
    result = tapir("-m", "arm=tapir,lionn", "curriculum.delta=1,20", "+student.lrr=1")
    assert result.returncode == 2
    assert tapir.runs() == []
    assert not (tapir.home / "outputs").exists()
    lines = result.stderr.splitlines()
    assert any(
        "arm = lionn" in line and "(in 2 of 4 jobs, first: arm=lionn curriculum.delta=1" in line for line in lines
    )
    assert any("curriculum.delta = 20" in line and "(in 2 of 4 jobs" in line for line in lines)
    assert any("student.lrr" in line and "of 4 jobs" not in line for line in lines)


def test_values_in_a_sweep_file_are_checked(tapir: Tapir) -> None:
    (tapir.home / "mine").mkdir()
    text = (data_dir("sweeps") / "lab_delta.yaml").read_text().replace("0,1,2,3,4", "0,1,20")
    (tapir.home / "mine" / "odd.yaml").write_text(text)
    result = tapir("--config-dir", "mine", "--config-name", "odd")
    assert result.returncode == 2
    assert "curriculum.delta = 20.0: expected from -9 to 9, in points of the judge [mine/odd.yaml]" in result.stderr
    assert tapir.runs() == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--config-dir", str(data_dir("sweeps"))]], ids=["anywhere", "config-dir"])
def test_sweep_file_is_found_by_its_name(tapir: Tapir, options: list[str]) -> None:
    assert tapir(*options, "--config-name", "lab_delta").returncode == 0
    names = [line.split()[0] for line in tapir.runs()]
    assert names == [f"outputs/sweeps/lab_delta/curriculum.delta-{delta}" for delta in range(5)]


@pytest.mark.slow
def test_two_processes_run_with_one_thread_each(tapir: Tapir) -> None:
    result = tapir.in_processes("-m", "launcher=two_processes", "seed=1,2,3", OMP_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    assert sorted(line.split()[2:] for line in tapir.runs()) == [["1", "1"], ["2", "1"], ["3", "1"]]
    assert len({Path(line.split()[0]).parent for line in tapir.runs()}) == 1


@pytest.mark.slow
def test_error_of_a_worker_keeps_its_message(tapir: Tapir) -> None:
    result = tapir.in_processes("-m", "launcher=two_processes", "name=refused,lab")
    assert result.returncode == 1
    told = "[name=refused] failed: name=refused: The configuration holds one mistake:\n[name=refused]   - no key"
    assert told in result.stderr
    assert r"UserWarning: foreign \x1b[2J" in result.stderr
    assert len(tapir.runs()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("failing", 1, "tapir: the artifact is damaged\n"),
        ("interrupted", 130, "Stopped. Repeat the same command to resume.\n"),
    ],
)
def test_exit_code_and_message_of_a_failed_run(tapir: Tapir, name: str, code: int, text: str) -> None:
    result = tapir(f"name={name}")
    assert result.returncode == code
    assert text in result.stderr


def test_bug_of_a_run_is_a_traceback(tapir: Tapir) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        tapir("name=broken")


def test_yaml_error_of_a_run_is_not_a_config_mistake(tapir: Tapir) -> None:
    with pytest.raises(YAMLError):
        tapir("name=unreadable")


@pytest.mark.slow
def test_python_m_has_the_same_exit_codes(tapir: Tapir) -> None:
    result = tapir.in_processes("name=failing")
    assert (result.returncode, result.stderr) == (1, "tapir: the artifact is damaged\n")
    assert (tapir.in_processes("run", "name=failing").stderr, len(tapir.runs())) == (result.stderr, 2)
    result = tapir.in_processes("seed=x")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 2)


def table(result: Result) -> dict[str, list[str]]:
    """Return the cells of the table that ends a sweep, by job; cells are at least two spaces apart."""
    lines = result.stderr.partition("job ")[2].rpartition("\njob ")[2].splitlines()[1:]
    return {cells[0]: cells[1:] for line in lines if len(cells := re.split(r"  +", line)) >= 5}


@pytest.fixture
def failed(tapir: Tapir) -> Result:
    return tapir("-m", "name=failing,broken,lab,full", "sweep.name=mine")


@pytest.mark.slow
def test_failed_jobs_are_all_named_and_the_others_run(tapir: Tapir, failed: Result) -> None:
    assert failed.returncode == 1
    assert len(tapir.runs()) == 4
    rows = table(failed)
    assert [row[0] for row in rows.values()] == ["failed", "failed", "finished", "failed"]
    assert rows["name=failing"][-1] == "the artifact is damaged"
    assert rows["name=broken"][-1] == "a bug"
    assert "RuntimeError: a bug" in failed.stderr
    assert rows["name=lab"][1] == "accuracy 0.5"
    assert "no space" in rows["name=full"][-1]
    assert "OSError: " not in failed.stderr
    *_, page, last = failed.stderr.splitlines()
    assert page == "page: outputs/sweeps/mine/report.txt"
    assert last.startswith("tapir: 3 of 4 jobs did not finish: name=failing (failed: the artifact is damaged); name=")


@pytest.mark.slow
def test_finished_jobs_are_skipped_and_shown_as_finished(tapir: Tapir, failed: Result) -> None:
    again = tapir("-m", "name=failing,broken,lab,full", "sweep.name=mine", "logger=disabled", "spend.max_usd=3")
    assert [line.split()[0].rpartition("-")[2] for line in tapir.runs()[4:]] == ["failing", "broken", "full"]
    assert table(again)["name=lab"][:2] == ["finished", "accuracy 0.5"]


@pytest.mark.slow
def test_sweep_with_a_name_takes_more_values(tapir: Tapir) -> None:
    for values, runs in (("1,2", 2), ("1,2,3", 3), ("3,2", 3)):
        result = tapir("-m", f"seed={values}", "sweep.name=mine")
        assert (result.returncode, len(tapir.runs())) == (0, runs)
    assert list(table(result)) == ["seed=3", "seed=2"]


@pytest.mark.slow
def test_job_whose_input_file_changed_is_run_again(tapir: Tapir) -> None:
    (tapir.home / "pool.jsonl").write_text("1")
    command = ("-m", "seed=1,2", "sweep.name=mine", "+teacher.llm.extra_params.file=./pool.jsonl")
    for text, runs in (("1", 2), ("1", 2), ("22", 4)):
        if text == "22":
            (tapir.home / "pool.jsonl").write_text(text)
        assert (tapir(*command).returncode, len(tapir.runs())) == (0, runs)


@pytest.mark.slow
def test_interrupted_sweep_shows_its_table_and_resumes(tapir: Tapir) -> None:
    result = tapir("-m", "name=lab,interrupted,other", "sweep.name=mine")
    assert result.returncode == 130
    assert {job: row[0] for job, row in table(result).items()} == {
        "name=lab": "finished",
        "name=interrupted": "stopped",
        "name=other": "waiting",
    }
    assert "page: outputs/sweeps/mine/report.txt" in result.stderr
    assert result.stderr.endswith("Stopped. Repeat the same command to resume.\n")
    assert len(tapir.runs()) == 2
    tapir("-m", "name=lab,interrupted,other", "sweep.name=mine")
    assert len(tapir.runs()) == 3


def test_second_shell_on_a_sweep_is_refused_in_a_sentence(tapir: Tapir) -> None:
    (tapir.home / "outputs/sweeps/mine").mkdir(parents=True)
    with FileLock(tapir.home / "outputs/sweeps/mine/.lock"):
        result = tapir("-m", "seed=1,2", "sweep.name=mine")
    assert (result.returncode, tapir.runs()) == (1, [])
    assert result.stderr.startswith("tapir: outputs/sweeps/mine is in use by another process: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_failed_sweep_report_is_an_error(tapir: Tapir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORT", "broken")
    with pytest.raises(RuntimeError, match="no report"):
        tapir("-m", "seed=1,2")
    assert len(tapir.runs()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["curriculum.alpha=interval(0,1)"], "expected a list of values; add search=optuna"),
        (["search=optuna", "curriculum.alpha=interval(0,30)"], "curriculum.alpha = 30.0: expected a share from 0 to 1"),
        (["search=optuna", "seed=1,2"], "seed = 1,2: expected one seed"),
        (["search=optuna", "seed=1"], "search: expected at least one setting to search"),
    ],
    ids=["interval", "end of an interval", "seed", "nothing"],
)
def test_search_that_cannot_run_is_refused(tapir: Tapir, arguments: list[str], expected: str) -> None:
    result = tapir("-m", *arguments)
    assert result.returncode == 2
    assert expected in result.stderr
    assert tapir.runs() == []


@pytest.mark.slow
def test_search_runs_its_trials_and_continues(tapir: Tapir) -> None:
    search = [
        "-m",
        "search=optuna",
        "sweep.name=q",
        "curriculum.delta=range(0,9)",
        "+task_mix.weights.Math=interval(1,2)",
    ]
    first = tapir(*search, "hydra.sweeper.trials=2")
    assert first.returncode == 0, first.stderr
    assert len(tapir.runs()) == 2
    assert re.search(r"job 1 of 2: curriculum.delta=\d \+task_mix.weights.Math=1\.\d+", first.stderr)
    assert re.search(r"curriculum.delta=\d \S+ +finished +accuracy 0.5", first.stderr)
    second = tapir(*search, "hydra.sweeper.trials=3")
    assert second.returncode == 0, second.stderr
    assert len(tapir.runs()) == 3
    assert second.stderr.count("finished  accuracy") == 3
