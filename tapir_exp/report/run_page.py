"""Report of a run: a self-contained `report.html`, built from the run directory and the store."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_exp.core.store import write_text_atomic
from tapir_exp.distillation.judge.self_preference import shared_family
from tapir_exp.evals.judge_comparison import JudgeComparison
from tapir_exp.evals.statistics import Estimate, macro_accuracy
from tapir_exp.llm.spend_report import SpendReport
from tapir_exp.report.curriculum_section import CurriculumRow, curriculum_rows
from tapir_exp.report.data_section import DataOrigins, data_origins
from tapir_exp.report.downloads import Download, run_downloads
from tapir_exp.report.failures_section import FailureRow, failure_rows
from tapir_exp.report.held_out_section import HeldOutRow, Transcript, held_out_rows, transcripts
from tapir_exp.report.panel_section import compare_panel
from tapir_exp.report.run_charts import RunCharts, draw_charts
from tapir_exp.report.run_samples import Lineage, Sample, lineages, samples
from tapir_exp.report.run_view import RoundView, RunView, Spend, spend_by_role
from tapir_exp.report.templates import NONE, REPORT, render, student_name

PAPER, OURS = "paper", "ours"
"""Sources of a setting; ours is every value that no primary source confirms."""
NOT_CONFIRMED = "not confirmed by the paper"


@dataclass(frozen=True)
class Headline:
    """Macro accuracy of the first and the last student; `after` is None if the run has only one student."""

    before: Estimate
    after: Estimate | None


@dataclass(frozen=True)
class RoundRow:
    """Row of the table of rounds; a figure is None if the student has none. Shares are 0 to 1, loss in nats.

    Attributes:
        student: Name of the student.
        alpha: Weight of the hard set.
        requested: Expansions that the plan requested.
        proposed: Pairs that the teacher proposed.
        accepted: Proposals that passed every filter.
        unfilled: Requested expansions that were not delivered.
        rows: Training rows.
        tokens: Training tokens.
        loss: Mean over the last tenth of the steps.
        judged: Rows with a verdict, readable or not.
        unscored: Rows without a readable verdict.
        mean_gap: In judge points.
        hard_share: Share of the scored rows with a gap above delta.
        benchmark: Macro accuracy.
    """

    student: str
    alpha: float | None
    requested: int | None
    proposed: int | None
    accepted: int | None
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
    """Judge diagnostics from the verdicts on one student; `figures` are those of `JudgeDiagnostics`, by name."""

    student: str
    judged: int
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class StageTime:
    """Wall time of a stage over all its artifacts, and its share of the total."""

    stage: str
    artifacts: int
    seconds: float
    share: float


@dataclass(frozen=True)
class SettingSource:
    """A setting of the run, the source of its value, and how well the source is confirmed."""

    setting: str
    value: str
    source: str
    confidence: str


@dataclass(frozen=True)
class Page:
    """Everything that the template prints.

    Attributes:
        run: The run itself.
        headline: None if the run has no benchmark.
        rounds: Table of rounds.
        curriculum: Schedule, rows, teacher and gaps of each round; empty for a run without rounds.
        charts: Charts of the run.
        origins: Origin of the training data.
        judge: Judge reliability by student.
        judge_check: Figures of the judge on pairs with a known better answer; None without a check.
        panel: The judges of a panel beside each other; empty without a panel.
        self_preference: Model family that teacher and judge share, as a sentence; None if they share none.
        difficulty: Score that selected the hard set.
        samples: One seed per task type.
        held_out: Results on held-out instructions.
        transcripts: Responses to held-out instructions.
        lineages: Data lineage of some expansions.
        spend: Cost by role.
        failures: Failed calls by kind.
        times: Wall time by stage, longest first.
        settings: Sources of the main settings; empty for a run without rounds.
        downloads: Figures of the charts as CSV, by the name of the chart.
    """

    run: RunView
    headline: Headline | None
    rounds: list[RoundRow]
    curriculum: list[CurriculumRow]
    charts: RunCharts
    origins: DataOrigins
    judge: list[JudgeRow]
    judge_check: Mapping[str, Any] | None
    panel: list[JudgeComparison]
    self_preference: str | None
    difficulty: str
    samples: list[Sample]
    held_out: list[HeldOutRow]
    transcripts: list[Transcript]
    lineages: list[Lineage]
    spend: list[Spend]
    failures: list[FailureRow]
    times: list[StageTime]
    settings: list[SettingSource]
    downloads: Mapping[str, Download]

    @property
    def fresh(self) -> bool:
        """Return whether gaps were measured ahead of the fits."""
        return any(name.startswith("fresh_verdicts") for name in self.run.artifacts)

    @property
    def alpha_grows(self) -> bool:
        """Return whether the weight of the hard set grows from round to round."""
        alphas = self.run.manifest.alphas
        return len(alphas) > 1 and alphas[-1] > alphas[0]

    @property
    def seconds(self) -> float:
        """Sum the wall time of all stages."""
        return sum(row.seconds for row in self.times)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the directory of a finished run; the same run gives the same bytes.

    Returns:
        The path of the report.

    Raises:
        StoreError: If a file of the run, or an artifact of its manifest, is missing.
    """
    path = run_dir / REPORT
    write_text_atomic(path, render("run_page.html.jinja", page=build_page(RunView.load(run_dir))))
    return path


