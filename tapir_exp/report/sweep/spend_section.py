"""Spend by arm, summed over the spend reports of its jobs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.core.errors import StoreError
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.spend_report import SPEND_FILE, SpendReport
from tapir_exp.report.sweep.jobs import Job, seed_label


@dataclass(frozen=True)
class ArmSpend:
    """Spend of the jobs of an arm, including unfinished ones.

    Attributes:
        label: Arm or settings.
        spend: Sum over the jobs with a spend report; None if there is none.
        reported: Number of jobs with a spend report.
        jobs: Number of jobs.
        unreported: Reasons why jobs have no spend report, with their seeds.
    """

    label: str
    spend: Spend | None
    reported: int
    jobs: int
    unreported: tuple[str, ...]


def spend_by_arm(arms: Mapping[str, Sequence[Job]]) -> list[ArmSpend]:
    """Return the spend of each arm and, if there are several, a last row with their sum."""
    rows = [_arm_spend(label, jobs) for label, jobs in arms.items()]
    return [*rows, _total(rows)] if len(rows) > 1 else rows


def _arm_spend(label: str, jobs: Sequence[Job]) -> ArmSpend:
    spends: list[Spend] = []
    seeds_by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for job in jobs:
        result = _load_spend(job)
        if isinstance(result, Spend):
            spends.append(result)
        else:
            seeds_by_reason[result].append(seed_label(job.seed))
    unreported = tuple(f"{reason}: {', '.join(seeds)}" for reason, seeds in seeds_by_reason.items())
    return ArmSpend(label, _sum(spends), len(spends), len(jobs), unreported)


def _load_spend(job: Job) -> Spend | str:
    """Return the total spend of a job, or the reason why it is unknown."""
    # A sweep keeps jobs of older versions and killed jobs; one bad file must not prevent the report.
    try:
        report = SpendReport.load(job.path)
    except StoreError:
        return f"{SPEND_FILE} cannot be read"
    return f"no {SPEND_FILE}" if report is None else report.total


def _sum(spends: Sequence[Spend]) -> Spend | None:
    return sum(spends, Spend()) if spends else None


def _total(rows: Sequence[ArmSpend]) -> ArmSpend:
    return ArmSpend(
        label="all arms",
        spend=_sum([row.spend for row in rows if row.spend]),
        reported=sum(row.reported for row in rows),
        jobs=sum(row.jobs for row in rows),
        unreported=(),  # listed in the rows of the arms
    )
