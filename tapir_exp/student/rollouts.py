"""Rollouts: several sampled responses of a student to every instruction."""

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
    """Sample `rollouts.num_samples` responses to each instruction.

    In float32 a response depends on the seed, the row id and its number, not on its batch.

    Args:
        student_dir: Directory of the student.
        prompts: Pairs of row id and instruction.
        student: Settings of the student.
        rollouts: Number of samples and temperature.
        seed: Seed of the samples.
        label: Label of the progress bar.

    Returns:
        The responses, those to one instruction one after another; `rollout_id` makes their ids.
    """
    chat = load_chat(student_dir, student)
    encoded = chat.encode_prompts([instruction for _, instruction in prompts])
    numbers = range(rollouts.num_samples)
    ids = [rollout_id(row_id, number) for row_id, _ in prompts for number in numbers]
    # Each sample is a row with its own seed, so an engine does not need to know about repeated prompts.
    repeated = [prompt for prompt in encoded for _ in numbers]
    params = [SamplingParams(rollouts.temperature, derive_seed("rollout", seed, name)) for name in ids]
    with open_engine(student_dir, chat, student, sampled=True) as engine, Progress(label, len(ids)) as progress:
        return generate_encoded(engine, chat, ids, repeated, student, lambda _: progress.advance(), params)
