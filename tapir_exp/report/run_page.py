"""The page of a run: `report.html`, self-contained, built from what the run left and nothing else."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tapir_exp.core.records import TrainingStep
from tapir_exp.core.store import write_text_atomic
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.distillation.judge.self_preference import shared_family
from tapir_exp.evals.statistics import Estimate, accuracy_by_task, macro_accuracy, wilson_interval
from tapir_exp.llm.spend_report import SpendReport
from tapir_exp.report import charts
from tapir_exp.report.data_section import Origins, data_origins
from tapir_exp.report.failures_section import FailureRow, failure_rows
from tapir_exp.report.held_out_section import HeldOutRow, Transcript, gallery, held_out_rows
from tapir_exp.report.run_samples import Lineage, Sample, lineages, samples
from tapir_exp.report.run_view import RoundView, RunView, Spend, spend_by_role
from tapir_exp.report.templates import NONE, RARE, REPORT, render, student_name

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Headline:
    """Macro accuracy of the first and the last student; `after` is None where a run has only one."""

    before: Estimate
    after: Estimate | None


@dataclass(frozen=True)
class RoundRow:
    """A line of the table of rounds; None where a student has no such figure. Shares are 0 to 1, loss in nats."""

    student: str
    alpha: float | None
    asked: int | None
    proposed: int | None
    kept: int | None
    unfilled: int | None
    rows: int
    tokens: int
    loss: float | None
    judged: int | None
    unscored: int
    mean_gap: float | None
    hard_share: float | None
    benchmark: Estimate | None


@dataclass(frozen=True)
class JudgeRow:
    """What the verdicts on one student tell about the judge; the figures are those of `Diagnosis`, by name."""

    student: str
    judged: int
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class StageTime:
    """Wall time of a stage over all its artifacts, and its share of the whole."""

    stage: str
    artifacts: int
    seconds: float
    share: float


@dataclass(frozen=True)
class SettingSource:
    """A value that the run stands on, and whose it is; `known` says how surely."""

    what: str
    value: str
    whose: str
    known: str


@dataclass(frozen=True)
class Charts:
    """The page's charts; empty text where the run has nothing to draw."""

    gaps: list[Markup]
    hard: Markup
    mix: Markup
    mix_narrow: Markup
    loss: Markup
    loss_narrow: Markup
    benchmark: list[Markup]


@dataclass(frozen=True)
class Page:
    """Everything that the template prints."""

    run: RunView
    headline: Headline | None
    rounds: list[RoundRow]
    drawings: Charts
    origins: Origins
    judge: list[JudgeRow]
    kinship: str | None
    difficulty: str
    samples: list[Sample]
    held_out: list[HeldOutRow]
    gallery: list[Transcript]
    trails: list[Lineage]
    spend: list[Spend]
    faults: list[FailureRow]
    times: list[StageTime]
    choices: list[SettingSource]

    @property
    def seconds(self) -> float:
        """Wall time of all stages together."""
        return sum(row.seconds for row in self.times)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a finished run's directory; the same run gives the same bytes.

    Raises StoreError where the run, or an artifact that it names, is not there.
    """
    path = run_dir / REPORT
    write_text_atomic(path, render("run_page.html.jinja", page=build_page(RunView.load(run_dir))))
    return path


def build_page(run: RunView) -> Page:
    """Derive the page's figures from a run."""
    artifacts = run.artifacts.values()
    return Page(
        run=run,
        headline=_headline(run.rounds),
        rounds=[_round_row(run, r) for r in run.rounds],
        drawings=_draw(run),
        origins=data_origins(run),
        judge=list(_judge_rows(run)),
        kinship=shared_family(_setting(run, "teacher.llm.model"), _setting(run, "judge.llm.model")),
        difficulty=_setting(run, "curriculum.difficulty"),
        samples=samples(run),
        held_out=held_out_rows(run),
        gallery=gallery(run),
        trails=lineages(run),
        spend=spend_by_role(artifacts),
        faults=failure_rows(SpendReport.load(run.path)),
        times=_times((a.stage, a.seconds) for a in artifacts),
        choices=_choices(run) if run.manifest.alphas else [],
    )


def _headline(rounds: Sequence[RoundView]) -> Headline | None:
    if not rounds[0].benchmark:
        return None
    first, last = (macro_accuracy(r.benchmark) for r in (rounds[0], rounds[-1]))
    return Headline(first, last if len(rounds) > 1 else None)


