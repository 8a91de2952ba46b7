"""Adam's moments of a fit, which a later fit of the same parameters can continue."""

from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tapir_exp.core.errors import TapirError

SEPARATOR = "/"

Named = Iterable[tuple[str, Parameter]]


def save_optimizer_state(optimizer: Optimizer, parameters: Named, path: Path) -> None:
    """Save the moments and the step count of all parameters by name, with equal bytes for equal states.

    Args:
        optimizer: Optimiser of a finished fit.
        parameters: The trained parameters with their names.
        path: The file.
    """
    tensors = {
        f"{name}{SEPARATOR}{key}": value.detach().cpu().contiguous()
        for name, parameter in parameters
        for key, value in optimizer.state[parameter].items()
    }
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
        optimizer.state[parameter][field] = value.to(parameter.device)


def _fits(parameter: Tensor, value: Tensor) -> bool:
    return value.ndim == 0 or value.shape == parameter.shape  # a step count, or a moment
