"""Metrics of a run against a hand-made store: each value is computed here, and none depends on wall time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import training_row

from tapir_exp.core.manifest import Manifest, entry_of
from tapir_exp.core.records import BenchmarkResult, Quota, Record, Verdict
from tapir_exp.core.store import ROWS, SIDECAR, Artifact, Store, write_rows
from tapir_exp.report.metrics import Computed, Metrics, run_metrics

SPEND = {"judge": {"calls": 4, "usd": 0.1}}


class Outputs:
    """Write artifacts as the stages do, and a manifest that names them."""

    def __init__(self, root: Path) -> None:
        self.run_dir, self.store = root / "run", Store(root / "store")
        self.artifacts: dict[str, Artifact] = {}

    def put(self, name: str, rows: Sequence[Record] = (), **figures: Any) -> None:
        def make(directory: Path) -> Mapping[str, Any]:
            return {"rows": write_rows(directory / ROWS, rows), **figures, "spend": SPEND}

        self.artifacts[name] = self.store.produce(name.partition("-")[0], {"name": name}, make)

    def manifest(self, alphas: tuple[float, ...], delta: float) -> Manifest:
        entries = tuple(
            entry_of(name, int(name[-1]) if "-" in name else 0, artifact) for name, artifact in self.artifacts.items()
        )
        return Manifest(
            name="n", arm="a", seed=0, store="../store", delta=delta, alphas=alphas, target=None, artifacts=entries
        )

    def metrics(
        self, alphas: tuple[float, ...] = (0.3,), delta: float = 2.0, computed: Computed | None = None
    ) -> list[Metrics]:
        manifest = self.manifest(alphas, delta)
        return run_metrics(manifest, manifest.open(self.run_dir), computed)


def verdict(row_id: str, teacher: float | None, student: float | None = 4) -> Verdict:
    return Verdict(id=row_id, replies=(), teacher=teacher, student=None if teacher is None else student)


def result(family: str, task: str, exact: bool) -> BenchmarkResult:
    return BenchmarkResult(
        family=family, task=task, level=1, instruction="i", expected="e", response="r", exact=exact, score=9
    )


VERDICTS = [verdict("a", 9), verdict("b", 6), verdict("c", 3.5), verdict("d", None)]  # gaps 5, 2, -0.5
BENCHMARK = [
    *(result("sums", "Math", exact) for exact in (True, True, True, False)),
    *(result("totals", "Math", exact) for exact in (True, False)),
    *(result("tenses", "Grammar", exact) for exact in (False, False)),
]
MIX = [
    training_row("a", task="Math", subset="hard"),
    training_row("b", task="Math", subset="rest", origin="seed", created_in_round=0, difficulty=1.0),
    training_row("c", task="Law", subset="rest", origin="seed", created_in_round=0, difficulty=0.0),
    training_row("d", task="Math", subset="rest", origin="seed", created_in_round=0, difficulty=0.0),
]


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    outputs = Outputs(tmp_path)
    outputs.put("seeds", read=9, contaminated=1)
    outputs.put("student-0", steps=7, tokens=1000, final_loss=1.5, tokens_per_second=123.4)
    outputs.put("benchmark-0", BENCHMARK)
    outputs.put("verdicts-0", VERDICTS, unscored=1, flips=2, mean_gap=0.0, diagnosis={"ties": 0.5, "flips": 2})
    outputs.put("expansions-1", [MIX[0]], ordered=3, calls=2, proposed=5)
    outputs.put("plan-1", [Quota(task="Math", subset="hard", wanted=3, drawn=0, ordered=3, filled=1)], unfilled=2)
    outputs.put("train_mix-1", MIX, refinements=4)
    outputs.put("student-1", steps=3, tokens=500, final_loss=0.5, tokens_per_second=99.9)
    return outputs


def test_run_metrics_has_one_row_per_student(outputs: Outputs) -> None:
    assert [row["round"] for row in outputs.metrics()] == [0, 1]
    assert [row["round"] for row in outputs.metrics(alphas=())] == [0]


def test_rounds_are_computed_once_unless_their_artifacts_change(outputs: Outputs) -> None:
    computed: Computed = {}
    first = outputs.metrics(computed=computed)
    assert outputs.metrics(computed=computed) == first == outputs.metrics()
    assert len(computed) == 2
    outputs.put("verdicts-1", [verdict("a", 5)], unscored=0, flips=0)
    assert outputs.metrics(computed=computed) == outputs.metrics() != first
    assert len(computed) == 3
    assert outputs.metrics(computed=computed, delta=1.0) == outputs.metrics(delta=1.0)


def test_judge_metrics_are_those_of_the_diagnosis(outputs: Outputs) -> None:
    start, after = outputs.metrics()
    assert (start["judge/ties"], start["judge/flips"]) == (0.5, 2)
    assert not any(name.startswith("judge/") for name in after)


def test_gap_metrics_cover_scored_rows_only(outputs: Outputs) -> None:
    start, after = outputs.metrics()
    assert (start["gap/scored"], start["gap/unscored"], start["gap/order_flips"]) == (3, 1, 2)
    assert start["gap/mean"] == pytest.approx(6.5 / 3)
    assert start["gap/hard_share"] == pytest.approx(1 / 3)  # 2 is not above 2
    assert not any(name.startswith("gap/") for name in after)


def test_gap_metrics_without_scored_rows_are_none(outputs: Outputs) -> None:
    outputs.put("verdicts-1", [verdict("a", None)], unscored=1, flips=0)
    row = outputs.metrics()[1]
    assert (row["gap/scored"], row["gap/mean"], row["gap/hard_share"]) == (0, None, None)


def test_benchmark_accuracy_is_the_mean_over_families(outputs: Outputs) -> None:
    start = outputs.metrics()[0]
    assert start["benchmark/accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    error = (3 / 4 * 1 / 4 / 4 + 1 / 2 * 1 / 2 / 2) ** 0.5 / 3
    assert start["benchmark/accuracy_se"] == pytest.approx(error)
    assert start["benchmark/task/Math"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert start["benchmark/task/Grammar"] == 0


def test_benchmark_levels_are_means_over_families(outputs: Outputs) -> None:
    start = outputs.metrics()[0]
    levels = {name: value for name, value in start.items() if name.startswith("benchmark/level/")}
    assert levels == {"benchmark/level/1": start["benchmark/accuracy"]}


def test_benchmark_metrics_are_absent_without_a_benchmark(outputs: Outputs) -> None:
    assert not any(name.startswith("benchmark/") for name in outputs.metrics()[1])


def test_mix_metrics_are_shares_of_the_rows(outputs: Outputs) -> None:
    start, after = outputs.metrics()
    assert not any(name.startswith("mix/") for name in start)
    assert {name: value for name, value in after.items() if name.startswith("mix/")} == {
        "mix/rows": 4,
        "mix/hard_share": 0.25,
        "mix/new_share": 0.25,
        "mix/rows_new": 1,
        "mix/rows_drawn": 3,
        "mix/rows_replayed": 0,
        "mix/task/Law": 0.25,
        "mix/task/Math": 0.75,
    }


def test_expansion_metrics_exist_for_rounds_only(outputs: Outputs) -> None:
    start, after = outputs.metrics()
    assert (after["curriculum/alpha"], after["curriculum/unfilled"]) == (0.3, 2)
    assert (after["expansion/rows"], after["expansion/ordered"], after["expansion/proposed"]) == (1, 3, 5)
    assert not any(name.startswith(("curriculum/", "expansion/")) for name in start)


def test_teacher_metrics_count_rows_and_calls_of_all_rounds(outputs: Outputs) -> None:
    """Two rows of the second mix were refined for the first, and one refinement of the second one failed."""
    new = [training_row(name, task="Math", subset="hard", created_in_round=2) for name in "ef"]
    outputs.put("teacher_responses", [verdict("a", 9), verdict("b", 9)])
    outputs.put("expansions-2", [MIX[0]], calls=3, easy=4)
    outputs.put("plan-2", [], unfilled=0)
    outputs.put("train_mix-2", [*MIX[:2], *new], refinements=5)
    outputs.put("replayed_mix-2", MIX, replayed=2)
    outputs.put("student-2", steps=3, tokens=500, final_loss=0.5)
    rows = outputs.metrics(alphas=(0.3, 0.5))
    assert [(row["teacher/rows"], row["teacher/calls"]) for row in rows] == [(0, 2), (1, 6), (5, 6)]
    assert [(row["teacher/rows_total"], row["teacher/calls_total"]) for row in rows] == [(0, 2), (1, 8), (6, 14)]
    assert [row.get("mix/rows_replayed") for row in rows] == [None, 0, 2]


def test_calls_of_a_round_are_computed_again_if_an_earlier_mix_changes(outputs: Outputs) -> None:
    computed: Computed = {}
    outputs.put("teacher_responses", [verdict("a", 9)])
    outputs.put("expansions-2", [], calls=3)
    outputs.put("plan-2", [], unfilled=0)
    outputs.put("train_mix-2", MIX, refinements=4)
    outputs.put("student-2", steps=3, tokens=500, final_loss=0.5)
    assert outputs.metrics(alphas=(0.3, 0.5), computed=computed)[2]["teacher/calls"] == 3
    del outputs.artifacts["train_mix-1"]
    outputs.store = Store(outputs.run_dir.parent / "store")
    outputs.artifacts["train_mix-1"] = outputs.store.produce(
        "train_mix", {"name": "another"}, lambda directory: {"rows": write_rows(directory / ROWS, MIX[:1])}
    )
    assert outputs.metrics(alphas=(0.3, 0.5), computed=computed)[2]["teacher/calls"] == 6


def test_teacher_calls_are_unknown_for_a_mix_without_their_number(outputs: Outputs) -> None:
    outputs.put("teacher_responses", [verdict("a", 9)])
    del outputs.artifacts["train_mix-1"]
    outputs.store = Store(outputs.run_dir.parent / "store")
    outputs.artifacts["train_mix-1"] = outputs.store.produce(
        "train_mix", {"name": "earlier"}, lambda directory: {"rows": write_rows(directory / ROWS, MIX)}
    )
    start, after = outputs.metrics()
    assert (start["teacher/calls_total"], after["teacher/calls"], after["teacher/calls_total"]) == (1, None, None)


def test_new_rows_have_a_gap_before_and_after_the_fit(outputs: Outputs) -> None:
    a, b, *_ = MIX
    outputs.put("fresh_verdicts-1", [verdict(a.id, 9)], unscored=0, flips=0)
    outputs.put("verdicts-1", [verdict(a.id, 5), verdict(b.id, 9)], unscored=0, flips=0)
    row = outputs.metrics()[1]
    assert {name: row[name] for name in row if name.startswith(("fresh_gap", "trained_gap"))} == {
        "fresh_gap/scored": 1,
        "fresh_gap/mean": 5,
        "fresh_gap/hard_share": 1,
        "trained_gap/scored": 1,
        "trained_gap/mean": 1,
        "trained_gap/hard_share": 0,
    }


def test_seed_metrics_exist_for_s_0_only(outputs: Outputs) -> None:
    start, after = outputs.metrics()
    assert {name: start[name] for name in start if name.startswith("seeds/")} == {
        "seeds/rows": 0,
        "seeds/read": 9,
        "seeds/contaminated": 1,
    }
    assert not any(name.startswith("seeds/") for name in after)


def test_tokens_total_is_cumulative(outputs: Outputs) -> None:
    assert [(row["train/tokens"], row["train/tokens_total"]) for row in outputs.metrics()] == [
        (1000, 1000),
        (500, 1500),
    ]
    assert [row["train/final_loss"] for row in outputs.metrics()] == [1.5, 0.5]


def test_metrics_do_not_depend_on_time_or_spend(outputs: Outputs) -> None:
    before = outputs.metrics()
    assert not [name for row in before for name in row if "second" in name or "spend" in name or "usd" in name]
    for artifact in outputs.artifacts.values():
        sidecar = json.loads((artifact.path / SIDECAR).read_text())
        sidecar["seconds"] = 1e6
        sidecar["figures"] |= {"spend": {}} | ({"tokens_per_second": 1e9} if "steps" in sidecar["figures"] else {})
        (artifact.path / SIDECAR).write_text(json.dumps(sidecar))
    assert json.dumps(outputs.metrics()) == json.dumps(before)


def test_metrics_round_trip_through_strict_json(outputs: Outputs) -> None:
    metrics = outputs.metrics()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_run_metrics_with_a_missing_artifact_raises(outputs: Outputs) -> None:
    with pytest.raises(KeyError, match="train_mix-2"):
        outputs.metrics(alphas=(0.3, 0.5))
