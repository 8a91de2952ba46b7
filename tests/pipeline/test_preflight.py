"""What a run will need is checked before its first call, once, and not at all if everything is reused."""

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from composing import compose_config
from workspaces import open_test_workspace

from tapir_exp.config import Config, EngineKind, LLMConfig, MTBenchConfig, Suite
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Example, example_id
from tapir_exp.llm.probe import Probe
from tapir_exp.pipeline import preflight
from tapir_exp.pipeline.local_checks import local_checks
from tapir_exp.pipeline.preflight import all_checks, check_before_work
from tapir_exp.pipeline.workspace import StageOutput


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("own")
    (folder / "student").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"):
        (folder / "student" / name).write_text("{}")
    (folder / "mine.json").write_text(json.dumps([{"question": f"Number {n}?", "answer": "Yes."} for n in range(5)]))
    options = ["experiment=own_data", "teacher=gpt_4o", f"student.model={folder}/student"]
    return compose_config(*options, f"seeds.path={folder}/mine.json", f"outputs={folder}/outputs")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Temporary failure in name resolution")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)


def problems(config: Config) -> dict[str, str]:
    return {check.subject.split()[0]: check.problem for check in local_checks(config) if check.problem}


def test_error_that_is_not_of_the_connection_is_raised(composed: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a fault of the check")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", broken)
    with pytest.raises(KeyError):
        local_checks(replace(composed, student=replace(composed.student, model="no/such")))


def test_name_that_no_repository_can_have_is_told(composed: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the hub's client refuses the name before it connects
    found = problems(replace(composed, student=replace(composed.student, model="my model/mine")))
    assert "neither a directory nor a name that the hub allows (owner/name)" in found["student"]


def test_complete_configuration_has_no_problem(composed: Config) -> None:
    assert problems(composed) == {}
    assert [check.subject.split()[0] for check in local_checks(composed)] == ["seeds", "student", "disk"]


def test_lab_needs_a_disk_only() -> None:
    assert [check.subject for check in all_checks(compose_config())] == ["disk"]


Change = Callable[[Config], Config]


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        (
            lambda c: replace(c, student=replace(c.student, model="no/such")),
            "student",
            ["no/such", "hub cannot be reached"],
        ),
        (lambda c: replace(c, student=replace(c.student, model="/tmp")), "student", ["holds no config.json"]),
        (
            lambda c: replace(
                c,
                spend=replace(c.spend, max_usd=5.0),
                teacher=replace(c.teacher, llm=replace(c.teacher.llm, model="openai/gpt-99")),
            ),
            "price",
            ["spend.max_usd = 5 needs the price of openai/gpt-99", "teacher.llm.usd_per_million_input"],
        ),
        (
            lambda c: replace(c, seeds=replace(c.seeds, columns=replace(c.seeds.columns, instruction="frage"))),
            "seeds",
            ["none of the first 5 rows", "no column frage", "the columns are question, answer", "seeds.columns="],
        ),
        (lambda c: replace(c, seeds=replace(c.seeds, path="/no/such.json")), "seeds", ["/no/such.json"]),
        (
            lambda c: replace(
                c, seeds=replace(c.seeds, decontamination=replace(c.seeds.decontamination, benchmarks=["alpaca_eval"]))
            ),
            "decontamination",
            ["hub cannot be reached", "seeds.decontamination.benchmarks"],
        ),
        (
            lambda c: replace(c, student=replace(c.student, engine=EngineKind.vllm)),
            "vLLM",
            ["student.vllm.executable = vllm"],
        ),
    ],
)
def test_what_is_missing_is_named_with_a_remedy(
    composed: Config, change: Change, subject: str, words: list[str]
) -> None:
    found = problems(change(composed))
    assert [word for word in words if word not in found[subject]] == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model.safetensors", "holds no weights, such as model.safetensors"),
        ("tokenizer.json", "holds no tokenizer, such as tokenizer.json"),
        ("chat_template.jinja", "has no chat template; set student.chat_template=chatml or llama2"),
    ],
)
def test_part_that_a_student_directory_lacks_is_named(
    composed: Config, tmp_path: Path, missing: str, words: str
) -> None:
    shutil.copytree(composed.student.model, tmp_path, dirs_exist_ok=True)
    config = replace(composed, student=replace(composed.student, model=str(tmp_path)))
    assert problems(config) == {}
    (tmp_path / missing).unlink()
    assert words in problems(config)["student"]


def test_template_may_be_among_the_settings_of_the_tokenizer(composed: Config, tmp_path: Path) -> None:
    shutil.copytree(composed.student.model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert problems(replace(composed, student=replace(composed.student, model=str(tmp_path)))) == {}


def test_full_disk_is_foreseen(composed: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    config = replace(composed, student=replace(composed.student, num_parameters=1e9))
    assert "0.0 GB are free" in problems(config)["disk"]


def test_suite_without_its_files_is_a_problem(composed: Config) -> None:
    wanted = replace(composed.evals, suites=[Suite.lab, Suite.mt_bench], mt_bench=MTBenchConfig())
    assert "MT-Bench's" in problems(replace(composed, evals=wanted))["suite"]


def test_roles_with_one_endpoint_are_asked_once(composed: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(models: list[tuple[str, LLMConfig]]) -> list[Probe]:
        asked.extend(role for role, _ in models)
        return [Probe(0.1, "no answer") for _ in models]

    monkeypatch.setattr(preflight, "probe_all", answer)
    (endpoint, *_) = all_checks(composed)
    assert asked == ["teacher"]
    assert (endpoint.subject, endpoint.problem) == ("teacher, judge, classifier", "no answer")


def test_checks_run_once_before_work_and_never_on_reuse(composed: Config, tmp_path: Path) -> None:
    calls: list[str] = []
    row = Example(id=example_id("a"), instruction="a", response="b")

    def run(stage: str) -> None:
        with open_test_workspace(composed, tmp_path) as ws:
            ws.before_work = lambda: calls.append(stage)
            for name in (stage, f"{stage}_more"):
                ws.rows(name, None, {}, lambda: StageOutput([row], {}))

    run("first")
    assert calls == ["first"]
    run("first")
    assert calls == ["first"]


def test_failed_check_stops_the_run_with_every_problem(composed: Config, tmp_path: Path) -> None:
    config = replace(composed, student=replace(composed.student, model="no/such"), teacher=_unset(composed))
    with open_test_workspace(config, tmp_path) as ws, pytest.raises(TapirError) as caught:
        check_before_work(replace(config, judge=replace(config.judge, llm=config.teacher.llm)), ws.ledger)
    assert "3 of 5 checks before the first call failed" in str(caught.value)
    assert "TAPIR_UNSET" in str(caught.value)


def _unset(config: Config) -> Any:
    return replace(config.teacher, llm=replace(config.teacher.llm, api_key_env="TAPIR_UNSET"))
