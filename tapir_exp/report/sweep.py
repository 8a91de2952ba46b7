"""The comparison of a sweep: every job below a directory, grouped by arm or by the setting that varies."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup
from omegaconf import OmegaConf
from pydantic import ValidationError

from tapir_exp.errors import StoreError
from tapir_exp.evals.statistics import Difference, Interval, holm, paired_difference, t_interval
from tapir_exp.manifest import MANIFEST, Manifest
from tapir_exp.report import charts
from tapir_exp.report.page import REPORT, render
from tapir_exp.report.view import CONFIG, METRICS
from tapir_exp.store import write_whole
from tapir_exp.taxonomy import BOOSTED

BASELINE = "tapir"
NONE = "-"
HYDRA = ".hydra"
NOT_SETTINGS = ("arm", "seed", "name", "outputs", "launcher")
ACCURACY = "benchmark/accuracy"
TASK = "benchmark/task/"
TOKENS = "fit/tokens_total"
INDEX = "index.html"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    config: dotted key to value, empty where the job left none. last: its last line of metrics.
    problem: why it is not finished; None where it is.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Manifest | None
    last: Mapping[str, Any]
    problem: str | None

    @property
    def arm(self) -> str | None:
        """Which variant of the method it is."""
        return self.manifest.arm if self.manifest else self.config.get("arm")

    @property
    def seed(self) -> int | None:
        """Its training seed."""
        return self.manifest.seed if self.manifest else self.config.get("seed")

    def figure(self, name: str) -> float | None:
        """A figure of the last student; None where the job is not finished or has none."""
        value = None if self.problem else self.last.get(name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Row:
    """A line of the comparison. Accuracies are shares; `values` and `tokens` are by seed."""

    label: str
    values: Mapping[int, float]
    tokens: Mapping[int, float]
    accuracy: Interval | None
    by_task: Mapping[str, Interval]
    difference: Difference | None
    p_holm: float | None
    finished: int
    jobs: int


@dataclass(frozen=True)
class Missing:
    """A job without a result: where it is, or would be, and why."""

    where: str
    what: str
    why: str


@dataclass(frozen=True)
class Shared:
    """How many different artifacts of one name the jobs have between them."""

    name: str
    distinct: int
    jobs: int


@dataclass(frozen=True)
class Sweep:
    """All that is known of a sweep. subject: the heading of the first column, an arm or the setting's key."""

    path: Path
    subject: str
    groups: Mapping[str, Sequence[Job]]
    rows: Sequence[Row]
    missing: Sequence[Missing]

    @cached_property
    def jobs(self) -> list[Job]:
        """Every job that was found, the finished ones and the others."""
        return [job for jobs in self.groups.values() for job in jobs]

    @property
    def tasks(self) -> list[str]:
        """The boosted task types that any row has."""
        return [task for task in BOOSTED if any(task in row.by_task for row in self.rows)]

    @property
    def compared(self) -> bool:
        """Whether there is an arm to compare with."""
        return any(row.difference is not None for row in self.rows)

    @property
    def tokens(self) -> list[float]:
        """Training tokens of every finished job."""
        return [tokens for row in self.rows for tokens in row.tokens.values()]

    @property
    def reused(self) -> list[Shared]:
        """The artifacts that several jobs have in common."""
        return [row for row in self.shared if row.distinct < row.jobs]

    @property
    def shared(self) -> list[Shared]:
        """Distinct artifacts by name, in the order of a run, over the jobs that have one of that name."""
        keys: defaultdict[str, list[str]] = defaultdict(list)
        for entry in (e for job in self.jobs if job.manifest for e in job.manifest.artifacts):
            keys[entry.name].append(entry.key)
        return [Shared(name, len(set(found)), len(found)) for name, found in keys.items()]

    def reports(self) -> list[tuple[Job, str]]:
        """The finished jobs with their pages, relative to the sweep."""
        done = [job for job in self.jobs if not job.problem]
        return [(job, str((job.path / REPORT).relative_to(self.path))) for job in done]


