"""The checks of `tapir doctor`: files of a run, artifacts of a store, and the databases of calls."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from rich.table import Table

from tapir_exp.core.console import Terminal
from tapir_exp.core.disk import set_aside
from tapir_exp.core.errors import StoreError, TapirError
from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
from tapir_exp.core.manifest import MANIFEST, Entry, Manifest
from tapir_exp.core.store import SIDECAR, DamagedArtifact, Store
from tapir_exp.core.yaml_files import read_yaml
from tapir_exp.llm import call_store_repair as repair
from tapir_exp.llm.call_store import CALLS_SCHEMA, TRAFFIC_FILE, TRAFFIC_SCHEMA, calls_file
from tapir_exp.llm.spend_report import SPEND_FILE, SpendReport

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
NO_STAGES = ("partial", "locks", "owners", "checked", "servers", "weights")
"""Directories of a store that hold no artifacts."""
STORE = "store"
"""The store within an outputs directory."""
AGAIN = "repeat the command of the run to make it again"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: What was checked.
        problem: What is wrong; empty if nothing is.
        remedy: What to do about it; after a repair, what was done.
        fix: Mends it and returns what was done; None if it cannot be mended here.
        mended: Whether it was mended.
    """

    subject: str
    problem: str = ""
    remedy: str = ""
    fix: Callable[[], str] | None = None
    mended: bool = False


def examine(directory: Path, *, fix: bool) -> list[Finding]:
    """Check a run, an evaluation, a store, or the store of an outputs directory.

    Args:
        directory: The directory.
        fix: Whether to mend what can be mended.

    Raises:
        StoreError: If the directory is none of them.
    """
    findings = []
    for finding in _checks(directory):
        if fix and finding.fix is not None:
            try:
                finding = replace(finding, remedy=finding.fix(), mended=True)
            except TapirError as error:
                finding = replace(finding, remedy=str(error))
        findings.append(finding)
    return findings


def print_findings(findings: list[Finding]) -> None:
    """Print one line for each check, and each problem with its remedy."""
    terminal = Terminal()  # stdout: the table is the result of the command
    table = Table("checked", "result")
    for finding in findings:
        table.add_row(finding.subject, "ok" if not finding.problem else "mended" if finding.mended else "damaged")
    terminal.print(table)
    for finding in findings:
        if finding.problem:
            terminal.print(f"{finding.subject}: {finding.problem}. {finding.remedy}", soft_wrap=True)
    damaged = sum(bool(finding.problem) and not finding.mended for finding in findings)
    fixable = sum(finding.fix is not None and not finding.mended for finding in findings)
    if damaged:
        hint = f"; `--fix` mends {fixable} of them" if fixable else ""
        terminal.print(f"{damaged} of {len(findings)} checks found damage{hint}.")


def _checks(directory: Path) -> Iterator[Finding]:
    if is_run(directory):
        yield from _run_checks(directory)
    elif is_store(directory):
        yield from _store_checks(directory)
    elif is_store(directory / STORE):
        yield from _store_checks(directory / STORE)
    else:
        raise StoreError(
            f"{directory} is neither a run, an evaluation nor a store: expected one of {CONFIG}, {MANIFEST}, "
            f"{EVALUATION} in it, or calls.sqlite and artifacts."
        )


def is_run(directory: Path) -> bool:
    """Return whether a directory is that of a run or of an evaluation."""
    return any((directory / name).exists() for name in (CONFIG, MANIFEST, EVALUATION, SPEND_FILE))


def is_store(directory: Path) -> bool:
    """Return whether a directory is a store."""
    return calls_file(directory).exists() or next(directory.glob(f"*/*/{SIDECAR}"), None) is not None


def _run_checks(run: Path) -> Iterator[Finding]:
    yield _check_file(run / CONFIG, read_yaml)
    yield _check_file(run / METRICS, _read_json_lines)
    yield _check_file(run / SPEND_FILE, lambda path: SpendReport.load(path.parent))
    entries: tuple[Entry, ...] = ()
    root = None
    for name, load in ((MANIFEST, Manifest.load), (EVALUATION, Evaluation.load)):
        path = run / name
        yield (finding := _check_file(path, lambda path, load=load: load(path.parent)))  # type: ignore[misc]
        if path.is_file() and not finding.problem:
            manifest = load(run)
            entries, root = manifest.artifacts, (run / manifest.store).resolve()
    if root is None:
        return
    for entry in entries:
        yield _check_artifact(Store(root), entry.stage, entry.key, entry)
    yield from _database_checks(root)


