"""The command `tapir-export`: a student as a plain Hugging Face directory, its adapter merged; and onto the hub."""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omegaconf import OmegaConf

from tapir_exp.config import Precision, StudentConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.student.model_card import CARD, Provenance, write_provenance

COMMAND, OVERRIDES = "hydra.yaml", "overrides.yaml"
"""Where Hydra notes, within `.hydra` of a run, which configuration it composed and what was typed."""


class ExportError(TapirError):
    """A student cannot be exported, or not to that place."""


class Hub(Protocol):
    """What is asked of huggingface_hub's HfApi."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object:
        """Make a repository, if it is not there."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> object:
        """Put a folder's files into it."""


@dataclass(frozen=True)
class Source:
    """A student to export: its directory or hub id, what opens it, its origin, and the command of its run if known."""

    directory: Path
    student: StudentConfig
    provenance: Provenance | None
    command: str | None


def export(source: Source, out: Path) -> None:
    """Write the student into `out`, whole or not at all. What an earlier export of the same wrote there stays.

    Raises ExportError where something else is there, ConfigError where the student cannot be opened.
    """
    from tapir_exp.student.saving import save_merged

    merged_as = source.student.precision.value
    of = source.provenance and source.provenance.model_copy(update={"merged_as": merged_as})
    if out.exists():
        if of is None or Provenance.load(out) != of:
            raise ExportError(f"{out} is there already, and not from this student; name another directory.")
        return
    passing = out.with_name(out.name + ".partial")
    shutil.rmtree(passing, ignore_errors=True)
    passing.mkdir(parents=True)
    save_merged(source.directory, source.student, passing)
    if of is not None:
        write_provenance(passing, of, command=source.command)
    elif (source.directory / CARD).is_file():
        shutil.copy(source.directory / CARD, passing / CARD)
    passing.rename(out)


def find_source(place: Path, precision: Precision | None, *, allow_pickle: bool, trust_remote_code: bool) -> Source:
    """The student in a directory, or the last one of a run, with what its run allowed.

    precision: of the weights; None takes the one that the student was trained in.
    Raises ExportError where there is no student, or it does not tell its precision; StoreError for an unfinished run.
    """
    command = None
    directory = place
    if (place / MANIFEST).is_file():
        manifest = Manifest.load(place)
        directory = manifest.open(place)[f"student-{len(manifest.alphas)}"].path
        command = _command_of(place)
        ran = OmegaConf.load(place / "config.yaml")
        allow_pickle |= bool(OmegaConf.select(ran, "student.allow_pickle"))
        trust_remote_code |= bool(OmegaConf.select(ran, "student.trust_remote_code"))
    if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ExportError(f"{place} is neither a student nor a finished run; name the directory of either.")
    known = Provenance.load(directory)
    if precision is None and known is None:
        raise ExportError(f"{place} does not say in which type it was trained; give --dtype.")
    student = StudentConfig(
        model=str(directory),
        precision=precision or known.precision,  # type: ignore[union-attr]  # one of them is there
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return Source(directory, student, known, command)


def push(directory: Path, repo: str, hub: Hub) -> None:
    """Put a student's directory on the hub, into a repository that is made private if it is new.

    Raises ExportError where the hub refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=str(directory), commit_message="A student of tapir_exp")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise ExportError(
            f"{directory} is written, but the hub did not take it as {repo}: {error}\n"
            "After `hf auth login` with a token that may write, give the same command again."
        ) from error


def main(argv: Sequence[str] | None = None, hub: Hub | None = None) -> None:
    """The command `tapir-export`: a student as a plain Hugging Face directory, its adapter merged into its base."""
    arguments = _parser().parse_args(argv)
    try:
        source = find_source(
            arguments.student,
            arguments.dtype and Precision(arguments.dtype),
            allow_pickle=arguments.allow_pickle,
            trust_remote_code=arguments.trust_remote_code,
        )
        export(source, arguments.out)
        sys.stdout.write(f"{arguments.out}: {source.directory} in {source.student.precision.value}\n")
        if arguments.push:
            push(arguments.out, arguments.push, hub or _hub())
            sys.stdout.write(f"pushed to {arguments.push}\n")
    except TapirError as error:
        sys.exit(f"tapir-export: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tapir-export", description=main.__doc__)
    parser.add_argument("student", type=Path, metavar="STUDENT_OR_RUN", help="a student's directory, or a run's")
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory that is not there yet")
    parser.add_argument("--push", metavar="REPO", help="also put it on the hub; a new repository is private")
    choices = [precision.value for precision in Precision]
    parser.add_argument("--dtype", choices=choices, help="type of the weights; default: the one it was trained in")
    parser.add_argument("--allow-pickle", action="store_true", help="as student.allow_pickle=true")
    parser.add_argument("--trust-remote-code", action="store_true", help="as student.trust_remote_code=true")
    return parser


def _hub() -> Hub:
    from huggingface_hub import HfApi

    return HfApi()


def _command_of(run: Path) -> str | None:
    """What was typed to make a run, but for the place of its outputs; None where that is not noted."""
    notes = run / ".hydra"
    if not (notes / OVERRIDES).is_file():
        return None
    typed = [str(line) for line in OmegaConf.load(notes / OVERRIDES)]
    name = OmegaConf.select(OmegaConf.load(notes / COMMAND), "hydra.job.config_name")
    sweep = [] if name == "config" else ["--config-name", str(name)]
    return shlex.join(["tapir", *sweep, *(line for line in typed if not line.startswith("outputs="))])