def write_sweep_report(sweep_dir: Path) -> Path:
    """Write comparison.md, .csv and .svg and index.html over the jobs below `sweep_dir`; returns index.html.

    Raises StoreError where there is no job.
    """
    sweep = load_sweep(sweep_dir)
    chart = draw(sweep)
    narrow = draw(sweep, charts.NARROW)
    write_whole(sweep_dir / "comparison.md", render("comparison.md.jinja", sweep=sweep, cell=CELLS))
    write_whole(sweep_dir / "comparison.csv", to_csv(sweep))
    write_whole(sweep_dir / "comparison.svg", standalone(chart))
    page = render("sweep.html.jinja", sweep=sweep, chart=Markup(chart), narrow=Markup(narrow), cell=CELLS)
    write_whole(sweep_dir / INDEX, page)
    return sweep_dir / INDEX


def load_sweep(sweep_dir: Path) -> Sweep:
    """Find the jobs below a directory, group and compare them. Raises StoreError where there is none."""
    jobs = [_load_job(path) for path in _job_dirs(sweep_dir)]
    if not jobs:
        raise StoreError(f"{sweep_dir} holds no job: no {MANIFEST}, {METRICS} or {CONFIG} below it.")
    keys = _varying(jobs)
    by_arm = len({job.arm for job in jobs}) > 1 or not keys
    groups = _group(jobs, keys, by_arm)
    rows = [_row(label, group) for label, group in groups.items()]
    missing = [*_unfinished(jobs, sweep_dir), *_never_started(groups)]
    subject = " · ".join([*(["arm"] if by_arm else []), *keys])
    return Sweep(sweep_dir, subject, groups, _sorted(_compared(rows), by_arm), missing)


def _job_dirs(directory: Path) -> list[Path]:
    """Directories of jobs, the topmost ones: what lies in a job is its own affair."""
    found = []
    for child in sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found += [child] if _is_job(child) else _job_dirs(child)
    return found


def _is_job(path: Path) -> bool:
    return any((path / name).exists() for name in (MANIFEST, METRICS, CONFIG, HYDRA))


def _load_job(path: Path) -> Job:
    manifest, problem = _manifest(path)
    config = _config(path)
    lines = _metrics(path)
    last: Mapping[str, Any] = lines[-1] if lines else {}
    rounds = len(manifest.alphas) if manifest else None
    if problem is None and not lines:
        problem = f"no {METRICS}"
    elif problem is None and last.get("round") != rounds:
        problem = f"stopped after round {last.get('round')} of {rounds}"
    elif problem is not None and lines:
        problem += f"; its metrics end with round {last.get('round')}"
    return Job(path, config, manifest, last, problem)


def _manifest(path: Path) -> tuple[Manifest | None, str | None]:
    try:
        return Manifest.load(path), None
    except StoreError:
        return None, f"no {MANIFEST}: not finished"
    except ValidationError as error:
        return None, f"{MANIFEST} cannot be read: {error.error_count()} mistakes"


def _metrics(path: Path) -> list[Mapping[str, Any]]:
    """The lines of metrics; a last line that a killed job left half written is not one."""
    lines = []
    for line in (path / METRICS).read_text().splitlines() if (path / METRICS).is_file() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _config(path: Path) -> dict[str, Any]:
    """The job's settings by dotted key: its resolved config, or what Hydra wrote down before it began."""
    for file in (path / CONFIG, path / HYDRA / CONFIG):
        if file.is_file():
            return _flat(OmegaConf.to_container(OmegaConf.load(file), resolve=False))
    return {}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix: json.dumps(node) if isinstance(node, list) else node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _varying(jobs: Sequence[Job]) -> list[str]:
    """The settings that differ between jobs of one arm and one seed."""
    values: defaultdict[tuple[str, object], set[object]] = defaultdict(set)
    keys = [key for key in dict.fromkeys(k for job in jobs for k in job.config) if key not in NOT_SETTINGS]
    for job in (job for job in jobs if job.config):
        for key in keys:
            values[key, (job.arm, job.seed)].add(job.config.get(key))
    return [key for key in keys if any(len(seen) > 1 for (k, _), seen in values.items() if k == key)]


