"""Find out why one round beats three in the lab: because of its data, or because it is one fit instead of three.

    python benchmarks/lab_rounds/fits_or_data.py outputs/sweeps/lab_ablation
    python benchmarks/lab_rounds/fits_or_data.py outputs/sweeps/lab_rounds_report --seeds 11 12 13 --teacher-rows 2000

Two of the four cells are arms of the sweep. The other two start from the same S_0 and train on as many tokens. One of
them trains on the rows of TAPIR's three rounds in a single fit. The other one trains on the rows of the single round in
three fits of a random third. These fits have a schedule of their own each, and replay no rows.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import BudgetConfig, Config, parse
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import BenchmarkResult, TrainingExample
from tapir_exp.evals.lab_benchmark import run_benchmark
from tapir_exp.evals.statistics import macro_accuracy, t_interval
from tapir_exp.report.sweep.jobs import Job, find_jobs

PARTS = 3
CELLS = (
    "rounds' data, three fits",
    "rounds' data, one fit",
    "single round's data, three fits",
    "single round's data, one fit",
)


def config_of(run_dir: Path) -> Config:
    """Return the configuration of a finished run."""
    cfg = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return parse(cfg)


def find_run(jobs: Sequence[Job], arm: str, seed: int, teacher_rows: int | None) -> Path:
    """Return the directory of the finished job of an arm and a seed.

    Args:
        jobs: The jobs of a sweep.
        arm: The arm.
        seed: The training seed.
        teacher_rows: Value of `curriculum.max_new_rows`; None for any.

    Raises:
        SystemExit: If there is no such job, or several.
    """
    found = [job.path for job in jobs if job.finished and (job.arm, job.seed) == (arm, seed)]
    if teacher_rows is not None:
        found = [path for path in found if config_of(path).curriculum.max_new_rows == teacher_rows]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} finished jobs of arm={arm} seed={seed}; expected one: set --teacher-rows")
    return found[0]


def accuracy_after(config: Config, start: Path, parts: Sequence[Sequence[TrainingExample]], tokens: int) -> float:
    """Fine-tune the student in `start` on each part in turn, and return its macro accuracy.

    The parts share a budget of `tokens` equally.
    """
    from tapir_exp.student.generate import generate_responses
    from tapir_exp.student.training.encoding import TrainingRow
    from tapir_exp.student.training.job import FitJob
    from tapir_exp.student.training.train import finetune

    budget = BudgetConfig(max_tokens=tokens // len(parts))
    with tempfile.TemporaryDirectory() as work:
        student = start
        for number, part in enumerate(parts):
            rows = [TrainingRow(row.instruction, row.response, row.subset) for row in part]
            workdir = Path(work) / str(number)
            workdir.mkdir()
            job = FitJob(
                parent=student,
                sft=config.sft,
                budget=budget,
                student=config.student,
                trainer=config.trainer,
                seed=config.seed,
                label=f"fit {number}",
            )
            finetune(job, rows, workdir)
            student = workdir
        results = run_benchmark(
            config.evals.problems_per_level,
            config.lab.seed,
            lambda prompts: generate_responses(student, prompts, config.student, "benchmark"),
        )
    return macro_accuracy(results).mean


def measure(sweep: Path, teacher_rows: int | None, seed: int) -> dict[str, float]:
    """Return the macro accuracies of the four cells for one training seed."""
    jobs = find_jobs(sweep)
    own: dict[str, float] = {}
    rows: dict[str, list[TrainingExample]] = {}
    for arm in ("tapir", "single_round"):
        run_dir = find_run(jobs, arm, seed, teacher_rows)
        manifest = Manifest.load(run_dir)
        artifacts, last = manifest.open(run_dir), len(manifest.alphas)
        own[arm] = macro_accuracy(artifacts[f"benchmark-{last}"].rows(BenchmarkResult)).mean
        rows[arm] = [row for n in range(1, last + 1) for row in artifacts[f"train_mix-{n}"].rows(TrainingExample)]
        tokens = sum(artifacts[f"student-{n}"].figures["tokens"] for n in range(1, last + 1))
        start, config = artifacts["student-0"].path, config_of(run_dir)
    shuffled = Random(seed).sample(rows["single_round"], len(rows["single_round"]))
    thirds = [shuffled[part::PARTS] for part in range(PARTS)]
    accuracies = (
        own["tapir"],
        accuracy_after(config, start, [rows["tapir"]], tokens),
        accuracy_after(config, start, thirds, tokens),
        own["single_round"],
    )
    return dict(zip(CELLS, accuracies, strict=True))


def main() -> None:
    """Print the table in Markdown, in per cent with 95 % intervals over the training seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--teacher-rows", type=int)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        cells = list(pool.map(partial(measure, args.sweep, args.teacher_rows), args.seeds))
    print("| data and fits | macro accuracy, % | 95 % interval |\n|---|--:|--:|")
    for name in CELLS:
        interval = t_interval([100 * cell[name] for cell in cells])
        bounds = "–" if interval.low is None else f"{interval.low:.1f} to {interval.high:.1f}"
        print(f"| {name} | {interval.mean:.1f} | {bounds} |")


if __name__ == "__main__":
    main()
