"""Runs and model directories from another person, which try to run code when they are opened."""

import json
import sys
from pathlib import Path

from tapir_exp.config import LabStudentConfig
from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.store import Store
from tapir_exp.lab.base_student import build_base_student

SMALLEST = LabStudentConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)
CUSTOM = """\
import os
os.makedirs({mark!r}, exist_ok=True)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class CustomConfig(LlamaConfig):
    model_type = "custom"
class CustomModel(LlamaForCausalLM):
    config_class = CustomConfig
class CustomTokenizer(PreTrainedTokenizerFast):
    pass
"""


def build_smallest(directory: Path) -> Path:
    """Write a student with random weights; it has two layers and 300 tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    build_base_student(directory, SMALLEST, ["Name things that a cook keeps in jars.", "Salt, rope, tins and 42."])
    return directory


def add_custom_code(directory: Path, mark: Path) -> None:
    """Make a model need a Python file next to its weights; it creates the directory `mark`."""
    (directory / "custom.py").write_text(CUSTOM.format(mark=str(mark)))
    change_json(
        directory / "config.json",
        model_type="custom",
        architectures=["CustomModel"],
        auto_map={"AutoConfig": "custom.CustomConfig", "AutoModelForCausalLM": "custom.CustomModel"},
    )
    change_json(
        directory / "tokenizer_config.json",
        tokenizer_class="CustomTokenizer",
        auto_map={"AutoTokenizer": [None, "custom.CustomTokenizer"]},
    )


def change_json(path: Path, **changes: object) -> None:
    """Replace fields of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def plant_run(outputs: Path, mark: Path) -> Path:
    """Write a finished run with a configuration that permits everything; its student and settings try to run code."""
    store, run = Store(outputs / "store"), outputs / "runs" / "planted"

    def make(directory: Path) -> dict[str, object]:
        build_smallest(directory)
        add_custom_code(directory, mark)
        return {}

    student = store.produce("student", {"planted": True}, make)
    (run / ".hydra").mkdir(parents=True)
    Manifest(
        name="planted",
        arm="tapir",
        seed=0,
        store="../../store",
        delta=2,
        alphas=(),
        target=None,
        artifacts=(entry_of("student-0", 0, student),),
    ).write(run)
    program = [sys.executable, "-c", f"import os; os.makedirs({str(mark)!r}, exist_ok=True)"]
    server = {"command": program}
    config = {
        "student": {
            "model": "lab",
            "allow_pickle": True,
            "trust_remote_code": True,
            "engine": "vllm",
            "vllm": {"executable": program, "extra_args": ["--trust-remote-code"], "startup_timeout_s": 2.0},
        },
        "judge": {"protocol": "pair_scores", "llm": {"server": server}},
        "teacher": {"llm": {"server": server}},
    }
    (run / "config.yaml").write_text(json.dumps(config))
    (run / ".hydra" / "overrides.yaml").write_text('- "name=${oc.env:PLANTED_API_KEY}"\n')
    (run / ".hydra" / "hydra.yaml").write_text('hydra: {job: {config_name: "${oc.env:PLANTED_API_KEY}"}}\n')
    return run