def _round_row(run: RunView, r: RoundView) -> RoundRow:
    judged, later = len(r.verdicts), r.alpha is not None
    return RoundRow(
        student=student_name(r.number),
        alpha=r.alpha,
        asked=sum(quota.ordered for quota in r.plan) if later else None,
        proposed=r.expanded.get("proposed"),
        kept=len(r.expansions) if later else None,
        unfilled=sum(quota.ordered - quota.filled for quota in r.plan) if later else None,
        rows=len(r.mix) if later else len(run.seeds),
        tokens=r.steps[-1].tokens if r.steps else 0,
        loss=_last_loss(r.steps),
        judged=judged or None,
        unscored=r.unscored,
        mean_gap=sum(r.gaps) / len(r.gaps) if r.gaps else None,
        hard_share=r.hard(run.manifest.delta) / len(r.gaps) if r.gaps else None,
        benchmark=macro_accuracy(r.benchmark) if r.benchmark else None,
    )


def _judge_rows(run: RunView) -> Iterator[JudgeRow]:
    for r in run.rounds:
        verdicts = run.artifacts.get(f"verdicts-{r.number}")
        if verdicts is not None and "diagnosis" in verdicts.figures:
            yield JudgeRow(student_name(r.number), len(r.verdicts), verdicts.figures["diagnosis"])


def _last_loss(steps: Sequence[TrainingStep]) -> float | None:
    smoothed = charts.smooth([s.tokens for s in steps], [s.loss for s in steps])
    return smoothed[-1][1] if smoothed else None


def _draw(run: RunView) -> Charts:
    return Charts(
        gaps=[Markup(svg) for svg in _gap_charts(run)],
        hard=Markup(_hard_chart(run)),
        mix=Markup(_mix_chart(run, charts.WIDE)),
        mix_narrow=Markup(_mix_chart(run, charts.NARROW)),
        loss=Markup(_loss_chart(run, charts.WIDE)),
        loss_narrow=Markup(_loss_chart(run, charts.NARROW)),
        benchmark=[Markup(svg) for svg in _benchmark_charts(run)],
    )


def _gap_charts(run: RunView) -> list[str]:
    judged = [r for r in run.rounds if r.gaps]
    panels = [(f"{student_name(r.number)} on {_asked(r.number)}", r.gaps) for r in judged]
    return charts.histograms(panels, run.manifest.delta)


def _asked(number: int) -> str:
    return "the seeds" if number == 0 else f"the mix of round {number}"


def _hard_chart(run: RunView) -> str:
    judged = [r for r in run.rounds if r.gaps]
    if not judged:
        return ""
    shares = {r.number: wilson_interval(r.hard(run.manifest.delta), len(r.gaps)) for r in judged}
    hard = tuple(charts.Point(number, i.mean, i.low, i.high) for number, i in shares.items())
    alphas = tuple(charts.Point(r.number, r.alpha) for r in run.rounds if r.alpha is not None)
    series = [charts.Series("hard", hard, "warm"), charts.Series("α", alphas, "accent")]
    told = "; ".join(f"{student_name(n)}: {charts.percent(i.mean)} hard" for n, i in shares.items())
    return charts.lines(series, _ticks(run), "Hard share and α, %", told, height=230)


def _ticks(run: RunView) -> list[str]:
    return [student_name(r.number) for r in run.rounds]


def _mix_chart(run: RunView, width: int) -> str:
    mixes = [r for r in run.rounds if r.mix]
    if not mixes:
        return ""
    before = Counter(label.task for label in run.labels.values() if label.task is not None)
    shares = [_shares(before), *(_shares(Counter(row.task for row in r.mix.values())) for r in mixes)]
    groups = _with_rare_together([_group(task, shares, run.manifest.target) for task in run.tasks])
    names = ["seeds, as they come", *(f"mix of round {r.number}" for r in mixes)]
    return charts.grouped_bars(groups, names, "Share of each task type before, in each round, and wanted", width)


def _shares(counts: Mapping[TaskType | None, int] | Counter[TaskType]) -> dict[TaskType | None, float]:
    whole = sum(counts.values()) or 1
    return {task: count / whole for task, count in counts.items()}


def _group(
    task: TaskType, shares: Sequence[Mapping[TaskType | None, float]], target: Mapping[TaskType, float] | None
) -> charts.Group:
    values = tuple(share.get(task, 0.0) for share in shares)
    wanted = target.get(task, 0.0) if target else None
    return charts.Group(task, values, wanted, _change(values), task in BOOSTED)


def _with_rare_together(groups: Sequence[charts.Group]) -> list[charts.Group]:
    """The groups, those that nobody wants and hardly anything is of as one: a classifier's errors, as a rule."""
    rare = [group for group in groups if not group.target and max(group.values) < RARE]
    if len(rare) < 2:
        return list(groups)
    values = tuple(sum(column) for column in zip(*(group.values for group in rare), strict=True))
    target = None if rare[0].target is None else 0.0
    together = charts.Group(f"{len(rare)} rare types", values, target, _change(values))
    return [*(group for group in groups if group not in rare), together]


