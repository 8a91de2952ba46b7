"""The figures of a run, round by round, computed from its artifacts alone."""

from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import BenchmarkResult, Origin, ResponseLoss, Subset, TrainingExample, Verdict
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import scored_gaps
from tapir_exp.evals.held_out import head_to_head, perplexity
from tapir_exp.evals.statistics import accuracy_by_task, macro_accuracy

Artifacts = Mapping[str, Artifact]
Metrics = dict[str, Any]


def run_metrics(manifest: Manifest, artifacts: Artifacts) -> list[Metrics]:
    """One row of metrics for S_0 and for every round; names are `stage/metric`.

    Shares and accuracies lie within 0 and 1, gaps are in judge points, losses in nats per response token. What is
    called hard has a gap above delta, whichever score chose the hard set; `judge/...` is `Diagnosis`.
    `held_out/...` is of the student beside the one before it.
    """
    rows, tokens = [], 0
    for number in range(len(manifest.alphas) + 1):
        row = round_metrics(number, manifest, artifacts)
        tokens += row["train/tokens"]
        rows.append({**row, "train/tokens_total": tokens})
    return rows


def round_metrics(number: int, manifest: Manifest, artifacts: Artifacts) -> Metrics:
    """The figures of one round: its mix, its fit, the benchmark, and the difficulties measured after it."""
    metrics: Metrics = {"round": number}
    if not number:
        metrics |= _named("seeds", artifacts["seeds"].figures)
    if number:
        metrics |= {"curriculum/alpha": manifest.alphas[number - 1]}
        metrics |= _mix_metrics(artifacts[f"train_mix-{number}"].rows(TrainingExample))
        metrics |= _named("expansion", artifacts[f"expansions-{number}"].figures)
        metrics |= {"curriculum/unfilled": artifacts[f"plan-{number}"].figures["unfilled"]}
    metrics |= _named("fit", artifacts[f"student-{number}"].figures)
    if benchmark := artifacts.get(f"benchmark-{number}"):
        metrics |= _benchmark_metrics(benchmark.rows(BenchmarkResult))
    if verdicts := artifacts.get(f"verdicts-{number}"):
        metrics |= _gap_metrics(verdicts, manifest.delta)
        metrics |= _named("judge", verdicts.figures.get("diagnosis", {}))
    if verdicts := artifacts.get(f"held_out_verdicts-{number}"):
        metrics |= _held_out_metrics(verdicts, artifacts[f"held_out_losses-{number}"])
    return metrics


def _mix_metrics(rows: list[TrainingExample]) -> Metrics:
    shares = Counter(row.task for row in rows)
    return {
        "mix/rows": len(rows),
        "mix/hard_share": fmean(row.subset is Subset.HARD for row in rows),
        "mix/new_share": fmean(row.origin is Origin.EXPANSION for row in rows),
        **{f"mix/task/{task}": count / len(rows) for task, count in sorted(shares.items(), key=str)},
    }


def _benchmark_metrics(results: list[BenchmarkResult]) -> Metrics:
    macro = macro_accuracy(results)
    by_task = accuracy_by_task(results)
    return {
        "benchmark/accuracy": macro.mean,
        "benchmark/accuracy_se": macro.error,
        **{f"benchmark/task/{task}": estimate.mean for task, estimate in by_task.items()},
    }


def _gap_metrics(verdicts: Artifact, delta: float) -> Metrics:
    gaps = scored_gaps(verdicts.rows(Verdict))
    return {
        "gap/scored": len(gaps),
        "gap/unscored": verdicts.figures["unscored"],
        "gap/mean": fmean(gaps.values()) if gaps else None,
        "gap/hard_share": fmean(gap > delta for gap in gaps.values()) if gaps else None,
        "gap/order_flips": verdicts.figures["flips"],
    }


def _held_out_metrics(verdicts: Artifact, losses: Artifact) -> Metrics:
    fought = head_to_head(verdicts.rows(Verdict))
    rate = fought.win_rate
    return {
        "held_out/win_rate": rate and rate.mean,
        "held_out/win_rate_low": rate and rate.low,
        "held_out/win_rate_high": rate and rate.high,
        "held_out/won": fought.won,
        "held_out/tied": fought.tied,
        "held_out/lost": fought.lost,
        "held_out/unscored": fought.unscored,
        "held_out/perplexity": perplexity(losses.rows(ResponseLoss)),
    }


def _named(stage: str, figures: Mapping[str, Any]) -> Metrics:
    """A stage's own figures, but for what depends on the machine or on what was cached."""
    passing = ("spend", "tokens_per_second", "supervised_tokens_per_second", "mfu", "peak_memory_mb")
    return {f"{stage}/{name}": value for name, value in figures.items() if name not in passing}
