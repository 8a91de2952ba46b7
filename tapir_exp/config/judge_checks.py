"""Checks of the judge's settings."""

from collections.abc import Iterator
from pathlib import Path

from tapir_exp.config.llm import AUTO
from tapir_exp.config.problems import Problem, Values, format_value

MEMBERS = ("judge.panel.second", "judge.panel.third")
"""Further judges of a panel."""
ALONE = ("single_score", "single_expected")
"""Protocols that show one response at a time."""
LOGPROBS = ("pair_logprobs", "pair_expected", "single_expected")
"""Protocols whose scores come from log-probabilities."""


def check_judge(values: Values) -> Iterator[Problem]:
    """Yield every mistake of the judge's settings."""
    yield from _check_samples(values)
    yield from _check_panel(values)
    path = values.get("judge.check_pairs")
    if isinstance(path, str) and not Path(path).is_file():
        yield Problem("judge.check_pairs", format_value("judge.check_pairs", path), "a file of labelled pairs")
    select, protocol = _name(values, "curriculum.select_by"), _name(values, "judge.protocol")
    if select not in (None, "gap") and (not values.get("judge.swap_positions") or protocol in ALONE):
        expected = "gap, or a judge of pairs with judge.swap_positions=true, whose two orders show its noise"
        yield Problem("curriculum.select_by", f" = {select}", expected)


def _check_samples(values: Values) -> Iterator[Problem]:
    samples, protocol = values.get("judge.samples"), _name(values, "judge.protocol")
    if not isinstance(samples, int) or samples < 2:
        return
    if protocol in LOGPROBS:
        expected = f"1 with judge.protocol={protocol}, whose log-probabilities are the mean over all samples already"
        yield Problem("judge.samples", f" = {samples}", expected)
    elif not values.get("judge.temperature"):
        expected = f"more than 0, such as 0.7, with judge.samples={samples}: at 0 all samples are equal"
        yield Problem("judge.temperature", f" = {values.get('judge.temperature')}", expected)


def _check_panel(values: Values) -> Iterator[Problem]:
    roles = ["judge", *(role for role in MEMBERS if values.get(f"{role}.llm.model") is not None)]
    for role in roles if len(roles) > 1 else ():
        if values.get(f"{role}.llm.concurrency") == AUTO:
            expected = "a whole number for each judge of a panel"
            yield Problem(f"{role}.llm.concurrency", f" = {AUTO}", expected)


def _name(values: Values, key: str) -> str | None:
    """Return the name of a choice; None if it is missing."""
    value = values.get(key)
    return None if value is None else str(getattr(value, "name", value))
