"""The oracles of the lab: a teacher, a judge and a classifier that read rendered prompts and reply in text.

They compute the right answers but err at configured rates. A reply is a function of the request alone: the same call
gives the same reply in every process.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from math import exp
from random import Random

from tapir_exp.config import WorldName
from tapir_exp.core.seeding import seed_digest
from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.family import Family, Grade, Problem
from tapir_exp.lab.world import draw, families_beside, recognise

Options = Mapping[str, float]
Messages = Sequence[Mapping[str, str]]

UNKNOWN_TASK = "I do not know how to do that."
LAB_VERSION = "ce06856691cc"
"""Version of the problems and of the oracles' replies, part of cache and artifact keys.

Change it together with any change of a problem or a reply; `tests/lab/test_version.py` fails until both are done.
"""
LEVEL_DRIFT = 0.2
"""Share of new problems that are one level off their example: "similar difficulty" is never exact."""


def world_version(world: WorldName) -> str:
    """Return what identifies the problems of a world in artifact keys."""
    return LAB_VERSION if world is WorldName.default else f"{LAB_VERSION} {world.value}"


def respond(role: str, messages: Messages, options: Options, temperature: float, sample: int) -> str:
    """Return the reply of an oracle to a conversation.

    Args:
        role: teacher, judge or labeller.
        messages: the conversation; only the first message is read, all of them determine the random draws.
        options: error rates by name: `error_rate` and `expansion_error_rate` of the teacher, `noise` and
            `position_bias` of the judge (in points of its scale), `error_rate` of the labeller.
        temperature: part of the request, so that another one gives other draws.
        sample: number of the sample, likewise.

    Raises:
        ValueError: the lab has no such role.
        KeyError: an option of the role is missing.
    """
    if role not in ROLES:
        models = ", ".join(f"lab/{name}" for name in ROLES)
        raise ValueError(f"The lab has no model lab/{role}; expected one of {models}.")
    return ROLES[role](messages[0]["content"], options, _rng(role, messages, options, temperature, sample))


def prefer(messages: Messages, options: Options, temperature: float, sample: int) -> float:
    """Return the probability with which the judge names the first of two responses as the better one.

    Args:
        messages: the conversation with a pair prompt.
        options: the judge's `noise` and `position_bias`.
        temperature: part of the request, so that another one gives other draws.
        sample: number of the sample, likewise.
    """
    prompt = messages[0]["content"]
    known = recognise(_tagged(prompt, "instruction") or "")
    first, second = _noisy_scores(known, prompt, options, _rng("judge", messages, options, temperature, sample))
    return 1 / (1 + exp(second - first))  # Bradley-Terry: the odds depend on the difference of the scores


def score_digits(messages: Messages, options: Options, temperature: float, sample: int) -> list[Mapping[str, float]]:
    """Return the probabilities of the digits 1 to 9 for each response that a prompt shows.

    The probability of a score is shared by its two neighbours, so that their mean is the score without rounding.

    Args:
        messages: The conversation with a prompt of an expected score.
        options: The judge's `noise` and `position_bias`.
        temperature: Part of the request, so that another one gives other draws.
        sample: Number of the sample, likewise.
    """
    prompt = messages[0]["content"]
    known = recognise(_tagged(prompt, "instruction") or "")
    rng = _rng("judge", messages, options, temperature, sample)
    answer = _tagged(prompt, "answer")
    if answer is None:
        scores = _noisy_scores(known, prompt, options, rng)
        return [_around(score) for score in scores]
    return [_around(_grade(known, answer).score + rng.gauss(0, options["noise"]))]


def _around(score: float) -> Mapping[str, float]:
    digit = 1 + 8 * (min(10.0, max(1.0, score)) - 1) / 9
    low = min(8, int(digit))
    return {str(low): low + 1 - digit, str(low + 1): digit - low}


def _rng(role: str, messages: Messages, options: Options, temperature: float, sample: int) -> Random:
    # The seed is the whole request, so no draw depends on the order of the calls or on the process.
    request = json.dumps([role, list(messages), dict(options), temperature, sample], sort_keys=True)
    return Random(seed_digest(request).hex())


def _teach(prompt: str, options: Options, rng: Random) -> str:
    # The tags show whether the prompt asks for expansion, refinement, or a plain response.
    count = _tagged(prompt, "count")
    if count is not None:
        return _expand(prompt, int(count), options, rng)
    instruction = _tagged(prompt, "instruction")
    if instruction is not None:
        text = _respond_to(recognise(instruction), options["error_rate"], rng, refined=True)
        return f"<response>\n{text}\n</response>"
    return _respond_to(recognise(prompt.strip()), options["error_rate"], rng, refined=False)


def _respond_to(known: tuple[Family, Problem] | None, error_rate: float, rng: Random, *, refined: bool) -> str:
    if known is None:
        return UNKNOWN_TASK
    problem = known[1]
    if rng.random() < error_rate:
        return problem.slip
    return problem.refined if refined else problem.terse


def _expand(prompt: str, count: int, options: Options, rng: Random) -> str:
    examples = [known for text in _all_tagged(prompt, "instruction") if (known := recognise(text))]
    # Without examples, new pairs start from the easiest problems of the task type, always those of the default world.
    families = [family for family in FAMILIES if family.task == _tagged(prompt, "task")]
    models = examples or [(family, draw(family, family.levels[0], rng, held_out=False)) for family in families]
    if not models:
        return UNKNOWN_TASK
    return "\n\n".join(_new_pair(*rng.choice(models), options, rng) for _ in range(count))


def _new_pair(family: Family, example: Problem, options: Options, rng: Random) -> str:
    # An erring teacher misses the task type; a right one misses the level now and then.
    level = example.level
    if rng.random() < options["expansion_error_rate"]:
        family = rng.choice([other for other in families_beside(family) if other.task is not family.task])
    elif rng.random() < LEVEL_DRIFT:
        level = rng.choice([other for other in family.levels if abs(other - level) == 1])
    # Never from the held-out side: expansion must not leak test problems into training.
    problem = draw(family, level, rng, held_out=False)
    response = _respond_to((family, problem), options["error_rate"], rng, refined=False)
    return f"<pair>\n<instruction>\n{problem.instruction}\n</instruction>\n<response>\n{response}\n</response>\n</pair>"


def _judge(prompt: str, options: Options, rng: Random) -> str:
    # The tags show the protocol: a single response, a rating of complexity, or a pair.
    known = recognise(_tagged(prompt, "instruction") or "")
    if (answer := _tagged(prompt, "answer")) is not None:
        return _score_one(_grade(known, answer), options, rng)
    if _tagged(prompt, "assistant_1") is None:
        return _rate(known, options, rng)
    return _score_pair(known, prompt, options, rng)


def _score_one(grade: Grade, options: Options, rng: Random) -> str:
    return f"{_to_scale(grade.score + rng.gauss(0, options['noise']))}\nThe answer is {grade.reason}."


def _rate(known: tuple[Family, Problem] | None, options: Options, rng: Random) -> str:
    """Rate the complexity of a problem: its level, from 1 to 3, on the judge's scale."""
    level = 2 if known is None else known[1].level
    return f"{_to_scale(3 * level + rng.gauss(0, options['noise']))}\nThat is how much there is to master."


