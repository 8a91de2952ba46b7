"""`tapir reparse`: stored judge replies are parsed again without a call, and each outcome is counted."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tapir_exp.commands.reparse import CHANGED, NEWLY_PARSED, NO_LONGER_PARSED, UNCHANGED, UNPARSABLE, main, reparse
from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.records import JudgeReply, PresentationOrder, Verdict
from tapir_exp.core.store import ROWS, Store, write_rows


def judge_reply(raw: str, scores: tuple[float, float] | None, finish_reason: str | None = "stop") -> JudgeReply:
    """Return a stored reply with the scores that were parsed at the time."""
    teacher, student = scores or (None, None)
    failure = None if scores else "unreadable reply: then"
    return JudgeReply(
        order=PresentationOrder.TEACHER_FIRST,
        teacher=teacher,
        student=student,
        raw=raw,
        failure=failure,
        finish_reason=finish_reason,
    )


def verdict(row_id: str, reply: JudgeReply) -> Verdict:
    return Verdict(id=row_id, replies=(reply,), teacher=reply.teacher, student=reply.student)


STORED = [
    verdict("same", judge_reply("8 6\nGood.", (8, 6))),
    verdict("found", judge_reply("8 6", None)),
    verdict("changed", judge_reply("8 6", (6, 8))),
    verdict("lost", judge_reply("8 6\n\nAssistant 1: 3", (8, 6))),
    verdict("unread", judge_reply("I cannot.", None)),
    verdict("never came", judge_reply("", None, finish_reason=None)),
]


def run_of(root: Path, rows: Sequence[Verdict], config: str = "judge: {protocol: pair_scores}") -> Path:
    """Return the directory of a finished run with these verdicts."""
    store, run_dir = Store(root / "store"), root / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(config)
    entries = []
    for name in ("verdicts-0", "seeds"):
        artifact = store.produce(
            name.partition("-")[0], {}, lambda directory: {"rows": write_rows(directory / ROWS, rows)}
        )
        entries.append(entry_of(name, 0, artifact))
    manifest = Manifest(
        name="n", arm="a", seed=0, store="../store", delta=2, alphas=(0.3,), target=None, artifacts=tuple(entries)
    )
    manifest.write(run_dir)
    return run_dir


def test_reparse_counts_replies_by_outcome(tmp_path: Path) -> None:
    (stage,) = reparse(run_of(tmp_path, STORED))
    assert stage.name == "verdicts-0"
    assert stage.replies == {UNCHANGED: 1, NEWLY_PARSED: 1, CHANGED: 1, NO_LONGER_PARSED: 1, UNPARSABLE: 2}
    assert (stage.unscored_before, stage.unscored_now) == (3, 3)


def test_reparse_writes_nothing(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path, STORED)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    reparse(run_dir)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_command_prints_a_line_for_each_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run_of(tmp_path, STORED))])
    assert capsys.readouterr().out == (
        "verdicts-0: replies: 1 unchanged, 1 newly parsed, 1 with other scores, 1 no longer parsed, "
        "2 unparsable as before; unscored rows: 3 before, 3 now\n"
    )


def test_directory_without_a_manifest_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"manifest\.json"):
        main([str(tmp_path)])


def test_run_without_stored_replies_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="did not store replies in full"):
        reparse(run_of(tmp_path, STORED, config="judge: {orders: both}"))
