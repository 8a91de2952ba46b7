"""Fine-tuning of a sequence classifier, with early stopping and a calibrated confidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tapir_exp.config import ClassifierFitConfig, TrainerConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.determinism import deterministic_scope
from tapir_exp.core.stored_rows import KeptVectors
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.baselines import Baseline
from tapir_exp.distillation.classifier.calibration import fit_temperature
from tapir_exp.distillation.classifier.confidence import Validation, validate
from tapir_exp.distillation.classifier.dataset import LabelledText, stratified_folds
from tapir_exp.distillation.classifier.deberta.model import load_classifier
from tapir_exp.distillation.classifier.deberta.module import MACRO_F1, Batch, ClassifierModule
from tapir_exp.distillation.classifier.encoder_weights import weights_digest
from tapir_exp.distillation.classifier.trainable import (
    Matrix,
    balanced_weights,
    encode_in_batches,
    known_tasks,
    task_indices,
    too_few_rows,
)

Row = tuple[str, int]
"""A text and the index of its type."""


@dataclass(frozen=True)
class DebertaClassifier:
    """A trained sequence classifier; it scores in float32."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tasks: tuple[TaskType, ...]
    temperature: float
    max_length: int
    batch_size: int
    validation: Validation | None = None

    @torch.inference_mode()
    def score(self, texts: Sequence[str], progress: str, kept: KeptVectors | None = None) -> Matrix:
        """Return uncalibrated logits: (texts, tasks); `kept` has the logits."""
        model = self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type]

        def score(batch: list[str]) -> Matrix:
            encoded = encode(self.tokenizer, batch, self.max_length)
            logits: Matrix = model(**encoded.to(model.device)).logits.float().cpu().numpy()
            return logits

        return encode_in_batches(texts, len(self.tasks), self.batch_size, score, progress, kept)

    def save(self, directory: Path) -> None:
        """Write a Hugging Face directory."""
        self.model.to("cpu").save_pretrained(str(directory))  # type: ignore[arg-type]
        self.tokenizer.save_pretrained(str(directory))


class DebertaTrainer:
    """Trainer of all weights of an encoder, with a new head."""

    def __init__(self, fit: ClassifierFitConfig, trainer: TrainerConfig) -> None:
        self._fit, self._trainer = fit, trainer

    def base(self) -> dict[str, Any]:
        """Return the encoder, its revision, and its digest if it is a directory."""
        source = Path(self._fit.encoder)
        digest = weights_digest(source) if source.is_dir() else None
        return {"encoder": self._fit.encoder, "revision": self._fit.revision, "sha256": digest}

    def baselines(self) -> Mapping[str, Baseline]:
        """Return no baselines: an encoder without training cannot classify."""
        return {}

    def fit(self, rows: Sequence[LabelledText], seed: int, progress: str) -> DebertaClassifier:
        """Fit on all rows except a validation fold, which stops the fit and sets the temperature.

        Raises:
            ConfigError: If the rows have fewer than two types, or are too few for a validation fold.
        """
        tasks = known_tasks(rows)
        validation = stratified_folds(rows, round(1 / self._fit.validation_fraction), seed)[0]
        training = sorted(set(range(len(rows))) - set(validation))
        if len(tasks) < 2 or not validation:
            raise too_few_rows(rows, tasks)
        targets = task_indices(rows, tasks)
        weights = balanced_weights(targets[training], len(tasks)) if self._fit.class_weights else np.ones(len(tasks))
        with deterministic_scope(seed):
            model, tokenizer = load_classifier(self._fit.encoder, tasks, self._fit.revision)
            pairs = [(row.text, int(target)) for row, target in zip(rows, targets, strict=True)]
            held_out = [pairs[index] for index in validation]
            self._train(model, tokenizer, [pairs[index] for index in training], held_out, weights.tolist(), progress)
        # The validation rows were not trained on, so their logits show how confident the model may be.
        raw = DebertaClassifier(model, tokenizer, tasks, 1.0, self._fit.max_length, self._fit.batch_size)
        logits = raw.score([text for text, _ in held_out], progress)
        temperature = fit_temperature(logits, targets[validation])
        return replace(raw, temperature=temperature, validation=validate(logits, targets[validation], temperature))

    def _train(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        training: Sequence[Row],
        validation: Sequence[Row],
        weights: Sequence[float],
        progress: str,
    ) -> None:
        """Train the model and leave its best weights in it."""
        fit = self._fit
        batches = self._loader(tokenizer, training, shuffle=True)
        held_out = self._loader(tokenizer, validation, shuffle=False)
        module = ClassifierModule(model, weights, fit, fit.epochs * len(batches))
        with Progress(progress, fit.epochs) as bar:
            stop = pl.callbacks.EarlyStopping(MACRO_F1, mode="max", patience=fit.patience)
            _build_trainer(self._trainer, fit, [stop, _Epochs(bar)]).fit(module, batches, held_out)
        model.load_state_dict(module.best)

    def _loader(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, shuffle: bool) -> DataLoader[Row]:
        def collate(batch: list[Row]) -> Batch:
            encoded = encode(tokenizer, [text for text, _ in batch], self._fit.max_length)
            return dict(encoded), torch.tensor([target for _, target in batch])

        return DataLoader(
            list(rows),  # type: ignore[arg-type]  # a list is a dataset
            batch_size=self._fit.batch_size,
            shuffle=shuffle,
            collate_fn=collate,
        )


class _Epochs(pl.Callback):
    """Progress bar over the epochs of a fit."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.advance()


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> Any:
    """Return token ids with their mask, padded to the longest text: (texts, tokens)."""
    return tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")


def open_deberta(
    directory: Path, tasks: tuple[TaskType, ...], temperature: float, max_length: int, batch_size: int
) -> DebertaClassifier:
    """Load a classifier that `save` wrote."""
    model, tokenizer = load_classifier(str(directory), tasks, None)
    return DebertaClassifier(model, tokenizer, tasks, temperature, max_length, batch_size)


def _build_trainer(config: TrainerConfig, fit: ClassifierFitConfig, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=1,
        plugins=[LightningEnvironment()],  # a single process, even inside a SLURM job
        precision=config.precision,  # type: ignore[arg-type]  # Lightning checks it
        max_epochs=fit.epochs,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        deterministic="warn",  # some encoders have no deterministic kernel on a GPU
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