def _score_pair(known: tuple[Family, Problem] | None, prompt: str, options: Options, rng: Random) -> str:
    score_1, score_2 = _noisy_scores(known, prompt, options, rng)
    first, second = _grade_pair(known, prompt)
    return f"{_to_scale(score_1)} {_to_scale(score_2)}\nAssistant 1 is {first.reason}. Assistant 2 is {second.reason}."


def _noisy_scores(
    known: tuple[Family, Problem] | None, prompt: str, options: Options, rng: Random
) -> tuple[float, float]:
    """Return the scores of a prompt's two responses with bias and noise, in points that may exceed the scale."""
    first, second = _grade_pair(known, prompt)
    # The bias favours the first position whatever it holds, so that it cancels over both orders.
    score_1 = first.score + options["position_bias"] + rng.gauss(0, options["noise"])
    return score_1, second.score + rng.gauss(0, options["noise"])


def _grade_pair(known: tuple[Family, Problem] | None, prompt: str) -> tuple[Grade, Grade]:
    first, second = (_grade(known, _tagged(prompt, f"assistant_{position}") or "") for position in (1, 2))
    return first, second


def _grade(known: tuple[Family, Problem] | None, response: str) -> Grade:
    if known is None:
        return Grade(5, "hard to judge, for the instruction is unclear")
    family, problem = known
    return family.grade(problem, response)


def _to_scale(score: float) -> int:
    return min(10, max(1, round(score)))


def _label(prompt: str, options: Options, rng: Random) -> str:
    known = recognise(_tagged(prompt, "instruction") or "")
    if known is None:
        return TaskType.OTHERS
    if rng.random() < options["error_rate"]:  # an error is any of the other types, all equally likely
        return rng.choice([task for task in TaskType if task is not known[0].task])
    return known[0].task


def _tagged(text: str, tag: str) -> str | None:
    texts = _all_tagged(text, tag)
    return texts[0] if texts else None


def _all_tagged(text: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>\s*(.*?)\s*</{tag}>", text, re.DOTALL)


ROLES: Mapping[str, Callable[[str, Options, Random], str]] = {"teacher": _teach, "judge": _judge, "labeller": _label}
"""The oracles by name.

The names, as in `lab/labeller`, and the names of the options are part of every request, hence of cache keys and of the
random draws. So the task classifier of the lab keeps the name "labeller".
"""