def _group(jobs: Sequence[Job], keys: Sequence[str], by_arm: bool) -> dict[str, list[Job]]:
    groups: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        settings = [str(job.config.get(key, "unknown")) for key in keys]
        groups[" · ".join([*([str(job.arm or "unknown")] if by_arm else []), *settings])].append(job)
    return dict(groups)


def _row(label: str, jobs: Sequence[Job]) -> Row:
    values = _by_seed(jobs, ACCURACY)
    tasks = {task: _by_seed(jobs, f"{TASK}{task}") for task in BOOSTED}
    return Row(
        label=label,
        values=values,
        tokens=_by_seed(jobs, TOKENS),
        accuracy=_interval(values.values()),
        by_task={task: t_interval(list(found.values())) for task, found in tasks.items() if found},
        difference=None,
        p_holm=None,
        finished=sum(job.problem is None for job in jobs),
        jobs=len(jobs),
    )


def _by_seed(jobs: Iterable[Job], name: str) -> dict[int, float]:
    known = ((job.seed, job.figure(name)) for job in jobs)
    return dict(sorted((seed, value) for seed, value in known if seed is not None and value is not None))


def _interval(values: Iterable[float]) -> Interval | None:
    known = list(values)
    return t_interval(known) if known else None


def _compared(rows: Sequence[Row]) -> list[Row]:
    """The rows with their paired differences from the baseline over the seeds that both have, Holm-corrected."""
    baseline = next((row for row in rows if row.label == BASELINE), None)
    if baseline is None:
        return list(rows)
    compared = [row if row is baseline else replace(row, difference=_difference(row, baseline)) for row in rows]
    known = {r.label: r.difference.p for r in compared if r.difference and r.difference.p is not None}
    adjusted = holm(known)
    return [replace(row, p_holm=adjusted.get(row.label)) for row in compared]


def _difference(row: Row, baseline: Row) -> Difference | None:
    seeds = [seed for seed in row.values if seed in baseline.values]
    if not seeds:
        return None
    return paired_difference([row.values[s] for s in seeds], [baseline.values[s] for s in seeds])


def _sorted(rows: Sequence[Row], by_arm: bool) -> list[Row]:
    """Arms: the baseline first, then the best; settings: by their value."""
    if not by_arm:
        return sorted(rows, key=lambda row: [_natural(part) for part in row.label.split(" · ")])
    return sorted(
        rows, key=lambda row: (row.label != BASELINE, -(row.accuracy.mean if row.accuracy else -1), row.label)
    )


