"""Several sampled answers of a student to every instruction."""

from collections.abc import Sequence
from pathlib import Path

from tapir_exp.config import RolloutConfig, StudentConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.records import Response, rollout_id
from tapir_exp.core.seeding import derive_seed
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams
from tapir_exp.student.generate import generate_encoded


def sample_rollouts(
    student_dir: Path,
    prompts: Sequence[tuple[str, str]],
    student: StudentConfig,
    rollouts: RolloutConfig,
    seed: int,
    label: str,
) -> list[Response]:
    """`rollouts.answers` sampled answers to each of the (id, instruction) pairs, those to one instruction in a row.

    Each goes by `rollout_id`. In float32 an answer depends on seed, row and number alone, not on its batch.
    """
    chat = load_chat(student_dir, student)
    encoded = chat.encode_prompts([instruction for _, instruction in prompts])
    numbers = range(rollouts.num_samples)
    names = [rollout_id(row, number) for row, _ in prompts for number in numbers]
    repeated = [prompt for prompt in encoded for _ in numbers]
    draws = [SamplingParams(rollouts.temperature, derive_seed("rollout", seed, name)) for name in names]
    with open_engine(student_dir, chat, student, sampled=True) as engine, Progress(label, len(names)) as progress:
        return generate_encoded(engine, chat, names, repeated, student, lambda _: progress.advance(), draws)
