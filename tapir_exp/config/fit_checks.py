"""Checks of the settings of fits that have no meaning together."""

from collections.abc import Iterator
from enum import Enum

from tapir_exp.config.problems import Problem, Values


def check_fits(values: Values) -> Iterator[Problem]:
    """Yield every combination of settings of `sft` that means nothing or cannot run."""
    names = ("lr_schedule", "optimizer_state", "round_start", "judged_student")
    members = {name: values.get(f"sft.{name}") for name in names}
    chosen = {name: member.name for name, member in members.items() if isinstance(member, Enum)}
    if len(chosen) < len(names):  # one of them has no valid value, which is reported on its own
        return
    yield from _check_starts(chosen)
    yield from _check_judged(chosen, values.get("sft.average_checkpoints"))
    yield from _check_strategy(chosen, values)


def _check_starts(chosen: dict[str, str]) -> Iterator[Problem]:
    start = chosen["round_start"]
    if start == "previous":
        return
    for name, single in (("lr_schedule", "restart"), ("optimizer_state", "new")):
        if chosen[name] != single:
            reason = f"a round that starts from {start} does not continue the fit of the previous round"
            expected = f"{single}, or sft.round_start=previous: {reason}"
            yield Problem(f"sft.{name}", f" = {chosen[name]}", expected)


def _check_judged(chosen: dict[str, str], snapshots: object) -> Iterator[Problem]:
    judged, schedule = chosen["judged_student"], chosen["lr_schedule"]
    if judged == "annealed" and schedule in ("restart", "falling"):
        expected = f"as_trained: under sft.lr_schedule={schedule} the rate of each round falls to 0 already"
        yield Problem("sft.judged_student", " = annealed", f"{expected}; or set sft.lr_schedule to one or wsd")
    if not isinstance(snapshots, int):
        return
    if judged == "average" and snapshots == 1:
        yield Problem("sft.average_checkpoints", " = 1", "at least 2, because sft.judged_student is average")
    if judged != "average" and snapshots > 1:
        expected = "1, or sft.judged_student=average: no other student uses the average"
        yield Problem("sft.average_checkpoints", f" = {snapshots}", expected)


def _check_strategy(chosen: dict[str, str], values: Values) -> Iterator[Problem]:
    if getattr(values.get("trainer.strategy"), "name", None) != "deepspeed":
        return
    for name, supported in (("optimizer_state", "new"), ("judged_student", "as_trained")):
        if chosen[name] != supported:
            expected = f"{supported}, or trainer.strategy=ddp or fsdp: the optimiser state is inside DeepSpeed's engine"
            yield Problem(f"sft.{name}", f" = {chosen[name]}", expected)