def build_page(run: RunView) -> Page:
    """Compute the figures of the page from a run."""
    artifacts = run.artifacts.values()
    return Page(
        run=run,
        headline=_headline(run.rounds),
        rounds=[_round_row(run, r) for r in run.rounds],
        curriculum=curriculum_rows(run),
        charts=draw_charts(run),
        origins=data_origins(run),
        judge=list(_judge_rows(run)),
        judge_check=check.figures if (check := run.artifacts.get("judge_check")) else None,
        panel=compare_panel(run),
        self_preference=_self_preference(run),
        difficulty=_setting(run, "curriculum.difficulty"),
        samples=samples(run),
        held_out=held_out_rows(run),
        transcripts=transcripts(run),
        lineages=lineages(run),
        spend=spend_by_role(artifacts),
        failures=failure_rows(SpendReport.load(run.path)),
        times=_times((a.stage, a.seconds) for a in artifacts),
        settings=_settings(run) if run.manifest.alphas else [],
        downloads=run_downloads(run),
    )


def _headline(rounds: Sequence[RoundView]) -> Headline | None:
    if not rounds[0].benchmark:
        return None
    # A run without rounds has one student, which is both the first and the last.
    first, last = (macro_accuracy(r.benchmark) for r in (rounds[0], rounds[-1]))
    return Headline(first, last if len(rounds) > 1 else None)


def _round_row(run: RunView, r: RoundView) -> RoundRow:
    has_mix = r.alpha is not None
    return RoundRow(
        student=student_name(r.number),
        alpha=r.alpha,
        requested=sum(quota.ordered for quota in r.plan) if has_mix else None,
        proposed=r.expansion_figures.get("proposed"),
        accepted=len(r.expansions) if has_mix else None,
        unfilled=sum(quota.ordered - quota.filled for quota in r.plan) if has_mix else None,
        # A mix holds rows of the pool and expansions, so `rows` is usually above `accepted`.
        rows=len(r.mix) if has_mix else len(run.seeds),
        tokens=r.steps[-1].tokens if r.steps else 0,
        loss=run.artifacts[f"student-{r.number}"].figures.get("final_loss"),
        judged=len(r.verdicts) or None,
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


def _self_preference(run: RunView) -> str | None:
    teacher = _setting(run, "teacher.llm.model")
    models = (_setting(run, f"{role}.llm.model") for role in ("judge", "judge.panel.second", "judge.panel.third"))
    found = [shared for model in models if model != NONE and (shared := shared_family(teacher, model)) is not None]
    return "; ".join(found) or None


def _times(stages: Iterable[tuple[str, float]]) -> list[StageTime]:
    seconds_by_stage: defaultdict[str, list[float]] = defaultdict(list)
    for stage, seconds in stages:
        seconds_by_stage[stage].append(seconds)
    total = sum(map(sum, seconds_by_stage.values())) or 1.0
    rows = [StageTime(stage, len(s), sum(s), sum(s) / total) for stage, s in seconds_by_stage.items()]
    # Equal times, e.g. 0.0 s, need a second key: the page must be the same when it is rebuilt.
    return sorted(rows, key=lambda row: (-row.seconds, row.stage))


def _settings(run: RunView) -> list[SettingSource]:
    """List the main settings of the method; a value that no primary source confirms is ours."""
    manifest = run.manifest
    alphas = ", ".join(f"{alpha:.2g}" for alpha in manifest.alphas)
    task_mix = _setting(run, "task_mix.name")
    swapped = "both orders" if _setting(run, "judge.swap_positions") == "True" else "teacher first"
    rows = [
        ("gap", "score(teacher) − score(student)", PAPER, "from its text; the sign in its formula is reversed"),
        ("judge protocol", _setting(run, "judge.protocol"), OURS, NOT_CONFIRMED),
        ("response order", swapped, OURS, "Lion uses both orders; not known for TAPIR"),
        ("hard set selected by", _setting(run, "curriculum.difficulty"), *_difficulty_source(run)),
        ("threshold δ", f"{manifest.delta:g}", OURS, f"{NOT_CONFIRMED}; Lion uses 1"),
        ("rounds", str(len(manifest.alphas)), OURS, NOT_CONFIRMED),
        ("α by round", alphas, OURS, NOT_CONFIRMED),
        ("loss", "α · hard + (1 − α) · rest", OURS, "derived from the paper's text"),
        ("target mix", f"preset {task_mix}", *_task_mix_source(task_mix)),
        ("learning rate", _setting(run, "sft.learning_rate"), OURS, NOT_CONFIRMED),
    ]
    return [SettingSource(*row) for row in rows]


def _difficulty_source(run: RunView) -> tuple[str, str]:
    if _setting(run, "curriculum.difficulty") == "mfd":
        return PAPER, "gap above a threshold"
    return OURS, "an ablation of the paper's MFD"


def _task_mix_source(preset: str) -> tuple[str, str]:
    if preset == "tapir":
        return PAPER, "its table of ratios"
    # The lab has fewer task types than the paper, so the shares of the other types had to be chosen.
    if preset == "lab":
        return OURS, "only the shares of the four boosted types are from the paper"
    return OURS, "not the paper's ratios"


def _setting(run: RunView, key: str) -> str:
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return NONE if value is None else str(value)
