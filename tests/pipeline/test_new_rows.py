"""New rows ahead of a fit: whose gaps they have, where they go, and what is requested again."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import plan_settings, training_row
from workspaces import open_test_workspace

from tapir_exp.commands.run_job import run
from tapir_exp.config import Config, to_yaml
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import DroppedRow, Quota, Subset, TrainingExample, Verdict
from tapir_exp.core.store import DROPPED, SIDECAR, Artifact, read_rows
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.difficulty import scored_gaps
from tapir_exp.distillation.curriculum.pool import Pool
from tapir_exp.distillation.curriculum.sampling import GenerationRequest, plan_round
from tapir_exp.pipeline import data, scoring
from tapir_exp.pipeline.data import ExpansionInputs
from tapir_exp.pipeline.new_rows import remaining_requests, write_new_rows
from tapir_exp.pipeline.scoring import DifficultyScores
from tapir_exp.pipeline.workspace import StageOutput, Workspace

DELTA = 6.0
OPTIONS = (
    *("debug=tiny", "seed=1", "evals.problems_per_level=0", f"curriculum.delta={DELTA}", "curriculum.replay=0.5"),
    *("curriculum.gap_rows=fresh", "curriculum.drop_easy_expansions=true", "curriculum.report_trained_gaps=true"),
)
MATH, LAW = TaskType.MATH, TaskType.LAW


@pytest.fixture(scope="module")
def finished(compose_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    """Run two rounds of the lab with fresh gaps, and open the artifacts."""
    outputs = tmp_path_factory.mktemp("fresh")
    config = compose_config(*OPTIONS, f"outputs={outputs}")
    run(config, outputs / "runs" / "fresh", to_yaml(config))
    return Manifest.load(outputs / "runs" / "fresh").open(outputs / "runs" / "fresh")


@pytest.mark.slow
def test_fresh_gaps_come_from_a_student_that_never_saw_the_row(finished: Mapping[str, Artifact]) -> None:
    seen: set[str] = set()
    for number in (1, 2):
        judged = {verdict.id for verdict in finished[f"fresh_verdicts-{number}"].rows(Verdict)}
        assert judged
        assert not judged & seen
        recipe = json.loads((finished[f"pass0_fresh_student_responses-{number}"].path / SIDECAR).read_text())["recipe"]
        assert recipe["student"] == finished[f"student-{number - 1}"].key
        seen |= {row.id for row in finished[f"train_mix-{number}"].rows(TrainingExample)}


@pytest.mark.slow
def test_subsets_of_new_rows_follow_their_fresh_gaps(finished: Mapping[str, Artifact]) -> None:
    trained = scored_gaps(finished["verdicts-1"].rows(Verdict))
    for number in (1, 2):
        gaps = scored_gaps(finished[f"fresh_verdicts-{number}"].rows(Verdict))
        mix = finished[f"train_mix-{number}"].rows(TrainingExample)
        new = [row for row in mix if row.created_in_round == number]
        assert new
        assert {row.id: row.difficulty for row in new} == {row.id: gaps[row.id] for row in new}
        assert all((row.subset is Subset.HARD) == (gaps[row.id] > DELTA) for row in new)
        assert number == 2 or any(trained[row.id] != gaps[row.id] for row in new)
        counts = Counter((row.task, row.subset) for row in mix)
        assert all(counts[q.task, q.subset] <= q.wanted for q in finished[f"plan-{number}"].rows(Quota))
    # The gaps after the fit are for the report: rows that are drawn again keep those ahead of it.
    first = scored_gaps(finished["fresh_verdicts-1"].rows(Verdict))
    again = [row for row in mix if row.created_in_round == 1]
    assert again
    assert all(row.difficulty == first[row.id] for row in again)


@pytest.mark.slow
def test_easy_rows_of_hard_requests_are_dropped_with_their_gap(finished: Mapping[str, Artifact]) -> None:
    gaps = scored_gaps(finished["fresh_verdicts-1"].rows(Verdict))
    expansions = finished["expansions-1"]
    kept = expansions.rows(TrainingExample)
    assert all(gaps[row.id] > DELTA for row in kept if row.subset is Subset.HARD)
    easy = [row for row in read_rows(expansions.path / DROPPED, DroppedRow) if row.reason == "easy"]
    assert len(easy) == expansions.figures["easy"] > 0
    assert len(kept) + len(easy) == len(gaps)
    assert len({row.id for row in kept}) == len(kept)
    passes = [finished[name] for name in finished if name.startswith("pass") and name.endswith("_expansions-1")]
    assert len(passes) > 1
    assert expansions.figures["calls"] == sum(artifact.figures["calls"] for artifact in passes)


@pytest.mark.slow
def test_replayed_rows_of_a_run_repeat_no_row(finished: Mapping[str, Artifact]) -> None:
    rows = finished["replayed_mix-2"].rows(TrainingExample)
    assert len({row.id for row in rows}) == len(rows) == finished["student-2"].figures["rows"]
    assert finished["replayed_mix-2"].figures["replayed"] > 0


@pytest.mark.parametrize(("mode", "subsets"), [("trained", ["hard", "hard", "rest"]), ("fresh", ["rest", "hard"])])
def test_write_new_rows_puts_rows_where_their_gap_belongs(
    compose_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    subsets: list[str],
) -> None:
    """With fresh gaps, the student of the round before is scored, and a row without a score is left out."""
    written = [training_row("easy"), training_row("unscored"), training_row("hard", subset="rest")]
    easy, _, hard = written
    judged = []

    def score(ws: Workspace, number: int, student: Artifact, expansions: Artifact) -> DifficultyScores:
        judged.append((number, student.key))
        return DifficultyScores({easy.id: 1.0, hard.id: 5.0}, ("verdicts",))

    monkeypatch.setattr(scoring, "score_before_fit", score)
    with open_test_workspace(compose_config(f"curriculum.gap_rows={mode}"), tmp_path) as ws:
        stored = ws.rows("expansions", 2, {}, lambda: StageOutput(written, {}))
        monkeypatch.setattr(data, "expand", lambda *arguments: stored)
        student = Artifact("student", "S_1", tmp_path, {}, {}, 0.0, reused=True)
        settings = replace(plan_settings({MATH: 1.0}, 4, 0.5), round=2)
        inputs = ExpansionInputs(Pool({}, frozenset(), ("seeds",)), settings, frozenset())
        new = write_new_rows(ws, student, plan_round([], settings), inputs)
    assert [row.subset for row in new.rows] == subsets
    assert judged == ([(2, "S_1")] if mode == "fresh" else [])
    if mode == "fresh":
        assert new.pool
        assert new.pool.difficulties == {easy.id: 1.0, hard.id: 5.0}
        assert new.pool.keys == ("seeds", stored.key, "verdicts")
        assert new.recipe == {"expansions": stored.key, "fresh": ["verdicts"]}


def request(count: int, task: TaskType = MATH, subset: Subset = Subset.HARD) -> GenerationRequest:
    return GenerationRequest(task, subset, count, ())


def test_remaining_requests_count_hard_rows_of_any_request() -> None:
    requests = [request(4), request(3, subset=Subset.REST), request(2, LAW)]
    written = [training_row(f"hard {n}") for n in range(4)] + [
        training_row(f"rest {n}", subset="rest") for n in range(3)
    ]
    hard = {written[0].id, written[5].id}
    remaining = remaining_requests(requests, written, hard, None)
    assert [(one.task, one.subset, one.count) for one in remaining] == [
        (MATH, Subset.HARD, 2),
        (MATH, Subset.REST, 0),
        (LAW, Subset.HARD, 2),
    ]


@pytest.mark.parametrize(("limit", "counts"), [(None, [4, 2]), (20, [4, 2]), (9, [2, 1]), (6, [0, 0]), (2, [0, 0])])
def test_remaining_requests_stay_below_the_limit(limit: int | None, counts: list[int]) -> None:
    easy = [training_row(f"easy {n}") for n in range(6)]
    assert [one.count for one in remaining_requests([request(4), request(2, LAW)], easy, set(), limit)] == counts
