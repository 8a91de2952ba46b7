"""The jobs of `tapir classify`: label a pool, train a classifier, evaluate one, and distil one into another."""

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

from tapir_exp.commands.classify_pool import Pool
from tapir_exp.config import ClassifierFitConfig, ClassifierKind, ClassifyConfig, ClassifyJob, LabelledDataConfig
from tapir_exp.core import events
from tapir_exp.core.console import console, print_table, print_warning
from tapir_exp.core.records import Example, LabelledInstruction, example_id
from tapir_exp.core.store import recipe_key, write_rows, write_text_atomic
from tapir_exp.core.stored_rows import RowLog, in_order
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.base import TaskClassifier, open_classifier
from tapir_exp.distillation.classifier.baselines import BASELINES
from tapir_exp.distillation.classifier.card import ClassifierCard, write_card
from tapir_exp.distillation.classifier.confidence import PoolConfidence, pool_confidence
from tapir_exp.distillation.classifier.dataset import LabelledDataset, read_labelled, stratified_folds
from tapir_exp.distillation.classifier.forms import FORMS_DIGEST
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
from tapir_exp.report.classifier_page import write_classifier_report

LABELS = "labels.jsonl"
CLASSIFIER = "classifier"
"""Directory of a trained classifier; also the name of the configured one in figures and spend."""
FIGURES = "figures.json"
STAGE = "task_labels"
"""Stage that calls of a chat model are recorded for."""
CHUNK = 2048
"""Rows that are read, labelled and written at a time, so that a pool of any size fits into memory."""
TRAINED = "trained classifier"


@dataclass
class LabelComparison:
    """Predicted labels and true labels, row by row.

    Attributes:
        truth: True task types, or those of another classifier.
        predictions: The prediction for each of them.
    """

    truth: list[TaskType] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)

    def add(self, truth: Sequence[TaskType], predictions: Sequence[Prediction]) -> None:
        """Add rows."""
        self.truth.extend(truth)
        self.predictions.extend(predictions)

    def measure(self, bootstrap_samples: int, seed: int) -> ClassificationFigures:
        """Return the figures over all rows."""
        tasks = [prediction.task for prediction in self.predictions]
        confidences = [prediction.confidence for prediction in self.predictions]
        return measure(self.truth, tasks, confidences, resamples=bootstrap_samples, seed=seed)


def run_job(config: ClassifyConfig) -> None:
    """Carry out a job; its results are written to `config.output_dir`."""
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    if config.job is ClassifyJob.train:
        train(read_labelled(config.classifier_data), config, output_dir)
        return
    with open_configured_classifier(config) as classifier:
        match config.job:
            case ClassifyJob.label:
                label_pool(Pool(Path(str(config.pool))), classifier, output_dir)
            case ClassifyJob.evaluate:
                evaluate(read_labelled(config.classifier_data), classifier, config, output_dir)
            case ClassifyJob.distil:
                train(label_sample(classifier, config, output_dir), config, output_dir)


@contextmanager
def open_configured_classifier(config: ClassifyConfig) -> Iterator[TaskClassifier]:
    """Open the configured classifier.

    A chat model shares the cache of the runs, and its spend is reported at the end.

    Raises:
        ConfigError: If no call of the chat model can succeed, or a trained classifier is missing.
    """
    store = Path(config.outputs) / "store"
    call_store, servers = CallStore(store, SpendScope(config.output_dir), config.spend), ServerPool(store / "servers")

    def open_checked() -> Client:
        chat = open_chat(config.classifier.llm, CLASSIFIER, call_store, servers)
        chat.check(priced=config.spend.max_usd is not None)
        return chat

    try:
        with call_store.ledger.record_stage(STAGE):
            yield open_classifier(config.classifier, open_checked)
    finally:  # a job that fails has spent, too
        if config.classifier.kind is ClassifierKind.llm:
            write_spend_report(call_store.ledger, Path(config.output_dir))
        servers.close()
        call_store.close()


