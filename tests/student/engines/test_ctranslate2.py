"""What the CTranslate2 engine rejects because its conversion would not be exact."""

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from generation import engine_config, opened_engine
from transformers import GPT2Config, GPT2LMHeadModel

from tapir_exp.config import EngineKind, Precision
from tapir_exp.core.errors import ConfigError
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.factory import open_engine


def test_half_precision_is_rejected(random_student: Path, chat: Chat) -> None:
    half = replace(engine_config(EngineKind.ctranslate2), precision=Precision.bfloat16)
    with (
        pytest.raises(ConfigError, match=r"student\.precision=bfloat16 \(expected float32\)"),
        open_engine(random_student, chat, half),
    ):
        pass


def test_unknown_model_type_is_rejected(chat: Chat, tmp_path: Path) -> None:
    shape = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    with (
        pytest.raises(ConfigError, match="type gpt2"),
        opened_engine(EngineKind.ctranslate2, tmp_path, chat),
    ):
        pass


def test_scaled_rotary_embedding_is_rejected(random_student: Path, chat: Chat, tmp_path: Path) -> None:
    for path in random_student.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["rope_parameters"] = {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with (
        pytest.raises(ConfigError, match="linear"),
        opened_engine(EngineKind.ctranslate2, tmp_path, chat),
    ):
        pass


def test_missing_library_error_names_the_extra(
    random_student: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_import = builtins.__import__

    def fail_for_ctranslate2(name: str, *args: Any) -> Any:
        if name == "ctranslate2":
            raise ModuleNotFoundError(name)
        return original_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", fail_for_ctranslate2)
    with (
        pytest.raises(ConfigError, match=r"tapir-exp\[fast\]"),
        opened_engine(EngineKind.ctranslate2, random_student, chat),
    ):
        pass
