"""The jobs of `tapir-label`: label a pool, train a classifier, evaluate one, and have one learn from another."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from tapir_exp.config import ClassifierKind, ClassifyConfig, ClassifyJob, LabelledDataConfig
from tapir_exp.core.console import console, print_table
from tapir_exp.core.errors import SeedError
from tapir_exp.core.records import Example, LabelledInstruction, example_id
from tapir_exp.core.store import write_text_atomic
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.base import TaskClassifier, open_classifier
from tapir_exp.distillation.classifier.baselines import BASELINES
from tapir_exp.distillation.classifier.card import ClassifierCard, write_card
from tapir_exp.distillation.classifier.dataset import (
    LabelledDataset,
    instruction_of,
    read_labelled,
    read_objects,
    stratified_folds,
)
from tapir_exp.distillation.classifier.trainable import ClassifierTrainer, Prediction, predict
from tapir_exp.distillation.classifier.trained import open_trainer
from tapir_exp.evals.classification import ClassificationFigures, measure
from tapir_exp.evals.statistics import Interval
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.serving.pool import ServerPool
from tapir_exp.llm.spend_report import write_spend_report
from tapir_exp.pipeline.opening import open_chat
from tapir_exp.report.classifier_page import write_labelling_report

LABELS = "labels.jsonl"
CLASSIFIER = "labeller"
FIGURES = "figures.json"
CHUNK = 2048
"""Rows that are read, labelled and written at a time, so that a pool of any size fits."""
TRAINED = "trained classifier"


@dataclass
class FoldComparison:
    """Labels beside the truth, row by row, as they come in."""

    truth: list[TaskType] = field(default_factory=list)
    guesses: list[Prediction] = field(default_factory=list)

    def add(self, truth: Sequence[TaskType], guesses: Sequence[Prediction]) -> None:
        """Take in some rows."""
        self.truth.extend(truth)
        self.guesses.extend(guesses)

    def measure(self, resamples: int, seed: int) -> ClassificationFigures:
        """The figures over all rows."""
        tasks, confidences = [made.task for made in self.guesses], [made.confidence for made in self.guesses]
        return measure(self.truth, tasks, confidences, resamples=resamples, seed=seed)


def run_job(config: ClassifyConfig) -> None:
    """Carry out a job; what it makes is in `config.out`."""
    out = Path(config.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    if config.job is ClassifyJob.train:
        train(read_labelled(config.classifier_data), config, out)
        return
    with opened_classifier(config) as classifier:
        match config.job:
            case ClassifyJob.label:
                label_pool(read_pool(Path(str(config.pool))), classifier, out)
            case ClassifyJob.evaluate:
                evaluate(read_labelled(config.classifier_data), classifier, config, out)
            case ClassifyJob.distil:
                train(teach(classifier, config, out), config, out)


@contextmanager
def opened_classifier(config: ClassifyConfig) -> Iterator[TaskClassifier]:
    """The configured classifier. A chat model's replies are kept with those of the runs, its spend is told at the end.

    Raises ConfigError where no call of it can succeed, or a trained classifier is not there.
    """
    store = Path(config.outputs) / "store"
    call_store, servers = CallStore(store, SpendScope(config.output_dir), config.spend), ServerPool(store / "servers")

    def open_checked() -> Client:
        chat = open_chat(config.classifier.llm, "classifier", call_store, servers)
        chat.check(priced=config.spend.max_usd is not None)
        return chat

    try:
        with call_store.ledger.record_stage("labelling"):
            yield open_classifier(config.classifier, open_checked)
    finally:  # what was spent is told of a job that fails, too
        if config.classifier.kind is ClassifierKind.llm:
            write_spend_report(call_store.ledger, Path(config.output_dir))
        servers.close()
        call_store.close()


def label_pool(pool: Iterable[Example], classifier: TaskClassifier, out: Path) -> Counter[str]:
    """Label a pool into `labels.jsonl`; returns the rows by type, and says how fast it went."""
    started, counts = time.monotonic(), Counter[str]()
    path, passing = out / LABELS, out / f"{LABELS}.partial"
    rows = iter(pool)
    with passing.open("w", encoding="utf-8") as lines:
        while chunk := list(islice(rows, CHUNK)):
            labelled = _label(chunk, classifier)
            counts.update(_shown(row.task) for row in labelled)
            lines.writelines(f"{row.model_dump_json()}\n" for row in labelled)
    passing.replace(path)
    _say_mix(counts, time.monotonic() - started, path)
    return counts


def teach(classifier: TaskClassifier, config: ClassifyConfig, out: Path) -> LabelledDataset:
    """Have the configured classifier label a sample of the pool; a row that it left unlabelled teaches nothing."""
    pool = list({example.id: example for example in read_pool(Path(str(config.pool)))}.values())
    sample = Random(f"sample {config.seed}").sample(pool, min(config.sample, len(pool)))
    label_pool(sample, classifier, out)
    return read_labelled(LabelledDataConfig(path=str(out / LABELS)))


def train(known: LabelledDataset, config: ClassifyConfig, out: Path) -> ClassifierCard:
    """Train a classifier on all rows into `classifier/`; its figures are of siblings on rows that they did not see."""
    learner = open_trainer(config.classifier_training, config.trainer)
    compared = compare(learner, known, config)
    figures = _report(compared, known, config, out)
    directory = out / CLASSIFIER
    directory.mkdir(exist_ok=True)
    whole = learner.learn(known.rows, config.seed, "training on all rows")
    whole.save(directory)
    card = ClassifierCard(
        kind=config.classifier_training.kind.value,
        tasks=tuple(whole.tasks),
        temperature=whole.temperature,
        base=learner.base(),
        data=_data_card(known),
        settings={
            **asdict(config.classifier_training),
            "kind": config.classifier_training.kind.value,
            "seed": config.seed,
        },
        figures=figures[TRAINED],
    )
    write_card(directory, card)
    console.print(f"labeller: {directory}", soft_wrap=True)
    return card


def compare(learner: ClassifierTrainer, known: LabelledDataset, config: ClassifyConfig) -> dict[str, FoldComparison]:
    """The classifier and the baselines on each part of the rows, trained on the others."""
    baselines = {**learner.baselines(), **BASELINES}
    compared = {name: FoldComparison() for name in (TRAINED, *baselines)}
    for number, part in enumerate(stratified_folds(known.rows, config.folds, config.seed)[: config.folds_evaluated], 1):
        held, out = [known.rows[place] for place in part], set(part)
        rest = [row for place, row in enumerate(known.rows) if place not in out]
        texts, truth = [row.text for row in held], [row.task for row in held]
        learnt = learner.learn(rest, config.seed, f"training without part {number}")
        compared[TRAINED].add(truth, predict(learnt, texts, f"labelling part {number}"))
        for name, baseline in baselines.items():
            compared[name].add(truth, [Prediction(task, None) for task in baseline(rest, texts)])
    return compared


def evaluate(
    known: LabelledDataset, classifier: TaskClassifier, config: ClassifyConfig, out: Path
) -> ClassificationFigures:
    """Compare the configured classifier with labelled instructions, be they a person's or another classifier's."""
    examples = [_example(row.text) for row in known.rows]
    labels = classifier.label(examples, "labelling")
    comparison = FoldComparison()
    comparison.add([row.task for row in known.rows], [Prediction(label.task, label.confidence) for label in labels])
    _report({"labeller": comparison}, known, config, out)
    return comparison.measure(config.bootstrap_samples, config.seed)


def read_pool(path: Path) -> Iterator[Example]:
    """The instructions of a pool, as they come. Raises SeedError, naming the row, where one has none."""
    for number, row in enumerate(read_objects(path), 1):
        text = instruction_of(row)
        if not text:
            raise SeedError(f"{path}, row {number}: no instruction; the rows of a pool have one, and may have an input")
        yield _example(text)


def _example(text: str) -> Example:
    return Example(id=example_id(text), instruction=text, response="")


def _label(chunk: Sequence[Example], classifier: TaskClassifier) -> list[LabelledInstruction]:
    return [
        LabelledInstruction(
            id=example.id,
            instruction=example.instruction,
            task=label.task,
            confidence=label.confidence,
            source=label.source,
            failure=label.failure,
        )
        for example, label in zip(chunk, classifier.label(chunk, "labelling"), strict=True)
    ]


def _report(
    compared: Mapping[str, FoldComparison], known: LabelledDataset, config: ClassifyConfig, out: Path
) -> dict[str, dict[str, Any]]:
    """Measure, and write `figures.json` and the page; returns the figures by name."""
    measured = {
        name: comparison.measure(config.bootstrap_samples, config.seed) for name, comparison in compared.items()
    }
    figures = {name: asdict(found) for name, found in measured.items()}
    write_text_atomic(out / FIGURES, json.dumps({"data": _data_card(known), "figures": figures}, indent=1) + "\n")
    page = write_labelling_report(out, known.name, known.counts, known.dropped, measured)
    rows = [
        [name, _percent(found.accuracy), _percent(found.macro_f1), f"{found.kappa.mean:.2f}", _error(found)]
        for name, found in measured.items()
    ]
    print_table(f"Against {known.name}, {len(known.rows)} rows", ["", "accuracy, %", "macro-F1, %", "κ", "ECE"], rows)
    console.print(f"report: {page}", soft_wrap=True)
    return figures


def _data_card(known: LabelledDataset) -> dict[str, Any]:
    return {
        "name": known.name,
        "sha256": known.digest,
        "rows": len(known.rows),
        "by_task": known.counts,
        "dropped": dict(known.dropped),
    }


def _say_mix(counts: Counter[str], seconds: float, path: Path) -> None:
    total = counts.total()
    rows = [[task, str(count), f"{count / total:.1%}"] for task, count in counts.most_common()]
    print_table("Rows by task type", ["", "rows", "share"], rows)
    console.print(f"{total} rows in {seconds:.1f} s, {total / max(seconds, 1e-9):.0f} a second: {path}", soft_wrap=True)


def _shown(task: TaskType | None) -> str:
    return "unlabelled" if task is None else str(task)


def _percent(interval: Interval) -> str:
    span = "" if interval.low is None or interval.high is None else f" ({interval.low:.1%}–{interval.high:.1%})"
    return f"{interval.mean:.1%}{span}".replace("%", "")


def _error(found: ClassificationFigures) -> str:
    return "–" if found.calibration_error is None else f"{found.calibration_error:.3f}"
