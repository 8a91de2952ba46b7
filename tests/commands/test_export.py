"""A student taken out of its store: whole, with all that belongs to it, and on the hub where that is asked for."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tapir_exp.commands.export import main
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
    reproducible_figures,
    describe_settings,
    write_provenance,
)
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.train import finetune

TINY = LabStudentConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)
ROWS = [TrainingRow(f"Say {n}", f"{n} red", Subset.REST) for n in range(8)]
STUDENT = StudentConfig(model="lab", max_length=128)
SFT = SFTConfig(method=Method.lora, learning_rate=1e-2, global_batch_size=4)
TOKENS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of no round, whose student is an adapter over a base in the same store."""
    outputs = tmp_path_factory.mktemp("outputs")
    store, directory = Store(outputs / "store"), outputs / "runs" / "lab"
    base = store.produce("base_student", {}, build)
    student = store.produce("student", {}, lambda workdir: train(workdir, base))
    (directory / ".hydra").mkdir(parents=True)
    entries = (entry_of("student-0", 0, student),)
    place, target = "../../store", {}
    Manifest(name="lab", arm="tapir", seed=0, store=place, delta=2, alphas=(), target=target, artifacts=entries).write(
        directory
    )
    (directory / "config.yaml").write_text("student: {allow_pickle: false, trust_remote_code: false}\n")
    (directory / ".hydra" / "overrides.yaml").write_text(f"- outputs={outputs}\n- sft=lora\n- name=two words\n")
    (directory / ".hydra" / "hydra.yaml").write_text("hydra: {job: {config_name: config}}\n")
    return directory


def build(directory: Path) -> Mapping[str, Any]:
    build_base_student(directory, TINY, [f"{row.instruction} {row.response}" for row in ROWS])
    return {}


def train(workdir: Path, base: Artifact) -> Mapping[str, Any]:
    budget, beside, trainer = BudgetConfig(epochs=4), AdapterBase(base.relative_path), TrainerConfig(accelerator="cpu")
    figures = asdict(finetune(FitJob(base.path, SFT, budget, STUDENT, trainer, base=beside), ROWS, workdir))
    start = ModelRef(place=ModelLocation.STORE, name=base.name)
    provenance = Provenance(
        artifact="student/x",
        base=start,
        parent=start,
        data=TrainingData(artifact="seeds/x", sha256="0"),
        method=SFT.method,
        alpha=None,
        seed=0,
        precision=Precision.float32,
        settings=describe_settings(STUDENT, trainer, SFT, budget, None),
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
    found: torch.Tensor = model(TOKENS).logits.float()
    return found


def test_a_run_s_student_becomes_a_plain_directory(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
        *("provenance.json", "tokenizer.json", "tokenizer_config.json"),
    }
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(whole), logits(load_model(student_of(run), STUDENT)))
    own, kept = (AutoTokenizer.from_pretrained(place) for place in (student_of(run), tmp_path / "out"))
    assert (kept.chat_template, kept.eos_token) == (own.chat_template, "<|end|>")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == own.eos_token_id


def test_its_card_and_provenance_say_that_it_was_merged_and_how_its_run_was_made(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert "$ tapir sft=lora 'name=two words'\n" in card
    assert "outputs=" not in card
    known, before = Provenance.load(tmp_path / "out"), Provenance.load(student_of(run))
    assert known
    assert before
    assert known == before.model_copy(update={"merged_as": "float32"})


def test_weights_are_written_in_the_type_asked_for(run: Path, tmp_path: Path) -> None:
    export(student_of(run), tmp_path / "out", "--dtype", "bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert whole.dtype is torch.bfloat16
    exact = logits(load_model(student_of(run), STUDENT))
    assert (logits(whole) - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_second_export_is_the_first_and_another_student_is_not_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(run, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    export(run, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="not from this student"):
        export(run, tmp_path / "out", "--dtype", "bfloat16")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_two_exports_have_the_same_bytes(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "one")
    export(run, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_what_is_no_student_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="neither a student nor a finished run"):
        export(tmp_path, tmp_path / "out")
    base = next((run / "../../store/base_student").resolve().iterdir())
    with pytest.raises(SystemExit, match="give --dtype"):
        export(base, tmp_path / "out")
    export(base, tmp_path / "out", "--dtype", "float32")  # a model of others is copied
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(load_model(base, STUDENT))
    )


class FakeHub:
    """Takes down what is asked of it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._error = error

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self._error:
            raise self._error
        self.asked.append(("create", repo_id, (private, exist_ok)))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.asked.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


def test_nothing_is_pushed_unasked(run: Path, tmp_path: Path) -> None:
    hub = FakeHub()
    export(run, tmp_path / "out", hub=hub)
    assert hub.asked == []


def test_a_push_makes_a_private_repository_of_the_whole_directory(run: Path, tmp_path: Path) -> None:
    hub = FakeHub()
    export(run, tmp_path / "out", "--push", "me/student", hub=hub)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert hub.asked == [("create", "me/student", (True, True)), ("upload", "me/student", files)]


def test_a_refused_push_keeps_the_directory_and_says_what_to_do(run: Path, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalTokenNotFoundError

    with pytest.raises(SystemExit, match="hf auth login"):
        export(run, tmp_path / "out", "--push", "me/student", hub=FakeHub(LocalTokenNotFoundError("no token")))
    assert (tmp_path / "out" / "model.safetensors").is_file()
    export(run, tmp_path / "out", "--push", "me/student", hub=(hub := FakeHub()))
    assert len(hub.asked) == 2


def test_the_real_hub_takes_what_it_is_given() -> None:
    """HfApi's methods have the arguments with which they are called here."""
    from inspect import signature

    from huggingface_hub import HfApi

    assert {"repo_id", "private", "exist_ok"} <= set(signature(HfApi.create_repo).parameters)
    assert {"repo_id", "folder_path", "commit_message"} <= set(signature(HfApi.upload_folder).parameters)