def label_pool(pool: Iterable[Example], classifier: TaskClassifier, output_dir: Path) -> Counter[str]:
    """Label a pool into `labels.jsonl`, and print the distribution of task types, bad rows and low confidence.

    Labels are kept chunk by chunk, so that a job that is killed and started again labels only the rest.

    Returns:
        Number of rows by task type.
    """
    started, counts = time.monotonic(), Counter[str]()
    # The file appears when it is complete. Another classifier has another log.
    path, log_path = output_dir / LABELS, output_dir / f"{LABELS}.{recipe_key(LABELS, classifier.recipe())}"
    rows, confidence, count = iter(pool), PoolConfidence(), 0
    with RowLog(log_path, LabelledInstruction) as log:
        while chunk := list(islice(rows, CHUNK)):
            labelled = _kept_labels(log, count, chunk)
            if not labelled:
                labelled = _label(chunk, classifier)
                log.update(enumerate(labelled, count))
            counts.update("unlabelled" if row.task is None else str(row.task) for row in labelled)
            confidence = confidence.add(pool_confidence(labelled))
            count += len(chunk)
        write_rows(path, in_order(log, count))
    log_path.unlink()
    _print_distribution(counts, confidence, time.monotonic() - started, path)
    if warning := confidence.warning(classifier.validation()):
        print_warning(warning)
    if isinstance(pool, Pool):
        pool.report(output_dir)
    return counts


def label_sample(classifier: TaskClassifier, config: ClassifyConfig, output_dir: Path) -> LabelledDataset:
    """Label a sample of the pool, for another classifier to be trained on. Unlabelled rows are dropped."""
    # An instruction that occurs twice must not be drawn twice.
    source = Pool(Path(str(config.pool)))
    pool = list({example.id: example for example in source}.values())
    source.report(output_dir)
    sample = Random(f"sample {config.seed}").sample(pool, min(config.sample, len(pool)))
    label_pool(sample, classifier, output_dir)
    return read_labelled(LabelledDataConfig(path=str(output_dir / LABELS)))


def train(dataset: LabelledDataset, config: ClassifyConfig, output_dir: Path) -> ClassifierCard:
    """Train a classifier on all rows into `classifier/`.

    Its figures come from cross-validation: classifiers trained on the other folds label the rows of each fold.
    """
    trainer = open_trainer(config.classifier_training, config.trainer)
    comparisons = cross_validate(trainer, dataset, config)
    figures = _report(comparisons, dataset, config, output_dir)
    # The figures above are of the folds' classifiers. The one that is saved is trained on every row.
    directory = output_dir / CLASSIFIER
    directory.mkdir(exist_ok=True)
    trained = trainer.fit(dataset.rows, config.seed, "training on all rows")
    trained.save(directory)
    card = ClassifierCard(
        kind=config.classifier_training.kind.value,
        tasks=tuple(trained.tasks),
        temperature=trained.temperature,
        base=trainer.base(),
        data=_data_card(dataset),
        settings={
            **asdict(config.classifier_training),
            "kind": config.classifier_training.kind.value,
            "seed": config.seed,
        },
        figures=figures[TRAINED],
        forms=FORMS_DIGEST if _has_forms(config.classifier_training) else None,
        validation=trained.validation,
    )
    write_card(directory, card)
    console.print(f"classifier: {directory}", soft_wrap=True)
    return card


def cross_validate(
    trainer: ClassifierTrainer, dataset: LabelledDataset, config: ClassifyConfig
) -> dict[str, LabelComparison]:
    """Compare the classifier and the baselines on each fold, trained on the other folds."""
    # Predictions of all folds are pooled, so that the figures are over every row once.
    baselines = {**trainer.baselines(), **BASELINES}
    comparisons = {name: LabelComparison() for name in (TRAINED, *baselines)}
    folds = stratified_folds(dataset.rows, config.folds, config.seed)[: config.folds_evaluated]
    for number, fold in enumerate(folds, 1):
        held_out = set(fold)
        rest = [row for index, row in enumerate(dataset.rows) if index not in held_out]
        texts, truth = [dataset.rows[index].text for index in fold], [dataset.rows[index].task for index in fold]
        trained = trainer.fit(rest, config.seed, f"training without fold {number}")
        comparisons[TRAINED].add(truth, predict(trained, texts, f"classifying fold {number}"))
        for name, baseline in baselines.items():
            comparisons[name].add(truth, [Prediction(task, None) for task in baseline(rest, texts)])
    return comparisons


