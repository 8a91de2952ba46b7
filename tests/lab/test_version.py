"""The lab's problems, replies and base student are pinned by a hash, together with LAB_VERSION."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from tapir_exp.config import WorldName
from tapir_exp.core.task_types import TaskType
from tapir_exp.lab import base_student
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.oracle import LAB_VERSION, prefer, respond
from tapir_exp.lab.world import WORLDS, even_problems, held_out_problems, is_held_out, natural_problems

PINNED = {
    "ce06856691cc": {
        WorldName.default: "ba5a15401290e8d027394a3260c0d26bbeb02eb0fd0fb53c85dfe1750187018a",
        WorldName.ladder: "f27ec9cee618e19b0ecbaf471167e0d4d2237fbb80b34d69eca5531e4efb5820",
    },
}
"""SHA-256 of the sample of each world in each version. Add an entry for a new version; never edit one."""
SEEDS = (0, 1, 2, 3, 4)
UNKNOWN = "Tell me a joke."
OPTIONS: dict[str, dict[str, float]] = {
    "teacher": {"error_rate": 0.3, "expansion_error_rate": 0.3},
    "judge": {"noise": 1.5, "position_bias": 0.5},
    "labeller": {"error_rate": 0.3},
}


def sample_problems(world: WorldName) -> list[tuple[Family, Problem]]:
    """Return problems of every family, level and seed."""
    return [
        (family, family.pose(Random(f"{family.name} {level} {seed}"), level))
        for family in WORLDS[world].families
        for level in family.levels
        for seed in SEEDS
    ]


def problem_lines(world: WorldName) -> Iterator[Any]:
    """Yield the sampled problems with their sides of the split and their grades, and what the world draws."""
    for family, problem in sample_problems(world):
        responses = (problem.terse, problem.refined, problem.slip, problem.terse[:-1], problem.instruction, "")
        grades = [asdict(family.grade(problem, response)) for response in responses]
        yield [family.name, str(family.task), asdict(problem), is_held_out(problem), grades]
    for seed in SEEDS:
        yield [[family.name, asdict(problem)] for family, problem in natural_problems(100, seed, world)]
        yield [[family.name, asdict(problem)] for family, problem in held_out_problems(2, seed, world)]
        yield [asdict(problem) for problem in even_problems(2, seed, world)]


def tag(**parts: str) -> str:
    """Return a prompt that contains the parts as the oracles read them."""
    return "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in parts.items())


def prompts(world: WorldName) -> Iterator[tuple[str, str]]:
    """Yield a prompt of every kind to every role, with its role. They do not depend on the prompt files."""
    for family, problem in sample_problems(world):
        instruction = problem.instruction
        yield "teacher", instruction
        yield "teacher", tag(instruction=instruction, response=problem.terse)
        yield "teacher", tag(task=str(family.task), count="3") + "\n" + tag(instruction=instruction)
        yield "judge", tag(instruction=instruction)
        yield "judge", tag(instruction=instruction, answer=problem.slip)
        yield "judge", tag(instruction=instruction, assistant_1=problem.refined, assistant_2=problem.slip)
        yield "judge", tag(instruction=instruction, assistant_1=problem.slip, assistant_2=problem.terse)
        yield "labeller", tag(instruction=instruction)
    for task in TaskType:
        yield "teacher", tag(task=str(task), count="2")
    for role in OPTIONS:
        yield role, UNKNOWN
        yield role, tag(instruction=UNKNOWN)
    yield "judge", tag(instruction=UNKNOWN, answer="Knock.")
    yield "judge", tag(instruction=UNKNOWN, assistant_1="Knock.", assistant_2="No.")


def reply_lines(world: WorldName) -> Iterator[Any]:
    """Yield the replies of every role, greedy and sampled, and the judge's preferences."""
    for role, prompt in prompts(world):
        messages = [{"role": "user", "content": prompt}]
        perfect = dict.fromkeys(OPTIONS[role], 0.0)
        yield [role, respond(role, messages, perfect, 0.0, 0)]
        yield [role, [respond(role, messages, OPTIONS[role], 0.7, sample) for sample in (0, 1)]]
        if role == "judge":
            # Rounded, since the last digits of exp and log depend on the platform.
            yield [round(prefer(messages, OPTIONS[role], 0.0, sample), 9) for sample in (0, 1)]


def student_lines() -> Iterator[Any]:
    """Yield the fixed settings of the base student, since LAB_VERSION is part of its key, too."""
    names = (
        "POSITIONS",
        "ROPE_THETA",
        "INITIAL_SPREAD",
        "CHAT_TEMPLATE",
        "BOS",
        "PAD",
        "END",
        "SYSTEM",
        "USER",
        "ASSISTANT",
    )
    yield {name: getattr(base_student, name) for name in names}


def fingerprint(world: WorldName) -> str:
    """Return the SHA-256 of the sample of a world."""
    digest = sha256()
    for line in (*problem_lines(world), *reply_lines(world), *student_lines()):
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


@pytest.mark.parametrize("world", WorldName, ids=lambda world: world.value)
def test_lab_version_pins_problems_and_replies(world: WorldName) -> None:
    """A change of the lab without a new version would mix old and new replies in caches and stores."""
    result = fingerprint(world)
    assert PINNED[LAB_VERSION].get(world) == result, (
        f"The problems of the {world.value} world, the replies or the base student changed: their hash is {result}. "
        "If the change is intended, set LAB_VERSION in tapir_exp/lab/oracle.py to a new value, such as "
        f"{result[:12]!r}, and add it with the hash "
        "to PINNED. Cached replies and artifacts of the lab are then made again."
    )


def test_lab_versions_have_distinct_hashes() -> None:
    hashes = [digest for worlds in PINNED.values() for digest in worlds.values()]
    assert len(set(hashes)) == len(hashes)
