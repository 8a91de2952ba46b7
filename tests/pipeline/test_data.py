"""The training mix: refinement failures are counted, and a mix without rows is an error."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedChat, example, training_row
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Example, Label, Quota, Subset, TrainingExample
from tapir_exp.core.store import Artifact
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.confidence import Validation
from tapir_exp.distillation.curriculum.filling import FilledPlan
from tapir_exp.distillation.curriculum.pool import Pool
from tapir_exp.pipeline.data import add_replayed_rows, build_mix, classify_seeds
from tapir_exp.pipeline.workspace import StageOutput

QUOTAS = (
    Quota(task=TaskType.MATH, subset=Subset.HARD, wanted=3, drawn=0, ordered=3, filled=0),
    Quota(task=TaskType.WRITING, subset=Subset.REST, wanted=2, drawn=0, ordered=2, filled=0),
)
MakeMix = Callable[..., Artifact]


@pytest.fixture
def make_mix(tmp_path: Path, compose_config: Callable[..., Config]) -> MakeMix:
    """Build the mix of round 2 from expansions, with a teacher whose replies are given."""

    def make(replies: list[str], expansions: list[TrainingExample], *, refine: bool = True) -> Artifact:
        config = compose_config(f"curriculum.refine={str(refine).lower()}", "teacher.max_failure_rate=1")
        with open_test_workspace(config, tmp_path, teacher=ScriptedChat(replies)) as ws:
            filled = FilledPlan((), tuple(expansions), QUOTAS)
            return build_mix(ws, 2, filled, {"expansions": "key"}, Pool({}, frozenset(), ("seeds",)))

    return make


def test_build_mix_drops_and_counts_failed_refinements(make_mix: MakeMix) -> None:
    replies = ["no tags", "no tags", "<response>4</response>"]
    mix = make_mix(replies, [training_row("a"), training_row("b")])
    assert [row.response for row in mix.rows(TrainingExample)] == ["4"]
    assert (mix.figures["hard"], mix.figures["failed"]) == (1, 1)


def test_build_mix_without_a_refined_row_says_what_was_lost(make_mix: MakeMix) -> None:
    with pytest.raises(TapirError, match=r"Round 2 has no training rows: 0 rows .* 1 of 5 requested .* all 1 were"):
        make_mix(["no tags"] * 2, [training_row("a")])


def test_build_mix_without_any_row_names_the_settings(make_mix: MakeMix) -> None:
    with pytest.raises(TapirError, match=r"0 of 5 requested .* teacher\.max_expansion_passes"):
        make_mix([], [], refine=False)


class Unsure:
    """A trained classifier that is as confident as it is told, and abstains below 0.5."""

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence

    def recipe(self) -> dict[str, Any]:
        return {"classifier": self.confidence}

    def validation(self) -> Validation:
        return Validation(rows=99, accuracy=0.8, mean_confidence=0.75)

    def count_cached(self, examples: Sequence[Example]) -> int:
        return 0

    def label(self, examples: Sequence[Example], progress: str, *, kept: object = None) -> list[Label]:
        task = TaskType.MATH if self.confidence >= 0.5 else None
        return [Label(id=row.id, task=task, raw="Math", confidence=self.confidence) for row in examples]


@pytest.mark.parametrize(("confidence", "unlabelled", "warned"), [(0.4, 40, True), (0.6, 0, True), (0.7, 0, False)])
def test_classify_seeds_warns_once_a_run_of_low_confidence(
    tmp_path: Path,
    compose_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    confidence: float,
    unlabelled: int,
    warned: bool,
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("tapir_exp.pipeline.data.print_warning", warnings.append)
    for runs in (1, 2):  # the second run reuses the labels
        with open_test_workspace(compose_config(), tmp_path, classifier=Unsure(confidence)) as ws:
            seeds = ws.rows("seeds", None, {}, lambda: StageOutput([example(f"row {n}") for n in range(40)], {}))
            labels = classify_seeds(ws, seeds)
        assert (labels.figures["unlabelled"], labels.figures["mean_confidence"]) == (unlabelled, confidence)
        assert [f"{confidence:.2f}, compared with 0.75" in text for text in warnings] == [True] * runs * warned


def test_add_replayed_rows_joins_the_mixes_without_repeats(
    tmp_path: Path, compose_config: Callable[..., Config]
) -> None:
    with open_test_workspace(compose_config("curriculum.replay=1"), tmp_path) as ws:
        mixes = [
            ws.rows("train_mix", number, {"n": number}, lambda rows=rows: StageOutput(rows, {}))
            for number, rows in enumerate(
                [[training_row("a"), training_row("b")], [training_row("b"), training_row("c")]]
            )
        ]
        joined = add_replayed_rows(ws, 2, mixes[1], mixes[:1])
        assert [row.instruction for row in joined.rows(TrainingExample)] == ["b", "c", "a"]
        assert joined.figures["replayed"] == 1
        assert add_replayed_rows(ws, 1, mixes[0], []) is mixes[0]
