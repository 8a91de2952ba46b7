"""A complete evaluation: a student, an endpoint that annotates and judges, and the official files."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import serving
from standins import Endpoint, reference_rows, write_alpaca, write_mt_bench

from tapir_exp.commands.command_line import JSON_VARIABLE
from tapir_exp.commands.evaluate_job import evaluate, find_subject
from tapir_exp.commands.main import main
from tapir_exp.commands.report import main as report
from tapir_exp.config import Config, LabStudentConfig, to_yaml
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.store import Store, digest_files
from tapir_exp.evals import alpaca_eval_files, mt_bench_files
from tapir_exp.evals.results import METRICS
from tapir_exp.lab.base_student import build_base_student
from tapir_exp.report.sweep.plan_file import SweepPlan

TINY = LabStudentConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)
TEXTS = ["Name things that a cook keeps in jars.", "Salt, rope, tins and a list of 42 harbours."]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint()) as running:
        yield running


@pytest.fixture(scope="module")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("students") / "tiny"
    directory.mkdir()
    build_base_student(directory, TINY, TEXTS)
    return directory


class EvaluationBed:
    """An outputs directory, and the configuration of evaluations in it."""

    def __init__(self, home: Path, endpoint: Endpoint, compose_config: Callable[..., Config]) -> None:
        self.compose_config = compose_config
        self.home = home
        self.endpoint = endpoint
        self.alpaca = write_alpaca(home)
        self.mt_bench = write_mt_bench(home)

    def config(self, *overrides: str) -> Config:
        settings = [
            f"outputs={self.home}/outputs",
            "judge=local_openai_compatible",
            "judge.llm.model=hosted_vllm/tiny-judge",
        ]
        settings += [
            f"judge.llm.api_base={self.endpoint.base}",
            "student.max_new_tokens=6",
            "evals.mt_bench.max_new_tokens=6",
            "evals.alpaca_eval.max_new_tokens=6",
        ]
        settings += [f"evals.alpaca_eval.{name}={path}" for name, path in self.alpaca.items()]
        settings += [f"evals.mt_bench.{name}={path}" for name, path in self.mt_bench.items()]
        return self.compose_config(*settings, *overrides, config_name="evaluate")

    def evaluate(self, *overrides: str, into: str = "evaluation") -> tuple[Path, int]:
        """Run an evaluation; return its directory and the number of its calls."""
        config, before = self.config(*overrides), len(self.endpoint.bodies)
        evaluate(config, self.home / into, to_yaml(config))
        return self.home / into, len(self.endpoint.bodies) - before


@pytest.fixture
def bed(tmp_path: Path, endpoint: Endpoint, compose_config: Callable[..., Config]) -> EvaluationBed:
    return EvaluationBed(tmp_path, endpoint, compose_config)


def figures(directory: Path) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = json.loads((directory / METRICS).read_text())
    return known


def test_model_directory_is_evaluated_on_every_suite(bed: EvaluationBed, student_dir: Path) -> None:
    suites = "evals.suites=[lab,alpaca_eval,mt_bench]"
    overrides = [suites, "evals.problems_per_level=1", f"student.model={student_dir}"]
    directory, calls = bed.evaluate(*overrides)
    assert calls == 12 + 8
    results = figures(directory)
    assert results["lab"]["problems"] == 42
    assert results["alpaca_eval"]["n_total"] == 12
    assert results["mt_bench"]["judgments"] == 8
    outputs = alpaca_eval_files.load_outputs(directory / "alpaca_eval/model_outputs.json")
    assert {row.generator for row in outputs} == {"tiny"}
    rows = alpaca_eval_files.load_annotations(directory / "alpaca_eval/annotations.json")
    assert results["alpaca_eval"]["win_rate"] == pytest.approx(100 * sum((r.preference or 0) - 1 for r in rows) / 12)
    judgments = mt_bench_files.load_judgments(directory / "mt_bench/model_judgment/tiny-judge_single.jsonl")
    assert results["mt_bench"]["average"] == pytest.approx(sum(row.score for row in judgments) / 8)
    assert set(mt_bench_files.load_dialogues(directory / "mt_bench/model_answer/tiny.jsonl")) == {1, 2, 3, 4}
    manifest = Evaluation.load(directory)
    assert (manifest.student, manifest.model, manifest.judge) == ("tiny", str(student_dir), "hosted_vllm/tiny-judge")
    assert (manifest.arm, manifest.run) == (None, None)
    before = digest_files(directory)
    assert bed.evaluate(*overrides) == (directory, 0)
    after = digest_files(directory)
    assert {name for name in before if before[name] != after[name]} <= {"spend.json"}


def test_annotator_and_judge_get_the_official_settings(bed: EvaluationBed, student_dir: Path) -> None:
    before = len(bed.endpoint.bodies)
    bed.evaluate("evals.suites=[alpaca_eval,mt_bench]", f"student.model={student_dir}")
    bodies = bed.endpoint.bodies[before:]
    annotator = [body for body in bodies if body.get("logprobs")]
    assert {(b["max_tokens"], b["temperature"], b["top_logprobs"]) for b in annotator} == {(1, 1.0, 5)}
    judge = [body for body in bodies if not body.get("logprobs")]
    assert {(b["max_tokens"], b["temperature"]) for b in judge} == {(2048, 0.0)}
    assert {body["messages"][0]["content"] for body in judge} == {"Be fair.", "Rate the last.\n\n"}


def test_last_student_of_a_run_keeps_its_settings(bed: EvaluationBed) -> None:
    run = bed.home / "outputs/runs/mine"
    store = Store(bed.home / "outputs/store")

    def make(directory: Path) -> dict[str, Any]:
        build_base_student(directory, TINY, TEXTS)
        return {}

    entry = entry_of("student-2", 2, store.produce("student", {"made": "here"}, make))
    run.mkdir(parents=True)
    settings = bed.config("student.system_prompt=Be kind.")
    (run / "config.yaml").write_text(to_yaml(settings))
    Manifest(
        name="mine",
        arm="lion",
        seed=7,
        store="../../store",
        delta=2,
        alphas=(0.3, 0.5),
        target=None,
        artifacts=(entry,),
    ).write(run)
    directory, _ = bed.evaluate("evals=alpaca_eval", f"evals.run={run}", "evals.alpaca_eval.max_new_tokens=3")
    manifest = Evaluation.load(directory)
    names = (manifest.student, manifest.experiment, manifest.arm, manifest.seed)
    assert names == ("mine-lion-seed7", "mine", "lion", 7)
    assert find_subject(bed.config(f"evals.run={run}")).student.system_prompt == "Be kind."
    assert (directory / str(manifest.run)).resolve() == run.resolve()
    outputs = alpaca_eval_files.load_outputs(directory / "alpaca_eval/model_outputs.json")
    assert max(len(row.output.split()) for row in outputs) <= 3


def write_run(bed: EvaluationBed, run: Path, arm: str, seed: int) -> None:
    """Write a finished run of the tiny student, as a job of a sweep."""

    def make(directory: Path) -> dict[str, Any]:
        build_base_student(directory, TINY, TEXTS)
        return {}

    store = bed.home / "outputs/store"
    entry = entry_of("student-0", 0, Store(store).produce("student", {"arm": arm}, make))
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra/overrides.yaml").write_text(json.dumps([f"arm={arm}", f"seed={seed}"]))
    (run / "config.yaml").write_text(to_yaml(bed.config(f"arm={arm}", f"seed={seed}")))
    Manifest(
        name="mine",
        arm=arm,
        seed=seed,
        store=os.path.relpath(store, run),
        delta=2,
        alphas=(),
        target=None,
        artifacts=(entry,),
    ).write(run)


@pytest.mark.slow
def test_jobs_of_a_sweep_are_evaluated_and_named_apart(
    bed: EvaluationBed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = bed.home / "sweep"
    jobs = [("tapir", 1), ("tapir", 2), ("lion", 1)]
    for arm, seed in jobs:
        write_run(bed, sweep / f"{arm}-{seed}", arm, seed)
    SweepPlan([[f"arm={arm}", f"seed={seed}"] for arm, seed in jobs]).write(sweep)
    monkeypatch.setenv(JSON_VARIABLE, "1")
    directory, calls = bed.evaluate("evals=mt_bench", f"evals.run={sweep}")
    # The seeds of an arm have one student here, so its answers and judgments are made once.
    assert calls <= 2 * 8
    assert [Evaluation.load(directory / name).student for name in ("lion-1", "tapir-1", "tapir-2")] == [
        "mine-arm-lion-seed-1",
        "mine-arm-tapir-seed-1",
        "mine-arm-tapir-seed-2",
    ]
    assert "mine · lion (ours)" in (directory / "paper/mt_bench.md").read_text()
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert set(figures) == {"lion-1", "tapir-1", "tapir-2"}
    (sweep / "lion-1/config.yaml").unlink()
    with pytest.raises(TapirError, match="1 of 3 evaluations failed: lion-1"):
        bed.evaluate("evals=mt_bench", f"evals.run={sweep}")
    with pytest.raises(ConfigError, match=r"evals\.name = x: expected null"):
        bed.evaluate("evals=mt_bench", f"evals.run={sweep}", "evals.name=x")


@pytest.mark.slow
def test_alpaca_eval_responses_depend_on_the_seed(bed: EvaluationBed, student_dir: Path) -> None:
    def texts(*overrides: str) -> list[str]:
        directory, _ = bed.evaluate("evals=alpaca_eval", f"student.model={student_dir}", *overrides)
        return [row.output for row in alpaca_eval_files.load_outputs(directory / "alpaca_eval/model_outputs.json")]

    assert bed.config().evals.alpaca_eval.temperature == 0.7
    assert texts() != texts("evals.seed=1")
    greedy = "evals.alpaca_eval.temperature=0"
    assert texts(greedy) == texts(greedy, "evals.seed=1") != texts()


def test_given_outputs_and_annotations_are_reused(bed: EvaluationBed) -> None:
    outputs = [{**row, "output": f"{row['output']} and more", "generator": "theirs"} for row in reference_rows()]
    outputs[0]["output"] = reference_rows()[0]["output"]
    (bed.home / "model_outputs.json").write_text(json.dumps(outputs))
    options = ["evals=alpaca_eval", f"evals.alpaca_eval.outputs={bed.home}/model_outputs.json"]
    directory, calls = bed.evaluate(*options)
    assert calls == 11
    assert Evaluation.load(directory).student == "theirs"
    assert figures(directory)["alpaca_eval"]["n_draws"] == 1
    annotations = directory / "alpaca_eval/annotations.json"
    again, calls = bed.evaluate(*options, f"evals.alpaca_eval.annotations={annotations}", into="again")
    assert calls == 0
    assert (again / "alpaca_eval/annotations.json").read_bytes() == annotations.read_bytes()
    (bed.home / "some.json").write_text(json.dumps(json.loads(annotations.read_text())[:-1]))
    known = [f"evals.alpaca_eval.annotations={bed.home}/some.json", "evals.ask_judge=false"]
    third, calls = bed.evaluate(*options, *known, into="third")
    assert (calls, figures(third)["alpaca_eval"]["n_total"]) == (0, 11)


def test_given_answers_and_judgments_are_reused(bed: EvaluationBed, student_dir: Path) -> None:
    first, _ = bed.evaluate("evals=mt_bench", f"student.model={student_dir}")
    answers = first / "mt_bench/model_answer/tiny.jsonl"
    judgments = first / "mt_bench/model_judgment/tiny-judge_single.jsonl"
    bed.home.joinpath("outputs/store").rename(bed.home / "forgotten")
    options = ["evals=mt_bench", f"evals.mt_bench.answers={answers}", f"evals.mt_bench.judgments={judgments}"]
    second, calls = bed.evaluate(*options, into="second")
    assert calls == 0
    assert Evaluation.load(second).student == "tiny"
    assert {k: v for k, v in figures(second).items() if k != "spend"} == figures(first)


def test_report_is_rebuilt_without_a_call(bed: EvaluationBed, student_dir: Path) -> None:
    directory, _ = bed.evaluate("evals=alpaca_eval", f"student.model={student_dir}")
    before, calls = digest_files(directory), len(bed.endpoint.bodies)
    for path in directory.rglob("*.json"):
        if path.name != EVALUATION:
            path.unlink()
    report([str(directory)])
    assert len(bed.endpoint.bodies) == calls
    rebuilt = digest_files(directory)
    assert {name: rebuilt.get(name) for name in before if name != "spend.json"} == {
        name: digest for name, digest in before.items() if name != "spend.json"
    }


def test_missing_inputs_are_reported_before_any_call(bed: EvaluationBed, student_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"evals\.run = null"):
        bed.evaluate("evals=alpaca_eval")
    with pytest.raises(ConfigError, match=r"evals\.suites = \[\]"):
        bed.evaluate("evals=none", f"student.model={student_dir}")
    with pytest.raises(ConfigError, match=r"evals\.problems_per_level = 0"):
        bed.evaluate("evals.problems_per_level=0", f"student.model={student_dir}")
    with pytest.raises(TapirError, match="judge_prompts"):
        bed.evaluate("evals=mt_bench", "evals.mt_bench.judge_prompts=null", f"student.model={student_dir}")
    with pytest.raises(ConfigError, match="TAPIR_NO_SUCH_KEY"):
        bed.evaluate("evals=alpaca_eval", f"student.model={student_dir}", "judge.llm.api_key_env=TAPIR_NO_SUCH_KEY")


def test_missing_files_and_runs_are_config_mistakes(bed: EvaluationBed) -> None:
    with pytest.raises(ConfigError) as mistakes:
        bed.config("evals.alpaca_eval.length_control_data=nowhere.csv", "evals.run=nowhere", "evals.name=a/b")
    text = "\n".join(mistakes.value.problems)
    assert "evals.alpaca_eval.length_control_data = nowhere.csv: expected a file that exists" in text
    assert "evals.run = nowhere: expected the directory of a finished run" in text
    assert "evals.name = a/b: expected letters" in text


def test_other_student_gets_other_responses(bed: EvaluationBed, student_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny"
    other.mkdir()
    build_base_student(other, replace(TINY, seed=1), TEXTS)
    one, _ = bed.evaluate("evals=alpaca_eval", f"student.model={student_dir}")
    first = alpaca_eval_files.load_outputs(one / "alpaca_eval/model_outputs.json")
    (one / "alpaca_eval/of_another_time.json").write_text("[]")
    bed.evaluate("evals=alpaca_eval", f"student.model={other}")
    assert alpaca_eval_files.load_outputs(one / "alpaca_eval/model_outputs.json") != first
    assert not (one / "alpaca_eval/of_another_time.json").exists()


@pytest.mark.slow
def test_sweep_of_evaluations_ends_in_tables(
    bed: EvaluationBed, student_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bed.home)
    overrides = [
        "-m",
        "evals.problems_per_level=1",
        "lab.seed=1,2",
        f"student.model={student_dir}",
        "student.max_new_tokens=6",
    ]
    main(["evaluate", *overrides])
    (sweep,) = (bed.home / "outputs/evaluations").iterdir()
    assert len(list(sweep.glob(f"*/{EVALUATION}"))) == 2
    assert "tiny (ours)" in (sweep / "paper/lab.md").read_text()


def test_evaluate_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("tapir evaluate: evaluate a student on AlpacaEval 2.0")
    assert "alpaca_eval, held_out, ifeval, lab, mt_bench, none" in text
    assert "  paper " not in text
