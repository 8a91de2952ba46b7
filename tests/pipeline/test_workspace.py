"""Stages that keep their rows as they are made."""

from collections.abc import Callable
from pathlib import Path

import pytest
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.core.records import Response
from tapir_exp.core.store import Artifact
from tapir_exp.core.stored_rows import RowLog, in_order
from tapir_exp.pipeline.workspace import StageOutput, Workspace


@pytest.fixture(scope="module")
def config(compose_config: Callable[..., Config]) -> Config:
    return compose_config()


class Stage:
    """A stage of five rows that is interrupted before one of them."""

    def __init__(self, *, resumes: bool) -> None:
        self.resumes, self.made = resumes, list[int]()

    def run(self, ws: Workspace, interrupted_at: int | None = None) -> Artifact:
        def make(log: RowLog[Response]) -> StageOutput:
            for index in range(5):
                if index == interrupted_at:
                    raise KeyboardInterrupt
                if index not in log:
                    self.made.append(index)
                    log[index] = Response(id=str(index), text="x")
            return StageOutput(in_order(log, 5), {"cut": 0})

        return ws.logged_rows("responses", 1, {"seed": 0}, Response, make, resumes=self.resumes)


@pytest.mark.parametrize(("resumes", "made"), [(True, [0, 1, 2, 3, 4]), (False, [0, 1, 2, 0, 1, 2, 3, 4])])
def test_logged_rows_go_on_after_an_interrupt(config: Config, tmp_path: Path, resumes: bool, made: list[int]) -> None:
    stage = Stage(resumes=resumes)
    with open_test_workspace(config, tmp_path / "whole") as ws:
        whole = Stage(resumes=resumes).run(ws)
    with open_test_workspace(config, tmp_path / "broken") as ws:
        with pytest.raises(KeyboardInterrupt):
            stage.run(ws, interrupted_at=3)
        artifact = stage.run(ws)
    assert stage.made == made
    assert artifact.files == whole.files
    assert [row.id for row in artifact.stored_rows(Response)] == list("01234")
    assert list((tmp_path / "broken" / "partial").iterdir()) == []
