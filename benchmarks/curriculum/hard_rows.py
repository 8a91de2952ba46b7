"""Show how many rows of the lab are hard in each round, and how many of them have the hardest level.

    python benchmarks/curriculum/hard_rows.py outputs/sweeps/lab_rounds_report --seeds 11 12 13

Rows are arms, with the settings that vary. Figures are in per cent, by round, as means over the finished jobs.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Subset, TrainingExample
from tapir_exp.lab.world import recognise
from tapir_exp.report.sweep.grouping import group_jobs, varying_settings
from tapir_exp.report.sweep.jobs import Job, find_jobs

HARDEST = 3
HARD_SHARE, FRESH_HARD_SHARE = "gap/hard_share", "fresh_gap/hard_share"
HEAD = "| arm | jobs | hard rows before the round | level 3 in the hard part | level 3 in the new rows |"
RULE = "|---|--:|--:|--:|--:|"
ByRound = Sequence[float]


@cache
def level_of(instruction: str) -> int | None:
    """Return the level of a problem of the lab; None for any other instruction."""
    known = recognise(instruction)
    return None if known is None else known[1].level


def hardest_share(rows: Iterable[TrainingExample]) -> float:
    """Return the percentage of rows with the hardest level; 0 without rows."""
    levels = [level_of(row.instruction) for row in rows]
    return 100 * levels.count(HARDEST) / len(levels) if levels else 0.0


def hard_rows(job: Job) -> ByRound:
    """Return the percentage of rows above delta before each round: of its new rows if their gaps decide."""
    if FRESH_HARD_SHARE in job.rounds[-1]:
        return [100 * float(record[FRESH_HARD_SHARE]) for record in job.rounds[1:]]
    return [100 * float(record[HARD_SHARE]) for record in job.rounds[:-1]]


def hardest_by_round(job: Job, name: str, *, hard_only: bool) -> ByRound:
    """Return the percentage of rows with the hardest level in an artifact of each round.

    Args:
        job: A finished job.
        name: Name of the artifact, without the number of the round.
        hard_only: Whether only rows of the hard set count.
    """
    assert job.manifest is not None, "a finished job has a manifest"
    artifacts = job.manifest.open(job.path)
    rounds = [artifacts[f"{name}-{number}"].rows(TrainingExample) for number in range(1, len(job.rounds))]
    return [hardest_share(row for row in rows if not hard_only or row.subset is Subset.HARD) for rows in rounds]


def describe(jobs: Sequence[Job], figure: Callable[[Job], ByRound]) -> str:
    """Return the means of a figure over jobs, by round."""
    return ", ".join(f"{fmean(values):.1f}" for values in zip(*map(figure, jobs), strict=True))


def render(jobs: Sequence[Job]) -> str:
    """Return the table of finished jobs in Markdown."""
    lines = [HEAD, RULE]
    for label, members in group_jobs(jobs, varying_settings(jobs), by_arm=True).items():
        hard_part = describe(members, lambda job: hardest_by_round(job, "train_mix", hard_only=True))
        new_rows = describe(members, lambda job: hardest_by_round(job, "expansions", hard_only=False))
        lines.append(f"| {label} | {len(members)} | {describe(members, hard_rows)} | {hard_part} | {new_rows} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", help="training seeds; all without it")
    args = parser.parse_args()
    jobs = [job for job in find_jobs(args.sweep) if job.finished and (not args.seeds or job.seed in args.seeds)]
    if not jobs:
        raise StoreError(f"no finished job below {args.sweep}; expected the directory of a sweep in the lab")
    print(render(jobs))


if __name__ == "__main__":
    main()
