"""Mean of the weights after several steps at the end of a fit (checkpoint averaging)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

from tapir_exp.student.training.schedule import Averaging
from tapir_exp.student.training.strategies import gather_tensor, shard_like

Named = Iterable[tuple[str, Parameter]]


class WeightAverage:
    """Running sum of the trained weights, in float32 or the precision of the weights if that is higher."""

    def __init__(self, averaging: Averaging, total_steps: int) -> None:
        self._steps = averaging.steps(total_steps)
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0

    def add_after(self, step: int, parameters: Named) -> None:
        """Add the weights if this step is one of the snapshots."""
        if step not in self._steps:
            return
        self._count += 1
        for name, parameter in parameters:
            values = parameter.detach().float()
            # Lightning reads a checkpoint before it moves the model to a GPU, so loaded sums may be on the CPU.
            loaded = name in self._sums
            self._sums[name] = self._sums[name].to(values.device) + values if loaded else values.clone()

    def apply(self, parameters: Named) -> None:
        """Set the parameters to the mean; parameters of a fit without steps stay as they are."""
        for name, parameter in parameters:
            if name in self._sums:
                parameter.data.copy_(self._sums[name] / self._count)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far, for a checkpoint. All ranks have to call it."""
        return {"count": self._count, "sums": {name: gather_tensor(values) for name, values in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any], parameters: Named) -> None:
        """Continue from the sums of a checkpoint."""
        by_name = dict(parameters)
        self._count = state["count"]
        self._sums = {name: shard_like(values, by_name[name]) for name, values in state["sums"].items()}
