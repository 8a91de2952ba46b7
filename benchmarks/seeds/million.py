"""Clean, classify and balance a million seed rows offline, and print rows per second and peak memory.

`python benchmarks/seeds/million.py [--rows 1000000] [--base ALPACA.json] [--benchmark FILE ...] [--label bfloat16]`

The rows are varied copies of the base file, or of the lab's problems if there is no file. Of a hundred copies, ten
repeat a row exactly and ten nearly. Two contain a question of the first benchmark file, or of a built-in one. One is
unusable, and in the others every third word is changed. Each step runs in a separate process.

`--label` classifies every clean row with the offline classifier (MiniLM), in processes of one thread each. Without it,
task types are drawn by hash. Gaps are always drawn by hash, instead of by a judge.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import get_context
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tapir_exp.config import (
    ClassifierConfig,
    ClassifierKind,
    CurriculumConfig,
    DecontaminationConfig,
    Precision,
    SeedsConfig,
    SeedSource,
)
from tapir_exp.core.records import Example, Subset
from tapir_exp.core.seeding import derive_uniform
from tapir_exp.core.store import ROWS
from tapir_exp.core.task_types import TaskType
from tapir_exp.data.decontamination import FIELDS, load_benchmarks
from tapir_exp.data.formats import UnusableRow, parse_pair
from tapir_exp.data.readers import read_file
from tapir_exp.data.seeds import gather_seeds
from tapir_exp.distillation.classifier.trained import CachedClassifier
from tapir_exp.distillation.curriculum.sampling import Candidate, PlanSettings, plan_round
from tapir_exp.distillation.curriculum.task_mix import target_shares
from tapir_exp.lab.world import natural_problems

QUESTION = "Which of the nine lanterns in the northern window of the old lighthouse goes out first, and why is that so?"
WANTED = 23_333
"""Rows of the planned mix: one of three rounds of the paper's 70k."""
MOST_UNUSABLE = 0.05
CHUNK = 10_000
LABELS = "labels.jsonl"
classifier: CachedClassifier
"""Classifier of a worker process, opened once."""


def base_pairs(path: str | None) -> list[tuple[str, str]]:
    """Return the rows that are varied."""
    if path is None:
        return [(problem.instruction, problem.terse) for _, problem in natural_problems(2000, 0)]
    return list(usable_pairs(path))


def usable_pairs(path: str) -> Iterator[tuple[str, str]]:
    """Yield instruction and response of the rows that have both."""
    for row in read_file(Path(path)):
        try:
            pair = parse_pair(row.fields or {}, row.number)
        except UnusableRow:
            continue
        yield pair.instruction, pair.response


def varied(number: int, instruction: str, response: str, question: str) -> tuple[str, str]:
    """Return a copy of a row; its number modulo 100 determines the kind of variation."""
    kind = number * 37 % 100
    if kind < 10:
        return instruction, response
    if kind < 20:
        return f"{instruction} ({number})", response
    if kind < 22:
        return f"{instruction} {question}", response
    if kind < 23:
        return instruction, ""
    words = [f"{word}{number}" if index % 3 == 1 else word for index, word in enumerate(instruction.split())]
    return f"{number} {' '.join(words)}", response


