"""Compare the arms of one or more sweeps: accuracy, paired differences, and what the teacher wrote for it.

    python benchmarks/curriculum/compare.py outputs/sweeps/lab_rounds outputs/sweeps/lab_teacher_rows --base one_fit

Every world (`lab.world` and `lab.seed`) has a separate table, since problems of two worlds must not be paired. Rows
are arms, with the settings that vary. The table, the values of each run and a plot of accuracy over teacher rows are
written to `--out`.
"""

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean

from tapir_exp.core.errors import StoreError
from tapir_exp.evals.statistics import Difference, Interval, paired_difference, t_interval
from tapir_exp.report.charts.line_chart import Point, Series, lines
from tapir_exp.report.charts.svg import WIDE, compact
from tapir_exp.report.sweep.grouping import group_jobs, varying_settings
from tapir_exp.report.sweep.jobs import Job, find_jobs

ACCURACY, TOKENS = "benchmark/accuracy", "train/tokens_total"
LEVEL = "benchmark/level/"
TEACHER_ROWS, TEACHER_CALLS = "teacher/rows_total", "teacher/calls_total"
WORLD = ("lab.world", "lab.seed")
MARGIN = 2.0
"""Points that an arm may lose and still count as no worse."""
TONES = ("accent", "warm", "good", "violet", "quiet")

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class ArmResult:
    """Results of one arm in one world, by training seed.

    Attributes:
        label: Arm, and the settings that vary.
        arm: Arm alone; the line that it belongs to in the plot.
        accuracy: Macro accuracy of the last student, in per cent.
        by_level: The same at each level of difficulty; empty for runs that older versions recorded.
        teacher_rows: Rows that the teacher wrote and the filters accepted.
        teacher_calls: Calls of the teacher, as the metrics count them: a row that is drawn again is not refined again.
        tokens: Training tokens of all fits.
    """

    label: str
    arm: str
    accuracy: BySeed
    by_level: Mapping[str, BySeed]
    teacher_rows: BySeed
    teacher_calls: BySeed
    tokens: BySeed


Worlds = Mapping[str, Sequence[ArmResult]]


def load_worlds(sweeps: Sequence[Path]) -> Worlds:
    """Read the finished jobs of several sweeps, by world and arm.

    Raises:
        StoreError: No job is finished.
    """
    by_world: defaultdict[str, list[Job]] = defaultdict(list)
    for job in (job for sweep in sweeps for job in find_jobs(sweep) if job.final_metric(ACCURACY) is not None):
        by_world[_world_of(job)].append(job)
    if not by_world:
        raise StoreError(f"no finished job with {ACCURACY} below {', '.join(map(str, sweeps))}")
    return {world: _arms(jobs) for world, jobs in sorted(by_world.items())}


def difference(arm: ArmResult, base: ArmResult) -> Difference | None:
    """Return the paired difference in points over the seeds that both have; None without a common seed."""
    return None if arm is base else _paired(arm.accuracy, base.accuracy)


def render_table(arms: Sequence[ArmResult], base: str) -> str:
    """Return the Markdown table of a world; without the arm `base`, the columns of the differences are empty."""
    reference = next((arm for arm in arms if arm.label == base), None)
    table = [
        (
            f"| arm | accuracy, % | seeds | minus {base}, points | pairs | p | verdict | teacher rows | teacher calls "
            "| tokens |"
        ),
        "|---|--:|--:|--:|--:|--:|---|--:|--:|--:|",
    ]
    for arm in sorted(arms, key=lambda arm: -fmean(arm.accuracy.values())):
        change = difference(arm, reference) if reference else None
        cells = [arm.label, _interval(t_interval(list(arm.accuracy.values()))), str(len(arm.accuracy))]
        cells += ["–", "–", "–", "–"] if change is None else _change_cells(change)
        cells += [_mean(values) for values in (arm.teacher_rows, arm.teacher_calls, arm.tokens)]
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join(table)


def render_levels(arms: Sequence[ArmResult], base: str) -> str:
    """Return the Markdown table of accuracy and paired differences by level; empty without levels."""
    reference = next((arm for arm in arms if arm.label == base), None)
    levels = sorted({level for arm in arms for level in arm.by_level}, key=int)
    if not levels:
        return ""
    heads = [head for level in levels for head in (f"level {level}, %", f"minus {base}")]
    table = [f"| arm | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for arm in sorted(arms, key=lambda arm: -fmean(arm.accuracy.values())):
        cells = [arm.label]
        for level in levels:
            values = arm.by_level.get(level, {})
            same = arm is reference or reference is None
            change = None if same else _paired(values, reference.by_level.get(level, {}))
            cells += [f"{fmean(values.values()):.1f}" if values else "–", "–" if change is None else _change(change)]
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join(table)


def render_runs(worlds: Worlds) -> str:
    """Return the values of each run as CSV, with which the tables can be computed again."""
    levels = sorted({level for arms in worlds.values() for arm in arms for level in arm.by_level}, key=int)
    heads = ["world", "arm", "seed", "accuracy", *(f"level_{level}" for level in levels)]
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*heads, "teacher_rows", "teacher_calls", "tokens"])
    for world, arms in worlds.items():
        for arm in arms:
            columns = [arm.accuracy, *(arm.by_level.get(level, {}) for level in levels)]
            for seed in sorted(arm.accuracy):
                cells = [f"{column[seed]:.3f}" if seed in column else "" for column in columns]
                costs = (arm.teacher_rows, arm.teacher_calls, arm.tokens)
                table.writerow(
                    [world, arm.label, seed, *cells, *(f"{cost[seed]:.0f}" if seed in cost else "" for cost in costs)]
                )
    return text.getvalue()


