"""The alpha-weighted loss of TAPIR and its optimiser, as a Lightning module."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tapir_exp.config import SFTConfig
from tapir_exp.core import events
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset, TrainingStep
from tapir_exp.student.cross_entropy import token_nll, weighted_cross_entropy
from tapir_exp.student.loading import base_model_of
from tapir_exp.student.packing import pack_attention, packed_hidden
from tapir_exp.student.training.averaging import WeightAverage
from tapir_exp.student.training.batching import MicroBatch, StepBatch
from tapir_exp.student.training.optimizer_state import load_optimizer_state
from tapir_exp.student.training.schedule import Averaging, FitSchedule
from tapir_exp.student.training.strategies import clip_and_step, shard_if_fsdp, sync_gradients_on_last

BETA1 = 0.9
"""Decay of AdamW's first moment."""
STEPS_KEY, AVERAGE_KEY = "training_steps", "weight_average"


def subset_weights(alpha: float | None, hard: int, rest: int) -> dict[Subset, float]:
    """Return the token weights under which a weighted mean over all tokens is the loss of the paper.

    L = alpha * mean over the hard subset of -log p(y|x) + (1 - alpha) * mean over the rest. So a hard token weighs
    alpha * T / T_H and any other token (1 - alpha) * T / T_R, with T = T_H + T_R.

    Args:
        alpha: Weight of the hard subset; None for plain fine-tuning.
        hard: Supervised tokens T_H of the hard subset in the whole training set.
        rest: Supervised tokens T_R of the rest.

    Returns:
        Weight of a token of each subset. All weights are 1 if alpha is None or one of the subsets is empty.
    """
    if alpha is None or not hard or not rest:
        return {Subset.HARD: 1.0, Subset.REST: 1.0}
    total = hard + rest
    return {Subset.HARD: alpha * total / hard, Subset.REST: (1 - alpha) * total / rest}


