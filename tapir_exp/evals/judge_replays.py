"""Verdicts of published evaluators, from files of their raw replies: no model is called.

Two formats are read. LLMBar's result files hold, for each pair, the completion of each order or the score of each
answer. Plain rows hold `id` (of the pair), `order` and `reply`, and the parser of a protocol reads them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.json_rows import read_whole_rows
from tapir_exp.evals.judge_agreement import JudgedPair
from tapir_exp.evals.labelled_pairs import LabelledPair, read_pair

_CHOICES = (
    # With reasons first, LLMBar's evaluators end with this sentence; without, the choice starts a line.
    (re.compile(r"Output \(a\) is better\."), re.compile(r"Output \(b\) is better\.")),
    (re.compile(r"(?:^|\n) ?Output \(a\)"), re.compile(r"(?:^|\n) ?Output \(b\)")),
    (re.compile(r"\[\[A(?:>>?B)?\]\]"), re.compile(r"\[\[B(?:>>?A)?\]\]")),
)
"""How a reply names the better answer: LLMBar's two forms, and that of MT-Bench, Arena-Hard and JudgeBench."""


def is_llmbar_result(fields: Mapping[str, Any]) -> bool:
    """Return whether a row is one of LLMBar's result files."""
    results = fields.get("results")
    return isinstance(results, list) and bool(results) and isinstance(results[-1], dict)


def read_llmbar_results(path: Path) -> list[JudgedPair]:
    """Return the verdicts of one of LLMBar's result files.

    Raises:
        EvaluationError: If a row is not in its format; the message names it.
    """
    judged = []
    for row, (source, fields) in enumerate(read_whole_rows(path, EvaluationError)):
        if not is_llmbar_result(fields):
            raise EvaluationError(f"{source}: expected a list `results` whose last item holds the replies.")
        pair, last = read_pair(fields, source, row), fields["results"][-1]
        judged.append(_read_ratings(pair, last, source) if "score_1" in last else _read_choices(pair, last, source))
    return judged


def _read_ratings(pair: LabelledPair, last: Mapping[str, Any], source: str) -> JudgedPair:
    lengths = (len(pair.first), len(pair.second))
    first, second = (_read_int(_completion(last, name, source)) for name in ("score_1", "score_2"))
    if first is None or second is None:
        return JudgedPair(pair.label, (None, None), lengths, alone=True, failed=True)
    lead = float(first - second)
    return JudgedPair(pair.label, (lead, lead), lengths, alone=True)


def _read_choices(pair: LabelledPair, last: Mapping[str, Any], source: str) -> JudgedPair:
    orders = []
    for name, sign in (("swap = False", 1.0), ("swap = True", -1.0)):
        order = last.get(name)
        if not isinstance(order, dict):
            raise EvaluationError(f"{source}: expected the replies of both orders, `swap = False` and `swap = True`.")
        choice = read_choice(_completion(order, "completion", source))
        orders.append(None if choice is None else sign * choice)
    return JudgedPair(pair.label, (orders[0], orders[1]), (len(pair.first), len(pair.second)), graded=False)


def read_choice(text: str) -> float | None:
    """Return 1 if a reply names the answer shown first, -1 for the second, None if it names neither.

    The first form that occurs counts, and in it the first answer, as in LLMBar's code.
    """
    for first, second in _CHOICES:
        if first.search(text.strip()):
            return 1.0
        if second.search(text.strip()):
            return -1.0
    return None


def _completion(fields: Mapping[str, Any], name: str, source: str) -> str:
    """Return the text of a completion, which LLMBar stores with its finish reason."""
    value = fields.get(name)
    text = value[0] if isinstance(value, list) and value else value
    if not isinstance(text, str):
        raise EvaluationError(f"{source}: {name} is {value!r}, expected a completion.")
    return text


def _read_int(text: str) -> int | None:
    # As Python's int(), which LLMBar applies to the whole completion.
    try:
        return int(text)
    except ValueError:
        return None
