"""A workspace for tests: a real store and a real ledger in a directory, with models that a test scripts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fakes import ScriptedChat

from tapir_exp.config import Config
from tapir_exp.core.store import SIDECAR, Store, digest_files
from tapir_exp.distillation.classifier.base import TaskClassifier
from tapir_exp.distillation.classifier.llm import LLMClassifier
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatModel, ChatRequest
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.pipeline.workspace import Workspace


@contextmanager
def open_test_workspace(
    config: Config,
    root: Path,
    *,
    teacher: ChatModel | None = None,
    judge: ChatModel | None = None,
    classifier: TaskClassifier | None = None,
) -> Iterator[Workspace]:
    """Open a workspace without any real model.

    Args:
        config: The whole configuration; the fixture `compose_config` makes one.
        root: Directory of the artifact store; opening it again reuses its artifacts.
        teacher: Teacher, e.g. a `ScriptedChat`. Without one, a call of the teacher fails the test.
        judge: Judge; as `teacher`.
        classifier: Classifier of task types. Without one, a call of the classifier fails the test.
    """
    call_store = CallStore(root, SpendScope("test"), config.spend)
    try:
        yield Workspace(
            config=config,
            store=Store(root),
            teacher=teacher or _not_scripted("teacher"),
            judge=judge or _not_scripted("judge"),
            classifier=classifier or LLMClassifier(_not_scripted("classifier"), config.classifier),
            ledger=call_store.ledger,
        )
    finally:
        call_store.close()


def record_files(artifact: Path) -> None:
    """Record the files of an artifact that a test has edited, so that it is not refused as damaged."""
    sidecar = json.loads((artifact / SIDECAR).read_text())
    (artifact / SIDECAR).write_text(json.dumps({**sidecar, "files": digest_files(artifact)}))


def _not_scripted(role: str) -> ScriptedChat:
    def fail(request: ChatRequest) -> NoReturn:
        raise AssertionError(f"The test gives no {role}, but a stage called it: {request.messages[-1].content[:80]!r}")

    return ScriptedChat(fail)
