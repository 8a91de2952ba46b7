"""`tapir export`: write a student as a plain Hugging Face directory with its adapter merged, or push it to the hub."""

import argparse
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tapir_exp.config import Precision, StudentConfig
from tapir_exp.core.console import write_line
from tapir_exp.core.errors import TapirError
from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.core.store import check_if_artifact
from tapir_exp.core.yaml_files import read_yaml
from tapir_exp.student.model_card import CARD, Provenance, write_provenance

HYDRA_CONFIG, OVERRIDES = "hydra.yaml", "overrides.yaml"
"""Files of Hydra in `.hydra` of a run: the primary configuration, and the overrides that were typed."""


class ExportError(TapirError):
    """A student cannot be exported, or the target exists already."""


class Hub(Protocol):
    """The methods of huggingface_hub's HfApi that an export needs."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object:
        """Create a repository, unless it exists."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> object:
        """Upload the files of a directory."""


@dataclass(frozen=True)
class Source:
    """A student to export.

    Attributes:
        directory: Its directory or hub id.
        student: The settings that it is opened with.
        provenance: Its origin, if known.
        command: The command of its run, if known.
    """

    directory: Path
    student: StudentConfig
    provenance: Provenance | None
    command: str | None


def export(source: Source, out: Path) -> None:
    """Write the student into `out`, completely or not at all. A repeated export of the same student does nothing.

    Raises:
        ExportError: If something else exists at `out`.
        ConfigError: If the student cannot be opened.
    """
    from tapir_exp.student.saving import save_merged

    merged_as = source.student.precision.value
    provenance = source.provenance and source.provenance.model_copy(update={"merged_as": merged_as})
    if out.exists():
        if provenance is None or Provenance.load(out) != provenance:
            raise ExportError(f"{out} exists and does not hold this student; give a directory that does not exist.")
        return
    # Write next to the target and rename, so that an interrupted export leaves nothing at `out`.
    tmp = out.with_name(out.name + ".partial")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    save_merged(source.directory, source.student, tmp)
    if provenance is not None:
        write_provenance(tmp, provenance, command=source.command)
    elif (source.directory / CARD).is_file():  # a model of others keeps its own card
        shutil.copy(source.directory / CARD, tmp / CARD)
    tmp.rename(out)


def find_source(path: Path, precision: Precision | None, *, allow_pickle: bool, trust_remote_code: bool) -> Source:
    """Find the student in a directory, or the last student of a run.

    Args:
        path: The directory of a student or of a run.
        precision: Type of the weights; None takes the type that the student was trained in.
        allow_pickle: As `student.allow_pickle`.
        trust_remote_code: As `student.trust_remote_code`. What the run allowed does not count: it may be the run of
            another user.

    Raises:
        ExportError: If there is no student, or its precision is unknown.
        StoreError: If the run is not finished, or files of the student have changed since it was made.
    """
    command = None
    directory = path
    if (path / MANIFEST).is_file():
        manifest = Manifest.load(path)
        directory = manifest.open_last_student(path).path
        command = _command_of(path)
    if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ExportError(
            f"{path} is neither a student nor a finished run; give the directory of either, or repeat the command "
            "of an unfinished run."
        )
    check_if_artifact(directory)
    provenance = Provenance.load(directory)
    if precision is None and provenance is None:
        raise ExportError(f"{path} does not record the type that it was trained in; give --dtype.")
    student = StudentConfig(
        model=str(directory),
        precision=precision or provenance.precision,  # type: ignore[union-attr]  # one of them is given
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return Source(directory, student, provenance, command)


def push(directory: Path, repo: str, hub: Hub) -> None:
    """Upload a student's directory to the hub. A new repository is private.

    Raises:
        ExportError: If the hub rejects it.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=str(directory), commit_message="A student of tapir_exp")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise ExportError(
            f"{directory} is written, but the hub rejected it as {repo}: {error}\n"
            "Run `hf auth login` with a token that may write, then repeat the command."
        ) from error


def main(arguments: Sequence[str], hub: Hub | None = None) -> None:
    """Write a student as a plain Hugging Face directory, with its adapter merged into its base."""
    options = _parser().parse_args(arguments)
    source = find_source(
        options.student,
        options.dtype and Precision(options.dtype),
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    export(source, options.out)
    write_line(f"{options.out}: {source.directory} in {source.student.precision.value}")
    if not options.push:
        return
    if hub is None:
        from huggingface_hub import HfApi

        hub = HfApi()
    push(options.out, options.push, hub)
    write_line(f"pushed to {options.push}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tapir export", description=main.__doc__)
    parser.add_argument("student", type=Path, metavar="STUDENT_OR_RUN", help="directory of a student or of a run")
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory that does not exist yet")
    parser.add_argument("--push", metavar="REPO", help="also upload it to the hub; a new repository is private")
    choices = [precision.value for precision in Precision]
    parser.add_argument("--dtype", choices=choices, help="type of the weights; default: as it was trained")
    parser.add_argument("--allow-pickle", action="store_true", help="as student.allow_pickle=true")
    parser.add_argument("--trust-remote-code", action="store_true", help="as student.trust_remote_code=true")
    return parser


def _command_of(run: Path) -> str | None:
    """Return the command of a run without its outputs directory; None if Hydra did not record it."""
    records = run / ".hydra"
    if not (records / OVERRIDES).is_file():
        return None
    # Nothing is resolved: an interpolation in a file of another user could copy a key of the environment into the card.
    overrides, settings = read_yaml(records / OVERRIDES), read_yaml(records / HYDRA_CONFIG)
    try:
        typed, name = [str(override) for override in overrides], str(settings["hydra"]["job"]["config_name"])
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{records} does not hold the overrides of a run; delete it to export without them."
        ) from error
    # The path of the outputs contains nothing about the student, and may be private.
    sweep = [] if name == "config" else ["--config-name", name]
    return shlex.join(["tapir", *sweep, *(override for override in typed if not override.startswith("outputs="))])