def _store_checks(root: Path) -> Iterator[Finding]:
    yield from _database_checks(root)
    for sidecar in sorted(root.glob(f"*/*/{SIDECAR}")):
        stage, key = sidecar.parts[-3:-1]
        if stage not in NO_STAGES and ".damaged" not in key:
            yield _check_artifact(Store(root), stage, key)
    for checkpoint in sorted(root.glob("partial/*/checkpoints/*.ckpt")):
        if checkpoint.is_file():
            yield _check_file(checkpoint, _read_checkpoint, "the fit starts from an earlier checkpoint")


def _check_file(path: Path, read: Callable[[Path], object], remedy: str = AGAIN) -> Finding:
    """Read a file that was written whole; one that does not exist yet is no damage."""
    subject = path.name
    if not path.exists():
        return Finding(f"{subject} (not there yet)")
    try:
        read(path)
    except (TapirError, ValueError, OSError, BadZipFile) as error:
        return Finding(subject, str(error).removesuffix("."), f"{remedy.capitalize()}.", _aside(path, remedy))
    return Finding(subject)


def _aside(path: Path, then: str) -> Callable[[], str]:
    return lambda: f"Kept as {set_aside(path)}; {then}."


def _check_artifact(store: Store, stage: str, key: str, entry: Entry | None = None) -> Finding:
    """Compare every byte of an artifact with its sidecar, and the sidecar with the manifest."""
    subject = f"{stage}/{key}" if entry is None else f"{entry.name} ({stage}/{key})"
    try:
        artifact = store.open(stage, key, every_byte=True)
    except DamagedArtifact as error:
        fix = lambda: f"Kept as {store.set_aside(stage, key)}; {AGAIN}."  # noqa: E731
        return Finding(subject, str(error).partition(": ")[2].partition(". Repeat")[0], f"{AGAIN.capitalize()}.", fix)
    except StoreError as error:
        return Finding(subject, str(error).partition(". ")[0], f"{AGAIN.capitalize()}.")
    if entry is not None and entry.files != artifact.files:
        return Finding(
            subject,
            "it was made again since the run, with other bytes",
            "Repeat the command of the run: its figures follow the present files.",
        )
    return Finding(subject)


def _database_checks(root: Path) -> Iterator[Finding]:
    calls, traffic = calls_file(root), root / TRAFFIC_FILE
    if problem := repair.find_problem(traffic, TRAFFIC_SCHEMA):
        fix = lambda: f"Kept as {repair.renew_traffic(root)}; a new one is made at the next start."  # noqa: E731
        yield Finding(traffic.name, problem.removesuffix("."), "It holds limits and locks of the last minute.", fix)
    else:
        yield Finding(traffic.name)
    if problem := repair.find_problem(calls, CALLS_SCHEMA):
        # A full or read-only disk is no damage of the file: only the user can mend it.
        damaged = "damaged" in problem or "not a SQLite database" in problem
        reason, _, advice = problem.partition(". ")
        yield Finding(
            calls.name,
            reason,
            "It holds paid completions: do not delete it." if damaged else advice,
            (lambda: _salvage(root)) if damaged else None,
        )
        return
    yield Finding(calls.name)
    if not calls.exists():
        return
    if rows := repair.unreadable_spend(root):
        fix = lambda: f"{repair.mend_spend(root)} rows set to zero, with an unknown price."  # noqa: E731
        yield Finding("spend", f"{rows} rows hold amounts that cannot be true", "", fix)
    if replies := repair.unreadable_replies(root):
        fix = lambda: f"{repair.unreadable_replies(root, delete=True)} deleted; they are paid for again."  # noqa: E731
        yield Finding("completions", f"{replies} cannot be parsed", "", fix)


def _salvage(root: Path) -> str:
    kept, saved = repair.salvage_calls(root)
    counts = ", ".join(f"{count} of {table}" for table, count in saved.items())
    return f"Rows saved: {counts}; the damaged file is kept as {kept}."


def _read_json_lines(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        json.loads(line)


def _read_checkpoint(path: Path) -> None:
    with ZipFile(path) as archive:
        if (member := archive.testzip()) is not None:
            raise BadZipFile(f"{member} differs from its checksum")
