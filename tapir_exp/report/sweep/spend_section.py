"""The spend by arm, as its jobs wrote it down."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.spend_report import SPEND_FILE, SpendReport
from tapir_exp.report.sweep.jobs import Job, named


@dataclass(frozen=True)
class ArmSpend:
    """What the jobs of an arm spent together, the unfinished ones too.

    spend: None where no job tells. told: how many of the jobs tell. silent: why the others do not, with their seeds.
    """

    label: str
    spend: Spend | None
    told: int
    jobs: int
    silent: tuple[str, ...]


def spend_by_arm(arms: Mapping[str, Sequence[Job]]) -> list[ArmSpend]:
    """The spend of every arm, and of all of them where there are several."""
    rows = [_arm_spend(label, jobs) for label, jobs in arms.items()]
    return [*rows, _together(rows)] if len(rows) > 1 else rows


def _arm_spend(label: str, jobs: Sequence[Job]) -> ArmSpend:
    told: list[Spend] = []
    silent: defaultdict[str, list[str]] = defaultdict(list)
    for job in jobs:
        found = _read(job)
        if isinstance(found, Spend):
            told.append(found)
        else:
            silent[found].append(named(job.seed))
    reason = tuple(f"{reason}: {', '.join(seeds)}" for reason, seeds in silent.items())
    return ArmSpend(label, _sum(told), len(told), len(jobs), reason)


def _read(job: Job) -> Spend | str:
    """What a job spent, or why that is not known."""
    try:
        spending = SpendReport.load(job.path)
    except ValidationError:
        return f"{SPEND_FILE} cannot be read"
    return f"no {SPEND_FILE}" if spending is None else spending.total


def _sum(told: Sequence[Spend]) -> Spend | None:
    return sum(told, Spend()) if told else None


def _together(rows: Sequence[ArmSpend]) -> ArmSpend:
    return ArmSpend(
        label="all together",
        spend=_sum([row.spend for row in rows if row.spend]),
        told=sum(row.told for row in rows),
        jobs=sum(row.jobs for row in rows),
        silent=(),
    )
