"""The command `tapir-reread`: what the present reader makes of the judge's replies that a run has kept."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from tapir_exp.config import JudgeProtocol
from tapir_exp.core.errors import StoreError, TapirError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import JudgeReply, Verdict
from tapir_exp.distillation.judge.score import reparse_verdict

JUDGED = ("verdicts", "rollout_verdicts")
"""Stages whose rows are verdicts."""
LOST, FOUND, CHANGED, SAME, UNREAD = "refused now", "read now", "other scores", "as before", "unreadable as before"


@dataclass(frozen=True)
class ReparsedStage:
    """How the replies of one artifact are read now, by what became of each; `unscored` rows before and after."""

    name: str
    replies: Counter[str]
    unscored_before: int
    unscored_now: int


def reparse(run_dir: Path) -> list[ReparsedStage]:
    """Read the kept replies of a finished run anew; nothing is called and nothing is written.

    To have a run use it, raise `READER` with the rules and give the run's command again: its verdicts are then made
    anew, from replies that the cache already holds.
    """
    manifest = Manifest.load(run_dir)
    artifacts = manifest.open(run_dir)
    protocol = _protocol_of(run_dir)
    judged = [entry for entry in manifest.artifacts if entry.stage in JUDGED]
    return [_reading(entry.name, artifacts[entry.name].rows(Verdict), protocol) for entry in judged]


def _protocol_of(run_dir: Path) -> JudgeProtocol:
    """Raises StoreError for a run of a version that did not keep replies whole."""
    name = OmegaConf.select(OmegaConf.load(run_dir / "config.yaml"), "judge.protocol")
    if name is None:
        raise StoreError(f"{run_dir} was made before replies were kept whole; give its command again to make it anew.")
    return JudgeProtocol[name]


def _reading(name: str, before: Sequence[Verdict], protocol: JudgeProtocol) -> ReparsedStage:
    now = [reparse_verdict(verdict, protocol) for verdict in before]
    fates = Counter(_fate(old, new) for old, new in _ballots(zip(before, now, strict=True)))
    return ReparsedStage(name, fates, *(sum(verdict.gap is None for verdict in rows) for rows in (before, now)))


def _ballots(verdicts: Iterable[tuple[Verdict, Verdict]]) -> Iterator[tuple[JudgeReply, JudgeReply]]:
    for old, new in verdicts:
        yield from zip(old.replies, new.replies, strict=True)


def _fate(old: JudgeReply, new: JudgeReply) -> str:
    if new.failure is not None:
        return UNREAD if old.failure is not None else LOST
    if old.failure is not None:
        return FOUND
    return SAME if (old.teacher, old.student) == (new.teacher, new.student) else CHANGED


def main(argv: Sequence[str] | None = None) -> None:
    """The command `tapir-reread`: how the judge's kept replies are read today, with no call to any model."""
    parser = argparse.ArgumentParser(prog="tapir-reread", description=main.__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory")
    try:
        readings = reparse(parser.parse_args(argv).directory)
    except TapirError as error:
        sys.exit(f"tapir-reread: {error}")
    sys.stdout.write("".join(f"{told(reading)}\n" for reading in readings))


def told(reading: ReparsedStage) -> str:
    """A reading as a line of text."""
    fates = ", ".join(f"{reading.replies[fate]} {fate}" for fate in (SAME, FOUND, CHANGED, LOST, UNREAD))
    return f"{reading.name}: replies {fates}; unscored rows {reading.unscored_before} then, {reading.unscored_now} now"
