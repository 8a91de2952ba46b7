"""Adam's moments of a fit, which a later fit of the same parameters can continue."""

from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tapir_exp.core.errors import TapirError
from tapir_exp.student.training.strategies import gather_tensor, shard_like

SEPARATOR = "/"

Named = Iterable[tuple[str, Parameter]]


def save_optimizer_state(optimizer: Optimizer, parameters: Named, path: Path, *, writes: bool = True) -> None:
    """Save the moments and the step count of all parameters by name, with equal bytes for equal states.

    All ranks have to call it, because each may have a shard of the moments.

    Args:
        optimizer: Optimiser of a finished fit.
        parameters: The trained parameters with their names.
        path: The file.
        writes: Whether this rank writes the file.
    """
    tensors = {}
    for name, parameter in parameters:
        for key, value in optimizer.state[parameter].items():
            whole = gather_tensor(value.detach())
            if writes:  # the other ranks do not keep the gathered moments
                tensors[f"{name}{SEPARATOR}{key}"] = whole.cpu().contiguous()
    if writes:
        path.parent.mkdir(exist_ok=True)
        save_file(tensors, path)


def load_optimizer_state(optimizer: Optimizer, parameters: Named, path: Path) -> None:
    """Give a new optimiser the moments and step count that `save_optimizer_state` wrote.

    Raises:
        TapirError: If the file holds moments of parameters that this fit does not train.
    """
    by_name = dict(parameters)
    for key, value in load_file(path).items():
        name, _, field = key.rpartition(SEPARATOR)
        parameter = by_name.get(name)
        if parameter is None or not _fits(parameter, value):
            raise TapirError(
                f"{path} holds the optimiser state of '{name}' in the shape {tuple(value.shape)}, which this fit does "
                "not train. Use the student and sft.method of the fit that wrote it, or sft.optimizer_state=new."
            )
        optimizer.state[parameter][field] = shard_like(value, parameter)


def _fits(parameter: Tensor, value: Tensor) -> bool:
    return value.ndim == 0 or value.shape == parameter.shape  # a step count, or a moment