def evaluate(
    dataset: LabelledDataset, classifier: TaskClassifier, config: ClassifyConfig, output_dir: Path
) -> ClassificationFigures:
    """Compare the configured classifier with labelled instructions, by people or by another classifier."""
    examples = [_example(row.text) for row in dataset.rows]
    labels = classifier.label(examples, "classifying")
    comparison = LabelComparison()
    # A row without a type counts as wrong, but its confidence is not that of an answer.
    made = [Prediction(label.task, label.confidence if label.task else None) for label in labels]
    comparison.add([row.task for row in dataset.rows], made)
    _report({CLASSIFIER: comparison}, dataset, config, output_dir)
    return comparison.measure(config.bootstrap_samples, config.seed)


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
        for example, label in zip(chunk, classifier.label(chunk, "classifying"), strict=True)
    ]


def _kept_labels(log: RowLog[LabelledInstruction], start: int, chunk: Sequence[Example]) -> list[LabelledInstruction]:
    """Return the labels of a chunk that an earlier start of the job made; none if one is missing or has failed."""
    kept = [log[index] for index in range(start, start + len(chunk)) if index in log]
    # A trained classifier that abstains has no failure to repeat: it states a confidence.
    whole = [row.id for row in kept if row.failure is None or row.confidence is not None]
    return kept if whole == [example.id for example in chunk] else []


def _report(
    comparisons: Mapping[str, LabelComparison], dataset: LabelledDataset, config: ClassifyConfig, output_dir: Path
) -> dict[str, dict[str, Any]]:
    """Measure, and write `figures.json` and the page. Returns the figures by name."""
    measured = {
        name: comparison.measure(config.bootstrap_samples, config.seed) for name, comparison in comparisons.items()
    }
    figures = {name: asdict(result) for name, result in measured.items()}
    content = {"data": _data_card(dataset), "figures": figures}
    write_text_atomic(output_dir / FIGURES, json.dumps(content, indent=1) + "\n")
    events.record(events.Kind.FIGURES, figures=figures)
    page = write_classifier_report(output_dir, dataset.name, dataset.counts, dataset.dropped, measured)
    rows = [
        [
            name,
            _format_percent(result.accuracy),
            "–" if result.labelled_accuracy is None else f"{100 * result.labelled_accuracy:.1f}",
            _format_percent(result.macro_f1),
            f"{result.kappa.mean:.2f}",
            "–" if result.calibration_error is None else f"{result.calibration_error:.3f}",
        ]
        for name, result in measured.items()
    ]
    columns = ["", "accuracy, %", "of labelled, %", "macro-F1, %", "κ", "ECE"]
    print_table(f"Compared with {dataset.name}, {len(dataset.rows)} rows", columns, rows)
    console.print(f"report: {page}", soft_wrap=True)
    return figures


def _data_card(dataset: LabelledDataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "sha256": dataset.digest,
        "rows": len(dataset.rows),
        "by_task": dataset.counts,
        "dropped": dict(dataset.dropped),
    }


def _has_forms(fit: ClassifierFitConfig) -> bool:
    return fit.kind is ClassifierKind.encoder and fit.form_rules


def _print_distribution(counts: Counter[str], confidence: PoolConfidence, seconds: float, path: Path) -> None:
    total = counts.total()
    rows = [[task, str(count), f"{count / total:.1%}"] for task, count in counts.most_common()]
    print_table("Rows by task type", ["", "rows", "share"], rows)
    rate = total / max(seconds, 1e-9)
    if confidence.rows:
        share = f"{confidence.abstained} rows got no type ({confidence.abstained / confidence.rows:.1%})"
        console.print(f"mean confidence {confidence.mean_confidence:.2f}; {share}")
    console.print(f"{total} rows in {seconds:.1f} s, {rate:.0f} per second: {path}", soft_wrap=True)


def _format_percent(interval: Interval) -> str:
    """Format a ratio and its interval as percentages without the sign: `63.3 (56.5–69.6)`."""
    bounds = "" if interval.low is None or interval.high is None else f" ({interval.low:.1%}–{interval.high:.1%})"
    return f"{interval.mean:.1%}{bounds}".replace("%", "")