def verdict(change: Difference) -> str:
    """Return what the interval of a difference shows, in words."""
    if change.low is None or change.high is None:
        return "one pair"
    if change.low > 0:
        return "better"
    if change.high < 0:
        return f"worse by more than {MARGIN:g}" if change.high < -MARGIN else "worse"
    return f"no more than {MARGIN:g} worse" if change.low > -MARGIN else "inconclusive"


def plot_accuracy(arms: Sequence[ArmResult], title: str) -> str:
    """Draw accuracy over teacher rows, one line for each arm, as SVG; arms without teacher rows have no point."""
    drawn = [(arm, fmean(arm.teacher_rows.values())) for arm in arms if any(arm.teacher_rows.values())]
    if not drawn:
        return ""
    # The axis is logarithmic with a tick at every doubling: 1k, 2k, 4k, ...
    low = math.floor(math.log2(min(rows for _, rows in drawn) / 1000))
    high = math.ceil(math.log2(max(rows for _, rows in drawn) / 1000))
    ticks = [compact(1000 * 2.0**power) for power in range(low, max(high, low + 1) + 1)]
    points: defaultdict[str, list[Point]] = defaultdict(list)
    for arm, rows in sorted(drawn, key=lambda pair: pair[1]):
        share = t_interval([value / 100 for value in arm.accuracy.values()])
        points[arm.arm].append(Point(math.log2(rows / 1000) - low, share.mean, share.low, share.high))
    series = [Series(arm, tuple(at), TONES[n % len(TONES)]) for n, (arm, at) in enumerate(points.items())]
    text = "; ".join(f"{arm.label}: {fmean(arm.accuracy.values()):.1f} % at {rows:.0f} rows" for arm, rows in drawn)
    return lines(series, ticks, title, text, width=WIDE, height=320)


def write_comparison(worlds: Worlds, base: str, out: Path) -> str:
    """Write `comparison.md`, `runs.csv` and one plot for each world into a directory; return the text of the former."""
    out.mkdir(parents=True, exist_ok=True)
    parts = ["# Comparison of curricula\n"]
    for number, (world, arms) in enumerate(worlds.items(), 1):
        parts.append(f"## {world}\n\n{render_table(arms, base)}\n")
        if levels := render_levels(arms, base):
            parts.append(f"{levels}\n")
        if chart := plot_accuracy(arms, f"Accuracy over rows by the teacher, {world}"):
            name = f"accuracy_over_rows_{number}.svg"
            (out / name).write_text(chart)
            parts.append(f"![Accuracy over teacher rows]({name})\n")
    text = "\n".join(parts)
    (out / "comparison.md").write_text(text)
    (out / "runs.csv").write_text(render_runs(worlds))
    return text


def _world_of(job: Job) -> str:
    """Return the world of a job; jobs of before `lab.world` are of the default one."""
    world, seed = (job.config.get(key) for key in WORLD)
    return f"{world or 'default'} world, lab.seed {seed}"


def _arms(jobs: Sequence[Job]) -> list[ArmResult]:
    keys = [key for key in varying_settings(jobs) if key not in WORLD]
    groups = group_jobs(jobs, keys, by_arm=True)
    return [
        ArmResult(
            label=label,
            arm=str(members[0].arm),
            accuracy=_percent(members, ACCURACY),
            by_level=_levels(members),
            teacher_rows=_by_seed(members, TEACHER_ROWS),
            teacher_calls=_by_seed(members, TEACHER_CALLS),
            tokens=_by_seed(members, TOKENS),
        )
        for label, members in groups.items()
    ]


def _by_seed(jobs: Sequence[Job], metric: str) -> dict[int, float]:
    pairs = ((job.seed, job.final_metric(metric)) for job in jobs)
    return dict(sorted((seed, value) for seed, value in pairs if seed is not None and value is not None))


def _percent(jobs: Sequence[Job], metric: str) -> dict[int, float]:
    return {seed: 100 * share for seed, share in _by_seed(jobs, metric).items()}


def _levels(jobs: Sequence[Job]) -> dict[str, BySeed]:
    names = {name for job in jobs if job.rounds for name in job.rounds[-1] if name.startswith(LEVEL)}
    return {name.removeprefix(LEVEL): _percent(jobs, name) for name in names}


def _paired(values: BySeed, base: BySeed) -> Difference | None:
    """Return the paired difference over the seeds that both have; None without a common seed."""
    seeds = [seed for seed in values if seed in base]
    return paired_difference([values[s] for s in seeds], [base[s] for s in seeds]) if seeds else None


def _change_cells(change: Difference) -> list[str]:
    p = "–" if change.p is None else f"{change.p:.3f}"
    return [_change(change), str(change.n), p, verdict(change)]


def _change(change: Difference) -> str:
    return _interval(Interval(change.mean, change.low, change.high, change.n), signed=True)


def _interval(interval: Interval, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:{sign}.1f}"
    return f"{interval.mean:{sign}.1f} ({interval.low:{sign}.1f} to {interval.high:{sign}.1f})"


def _mean(values: BySeed) -> str:
    return f"{fmean(values.values()):,.0f}" if values else "unknown"


def main() -> None:
    """Compare, print the tables and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, help="directories of sweeps")
    parser.add_argument("--base", default="single_round", help="label of the arm that others are compared with")
    parser.add_argument("--out", type=Path, default=Path("outputs/curriculum"), help="directory of the files")
    arguments = parser.parse_args()
    worlds = load_worlds(arguments.sweeps)
    labels = sorted({arm.label for arms in worlds.values() for arm in arms})
    if arguments.base not in labels:
        parser.error(f"--base = {arguments.base}: expected an arm of the sweeps: {', '.join(labels)}")
    print(write_comparison(worlds, arguments.base, arguments.out))


if __name__ == "__main__":
    main()
