"""A whole evaluation: a student, an endpoint that annotates and judges, the official files, and nothing twice."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from serving import serving
from standins import Endpoint, reference_rows, write_alpaca, write_mt_bench

from tapir_exp.commands import hydra_app
from tapir_exp.commands.evaluate import evaluate, find_subject
from tapir_exp.commands.hydra_app import data_dir
from tapir_exp.commands.report import main as report
from tapir_exp.config import Config, LabStudentConfig, parse, to_yaml
from tapir_exp.core.errors import ConfigError, EvaluationError
from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.store import Store, digest_files
from tapir_exp.evals import alpaca_eval, mt_bench
from tapir_exp.evals.results import METRICS
from tapir_exp.lab.base_student import build_base_student

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


class Bed:
    """One directory of outputs, and the configuration of evaluations in it."""

    def __init__(self, home: Path, endpoint: Endpoint) -> None:
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
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
            return parse(compose("evaluate", [*settings, *overrides]))

    def evaluate(self, *overrides: str, into: str = "evaluation") -> tuple[Path, int]:
        """The directory of an evaluation, and how many calls it made."""
        config, before = self.config(*overrides), len(self.endpoint.bodies)
        evaluate(config, self.home / into, to_yaml(config))
        return self.home / into, len(self.endpoint.bodies) - before


@pytest.fixture
def bed(tmp_path: Path, endpoint: Endpoint) -> Bed:
    return Bed(tmp_path, endpoint)


def figures(directory: Path) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = json.loads((directory / METRICS).read_text())
    return known


def test_any_directory_is_evaluated_on_every_suite(bed: Bed, student_dir: Path) -> None:
    suites = "evals.suites=[lab,alpaca_eval,mt_bench]"
    asked = [suites, "evals.problems_per_level=1", f"student.model={student_dir}"]
    directory, calls = bed.evaluate(*asked)
    assert calls == 12 + 8
    found = figures(directory)
    assert found["lab"]["problems"] == 42
    assert found["alpaca_eval"]["n_total"] == 12
    assert found["mt_bench"]["judgments"] == 8
    outputs = alpaca_eval.load_outputs(directory / "alpaca_eval/model_outputs.json")
    assert {row.generator for row in outputs} == {"tiny"}
    rows = alpaca_eval.load_annotations(directory / "alpaca_eval/annotations.json")
    assert found["alpaca_eval"]["win_rate"] == pytest.approx(100 * sum((r.preference or 0) - 1 for r in rows) / 12)
    judgments = mt_bench.load_judgments(directory / "mt_bench/model_judgment/tiny-judge_single.jsonl")
    assert found["mt_bench"]["average"] == pytest.approx(sum(row.score for row in judgments) / 8)
    assert set(mt_bench.load_dialogues(directory / "mt_bench/model_answer/tiny.jsonl")) == {1, 2, 3, 4}
    manifest = Evaluation.load(directory)
    assert (manifest.student, manifest.model, manifest.judge) == ("tiny", str(student_dir), "hosted_vllm/tiny-judge")
    assert (manifest.arm, manifest.run) == (None, None)
    before = digest_files(directory)
    assert bed.evaluate(*asked) == (directory, 0)
    after = digest_files(directory)
    assert {name for name in before if before[name] != after[name]} <= {"spend.json"}


def test_the_annotator_and_the_judge_get_the_official_settings(bed: Bed, student_dir: Path) -> None:
    before = len(bed.endpoint.bodies)
    bed.evaluate("evals.suites=[alpaca_eval,mt_bench]", f"student.model={student_dir}")
    bodies = bed.endpoint.bodies[before:]
    annotator = [body for body in bodies if body.get("logprobs")]
    assert {(b["max_tokens"], b["temperature"], b["top_logprobs"]) for b in annotator} == {(1, 1.0, 5)}
    judge = [body for body in bodies if not body.get("logprobs")]
    assert {(b["max_tokens"], b["temperature"]) for b in judge} == {(2048, 0.0)}
    assert {body["messages"][0]["content"] for body in judge} == {"A helper.", "Rate the last.\n\n"}


def test_a_run_s_last_student_is_found_and_asked_as_the_run_asks_it(bed: Bed) -> None:
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
    found = (manifest.student, manifest.experiment, manifest.arm, manifest.seed)
    assert found == ("mine-lion-seed7", "mine", "lion", 7)
    assert find_subject(bed.config(f"evals.run={run}")).student.system_prompt == "Be kind."
    assert (directory / str(manifest.run)).resolve() == run.resolve()
    outputs = alpaca_eval.load_outputs(directory / "alpaca_eval/model_outputs.json")
    assert max(len(row.output.split()) for row in outputs) <= 3


def test_alpaca_eval_s_answers_are_drawn_by_the_seed_or_greedy(bed: Bed, student_dir: Path) -> None:
    def texts(*overrides: str) -> list[str]:
        directory, _ = bed.evaluate("evals=alpaca_eval", f"student.model={student_dir}", *overrides)
        return [row.output for row in alpaca_eval.load_outputs(directory / "alpaca_eval/model_outputs.json")]

    assert bed.config().evals.alpaca_eval.temperature == 0.7
    assert texts() != texts("evals.seed=1")
    greedy = "evals.alpaca_eval.temperature=0"
    assert texts(greedy) == texts(greedy, "evals.seed=1") != texts()


def test_given_outputs_need_no_student_and_given_annotations_no_call(bed: Bed) -> None:
    outputs = [{**row, "output": f"{row['output']} and more", "generator": "theirs"} for row in reference_rows()]
    outputs[0]["output"] = reference_rows()[0]["output"]
    (bed.home / "model_outputs.json").write_text(json.dumps(outputs))
    given = ["evals=alpaca_eval", f"evals.alpaca_eval.outputs={bed.home}/model_outputs.json"]
    directory, calls = bed.evaluate(*given)
    assert calls == 11
    assert Evaluation.load(directory).student == "theirs"
    assert figures(directory)["alpaca_eval"]["n_draws"] == 1
    annotations = directory / "alpaca_eval/annotations.json"
    again, calls = bed.evaluate(*given, f"evals.alpaca_eval.annotations={annotations}", into="again")
    assert calls == 0
    assert (again / "alpaca_eval/annotations.json").read_bytes() == annotations.read_bytes()


def test_given_answers_and_judgments_of_fast_chat_are_taken_over(bed: Bed, student_dir: Path) -> None:
    first, _ = bed.evaluate("evals=mt_bench", f"student.model={student_dir}")
    answers = first / "mt_bench/model_answer/tiny.jsonl"
    judgments = first / "mt_bench/model_judgment/tiny-judge_single.jsonl"
    bed.home.joinpath("outputs/store").rename(bed.home / "forgotten")
    given = ["evals=mt_bench", f"evals.mt_bench.answers={answers}", f"evals.mt_bench.judgments={judgments}"]
    second, calls = bed.evaluate(*given, into="second")
    assert calls == 0
    assert Evaluation.load(second).student == "tiny"
    assert {k: v for k, v in figures(second).items() if k != "spend"} == figures(first)


def test_the_report_of_an_evaluation_is_rebuilt_without_a_call(bed: Bed, student_dir: Path) -> None:
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


def test_what_is_missing_is_told_before_anything_is_asked(bed: Bed, student_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"evals\.run = null"):
        bed.evaluate("evals=alpaca_eval")
    with pytest.raises(ConfigError, match=r"evals\.suites = \[\]"):
        bed.evaluate("evals=none", f"student.model={student_dir}")
    with pytest.raises(ConfigError, match=r"evals\.per_cell = 0"):
        bed.evaluate("evals.problems_per_level=0", f"student.model={student_dir}")
    with pytest.raises(EvaluationError, match="judge_prompts"):
        bed.evaluate("evals=mt_bench", "evals.mt_bench.judge_prompts=null", f"student.model={student_dir}")
    with pytest.raises(ConfigError, match="TAPIR_NO_SUCH_KEY"):
        bed.evaluate("evals=alpaca_eval", f"student.model={student_dir}", "judge.llm.api_key_env=TAPIR_NO_SUCH_KEY")


def test_files_and_runs_that_do_not_exist_are_mistakes_of_the_configuration(bed: Bed) -> None:
    with pytest.raises(ConfigError) as mistakes:
        bed.config("evals.alpaca_eval.length_control_data=nowhere.csv", "evals.run=nowhere", "evals.name=a/b")
    told = "\n".join(mistakes.value.problems)
    assert "evals.alpaca_eval.length_control_data = nowhere.csv: expected a file that exists" in told
    assert "evals.run = nowhere: expected the directory of a finished run" in told
    assert "evals.name = a/b: expected letters" in told


def test_another_student_gets_answers_of_its_own(bed: Bed, student_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny"
    other.mkdir()
    build_base_student(other, replace(TINY, seed=1), TEXTS)
    one, _ = bed.evaluate("evals=alpaca_eval", f"student.model={student_dir}")
    first = alpaca_eval.load_outputs(one / "alpaca_eval/model_outputs.json")
    (one / "alpaca_eval/of_another_time.json").write_text("[]")
    bed.evaluate("evals=alpaca_eval", f"student.model={other}")
    assert alpaca_eval.load_outputs(one / "alpaca_eval/model_outputs.json") != first
    assert not (one / "alpaca_eval/of_another_time.json").exists()


@pytest.mark.slow
def test_a_sweep_of_evaluations_ends_in_tables(
    bed: Bed, student_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bed.home)
    asked = [
        "-m",
        "evals.problems_per_level=1",
        "lab.seed=1,2",
        f"student.model={student_dir}",
        "student.max_new_tokens=6",
    ]
    monkeypatch.setattr("sys.argv", ["tapir-evaluate", *asked])
    hydra_app.main_evaluate()
    (sweep,) = (bed.home / "outputs/evaluations").iterdir()
    assert len(list(sweep.glob(f"*/{EVALUATION}"))) == 2
    assert "tiny (ours)" in (sweep / "paper/lab.md").read_text()


def test_the_command_has_its_own_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tapir-evaluate", "--help"])
    hydra_app.main_evaluate()
    told = capsys.readouterr().out
    assert told.startswith("tapir-evaluate: a student on AlpacaEval 2.0")
    assert "alpaca_eval, held_out, ifeval, lab, mt_bench, none" in told
    assert "  paper " not in told