def response_nll(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Return the negative log-likelihood of each supervised token: (supervised,), in nats, without a gradient."""
    with torch.no_grad():
        return token_nll(predicting_states(model, batch), head_weights(model), batch.targets)


def predicting_states(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Return the hidden states that predict the supervised tokens: (supervised, hidden_size)."""
    hidden = packed_hidden(base_model_of(model).get_decoder(), batch.tokens, batch.bounds)
    return hidden.index_select(0, batch.predictor_positions)  # logits of other tokens are never computed


def head_weights(model: PreTrainedModel) -> Tensor:
    """Return the weights of the output layer: (vocab_size, hidden_size)."""
    weights: Tensor = base_model_of(model).get_output_embeddings().weight
    return weights


class StudentModule(pl.LightningModule):
    """A causal language model with the alpha-weighted loss. One Lightning batch is one optimiser step."""

    def __init__(
        self,
        model: PreTrainedModel,
        weights: Mapping[Subset, float],
        sft: SFTConfig,
        schedule: FitSchedule,
        total_steps: int,
        seed: int,
        optimizer_state: Path | None = None,
        averaging: Averaging | None = None,
    ) -> None:
        """Wrap a model for training.

        Args:
            model: The model; its trained parameters are those that require a gradient.
            weights: Loss weight of a supervised token of each subset.
            sft: Optimiser settings.
            schedule: Learning rate of each step.
            total_steps: Optimiser steps of the whole fit.
            seed: Seed of dropout.
            optimizer_state: File with the state of Adam at the start; None for a new one.
            averaging: Weights to average; None for no average.
        """
        super().__init__()
        self.automatic_optimization = False  # Lightning would average over micro-batches instead of tokens
        self.strict_loading = False  # checkpoints hold no frozen weights
        self.model = pack_attention(model).train()
        self.history: list[TrainingStep] = []
        self._weights, self._sft, self._seed = weights, sft, seed
        self._schedule, self._total_steps, self._optimizer_state = schedule, total_steps, optimizer_state
        self.average = WeightAverage(averaging, total_steps) if averaging else None

    def configure_model(self) -> None:
        """Shard the weights over the ranks if the strategy is FSDP."""
        shard_if_fsdp(self, base_model_of(self.model), self.weighted_loss.__name__)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW without weight decay for biases and norms, which are the vectors."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self._sft.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        settings: dict[str, Any] = {"lr": self._schedule.peak, "betas": (BETA1, self._sft.beta2), "fused": True}
        self.adamw = torch.optim.AdamW([g for g in groups if g["params"]], **settings)
        if self._optimizer_state is not None:
            load_optimizer_state(self.adamw, self.trained_parameters(), self._optimizer_state)
        return self.adamw

    def trained_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Return the parameters that require a gradient, with their names in the model."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Take one optimiser step over all micro-batches.

        Raises:
            TapirError: If the loss is not finite.
        """
        step = len(self.history) + 1
        # Seeded per step, so that dropout is the same after a resume, and per rank, so that it differs between ranks.
        torch.manual_seed(self._seed * 1_000_003 + step + self.global_rank * 1_000_000_007)
        last = batch.micro_batches[-1]
        sums_per_batch = [self._backward(micro, batch.supervised, micro is last) for micro in batch.micro_batches]
        sums = self.trainer.strategy.reduce(torch.stack(sums_per_batch).sum(0), reduce_op="sum")
        rate = self._schedule.rate(step, self._total_steps)
        self._record(step, batch, sums, rate, self._update(rate))
        if self.average is not None:
            self.average.add_after(step, self.trained_parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the history and the average, and drop frozen weights."""
        trained = {name for name, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint[STEPS_KEY] = [step.model_dump() for step in self.history]
        if self.average is not None:
            checkpoint[AVERAGE_KEY] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history and the average."""
        self.history = [TrainingStep(**step) for step in checkpoint[STEPS_KEY]]
        if self.average is not None:
            self.average.load_state_dict(checkpoint[AVERAGE_KEY], self.trained_parameters())

    def weighted_loss(self, batch: MicroBatch, supervised: int) -> tuple[Tensor, Tensor]:
        """Return the micro-batch's share of the step's loss, and the loss of each supervised token.

        Model weights are used in this method only, so that FSDP can gather them around it.

        Args:
            batch: Rows of the micro-batch.
            supervised: Supervised tokens of the whole step, over all ranks.

        Returns:
            The weighted loss (a scalar) and the unweighted losses of its tokens (supervised,), in nats.
        """
        # Strategies average the gradients of the ranks; the factor world_size turns the mean into a sum.
        scale = self.trainer.world_size / supervised
        hard, rest = self._weights[Subset.HARD] * scale, self._weights[Subset.REST] * scale
        weights = torch.full(batch.hard.shape, rest, dtype=torch.float32, device=batch.hard.device)
        weights = weights.masked_fill(batch.hard, hard)
        return weighted_cross_entropy(
            predicting_states(self.model, batch), head_weights(self.model), batch.targets, weights
        )

    def _backward(self, batch: MicroBatch, supervised: int, last: bool) -> Tensor:
        """Accumulate the gradient of a micro-batch.

        Returns:
            Sum of losses and number of tokens, of the hard subset and of the rest: (2, 2).
        """
        with sync_gradients_on_last(self, last):
            loss, nll = self.weighted_loss(batch, supervised)
            self.manual_backward(loss)
        sums = [[nll[mask].sum(), mask.sum().to(nll.dtype)] for mask in (batch.hard, ~batch.hard)]
        return torch.stack([torch.stack(subset) for subset in sums])

    def _update(self, rate: float) -> float:
        """Step the optimiser with this learning rate. Return the gradient norm before clipping."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group in optimizer.param_groups:
            group["lr"] = rate  # a function of the step, so a resumed fit needs no scheduler state
        norm = clip_and_step(self, optimizer, self._sft.max_grad_norm)
        optimizer.zero_grad()
        return norm

    def _record(self, step: int, batch: StepBatch, sums: Tensor, rate: float, norm: float) -> None:
        (hard, hard_tokens), (rest, rest_tokens) = sums.tolist()
        weighted = self._weights[Subset.HARD] * hard + self._weights[Subset.REST] * rest
        # The sums are over all ranks, so that all of them raise together and none waits for the others.
        if not math.isfinite(weighted):
            raise TapirError(
                f"The loss of step {step} is {weighted}, not a finite number: lower sft.learning_rate "
                f"({self._sft.learning_rate:g}) or sft.max_grad_norm ({self._sft.max_grad_norm:g})."
            )
        seen = self.history[-1].tokens if self.history else 0
        self.history.append(
            TrainingStep(
                step=step,
                tokens=seen + batch.tokens,
                loss=weighted / batch.supervised,
                loss_hard=hard / hard_tokens if hard_tokens else None,
                loss_rest=rest / rest_tokens if rest_tokens else None,
                learning_rate=rate,
                gradient_norm=norm,
            )
        )
        if self.global_rank == 0 and events.is_step_recorded(step, self._total_steps):
            last = self.history[-1].model_dump(include={"step", "tokens", "loss", "learning_rate"})
            events.record(events.Kind.TRAINING_STEP, steps=self._total_steps, **last)