def _change(values: Sequence[float]) -> str:
    return f"{values[0] * 100:.1f} → {values[-1] * 100:.1f} %"


def _loss_chart(run: RunView, width: int) -> str:
    return charts.loss_curves([_curve(r) for r in run.rounds], "Loss of every fit over the training tokens", width)


def _curve(r: RoundView) -> charts.FitCurve:
    return charts.FitCurve(
        name=student_name(r.number) + (f" · α = {r.alpha:.2g}" if r.alpha is not None else " · seeds"),
        tokens=tuple(step.tokens for step in r.steps),
        loss=tuple(step.loss for step in r.steps),
        hard=tuple(step.loss_hard for step in r.steps),
        rest=tuple(step.loss_rest for step in r.steps) if r.alpha is not None else (None,) * len(r.steps),
    )


def _benchmark_charts(run: RunView) -> list[str]:
    if not run.rounds[0].benchmark:
        return []
    lines: defaultdict[str, list[charts.Point]] = defaultdict(list)
    for r in run.rounds:
        lines["All families, macro"].append(_point(r.number, macro_accuracy(r.benchmark)))
        for task, estimate in accuracy_by_task(r.benchmark).items():
            lines[task].append(_point(r.number, estimate))
    order = ["All families, macro", *(task for task in run.tasks if task in lines)]
    return [_benchmark_panel(name, tuple(lines[name]), _ticks(run)) for name in order]


def _benchmark_panel(name: str, points: tuple[charts.Point, ...], ticks: Sequence[str]) -> str:
    tone = "ink" if name not in list(TaskType) else "warm" if name in BOOSTED else "accent"
    told = ", ".join(f"{tick}: {charts.percent(p.y)}" for tick, p in zip(ticks, points, strict=True))
    return charts.lines([charts.Series(name, points, tone)], ticks, name, told, width=200, height=136, small=True)


def _point(number: int, estimate: Estimate) -> charts.Point:
    reach = NORMAL_95 * (estimate.error or 0.0)
    return charts.Point(number, estimate.mean, max(0.0, estimate.mean - reach), min(1.0, estimate.mean + reach))


def _times(stages: Iterable[tuple[str, float]]) -> list[StageTime]:
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for stage, taken in stages:
        seconds[stage].append(taken)
    whole = sum(map(sum, seconds.values())) or 1.0
    rows = [StageTime(stage, len(s), sum(s), sum(s) / whole) for stage, s in seconds.items()]
    return sorted(rows, key=lambda row: (-row.seconds, row.stage))


def _choices(run: RunView) -> list[SettingSource]:
    """The values behind the run; what PAPER.md does not confirm from a primary source is called ours."""
    manifest = run.manifest
    tasks = str(_setting(run, "task_mix.name"))
    return [
        SettingSource(
            "gap", "score(teacher) − score(student)", "paper", "its words; its printed formula has the other sign"
        ),
        SettingSource("judge's protocol", _setting(run, "judge.protocol"), "ours", "not confirmed by the paper"),
        SettingSource("orders asked", _setting(run, "judge.orders"), "ours", "Lion asks both; not known for TAPIR"),
        SettingSource("hard set by", _setting(run, "curriculum.difficulty"), *_whose_score(run)),
        SettingSource("threshold δ", f"{manifest.delta:g}", "ours", "not confirmed by the paper; Lion uses 1"),
        SettingSource("rounds", str(len(manifest.alphas)), "ours", "not confirmed by the paper"),
        SettingSource(
            "α by round", ", ".join(f"{a:.2g}" for a in manifest.alphas), "ours", "not confirmed by the paper"
        ),
        SettingSource("loss", "α · hard + (1 − α) · rest", "ours", "derived from the paper's words"),
        SettingSource("target mix", f"preset {tasks}", *_whose_mix(tasks)),
        SettingSource("learning rate", _setting(run, "sft.learning_rate"), "ours", "not confirmed by the paper"),
    ]


def _whose_score(run: RunView) -> tuple[str, str]:
    if _setting(run, "curriculum.difficulty") == "mfd":
        return "paper", "the gap above a threshold"
    return "ours", "an ablation of the paper's MFD"


def _whose_mix(preset: str) -> tuple[str, str]:
    if preset == "tapir":
        return "paper", "its ratio table"
    if preset == "lab":
        return "ours", "only the shares of the four boosted types are the paper's"
    return "ours", "not the paper's ratios"


def _setting(run: RunView, dotted: str) -> str:
    value: Any = run.config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return NONE if value is None else str(value)
