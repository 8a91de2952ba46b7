"""Adapters through a whole run of the lab: one chain of adapters on one base, in any directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from preloaded import run_preloaded
from transformers import AutoModelForCausalLM

from tapir_exp.config import StudentConfig
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.store import Artifact, digest_files
from tapir_exp.student.loading import load_model
from tapir_exp.student.model_card import Provenance

pytestmark = pytest.mark.slow

LORA = ["sft=lora", "debug=tiny", "name=tiny"]
LORA += ["curriculum.difficulty=eps", "curriculum.rollouts.num_samples=2", "student.max_new_tokens=8"]
ONE_EPOCH = ["sft.seed_stage.epochs=1", "sft.seed_stage.max_tokens=null", "sft.round_stage.max_tokens=null"]
WEIGHTS = "adapter_model.safetensors"


def tapir(outputs: Path, *overrides: str, verb: str = "run") -> None:
    """Run a command with `outputs` as its outputs directory."""
    done = run_preloaded([verb, f"outputs={outputs}", *overrides])
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]


def run_with_hash_seed(outputs: Path, hash_seed: int) -> None:
    """Run the adapters' experiment in a new interpreter, whose sets have another order."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    words = [*LORA, *ONE_EPOCH, "sft.round_stage.epochs=1"]
    command = [sys.executable, "-m", "tapir_exp", "run", f"outputs={outputs}", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the outputs directory of a run, moved after the run."""
    home = tmp_path_factory.mktemp("home")
    run_with_hash_seed(home / "made here", 1)
    (home / "made here").rename(home / "moved")
    return home / "moved"


def students(outputs: Path) -> list[Artifact]:
    run = (outputs / "latest").resolve()
    artifacts = Manifest.load(run).open(run)
    return [artifacts[f"student-{number}"] for number in range(3)]


def test_students_are_adapters_on_one_base(outputs: Path) -> None:
    adapters = students(outputs)
    bases = {json.loads((one.path / "adapter_config.json").read_text())["base_model_name_or_path"] for one in adapters}
    assert len(bases) == 1
    assert len({one.files[WEIGHTS] for one in adapters}) == 3
    assert not any("model.safetensors" in one.files for one in adapters)
    provenance = [Provenance.load(one.path) for one in adapters]
    assert [of.parent.name for of in provenance if of] == [provenance[0].base.name, adapters[0].name, adapters[1].name]  # type: ignore[union-attr]
    assert [of.artifact for of in provenance if of] == [one.name for one in adapters]


def test_same_command_in_another_directory_writes_the_same_bytes(outputs: Path, tmp_path: Path) -> None:
    again = tmp_path / "another" / "place"
    run_with_hash_seed(again, 2)
    assert [digest_files(one.path) for one in students(again)] == [digest_files(one.path) for one in students(outputs)]


def test_round_without_training_keeps_the_adapter(outputs: Path) -> None:
    """Rounds of 0 epochs keep the adapter of S_0, which is reused from the moved store."""
    before = students(outputs)[0]
    tapir(outputs, *LORA, *ONE_EPOCH, "sft.round_stage.epochs=0", "name=idle")
    adapters = students(outputs)
    assert adapters[0].key == before.key
    assert {one.files[WEIGHTS] for one in adapters} == {before.files[WEIGHTS]}


def test_moved_run_is_evaluated_and_exported(outputs: Path, tmp_path: Path) -> None:
    run = next((outputs / "runs").glob("tiny*"))
    tapir(outputs, f"evals.run={run}", "evals.problems_per_level=1", "logger=disabled", verb="evaluate")
    assert list((outputs / "evaluations").rglob("evaluation.json"))
    from tapir_exp.commands.export import main

    main([str(run), str(tmp_path / "out")])
    student = Manifest.load(run).open(run)["student-2"].path
    tokens = torch.arange(20)[None]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ours = load_model(student, StudentConfig(model="lab"))
    assert torch.equal(merged(tokens).logits, ours(tokens).logits)
    assert "$ tapir sft=lora debug=tiny name=tiny" in (tmp_path / "out" / "README.md").read_text()


def test_model_card_code_loads_the_student(outputs: Path, tmp_path: Path) -> None:
    """The code runs in a process without this package, for an adapter and for an export."""
    from tapir_exp.commands.export import main

    run = next((outputs / "runs").glob("tiny*"))
    main([str(run), str(tmp_path / "out")])
    for directory in (Manifest.load(run).open(run)["student-2"].path, tmp_path / "out"):
        lines = (directory / "README.md").read_text().split("```python\n")[1].split("```")[0]
        code = lines.replace("max_new_tokens=200", "max_new_tokens=5")
        assert "tapir_exp" not in code
        done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "What is a tapir?" in done.stdout
