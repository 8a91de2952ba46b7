"""The lab's base student is a small Llama, and the same arguments give the same bytes."""

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
config = LabStudentConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)
build_base_student(Path(sys.argv[1]), config, corpus)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    build_base_student(directory, TINY, CORPUS)
    return directory


def test_build_base_student_is_deterministic(built: Path, tmp_path: Path) -> None:
    build_base_student(tmp_path, TINY, CORPUS)
    assert digest_files(tmp_path) == digest_files(built)


@pytest.mark.slow
def test_build_base_student_in_another_process(built: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], check=True, env={"PYTHONHASHSEED": "7"})
    assert digest_files(tmp_path) == digest_files(built)


def test_seed_changes_only_weights(built: Path, tmp_path: Path) -> None:
    build_base_student(tmp_path, replace(TINY, seed=1), CORPUS)
    digests, other = digest_files(tmp_path), digest_files(built)
    assert {name for name in digests if digests[name] != other[name]} == {"model.safetensors"}


def test_tokenizer_splits_digits(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(built))
    assert tokenizer.tokenize("345")[:3] == ["3", "4", "5"]
    text = "Répète: 12 + 345?\n\tOK  ☃"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_template_adds_few_tokens(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(built))
    prompt: Any = tokenizer.apply_chat_template([{"role": "user", "content": "7"}], add_generation_prompt=True)
    assert tokenizer.convert_ids_to_tokens(prompt["input_ids"]) == [
        "<|bos|>",
        "<|user|>",
        "7",
        "<|end|>",
        "<|assistant|>",
    ]


def test_model_is_a_tied_llama(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(built))
    assert model.config.model_type == "llama"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(p.numel() for p in model.parameters()) == count_parameters(TINY)
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(str(built)).eos_token_id


def test_rotary_base_suits_short_conversations(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(built))
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": ROPE_THETA}
    slowest = model.model.rotary_emb.inv_freq.min().item()
    assert slowest == pytest.approx(ROPE_THETA ** -(1 - 2 / (TINY.hidden_size // TINY.num_heads)))


def test_initial_weights_have_the_configured_spread(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(built))
    matrices = [weights for weights in model.parameters() if weights.dim() == 2]
    assert len(matrices) == 1 + 7 * TINY.num_layers
    for weights in matrices:
        assert weights.std().item() == pytest.approx(INITIAL_SPREAD, rel=0.1)


def test_default_student_is_small() -> None:
    default = LabStudentConfig()
    assert default.num_layers == 2
    assert count_parameters(default) < 1_000_000


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(TINY, hidden_size=512, num_layers=8), "at most 3000000"),
        (replace(TINY, hidden_size=36, num_heads=4), r"hidden_size: 36 is not a multiple of 2 x num_heads = 8"),
        (replace(TINY, vocab_size=100), "vocab_size: 100 is too small"),
    ],
)
def test_invalid_architecture_is_refused(config: LabStudentConfig, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        build_base_student(tmp_path, config, CORPUS)
