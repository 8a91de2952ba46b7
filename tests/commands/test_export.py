"""`tapir export`: a student of a store as a complete directory, and on the hub with `--push`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tapir_exp.commands.export import ExportError, main
from tapir_exp.config import BudgetConfig, LabStudentConfig, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.records import Subset
from tapir_exp.core.store import Artifact, Store
from tapir_exp.lab.base_student import build_base_student
from tapir_exp.student.loading import AdapterBase, load_model
from tapir_exp.student.model_card import (
    ModelLocation,
    ModelRef,
    Provenance,
    TrainingData,
    describe_settings,
    reproducible_figures,
    write_provenance,
)
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.schedule import restart_schedule
from tapir_exp.student.training.train import finetune

TINY = LabStudentConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)
ROWS = [TrainingRow(f"Say {n}", f"{n} red", Subset.REST) for n in range(8)]
STUDENT = StudentConfig(model="lab", max_length=128)
SFT = SFTConfig(method=Method.lora, learning_rate=1e-2, global_batch_size=4)
TOKENS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a finished run without rounds. Its student is an adapter over a base in the same store."""
    outputs = tmp_path_factory.mktemp("outputs")
    store, directory = Store(outputs / "store"), outputs / "runs" / "lab"
    base = store.produce("base_student", {}, build)
    student = store.produce("student", {}, lambda workdir: train(workdir, base))
    (directory / ".hydra").mkdir(parents=True)
    entries = (entry_of("student-0", 0, student),)
    manifest = Manifest(
        name="lab", arm="tapir", seed=0, store="../../store", delta=2, alphas=(), target={}, artifacts=entries
    )
    manifest.write(directory)
    (directory / "config.yaml").write_text("student: {allow_pickle: false, trust_remote_code: false}\n")
    (directory / ".hydra" / "overrides.yaml").write_text(f"- outputs={outputs}\n- sft=lora\n- name=two words\n")
    (directory / ".hydra" / "hydra.yaml").write_text("hydra: {job: {config_name: config}}\n")
    return directory


def build(directory: Path) -> Mapping[str, Any]:
    build_base_student(directory, TINY, [f"{row.instruction} {row.response}" for row in ROWS])
    return {}


def train(workdir: Path, base: Artifact) -> Mapping[str, Any]:
    budget, trainer = BudgetConfig(epochs=4), TrainerConfig(accelerator="cpu")
    adapter_base = AdapterBase(base.relative_path)
    figures = asdict(finetune(FitJob(base.path, SFT, budget, STUDENT, trainer, base=adapter_base), ROWS, workdir))
    start = ModelRef(location=ModelLocation.STORE, name=base.name)
    provenance = Provenance(
        artifact="student/x",
        base=start,
        parent=start,
        data=TrainingData(artifact="seeds/x", sha256="0"),
        method=SFT.method,
        alpha=None,
        seed=0,
        precision=Precision.float32,
        settings=describe_settings(STUDENT, trainer, SFT, budget, restart_schedule(SFT), None),
        figures=reproducible_figures(figures),
    )
    write_provenance(workdir, provenance)
    return figures


def student_of(run: Path) -> Path:
    return Manifest.load(run).open(run)["student-0"].path


def export(*arguments: object, hub: Any = None) -> None:
    main([str(argument) for argument in arguments], hub)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(TOKENS).logits.float()
    return result


def test_student_of_a_run_becomes_a_plain_directory(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
        *("provenance.json", "tokenizer.json", "tokenizer_config.json"),
    }
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(whole), logits(load_model(student_of(run), STUDENT)))
    own, exported = (AutoTokenizer.from_pretrained(path) for path in (student_of(run), tmp_path / "out"))
    assert (exported.chat_template, exported.eos_token) == (own.chat_template, "<|end|>")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == own.eos_token_id


def test_export_records_merge_and_command(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert "$ tapir sft=lora 'name=two words'\n" in card
    assert "outputs=" not in card
    known, before = Provenance.load(tmp_path / "out"), Provenance.load(student_of(run))
    assert known
    assert before
    assert known == before.model_copy(update={"merged_as": "float32"})


def test_dtype_sets_the_type_of_the_weights(run: Path, tmp_path: Path) -> None:
    export(student_of(run), tmp_path / "out", "--dtype", "bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert whole.dtype is torch.bfloat16
    exact = logits(load_model(student_of(run), STUDENT))
    assert (logits(whole) - exact).abs().max() < 0.02 * exact.abs().max()


def test_export_neither_repeats_nor_overwrites(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(run, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    export(run, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ExportError, match="does not hold this student"):
        export(run, tmp_path / "out", "--dtype", "bfloat16")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_two_exports_have_the_same_bytes(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "one")
    export(run, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_directory_without_a_student_is_rejected(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="neither a student nor a finished run"):
        export(tmp_path, tmp_path / "out")
    base = next((run / "../../store/base_student").resolve().iterdir())
    with pytest.raises(ExportError, match="give --dtype"):
        export(base, tmp_path / "out")
    export(base, tmp_path / "out", "--dtype", "float32")  # a model of others is copied
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(load_model(base, STUDENT))
    )


class FakeHub:
    """Record the requests to the hub."""

    def __init__(self, error: Exception | None = None) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self._error = error

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self._error:
            raise self._error
        self.requests.append(("create", repo_id, (private, exist_ok)))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.requests.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


def test_export_pushes_only_with_push(run: Path, tmp_path: Path) -> None:
    hub = FakeHub()
    export(run, tmp_path / "out", hub=hub)
    assert hub.requests == []


def test_push_uploads_all_files_to_a_private_repository(run: Path, tmp_path: Path) -> None:
    hub = FakeHub()
    export(run, tmp_path / "out", "--push", "me/student", hub=hub)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert hub.requests == [("create", "me/student", (True, True)), ("upload", "me/student", files)]


def test_rejected_push_keeps_the_directory(run: Path, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalTokenNotFoundError

    with pytest.raises(ExportError, match="hf auth login"):
        export(run, tmp_path / "out", "--push", "me/student", hub=FakeHub(LocalTokenNotFoundError("no token")))
    assert (tmp_path / "out" / "model.safetensors").is_file()
    export(run, tmp_path / "out", "--push", "me/student", hub=(hub := FakeHub()))
    assert len(hub.requests) == 2


def test_hub_methods_have_the_expected_arguments() -> None:
    """HfApi's methods have the arguments with which they are called here."""
    from inspect import signature

    from huggingface_hub import HfApi

    assert {"repo_id", "private", "exist_ok"} <= set(signature(HfApi.create_repo).parameters)
    assert {"repo_id", "folder_path", "commit_message"} <= set(signature(HfApi.upload_folder).parameters)