def write_pool(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the pool as JSON lines, and the built-in benchmark."""
    pairs, question = base_pairs(args.base), QUESTION
    if args.benchmark:
        first = next(read_file(Path(args.benchmark[0]))).fields or {}
        turns = next(first[name] for name in FIELDS if name in first)
        question = turns if isinstance(turns, str) else turns[0]
    (folder / "benchmark.jsonl").write_text(json.dumps({"question": QUESTION}))
    with (folder / "pool.jsonl").open("w") as lines:
        for number in range(args.rows):
            instruction, response = varied(number, *pairs[number % len(pairs)], question)
            lines.write(json.dumps({"instruction": instruction, "input": "", "output": response}) + "\n")
    return {"MB": round((folder / "pool.jsonl").stat().st_size / 1e6)}


def clean_pool(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Read, check, decontaminate, deduplicate and write."""
    guard = DecontaminationConfig(benchmarks=args.benchmark or [str(folder / "benchmark.jsonl")])
    pool = str(folder / "pool.jsonl")
    config = SeedsConfig(source=SeedSource.file, path=pool, max_failure_rate=MOST_UNUSABLE, decontamination=guard)
    return gather_seeds(config, load_benchmarks(guard), folder).figures


def label_pool(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Classify the clean rows; each worker holds one chunk of them."""
    if args.label is None:
        return {"labelled": 0}
    environ["OMP_NUM_THREADS"] = "1"
    types: Counter[str] = Counter()
    with (
        get_context("spawn").Pool(args.workers, open_classifier, [args.label]) as pool,
        (folder / LABELS).open("w") as lines,
    ):
        for labels in pool.imap(label_chunk, chunks(folder / ROWS)):
            types.update(labels.values())
            lines.writelines(f"{json.dumps([row_id, task])}\n" for row_id, task in labels.items())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"labelled": types.total(), "types": len(types), "worker_peak_MB": round(peak / 1024)}


def chunks(rows: Path) -> Iterator[tuple[Path, int]]:
    """Yield the file and the offset of each `CHUNK` of its lines; workers read them, so that no queue holds rows."""
    with rows.open("rb") as lines:
        offset = 0
        while size := sum(map(len, islice(lines, CHUNK))):
            yield rows, offset
            offset += size


def open_classifier(precision: str) -> None:
    """Open the classifier of a worker, as `classifier=minilm` does."""
    global classifier
    classifier = CachedClassifier(ClassifierConfig(kind=ClassifierKind.encoder, precision=Precision(precision)))


def label_chunk(chunk: tuple[Path, int]) -> dict[str, str]:
    """Return the task type of each row, by id."""
    path, offset = chunk
    with path.open("rb") as lines:
        lines.seek(offset)
        examples = [Example.model_validate_json(line) for line in islice(lines, CHUNK)]
    return {label.id: str(label.task) for label in classifier.label(examples, "")}


def plan_mix(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Plan the mix of a round with equal shares from all clean rows."""
    uniform_preset = {str(task): 1 / len(TaskType) for task in TaskType}
    types = dict(read_labels(folder / LABELS)) if args.label else {}
    with (folder / ROWS).open(encoding="utf-8") as lines:
        pool = [candidate(Example.model_validate_json(line), types) for line in lines]
    curriculum = CurriculumConfig(rows_per_round=WANTED, alpha=0.3)
    plan = plan_round(pool, PlanSettings.for_round(1, target_shares(uniform_preset, {}), curriculum, seed=0))
    return {"pool": len(pool), "drawn": len(plan.drawn), "ordered": sum(request.count for request in plan.requests)}


def read_labels(path: Path) -> Iterator[tuple[str, TaskType]]:
    """Yield id and task type of every labelled row."""
    with path.open() as lines:
        for row_id, task in map(json.loads, lines):
            yield row_id, TaskType(task)


def candidate(example: Example, types: dict[str, TaskType]) -> Candidate:
    """Return a row with its task type and a gap by hash; without labels, the type is drawn by hash and skewed."""
    tasks = list(TaskType)
    task = types[example.id] if types else tasks[int(derive_uniform("task", example.id) ** 3 * len(tasks))]
    gap = 9 * derive_uniform("gap", example.id) ** 2
    return Candidate(example, task, gap, Subset.HARD if gap > 2 else Subset.REST, max(gap, 0.1))


STEPS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "write": write_pool,
    "clean": clean_pool,
    "label": label_pool,
    "plan": plan_mix,
}


def measure(step: str, args: argparse.Namespace, folder: Path) -> None:
    """Run one step in this process and print its time and memory."""
    started, cpu = time.perf_counter(), time.process_time()
    resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = STEPS[step](args, folder)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timing = {"step": step, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "rows_per_cpu_s": round(args.rows / cpu)}
    memory = {"peak_MB": round(peak / 1024), "imports_MB": round(resting / 1024)}
    sys.stdout.write(json.dumps(timing | memory | figures) + "\n")


def main() -> None:
    """Run every step, each in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--base", help="an Alpaca-format file that is varied")
    parser.add_argument("--benchmark", action="append", help="a file of questions; may be repeated")
    parser.add_argument("--label", choices=[precision.value for precision in Precision], help="precision of MiniLM")
    parser.add_argument("--workers", type=int, default=2, help="processes that label")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        measure(args.step, args, args.folder)
        return
    with TemporaryDirectory() as folder:
        for step in STEPS:
            subprocess.run([sys.executable, *sys.argv, "--step", step, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
