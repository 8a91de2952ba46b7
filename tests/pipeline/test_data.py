"""A mix that nobody can be trained on ends the run with what became of its rows."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes import ScriptedChat, training_row

from tapir_exp.config import CurriculumConfig, TeacherConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset, TrainingExample
from tapir_exp.core.store import Artifact
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.pool import Pool
from tapir_exp.distillation.curriculum.sampling import GenerationRequest, RoundPlan
from tapir_exp.pipeline.data import build_mix
from tapir_exp.pipeline.workspace import StageOutput, Workspace

PLAN = RoundPlan(
    (),
    (GenerationRequest(TaskType.MATH, Subset.HARD, 3, ()), GenerationRequest(TaskType.WRITING, Subset.REST, 2, ())),
    (),
)


def mixed(replies: list[str], written: list[TrainingExample], *, refine: bool = True) -> StageOutput:
    """What the stage makes of rows that the teacher has written, where it says this when it is to refine them."""

    def rows(name: str, round_number: int, recipe: Mapping[str, Any], make: Callable[[], StageOutput]) -> StageOutput:
        return make()

    config = SimpleNamespace(curriculum=CurriculumConfig(refine=refine), teacher=TeacherConfig(max_failure_rate=1.0))
    chat = ScriptedChat(replies)
    ws = SimpleNamespace(config=config, rows=rows, teacher=chat)
    expansions = SimpleNamespace(key="expansions", rows=lambda row_type: written)
    pool = Pool({}, frozenset(), ("seeds",))
    made = build_mix(cast(Workspace, ws), 2, PLAN, cast(Artifact, expansions), pool)
    return cast(StageOutput, made)


def test_rows_that_are_not_refined_are_left_out_and_counted() -> None:
    made = mixed(["no tags", "no tags", "<response>4</response>"], [training_row("a"), training_row("b")])
    assert [row.response for row in cast(list[TrainingExample], made.rows)] == ["4"]
    assert made.figures == {"hard": 1, "failed": 1}


def test_a_mix_whose_rows_are_all_lost_in_refinement_says_so() -> None:
    with pytest.raises(TapirError, match=r"Round 2 has .* 0 rows were drawn, 1 of 5 ordered ones written, and 1 lost"):
        mixed(["no tags"] * 2, [training_row("a")])


def test_a_mix_without_any_row_says_so() -> None:
    with pytest.raises(TapirError, match=r"0 of 5 ordered ones written, and 0 lost in refinement; .* teacher\.waves"):
        mixed([], [], refine=False)
