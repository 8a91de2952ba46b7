"""Adapters through a whole run of the lab: one chain over one base, in whatever place, and opened by everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tapir_exp.config import StudentConfig
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.store import Artifact, digest_files
from tapir_exp.student.loading import load_model
from tapir_exp.student.model_card import Provenance

pytestmark = pytest.mark.slow

TINY = [
    "sft=lora",
    "name=tiny",
    "seeds.size=60",
    "curriculum.rows_per_round=30",
    "curriculum.rounds=2",
    "curriculum.difficulty=eps",
    "curriculum.rollouts.num_samples=2",
    "sft.seed_stage.epochs=1",
    "sft.global_batch_size=8",
    "student.max_new_tokens=8",
    "evals.problems_per_level=1",
    "logger=disabled",
]
WEIGHTS = "adapter_model.safetensors"


def tapir(outputs: Path, *overrides: str, hash_seed: int = 0, command: str = "cli:main") -> Path:
    """The directory of a run below `outputs`."""
    module, name = command.split(":")
    code = f"import sys; sys.argv[0] = {name!r}; from tapir_exp.{module} import {name}; {name}()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(
        [sys.executable, "-c", code, f"outputs={outputs}", *overrides], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return outputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left that was made elsewhere and then moved."""
    home = tmp_path_factory.mktemp("home")
    tapir(home / "made here", *TINY, "sft.round_stage.epochs=1", hash_seed=1)
    (home / "made here").rename(home / "moved")
    return home / "moved"


def students(outputs: Path) -> list[Artifact]:
    run = (outputs / "latest").resolve()
    artifacts = Manifest.load(run).open(run)
    return [artifacts[f"student-{number}"] for number in range(3)]


def test_every_student_is_an_adapter_over_the_one_base(outputs: Path) -> None:
    found = students(outputs)
    bases = {json.loads((one.path / "adapter_config.json").read_text())["base_model_name_or_path"] for one in found}
    assert len(bases) == 1
    assert len({one.files[WEIGHTS] for one in found}) == 3
    assert not any("model.safetensors" in one.files for one in found)
    known = [Provenance.load(one.path) for one in found]
    assert [of.parent.name for of in known if of] == [known[0].base.name, found[0].name, found[1].name]  # type: ignore[union-attr]
    assert [of.artifact for of in known if of] == [one.name for one in found]


def test_the_same_command_elsewhere_makes_the_same_bytes(outputs: Path, tmp_path: Path) -> None:
    again = tapir(tmp_path / "another" / "place", *TINY, "sft.round_stage.epochs=1", hash_seed=2)
    assert [digest_files(one.path) for one in students(again)] == [digest_files(one.path) for one in students(outputs)]


def test_a_round_starts_from_the_adapter_before_it(outputs: Path) -> None:
    """Rounds that train nothing leave the adapter of S_0; it is reused, since it was moved with all the rest."""
    before = students(outputs)[0]
    tapir(outputs, *TINY, "sft.round_stage.epochs=0", "name=idle")
    found = students(outputs)
    assert found[0].key == before.key
    assert {one.files[WEIGHTS] for one in found} == {before.files[WEIGHTS]}


def test_a_moved_run_is_evaluated_and_exported(outputs: Path, tmp_path: Path) -> None:
    run = next((outputs / "runs").glob("tiny*"))
    tapir(outputs, f"evals.run={run}", "evals.problems_per_level=1", "logger=disabled", command="cli:main_evaluate")
    assert list((outputs / "evaluations").rglob("evaluation.json"))
    from tapir_exp.commands.export import main

    main([str(run), str(tmp_path / "out")])
    student = Manifest.load(run).open(run)["student-2"].path
    tokens = torch.arange(20)[None]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ours = load_model(student, StudentConfig(model="lab"))
    assert torch.equal(merged(tokens).logits, ours(tokens).logits)
    assert "$ tapir sft=lora name=tiny" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_s_own_lines_open_the_student(outputs: Path, tmp_path: Path) -> None:
    """As a user pastes them, in a process that knows nothing of this package; of an adapter and of an export."""
    from tapir_exp.commands.export import main

    run = next((outputs / "runs").glob("tiny*"))
    main([str(run), str(tmp_path / "out")])
    for place in (Manifest.load(run).open(run)["student-2"].path, tmp_path / "out"):
        lines = (place / "README.md").read_text().split("```python\n")[1].split("```")[0]
        code = lines.replace("max_new_tokens=200", "max_new_tokens=5")
        assert "tapir_exp" not in code
        done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "What is a tapir?" in done.stdout