def _natural(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text


def _unfinished(jobs: Iterable[Job], sweep_dir: Path) -> list[Missing]:
    return [
        Missing(str(job.path.relative_to(sweep_dir)), f"{job.arm or 'arm unknown'}, {_seed(job.seed)}", job.problem)
        for job in jobs
        if job.problem is not None
    ]


def _never_started(groups: Mapping[str, Sequence[Job]]) -> list[Missing]:
    """Seeds that other groups have and a group has not."""
    seeds = sorted({job.seed for jobs in groups.values() for job in jobs if job.seed is not None})
    return [
        Missing("nowhere", f"{label}, {_seed(seed)}", "never started, though other rows have this seed")
        for label, jobs in groups.items()
        for seed in seeds
        if seed not in {job.seed for job in jobs}
    ]


def _seed(seed: int | None) -> str:
    return "seed unknown" if seed is None else f"seed {seed}"


def draw(sweep: Sweep, width: int = charts.WIDE) -> str:
    """The dot-and-interval plot of the rows."""
    rows = [
        charts.Dot(
            label=row.label,
            mean=row.accuracy.mean if row.accuracy else None,
            low=row.accuracy.low if row.accuracy else None,
            high=row.accuracy.high if row.accuracy else None,
            values=tuple(row.values.values()),
            note=cell_accuracy(row.accuracy),
            strong=row.label == BASELINE,
        )
        for row in sweep.rows
    ]
    axis = "macro accuracy, %" + (" · dots: seeds · bar: 95 % t interval" if width > charts.NARROW else "")
    return charts.dots(rows, f"Final macro accuracy by {sweep.subject}", axis, width)


def standalone(chart: str) -> str:
    """A chart as a file of its own, with the colours of both themes in it."""
    head, _, rest = chart.partition(">")
    style = render("chart.css.jinja") + ":root { background: var(--paper); }"
    return f"{head}><style>{style}</style>{rest}\n"


def to_csv(sweep: Sweep) -> str:
    """One line a row at full precision; a figure that does not exist is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    tasks = sweep.tasks
    writer.writerow([*CSV_HEAD, *(f"accuracy {task}" for task in tasks)])
    for row in sweep.rows:
        means = [row.by_task[task].mean if task in row.by_task else None for task in tasks]
        writer.writerow([*_csv_cells(row), *means])
    return out.getvalue()


CSV_HEAD = (
    "group", "jobs", "finished", "seeds", "tokens_mean", "tokens_min", "tokens_max", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "pairs", "p", "p_holm",
)  # fmt: skip


def _csv_cells(row: Row) -> list[object]:
    tokens, a, d = list(row.tokens.values()), row.accuracy, row.difference
    return [
        row.label,
        row.jobs,
        row.finished,
        " ".join(map(str, row.values)),
        *((math.fsum(tokens) / len(tokens), min(tokens), max(tokens)) if tokens else (None, None, None)),
        *((a.mean, a.low, a.high) if a else (None, None, None)),
        *((d.mean, d.low, d.high, d.n, d.p) if d else (None, None, None, None, None)),
        row.p_holm,
    ]


def cell_accuracy(interval: Interval | None) -> str:
    """Per cent with half the width of its interval; only the mean where one seed gives no interval."""
    if interval is None:
        return NONE
    half = f" ± {(interval.high - interval.mean) * 100:.1f}" if interval.high is not None else ""
    return f"{interval.mean * 100:.1f}{half}"


def cell_interval(interval: Interval | Difference | None) -> str:
    """The bounds of an interval in per cent or points."""
    if interval is None or interval.low is None or interval.high is None:
        return NONE
    return f"{_points(interval.low, interval)} to {_points(interval.high, interval)}"


def _points(value: float, interval: Interval | Difference) -> str:
    sign = "+" if isinstance(interval, Difference) else ""
    return f"{value * 100:{sign}.1f}".replace("-", "−")


def cell_difference(difference: Difference | None) -> str:
    """Points from the baseline."""
    return NONE if difference is None else _points(difference.mean, difference)


def cell_p(p: float | None) -> str:
    """A p-value to four decimals."""
    return NONE if p is None else f"{p:.4f}"


def cell_tokens(tokens: Sequence[float]) -> str:
    """The mean in full; where jobs differ by more than a tenth of a per cent, the range beside it."""
    if not tokens:
        return NONE
    mean = f"{math.fsum(tokens) / len(tokens):,.0f}".replace(",", "\u202f")
    if is_equal(tokens):
        return mean
    return f"{mean} ({charts.compact(min(tokens))} to {charts.compact(max(tokens))})"


def is_equal(tokens: Sequence[float]) -> bool:
    """Whether token counts agree to a tenth of a per cent, as near as whole batches come."""
    return bool(tokens) and max(tokens) - min(tokens) <= 0.001 * max(tokens)


def cell_spread(tokens: Sequence[float]) -> str:
    """How far token counts lie apart, in per cent of the largest."""
    return f"{(max(tokens) - min(tokens)) / max(tokens) * 100:.2f} %" if tokens and max(tokens) else NONE


CELLS = {
    "accuracy": cell_accuracy,
    "interval": cell_interval,
    "difference": cell_difference,
    "p": cell_p,
    "tokens": cell_tokens,
    "equal": is_equal,
    "spread": cell_spread,
}
"""How the templates print figures."""
