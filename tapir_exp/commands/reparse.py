"""`tapir reparse`: parse the stored judge replies of a run again with the current parser."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.config import JudgeProtocol, PanelScore
from tapir_exp.config.stored import read_stored_config
from tapir_exp.core.console import write_line
from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import JudgeReply, Verdict
from tapir_exp.distillation.judge.score import reparse_verdict

VERDICT_STAGES = ("verdicts", "rollout_verdicts", "fresh_verdicts", "fresh_rollout_verdicts")
"""Stages with verdicts as rows."""
UNCHANGED, NEWLY_PARSED, CHANGED = "unchanged", "newly parsed", "with other scores"
NO_LONGER_PARSED, UNPARSABLE = "no longer parsed", "unparsable as before"
OUTCOMES = (UNCHANGED, NEWLY_PARSED, CHANGED, NO_LONGER_PARSED, UNPARSABLE)


@dataclass(frozen=True)
class ReparsedStage:
    """The judge replies of one artifact, parsed again.

    Attributes:
        name: Name of the artifact.
        replies: Number of replies by outcome, one of `OUTCOMES`.
        unscored_before: Rows without a gap when they were judged.
        unscored_now: Rows without a gap under the current parser.
    """

    name: str
    replies: Counter[str]
    unscored_before: int
    unscored_now: int


def reparse(run_dir: Path) -> list[ReparsedStage]:
    """Parse the stored replies of a finished run again. Nothing is called and nothing is written.

    To apply a changed parser to a run, raise `READER` with the rules and repeat the run's command. Its verdicts are
    then made again, from cached replies.

    Raises:
        StoreError: If the run is not finished, or its version did not store replies in full.
    """
    manifest = Manifest.load(run_dir)
    artifacts = manifest.open(run_dir)
    protocol, combine = _protocol_of(run_dir)
    entries = [entry for entry in manifest.artifacts if entry.stage in VERDICT_STAGES]
    return [_compare(entry.name, artifacts[entry.name].rows(Verdict), protocol, combine) for entry in entries]


def _protocol_of(run_dir: Path) -> tuple[JudgeProtocol, PanelScore]:
    # Early versions have another key in its place.
    judge = read_stored_config(run_dir).get("judge")
    name = judge.get("protocol") if isinstance(judge, dict) else None
    if not isinstance(name, str) or name not in JudgeProtocol.__members__:
        raise StoreError(f"{run_dir} is from a version that did not store replies in full; repeat its command.")
    panel = judge.get("panel") if isinstance(judge, dict) else None
    combine = str(panel.get("combine")) if isinstance(panel, dict) else ""
    known = combine in PanelScore.__members__
    return JudgeProtocol[name], PanelScore[combine] if known else PanelScore.mean


def _compare(name: str, before: Sequence[Verdict], protocol: JudgeProtocol, combine: PanelScore) -> ReparsedStage:
    now = [reparse_verdict(verdict, protocol, combine) for verdict in before]
    # The order of replies within a verdict is that of the presentation orders, before and now.
    outcomes = Counter(
        _outcome(old, new)
        for old_verdict, new_verdict in zip(before, now, strict=True)
        for old, new in zip(old_verdict.replies, new_verdict.replies, strict=True)
    )
    unscored = [sum(verdict.gap is None for verdict in verdicts) for verdicts in (before, now)]
    return ReparsedStage(name, outcomes, *unscored)


def _outcome(old: JudgeReply, new: JudgeReply) -> str:
    if new.failure is not None:
        return UNPARSABLE if old.failure is not None else NO_LONGER_PARSED
    if old.failure is not None:
        return NEWLY_PARSED
    return UNCHANGED if (old.teacher, old.student) == (new.teacher, new.student) else CHANGED


def main(arguments: Sequence[str]) -> None:
    """Parse the stored judge replies of a run again, without a call to any model."""
    parser = argparse.ArgumentParser(prog="tapir reparse", description=main.__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory")
    stages = reparse(parser.parse_args(arguments).directory)
    for stage in stages:
        write_line(format_stage(stage))


def format_stage(stage: ReparsedStage) -> str:
    """Format the outcomes of one artifact as a line of text."""
    outcomes = ", ".join(f"{stage.replies[outcome]} {outcome}" for outcome in OUTCOMES)
    return f"{stage.name}: replies: {outcomes}; unscored rows: {stage.unscored_before} before, {stage.unscored_now} now"
