"""A run directory from another person never runs code, even if its configuration permits it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from planted import change_json, plant_run

from tapir_exp.commands.evaluate_job import find_subject
from tapir_exp.commands.export import find_source
from tapir_exp.commands.export import main as export
from tapir_exp.commands.hydra_app import start
from tapir_exp.commands.reparse import reparse
from tapir_exp.config import Config, EngineKind
from tapir_exp.core.errors import ConfigError, StoreError, TapirError
from tapir_exp.report.sweep.jobs import find_jobs
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.generate import generate_responses
from tapir_exp.student.loading import load_model

KEY = "planted-key-of-the-environment-77"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a planted run, and the directory that its code would make."""
    home = tmp_path_factory.mktemp("foreign")
    return plant_run(home / "outputs", home / "ran"), home / "ran"


def test_export_asks_the_user_not_the_run(planted: tuple[Path, Path], tmp_path: Path) -> None:
    run, mark = planted
    with pytest.raises(ConfigError, match=r"set student\.trust_remote_code=true"):
        export([str(run), str(tmp_path / "out"), "--dtype", "float32"])
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_export_copies_no_variable_into_the_card(planted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from tapir_exp.config import Precision

    monkeypatch.setenv("PLANTED_API_KEY", KEY)
    source = find_source(planted[0], Precision.float32, allow_pickle=False, trust_remote_code=False)
    assert source.command is not None
    assert KEY not in source.command
    assert not source.student.allow_pickle
    assert not source.student.trust_remote_code


def test_evaluation_takes_permissions_from_the_user(
    planted: tuple[Path, Path], compose_config: Callable[..., Config]
) -> None:
    run, mark = planted
    own = compose_config(f"evals.run={run}", config_name="evaluate")
    student = find_subject(own).student
    assert not student.allow_pickle
    assert not student.trust_remote_code
    assert student.engine is EngineKind.transformers
    assert student.vllm == own.student.vllm
    for load in (load_model, load_chat):
        with pytest.raises(ConfigError, match="trust_remote_code"):
            load(find_subject(own).source, student)  # type: ignore[operator, arg-type]
    with pytest.raises(TapirError):
        generate_responses(find_subject(own).source, [("1", "Hello")], student, "x")  # type: ignore[arg-type]
    assert not mark.exists()
    allowed = replace(own, student=replace(own.student, trust_remote_code=True, engine=EngineKind.vllm))
    assert find_subject(allowed).student.trust_remote_code
    assert find_subject(allowed).student.engine is EngineKind.vllm


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("student: {model: lab, system_prompt: '${oc.env:HOME}'}", "student.system_prompt is an interpolation"),
        ("student: {model: !!python/object/apply:os.mkdir [ran]}", "cannot be read"),
        ("a: &a [x, x]\nstudent: {model: *a}", "alias"),
        ("student: {model: lab, modle: x}", "modle"),
        ("student: {model: lab, max_length: -5}", "student.max_length = -5"),
        ("student: lab", "no section `student`"),
        ("[]", "holds no settings"),
        ("student: {model: lab" + " " * 2**21 + "}", "larger than"),
        ("[" * 100_000, "cannot be read"),
        ("student: {model: \x00}", "cannot be read"),
    ],
    ids=lambda value: value[:40],
)
def test_damaged_configuration_is_one_sentence(
    planted: tuple[Path, Path], tmp_path: Path, compose_config: Callable[..., Config], text: str, words: str
) -> None:
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    for name in ("manifest.json",):
        (run / name).write_bytes((planted[0] / name).read_bytes())
    (run / "config.yaml").write_text(text)
    config = compose_config(f"evals.run={run}", config_name="evaluate")
    with pytest.raises(StoreError, match=r"config\.yaml") as caught:
        find_subject(config)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("field", ["stage", "key"])
def test_artifact_outside_the_store_is_refused(tmp_path: Path, field: str) -> None:
    run = plant_run(tmp_path / "outputs", tmp_path / "ran")
    from tapir_exp.core.manifest import Manifest

    entry = Manifest.load(run).artifacts[0].model_dump() | {field: "../../../secret"}
    change_json(run / "manifest.json", artifacts=[entry])
    with pytest.raises(StoreError, match=r"manifest\.json"):
        find_source(run, None, allow_pickle=False, trust_remote_code=False)


def test_reparse_and_sweep_read_plain_data_only(planted: tuple[Path, Path]) -> None:
    run, mark = planted
    assert reparse(run) == []
    jobs = find_jobs(run.parent)
    assert jobs[0].config["student.trust_remote_code"] is True  # shown, and nothing else
    assert not mark.exists()


def test_pickled_configuration_of_hydra_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads a pickle"):
        start("config", ["--experimental-rerun", str(tmp_path / "config.pickle")])
