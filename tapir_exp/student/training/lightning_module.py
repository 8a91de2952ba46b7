"""The loss of a distillation round and its optimiser, as a Lightning module."""

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tapir_exp.config import SFTConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset, TrainingStep
from tapir_exp.student.cross_entropy import token_nll, weighted_cross_entropy
from tapir_exp.student.loading import base_model_of
from tapir_exp.student.packing import pack_attention, packed_hidden
from tapir_exp.student.training.batching import MicroBatch, StepBatch
from tapir_exp.student.training.strategies import clip_and_step, shard_if_fsdp, sync_gradients_on_last

STEPS_KEY = "training_steps"


def subset_weights(alpha: float | None, hard: int, rest: int) -> dict[Subset, float]:
    """Token weights that make a weighted mean over all tokens the loss of the paper.

    L = alpha * mean over the hard part of -log p(y|x) + (1 - alpha) * mean over the rest, so a hard token weighs
    alpha * T / T_H and any other (1 - alpha) * T / T_R.

    hard, rest: supervised tokens T_H and T_R of the whole training set. Where one of them is 0, or alpha is None,
    every token weighs 1: the present part has the whole weight, which is plain fine-tuning.
    """
    if alpha is None or not hard or not rest:
        return {Subset.HARD: 1.0, Subset.REST: 1.0}
    total = hard + rest
    return {Subset.HARD: alpha * total / hard, Subset.REST: (1 - alpha) * total / rest}


def response_nll(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Negative log-likelihood of each supervised token of a micro-batch: (supervised,), in nats, without a gradient."""
    with torch.no_grad():
        return token_nll(predicting_states(model, batch), head_weights(model), batch.targets)


def predicting_states(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """The hidden states that predict the supervised tokens: (supervised, width)."""
    return packed_hidden(base_model_of(model).get_decoder(), batch.tokens, batch.bounds).index_select(0, batch.before)


def head_weights(model: PreTrainedModel) -> Tensor:
    head: Tensor = base_model_of(model).get_output_embeddings().weight
    return head


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """The rate of optimiser step `step`, counted from 1: linear up over a share of the steps, then a cosine to 0."""
    rising = math.ceil(warmup * steps)
    if step <= rising:
        return peak * step / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 1 - rising) / (steps - rising)))


class StudentModule(pl.LightningModule):
    """A causal language model under the alpha-weighted loss; one batch is one optimiser step."""

    def __init__(
        self, model: PreTrainedModel, weights: Mapping[Subset, float], sft: SFTConfig, total_steps: int, seed: int
    ) -> None:
        """weights: of a supervised token, by part. seed: of dropout."""
        super().__init__()
        self.automatic_optimization = False  # a step is normalised by all its tokens, which Lightning's mean is not
        self.strict_loading = False  # checkpoints leave frozen weights out
        self.model = pack_attention(model).train()
        self.history: list[TrainingStep] = []
        self._weights, self._sft, self._total_steps, self._seed = weights, sft, total_steps, seed

    def configure_model(self) -> None:
        """Divide the weights among the ranks, under a strategy that does."""
        shard_if_fsdp(self, base_model_of(self.model), self.weighted_loss.__name__)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weight decay spares biases and norms, which are the vectors."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self._sft.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self._sft.learning_rate, fused=True)

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One optimiser step over all micro-batches. Raises TapirError where the loss is not finite."""
        step = len(self.history) + 1
        # dropout must not depend on where the fit was resumed, and is not the same on all ranks
        torch.manual_seed(self._seed * 1_000_003 + step + self.global_rank * 1_000_000_007)
        last = batch.micro_batches[-1]
        parts = [self._backward(micro, batch.supervised, micro is last) for micro in batch.micro_batches]
        sums = self.trainer.strategy.reduce(torch.stack(parts).sum(0), reduce_op="sum")
        rate = learning_rate(step, self._total_steps, self._sft.learning_rate, self._sft.warmup_ratio)
        self._record(step, batch, sums, rate, self._update(rate))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the history; leave out what is not trained."""
        trained = {name for name, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint[STEPS_KEY] = [step.model_dump() for step in self.history]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history back."""
        self.history = [TrainingStep(**step) for step in checkpoint[STEPS_KEY]]

    def weighted_loss(self, batch: MicroBatch, supervised: int) -> tuple[Tensor, Tensor]:
        """The micro-batch's part of the step's loss, and the loss of each token: (supervised,).

        The weights are used in here alone, so that a strategy can put them together around it.
        """
        scale = self.trainer.world_size / supervised  # the ranks' gradients are averaged, where their sum is meant
        hard, rest = self._weights[Subset.HARD] * scale, self._weights[Subset.REST] * scale
        weights = torch.full(batch.hard.shape, rest, dtype=torch.float32, device=batch.hard.device)
        weights = weights.masked_fill(batch.hard, hard)
        return weighted_cross_entropy(
            predicting_states(self.model, batch), head_weights(self.model), batch.targets, weights
        )

    def _backward(self, batch: MicroBatch, supervised: int, last: bool) -> Tensor:
        """Add the micro-batch's share of the step's gradient; returns its [nll, tokens] of hard and of rest, (2, 2)."""
        with sync_gradients_on_last(self, last):
            loss, nll = self.weighted_loss(batch, supervised)
            self.manual_backward(loss)
        parts = [[nll[mask].sum(), mask.sum().to(nll.dtype)] for mask in (batch.hard, ~batch.hard)]
        return torch.stack([torch.stack(part) for part in parts])

    def _update(self, rate: float) -> float:
        """Step the optimiser; returns the norm of the gradient before clipping."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = clip_and_step(self, optimizer, self._sft.max_grad_norm)
        optimizer.zero_grad()
        return norm

    def _record(self, step: int, batch: StepBatch, sums: Tensor, rate: float, norm: float) -> None:
        (hard, hard_tokens), (rest, rest_tokens) = sums.tolist()
        weighted = self._weights[Subset.HARD] * hard + self._weights[Subset.REST] * rest
        if not math.isfinite(weighted):
            raise TapirError(f"The loss of step {step} is {weighted}; lower sft.learning_rate or sft.max_grad_norm.")
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
