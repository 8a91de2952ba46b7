"""Clean real seeds, classify them offline, and resample them to the paper's task mix; print the plan of a round.

    python benchmarks/seeds/resample.py ALPACA.json --benchmark alpaca_eval.jsonl question.jsonl

Gaps are unknown before a student is judged, so every row counts as easy: the table shows the effect of the types alone.
"""

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tapir_exp.config import (
    ClassifierConfig,
    ClassifierKind,
    CurriculumConfig,
    DecontaminationConfig,
    SeedsConfig,
    SeedSource,
)
from tapir_exp.config.paths import data_dir
from tapir_exp.core.records import Example, Subset
from tapir_exp.core.store import ROWS, read_rows
from tapir_exp.core.task_types import BOOSTED
from tapir_exp.data.decontamination import load_benchmarks
from tapir_exp.data.seeds import gather_seeds
from tapir_exp.distillation.classifier.trained import CachedClassifier
from tapir_exp.distillation.curriculum.sampling import Candidate, PlanSettings, plan_round
from tapir_exp.distillation.curriculum.task_mix import natural_shares, target_shares


class Clock:
    """Measure the time of each step and the peak resident memory so far."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def report(self, step: str) -> None:
        """Print the seconds since the last step."""
        now, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{step}: {now - self._started:.1f} s, {peak:.0f} MB at the peak")
        self._started = now


def main() -> None:
    """Print the steps and the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", help="instruction data in Alpaca's format or as chats")
    parser.add_argument("--benchmark", nargs="*", default=[], help="files of questions that must not leak")
    args = parser.parse_args()
    clean = DecontaminationConfig(benchmarks=args.benchmark)
    config = SeedsConfig(source=SeedSource.file, path=args.seeds, decontamination=clean)
    clock = Clock()
    with TemporaryDirectory() as directory:
        print(gather_seeds(config, load_benchmarks(clean), Path(directory)).figures)
        seeds = read_rows(Path(directory) / ROWS, Example)
    clock.report("load and clean")
    labels = CachedClassifier(ClassifierConfig(kind=ClassifierKind.encoder)).label(seeds, "classifying seeds")
    clock.report("label with MiniLM and the package's examples")
    tasks = [label.task for label in labels if label.task is not None]
    natural = natural_shares(tasks)
    preset = yaml.safe_load((data_dir("conf") / "task_mix/tapir.yaml").read_text())
    target = target_shares(preset["target_distribution"], natural)
    pool = [Candidate(seed, task, 0.0, Subset.REST) for seed, task in zip(seeds, tasks, strict=True)]
    curriculum = CurriculumConfig(rows_per_round=len(seeds), alpha=0.0)
    plan = plan_round(pool, PlanSettings.for_round(1, target, curriculum, seed=0))
    clock.report("plan")
    quotas = {quota.task: quota for quota in plan.quotas if quota.subset is Subset.REST}
    print("| task type | natural, % | target, % | wanted | drawn | ordered |\n|---|--:|--:|--:|--:|--:|")
    for task, quota in sorted(quotas.items(), key=lambda item: -natural.get(item[0], 0.0)):
        name = f"**{task}**" if task in BOOSTED else str(task)
        shares = f"{100 * natural.get(task, 0.0):.1f} | {100 * target[task]:.1f}"
        print(f"| {name} | {shares} | {quota.wanted} | {quota.drawn} | {quota.ordered} |")
    rows = [sum(getattr(quota, name) for quota in quotas.values()) for name in ("wanted", "drawn", "ordered")]
    print(f"| all | 100 | 100 | {rows[0]} | {rows[1]} | {rows[2]} |")


if __name__ == "__main__":
    main()
