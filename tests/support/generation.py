"""Open engines and generate with them, for the tests of all engines."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from assets import SUPPORT

from tapir_exp.config import EngineKind, StudentConfig, VllmConfig
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation, Engine
from tapir_exp.student.engines.factory import open_engine

FAKE_VLLM = SUPPORT / "fake_vllm.py"
MAX_NEW_TOKENS = 12


def engine_config(kind: EngineKind, batch_size: int = 5, fault: str = "none", folder: Path = Path()) -> StudentConfig:
    """Return the settings of a student with this engine; vLLM is the fake with this fault."""
    server = VllmConfig(
        executable=["{python}", str(FAKE_VLLM)],
        extra_args=[f"--fault={fault}", f"--folder={folder}"],
        concurrency=batch_size,
        startup_timeout_s=60,
        timeout_s=30,
    )
    return StudentConfig(model="x", engine=kind, generation_batch_size=batch_size, vllm=server)


@contextmanager
def opened_engine(kind: EngineKind, directory: Path, chat: Chat, batch_size: int = 5) -> Iterator[Engine]:
    """Open an engine of this kind with the student in `directory`."""
    with open_engine(directory, chat, engine_config(kind, batch_size)) as engine:
        yield engine


def generate_in_order(
    engine: Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int = MAX_NEW_TOKENS
) -> list[Continuation]:
    """Return the continuations in the order of their prompts."""
    continuations = dict(engine.generate(prompts, max_new_tokens))
    return [continuations[index] for index in range(len(prompts))]
