"""The oracles of the lab: a teacher, a judge and a labeller that read rendered prompts and reply in text.

They know the right answers but err at configured rates. A reply is a function of the request alone, so the same
call brings the same reply in every process.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from random import Random

from tapir_exp.core.seeding import seed_digest
from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.world import draw, recognise

Options = Mapping[str, float]
Messages = Sequence[Mapping[str, str]]

AT_A_LOSS = "I do not know how to do that."
LAB_VERSION = "ce06856691cc"
"""Version of the problems and of the oracles' replies, part of cache and artifact keys.

Change it together with any change of a problem or a reply; `tests/lab/test_version.py` fails until both are done.
"""
LEVEL_DRIFT = 0.2
"""How often a new problem is a level off its example: "similar difficulty" is never exact."""


def respond(role: str, messages: Messages, options: Options, temperature: float, sample: int) -> str:
    """What the oracle `role` (teacher, judge or labeller) says to a conversation.

    Raises ValueError for a role that the lab does not have, and KeyError where an option of the role is missing.
    """
    if role not in ROLES:
        raise ValueError(f"The lab has the models {', '.join(f'lab/{name}' for name in ROLES)}, but not lab/{role}.")
    return ROLES[role](messages[0]["content"], options, _dice(role, messages, options, temperature, sample))


def prefer(messages: Messages, options: Options, temperature: float, sample: int) -> float:
    """The probability with which the judge would name the first of two responses as the better one."""
    prompt = messages[0]["content"]
    known = recognise(_tagged(prompt, "instruction") or "")
    first, second = _see_pair(known, prompt, options, _dice("judge", messages, options, temperature, sample))
    return 1 / (1 + exp(second - first))


def _dice(role: str, messages: Messages, options: Options, temperature: float, sample: int) -> Random:
    request = json.dumps([role, list(messages), dict(options), temperature, sample], sort_keys=True)
    return Random(seed_digest(request).hex())


def _teach(prompt: str, options: Options, rng: Random) -> str:
    count = _tagged(prompt, "count")
    if count is not None:
        return _expand(prompt, int(count), options, rng)
    instruction = _tagged(prompt, "instruction")
    if instruction is not None:
        known = recognise(instruction)
        text = _respond_to(known, options["error_rate"], rng, refined=True)
        return f"<response>\n{text}\n</response>"
    return _respond_to(recognise(prompt.strip()), options["error_rate"], rng, refined=False)


def _respond_to(known: tuple[Family, Problem] | None, error_rate: float, rng: Random, *, refined: bool) -> str:
    if known is None:
        return AT_A_LOSS
    problem = known[1]
    if rng.random() < error_rate:
        return problem.slip
    return problem.refined if refined else problem.terse


def _expand(prompt: str, count: int, options: Options, rng: Random) -> str:
    shown = [known for text in _all_tagged(prompt, "instruction") if (known := recognise(text))]
    wanted = [family for family in FAMILIES if family.task == _tagged(prompt, "task")]
    models = shown or [(family, draw(family, family.levels[0], rng, held_out=False)) for family in wanted]
    if not models:
        return AT_A_LOSS
    return "\n\n".join(_new_pair(*rng.choice(models), options, rng) for _ in range(count))


def _new_pair(family: Family, example: Problem, options: Options, rng: Random) -> str:
    level = example.level
    if rng.random() < options["expansion_error_rate"]:
        family = rng.choice([other for other in FAMILIES if other.task is not family.task])
    elif rng.random() < LEVEL_DRIFT:
        level = rng.choice([near for near in family.levels if abs(near - level) == 1])
    problem = draw(family, level, rng, held_out=False)
    response = _respond_to((family, problem), options["error_rate"], rng, refined=False)
    return f"<pair>\n<instruction>\n{problem.instruction}\n</instruction>\n<response>\n{response}\n</response>\n</pair>"


@dataclass(frozen=True)
class _Marked:
    score: int
    reason: str


def _judge(prompt: str, options: Options, rng: Random) -> str:
    known = recognise(_tagged(prompt, "instruction") or "")
    if (answer := _tagged(prompt, "answer")) is not None:
        return _score_one(_mark(known, answer), options, rng)
    if _tagged(prompt, "assistant_1") is None:
        return _rate(known, options, rng)
    return _score_pair(known, prompt, options, rng)


def _score_one(mark: _Marked, options: Options, rng: Random) -> str:
    return f"{_on_scale(mark.score + rng.gauss(0, options['noise']))}\nThe answer is {mark.reason}."


def _rate(known: tuple[Family, Problem] | None, options: Options, rng: Random) -> str:
    """Complexity: the level of a problem, from 1 to 3, on the judge's scale."""
    level = 2 if known is None else known[1].level
    return f"{_on_scale(3 * level + rng.gauss(0, options['noise']))}\nThat is how much there is to master."


def _score_pair(known: tuple[Family, Problem] | None, prompt: str, options: Options, rng: Random) -> str:
    seen_first, seen_second = _see_pair(known, prompt, options, rng)
    first, second = _mark_pair(known, prompt)
    return (
        f"{_on_scale(seen_first)} {_on_scale(seen_second)}\n"
        f"Assistant 1 is {first.reason}. Assistant 2 is {second.reason}."
    )


def _see_pair(known: tuple[Family, Problem] | None, prompt: str, options: Options, rng: Random) -> tuple[float, float]:
    """What the two responses of a prompt are worth in the judge's eyes, in points that may lie beyond the scale."""
    first, second = _mark_pair(known, prompt)
    seen_first = first.score + options["position_bias"] + rng.gauss(0, options["noise"])
    return seen_first, second.score + rng.gauss(0, options["noise"])


def _mark_pair(known: tuple[Family, Problem] | None, prompt: str) -> tuple[_Marked, _Marked]:
    first, second = (_mark(known, _tagged(prompt, f"assistant_{place}") or "") for place in (1, 2))
    return first, second


def _mark(known: tuple[Family, Problem] | None, response: str) -> _Marked:
    if known is None:
        return _Marked(5, "hard to judge, for the instruction is unclear")
    family, problem = known
    grade = family.grade(problem, response)
    return _Marked(grade.score, grade.reason)


def _on_scale(score: float) -> int:
    return min(10, max(1, round(score)))


def _label(prompt: str, options: Options, rng: Random) -> str:
    known = recognise(_tagged(prompt, "instruction") or "")
    if known is None:
        return TaskType.OTHERS
    if rng.random() < options["error_rate"]:
        return rng.choice([task for task in TaskType if task is not known[0].task])
    return known[0].task


def _tagged(text: str, tag: str) -> str | None:
    found = _all_tagged(text, tag)
    return found[0] if found else None


def _all_tagged(text: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>\s*(.*?)\s*</{tag}>", text, re.DOTALL)


ROLES: Mapping[str, Callable[[str, Options, Random], str]] = {"teacher": _teach, "judge": _judge, "labeller": _label}
"""The oracles by name."""
