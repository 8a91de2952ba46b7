"""Loss, optimiser and validation of a sequence classifier, as a Lightning module."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tapir_exp.config import ClassifierFitConfig
from tapir_exp.evals.classification import confusion_matrix, macro_f1

Batch = tuple[Mapping[str, Tensor], Tensor]
"""Padded token ids with their mask, (rows, tokens), and the index of each row's type, (rows,)."""
MACRO_F1 = "macro_f1"


class ClassifierModule(pl.LightningModule):
    """A sequence classifier under weighted cross-entropy; it stores the weights of its best validation."""

    def __init__(
        self, model: PreTrainedModel, weights: Sequence[float], fit: ClassifierFitConfig, total_steps: int
    ) -> None:
        """Wrap a model.

        Args:
            model: The classifier.
            weights: Weight of each type in the loss.
            fit: Settings of the fit.
            total_steps: Optimiser steps of the fit, for the schedule of the learning rate.
        """
        super().__init__()
        self.model = model
        self.best: dict[str, Tensor] = {}
        self.best_f1 = -1.0
        self._fit, self._total_steps = fit, total_steps
        self._predictions: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("_weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, in nats."""
        encoded, targets = batch
        return cross_entropy(self.model(**encoded).logits.float(), targets, weight=self.get_buffer("_weights"))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Store the predictions of a batch until the epoch ends."""
        encoded, targets = batch
        self._predictions.append((self.model(**encoded).logits.argmax(1).cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the macro-F1 of the validation rows, and copy the weights if it is the best so far."""
        predicted, targets = (torch.cat(parts).numpy() for parts in zip(*self._predictions, strict=True))
        self._predictions.clear()
        f1 = macro_f1(confusion_matrix(targets, predicted, len(self.get_buffer("_weights"))))
        self.log(MACRO_F1, f1)
        if f1 > self.best_f1:
            self.best_f1 = f1
            # Copied to the CPU: GPU memory holds one set of weights only.
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a linear decay to zero."""
        # Biases and norms, which have one dimension, are not decayed.
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": self._fit.weight_decay},
            {"params": [p for p in self.model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self._fit.learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate_factor(self, step: int) -> float:
        warmup = max(1.0, self._fit.warmup_ratio * self._total_steps)
        decay = (self._total_steps - step) / max(1.0, self._total_steps - warmup)
        return max(0.0, min((step + 1) / warmup, decay))
