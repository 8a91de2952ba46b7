"""Metrics of a run, round by round, computed from its artifacts alone."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import BenchmarkResult, Origin, ResponseLoss, Subset, TrainingExample, Verdict
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import scored_gaps
from tapir_exp.distillation.judge.noise import estimate_noise, expected_false_rows
from tapir_exp.evals.held_out import head_to_head, perplexity
from tapir_exp.evals.statistics import accuracy_by_level, accuracy_by_task, macro_accuracy

Artifacts = Mapping[str, Artifact]
Metrics = dict[str, Any]

NOT_REPRODUCIBLE = ("spend", "tokens_per_second", "supervised_tokens_per_second", "mfu", "peak_memory_mb")
"""Figures of a stage that depend on the machine or on the cache."""
SUITES = ("alpaca_eval", "mt_bench", "ifeval")
"""Suites whose figures are metrics; the stage has the first word of the name."""
NO_METRIC = ("benchmark", "without")
"""Figures of a suite that describe what was measured."""
SUMMED = ("train/tokens", "teacher/rows", "teacher/calls")
"""Metrics that also have a sum over all rounds so far, with the suffix `_total`."""


Computed = dict[tuple[object, ...], Metrics]
"""Metrics of a round by everything that they are computed from."""


def run_metrics(manifest: Manifest, artifacts: Artifacts, computed: Computed | None = None) -> list[Metrics]:
    """Compute one row of metrics for S_0 and one for each round; names are `stage/metric`.

    Shares and accuracies are from 0 to 1, gaps in judge points, losses in nats per response token. `hard_share` always
    counts gaps above delta, even if another score selected the hard set. `fresh_gap/...` is of the new rows of a round
    ahead of its fit, `trained_gap/...` of the same rows after it. `teacher/rows` are the accepted rows that the teacher
    wrote; `teacher/calls` are its responses to seeds, expansions and refinements, each row refined once. `judge/...`
    holds `JudgeDiagnostics`, and `held_out/...` compares the student with its predecessor.

    Args:
        manifest: Manifest of the run.
        artifacts: The artifacts that the manifest names, by name.
        computed: Metrics of an earlier call, which are used again. A run computes all rounds so far after each round.

    Returns:
        The rows, S_0 first.
    """
    computed = {} if computed is None else computed
    rows: list[Metrics] = []
    totals: dict[str, int | None] = dict.fromkeys(SUMMED, 0)
    for number in range(len(manifest.alphas) + 1):
        source = _source_of_round(number, manifest, artifacts)
        row = computed.get(source) or round_metrics(number, manifest, artifacts)
        computed[source] = row
        totals = {name: _add(total, row.get(name, 0)) for name, total in totals.items()}
        rows.append({**row, **{f"{name}_total": total for name, total in totals.items()}})
    return rows


def _source_of_round(number: int, manifest: Manifest, artifacts: Artifacts) -> tuple[object, ...]:
    """Return what the metrics of a round are computed from: its artifacts, those of no round, and earlier mixes."""
    used = {name for name in artifacts if name.endswith(f"-{number}") or not name[-1].isdigit()}
    used |= set(_names_of_mixes(number)) & artifacts.keys()
    sources = ((name, artifacts[name].name) for name in sorted(used))
    return number, manifest.delta, manifest.alphas[:number][-1:], *sources


def _names_of_mixes(before: int) -> list[str]:
    """Return the names of the mixes of the rounds before one."""
    return [f"train_mix-{number}" for number in range(1, before)]


def _add(total: int | None, value: int | None) -> int | None:
    """Return the sum; None if one of the two is unknown."""
    return None if total is None or value is None else total + value


def round_metrics(number: int, manifest: Manifest, artifacts: Artifacts) -> Metrics:
    """Compute the metrics of one round: its mix, its training, the benchmark, and the gaps measured after it."""
    metrics: Metrics = {"round": number}
    if number == 0 and (check := artifacts.get("judge_check")):
        metrics |= _stage_metrics("judge_check", check.figures)
    if number:
        metrics |= {"curriculum/alpha": manifest.alphas[number - 1]}
        metrics |= _mix_metrics(number, artifacts)
        metrics |= _stage_metrics("expansion", artifacts[f"expansions-{number}"].figures)
        metrics |= {"curriculum/unfilled": artifacts[f"plan-{number}"].figures["unfilled"]}
    else:
        metrics |= _stage_metrics("seeds", artifacts["seeds"].figures)
    metrics |= _teacher_metrics(number, artifacts)
    metrics |= _stage_metrics("train", artifacts[f"student-{number}"].figures)
    if benchmark := artifacts.get(f"benchmark-{number}"):
        metrics |= _benchmark_metrics(benchmark.rows(BenchmarkResult))
    for suite in SUITES:
        if result := artifacts.get(f"{suite.split('_')[0]}-suite-{number}"):
            metrics |= _stage_metrics(suite, {k: v for k, v in result.figures.items() if k not in NO_METRIC})
    # The last student has no verdicts: no round follows that needs them.
    if verdicts := artifacts.get(f"verdicts-{number}"):
        rows = verdicts.rows(Verdict)
        metrics |= _gap_metrics(verdicts, rows, manifest.delta)
        metrics |= _trained_gap_metrics(rows, artifacts.get(f"expansions-{number}"), manifest.delta)
        metrics |= _stage_metrics("judge", verdicts.figures.get("diagnosis", {}))
    if verdicts := artifacts.get(f"fresh_verdicts-{number}"):
        metrics |= _new_gap_metrics("fresh_gap", verdicts.rows(Verdict), None, manifest.delta)
    if verdicts := artifacts.get(f"held_out_verdicts-{number}"):
        metrics |= _held_out_metrics(verdicts, artifacts[f"held_out_losses-{number}"])
    return metrics


def _mix_metrics(number: int, artifacts: Artifacts) -> Metrics:
    rows = artifacts[f"train_mix-{number}"].rows(TrainingExample)
    replayed = artifacts.get(f"replayed_mix-{number}")
    counts = Counter(row.task for row in rows)
    new = sum(row.created_in_round == number for row in rows)
    return {
        "mix/rows": len(rows),
        "mix/hard_share": fmean(row.subset is Subset.HARD for row in rows),
        "mix/new_share": fmean(row.origin is Origin.EXPANSION for row in rows),
        "mix/rows_new": new,
        "mix/rows_drawn": len(rows) - new,
        "mix/rows_replayed": replayed.figures["replayed"] if replayed else 0,
        **{f"mix/task/{task}": count / len(rows) for task, count in sorted(counts.items(), key=str)},
    }


def _teacher_metrics(number: int, artifacts: Artifacts) -> Metrics:
    """Return the rows that the teacher wrote for a round, and its calls, which an earlier run may have cached."""
    if number == 0:
        responses = artifacts.get("teacher_responses")
        return {"teacher/rows": 0, "teacher/calls": responses.figures["rows"]} if responses else {}
    written = artifacts[f"expansions-{number}"].figures
    # Rows that were dropped because the student answers them were written, too.
    rows = written["rows"] + written.get("easy", 0)
    refinements = _first_refinements(number, artifacts)
    return {"teacher/rows": rows, "teacher/calls": None if refinements is None else written["calls"] + refinements}


def _first_refinements(number: int, artifacts: Artifacts) -> int | None:
    """Return the refinements that no earlier round requested; None for a mix that does not record their number."""
    mix = artifacts[f"train_mix-{number}"]
    refinements: int | None = mix.figures.get("refinements")
    if not refinements:
        return refinements
    earlier = {row.id for name in _names_of_mixes(number) for row in artifacts[name].stored_rows(TrainingExample)}
    # A row that is drawn again has the same request, whose completion is cached.
    return refinements - sum(row.id in earlier for row in mix.stored_rows(TrainingExample))


def _benchmark_metrics(results: list[BenchmarkResult]) -> Metrics:
    macro = macro_accuracy(results)
    return {
        "benchmark/accuracy": macro.mean,
        "benchmark/accuracy_se": macro.error,
        **{f"benchmark/task/{task}": estimate.mean for task, estimate in accuracy_by_task(results).items()},
        **{f"benchmark/level/{level}": estimate.mean for level, estimate in accuracy_by_level(results).items()},
    }


def _gap_metrics(verdicts: Artifact, rows: Sequence[Verdict], delta: float) -> Metrics:
    gaps, noise = scored_gaps(rows), estimate_noise(rows)
    chosen, false = (0, None) if noise is None else expected_false_rows(rows, noise, delta)
    return {
        "gap/scored": len(gaps),
        "gap/unscored": verdicts.figures["unscored"],
        # Rows above delta whose true gap is expected to be at most delta, by the judge's noise.
        "gap/hard_noise_share": None if false is None or not chosen else false / chosen,
        "gap/mean": fmean(gaps.values()) if gaps else None,
        "gap/hard_share": fmean(gap > delta for gap in gaps.values()) if gaps else None,
        "gap/order_flips": verdicts.figures["flips"],
    }


def _trained_gap_metrics(rows: Sequence[Verdict], expansions: Artifact | None, delta: float) -> Metrics:
    """Return the gaps that a student has on the new rows of its own mix, to compare with those ahead of the fit."""
    if expansions is None:
        return {}
    new = {row.id for row in expansions.rows(TrainingExample)}
    return _new_gap_metrics("trained_gap", rows, new, delta)


def _new_gap_metrics(name: str, rows: Sequence[Verdict], new: Collection[str] | None, delta: float) -> Metrics:
    gaps = scored_gaps(rows)
    of_new = [gap for row_id, gap in gaps.items() if new is None or row_id in new]
    return {
        f"{name}/scored": len(of_new),
        f"{name}/mean": fmean(of_new) if of_new else None,
        f"{name}/hard_share": fmean(gap > delta for gap in of_new) if of_new else None,
    }


def _held_out_metrics(verdicts: Artifact, losses: Artifact) -> Metrics:
    comparison = head_to_head(verdicts.rows(Verdict))
    rate = comparison.win_rate
    return {
        "held_out/win_rate": rate and rate.mean,
        "held_out/win_rate_low": rate and rate.low,
        "held_out/win_rate_high": rate and rate.high,
        "held_out/won": comparison.won,
        "held_out/tied": comparison.tied,
        "held_out/lost": comparison.lost,
        "held_out/unscored": comparison.unscored,
        "held_out/perplexity": perplexity(losses.rows(ResponseLoss)),
    }


def _stage_metrics(stage: str, figures: Mapping[str, Any]) -> Metrics:
    """Prefix the figures of a stage with its name, except those that are not reproducible."""
    return {f"{stage}/{name}": value for name, value in figures.items() if name not in NOT_REPRODUCIBLE}
