"""The lab's base student: small, ordinary, and the same every time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_exp.config import LabStudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.store import digest_files
from tapir_exp.lab.base_student import INITIAL_SPREAD, ROPE_THETA, build_base_student, count_parameters

TINY = LabStudentConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)
CORPUS = ["Add 12 and 345.", "Answer: 357", "Sort the words: pear, apple, fig."] * 3

BUILD = """
import sys
from pathlib import Path
from tapir_exp.config import LabStudentConfig
from tapir_exp.lab.base_student import build_base_student
corpus = ["Add 12 and 345.", "Answer: 357", "Sort the words: pear, apple, fig."] * 3
config = LabStudentConfig(vocabulary=300, hidden=32, intermediate=48, layers=2, heads=2)
build_base_student(Path(sys.argv[1]), config, corpus)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    build_base_student(directory, TINY, CORPUS)
    return directory


def test_the_same_arguments_build_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build_base_student(tmp_path, TINY, CORPUS)
    assert digest_files(tmp_path) == digest_files(built)


@pytest.mark.slow
def test_another_process_builds_the_same_bytes(built: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], check=True, env={"PYTHONHASHSEED": "7"})
    assert digest_files(tmp_path) == digest_files(built)


def test_seed_draws_other_weights(built: Path, tmp_path: Path) -> None:
    build_base_student(tmp_path, replace(TINY, seed=1), CORPUS)
    ours, theirs = digest_files(tmp_path), digest_files(built)
    assert {name for name in ours if ours[name] != theirs[name]} == {"model.safetensors"}


def test_digits_are_tokens_of_their_own(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(built))
    assert tokenizer.tokenize("345")[:3] == ["3", "4", "5"]
    text = "Répète: 12 + 345?\n\tOK  ☃"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_template_costs_few_tokens(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(built))
    prompt: Any = tokenizer.apply_chat_template([{"role": "user", "content": "7"}], add_generation_prompt=True)
    assert tokenizer.convert_ids_to_tokens(prompt["input_ids"]) == [
        "<|bos|>",
        "<|user|>",
        "7",
        "<|end|>",
        "<|assistant|>",
    ]


def test_model_is_an_ordinary_tied_llama(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(built))
    assert model.config.model_type == "llama"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(p.numel() for p in model.parameters()) == count_parameters(TINY)
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(str(built)).eos_token_id


def test_positions_are_made_for_short_conversations(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(built))
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": ROPE_THETA}
    slowest = model.model.rotary_emb.inv_freq.min().item()
    assert slowest == pytest.approx(ROPE_THETA ** -(1 - 2 / (TINY.hidden_size // TINY.num_heads)))


def test_weights_spread_as_wide_as_a_narrow_model_needs(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(built))
    matrices = [weights for weights in model.parameters() if weights.dim() == 2]
    assert len(matrices) == 1 + 7 * TINY.num_layers
    for weights in matrices:
        assert weights.std().item() == pytest.approx(INITIAL_SPREAD, rel=0.1)


def test_the_labs_student_is_a_small_model_of_two_layers() -> None:
    default = LabStudentConfig()
    assert default.num_layers == 2
    assert count_parameters(default) < 1_000_000


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (replace(TINY, hidden=512, layers=8), "at most 3000000"),
        (replace(TINY, hidden=36, heads=4), "multiple"),
        (replace(TINY, vocabulary=100), "vocabulary"),
    ],
)
def test_unfit_shapes_are_refused(config: LabStudentConfig, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        build_base_student(tmp_path, config, CORPUS)
