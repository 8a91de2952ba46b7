"""Kept replies are read again for nothing, and a line says what became of each."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tapir_exp.commands.reparse import CHANGED, FOUND, LOST, SAME, UNREAD, main, reparse
from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.records import JudgeReply, PresentationOrder, Verdict
from tapir_exp.core.store import ROWS, Store, write_rows


def ballot(raw: str, scores: tuple[float, float] | None, finish_reason: str | None = "stop") -> JudgeReply:
    """A kept reply, and how it was read when it came."""
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


def verdict(row: str, kept: JudgeReply) -> Verdict:
    return Verdict(id=row, replies=(kept,), teacher=kept.teacher, student=kept.student)


KEPT = [
    verdict("same", ballot("8 6\nGood.", (8, 6))),
    verdict("found", ballot("8 6", None)),
    verdict("changed", ballot("8 6", (6, 8))),
    verdict("lost", ballot("8 6/10", (8, 6))),
    verdict("unread", ballot("I cannot.", None)),
    verdict("never came", ballot("", None, finish_reason=None)),
]


def run_of(root: Path, rows: Sequence[Verdict], config: str = "judge: {protocol: pair_scores}") -> Path:
    """A finished run that keeps these verdicts."""
    store, run_dir = Store(root / "store"), root / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(config)
    entries = []
    for name in ("verdicts-0", "seeds"):
        made = store.produce(name.partition("-")[0], {}, lambda place: {"rows": write_rows(place / ROWS, rows)})
        entries.append(entry_of(name, 0, made))
    manifest = Manifest(
        name="n", arm="a", seed=0, store="../store", delta=2, alphas=(0.3,), target=None, artifacts=tuple(entries)
    )
    manifest.write(run_dir)
    return run_dir


def test_every_reply_has_its_fate(tmp_path: Path) -> None:
    (reading,) = reparse(run_of(tmp_path, KEPT))
    assert reading.name == "verdicts-0"
    assert reading.replies == {SAME: 1, FOUND: 1, CHANGED: 1, LOST: 1, UNREAD: 2}
    assert (reading.unscored_before, reading.unscored_now) == (3, 3)


def test_nothing_is_written(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path, KEPT)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    reparse(run_dir)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_command_prints_a_line_for_each_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run_of(tmp_path, KEPT))])
    told = "1 as before, 1 read now, 1 other scores, 1 refused now, 2 unreadable as before; unscored rows 3 then, 3 now"
    assert capsys.readouterr().out == f"verdicts-0: replies {told}\n"


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"tapir-reread: .*manifest\.json"):
        main([str(tmp_path)])


def test_a_run_that_did_not_keep_replies_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="before replies were kept whole"):
        reparse(run_of(tmp_path, KEPT, config="judge: {orders: both}"))
