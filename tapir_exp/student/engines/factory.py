"""Open the generation engine that the configuration names."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tapir_exp.config import EngineKind, StudentConfig
from tapir_exp.core.console import console
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Engine


@contextmanager
def open_engine(student_dir: Path, chat: Chat, student: StudentConfig, *, sampled: bool = False) -> Iterator[Engine]:
    """The configured engine with the student in it; for sampled answers, `transformers`.

    Raises ConfigError where the engine is not installed, or cannot run this student exactly.
    """
    kind = student.engine
    if sampled and kind is not EngineKind.transformers:
        console.print(f"  sampled answers are written by transformers, not {kind.value}", markup=False)
        kind = EngineKind.transformers
    with _opener(kind)(student_dir, chat, student) as engine:
        yield engine


def _opener(kind: EngineKind) -> Callable[[Path, Chat, StudentConfig], AbstractContextManager[Engine]]:
    if kind is EngineKind.ctranslate2:
        from tapir_exp.student.engines.ctranslate2 import open_ctranslate2

        return open_ctranslate2
    if kind is EngineKind.vllm:
        from tapir_exp.student.engines.vllm import open_vllm

        return open_vllm
    from tapir_exp.student.engines.hf import open_transformers

    return open_transformers
