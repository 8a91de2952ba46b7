"""Rollouts: several sampled responses of a student to every instruction."""

from collections.abc import MutableMapping, Sequence
from pathlib import Path

from tapir_exp.config import RolloutConfig, StudentConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.records import Response, rollout_id
from tapir_exp.core.seeding import derive_seed
from tapir_exp.core.stored_rows import LazySequence, in_order
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.encoded_prompts import encode_in_blocks
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams
from tapir_exp.student.generate import generate_encoded, report_kept


def sample_rollouts(
    student_dir: Path,
    prompts: Sequence[tuple[str, str]],
    student: StudentConfig,
    rollouts: RolloutConfig,
    seed: int,
    label: str,
    kept: MutableMapping[int, Response] | None = None,
) -> Sequence[Response]:
    """Sample `rollouts.num_samples` responses to each instruction.

    In float32 a response depends on the seed, the row id and its number, not on its batch.

    Args:
        student_dir: Directory of the student.
        prompts: Pairs of row id and instruction.
        student: Settings of the student.
        rollouts: Number of samples and temperature.
        seed: Seed of the samples.
        label: Label of the progress bar.
        kept: Responses by their position in the result, as `generate_responses` has them.

    Returns:
        The responses, those to one instruction one after another; `rollout_id` makes their ids.
    """
    kept, size = {} if kept is None else kept, rollouts.num_samples
    with Progress(label, size * len(prompts)) as progress:
        report_kept(kept, lambda _: progress.advance(), label, size * len(prompts))
        if len(kept) == size * len(prompts):
            return in_order(kept, len(kept))
        chat = load_chat(student_dir, student)
        encoded = encode_in_blocks(chat, [instruction for _, instruction in prompts])
        ids = [rollout_id(row_id, number) for row_id, _ in prompts for number in range(size)]
        # Each sample is a row with its own seed, so an engine needs no support for repeated prompts.
        repeated = LazySequence(len(ids), lambda index: encoded[index // size])
        params = [SamplingParams(rollouts.temperature, derive_seed("rollout", seed, name)) for name in ids]
        with open_engine(student_dir, chat, student, sampled=True) as engine:
            return generate_encoded(engine, chat, ids, repeated, student, lambda _: progress.advance(), params, kept)
