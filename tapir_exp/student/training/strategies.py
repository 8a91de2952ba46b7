"""Operations that depend on how the processes (ranks) of a fit share the work.

- ddp: every rank has the whole model, and gradients are averaged before the optimiser step.
- fsdp: every rank has a shard of each weight, gradient and optimiser state (PyTorch's FSDP2).
- deepspeed: every rank has all weights and a shard of the rest (ZeRO-2), managed by DeepSpeed's engine.
"""

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from tapir_exp.config import Launcher, StrategyName, TrainerConfig
from tapir_exp.core.errors import TapirError


def build_strategy(config: TrainerConfig, max_grad_norm: float) -> Strategy | str:
    """Return Lightning's strategy for a fit.

    Args:
        config: Devices and strategy.
        max_grad_norm: Largest gradient norm; DeepSpeed clips by itself and needs it.

    Raises:
        TapirError: If DeepSpeed is chosen but not installed.
    """
    ranks = config.devices * config.num_nodes
    match config.strategy:
        case StrategyName.fsdp if ranks > 1:
            return ModelParallelStrategy(ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)
        case StrategyName.deepspeed:
            if find_spec("deepspeed") is None:
                raise TapirError("trainer.strategy=deepspeed needs DeepSpeed: pip install 'tapir-exp[deepspeed]'.")
            zero = {"stage": 2, "overlap_comm": True, "contiguous_gradients": True}
            return DeepSpeedStrategy(config={"zero_optimization": zero, "gradient_clipping": max_grad_norm})
    return DDPStrategy(gradient_as_bucket_view=True) if ranks > 1 else "auto"


def cluster_environments(config: TrainerConfig) -> list[Any]:
    """Return the plugins that give Lightning the rank and the number of processes.

    A fit of one process stays one, even inside a job of torchrun or SLURM. SLURM does not requeue the job: a killed fit
    is resumed by the same command.
    """
    if config.devices * config.num_nodes == 1:
        return [LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False) if config.launcher is Launcher.srun else TorchElasticEnvironment()]


def shard_if_fsdp(module: pl.LightningModule, model: Any, method: str) -> None:
    """Shard the model if the strategy is FSDP; see `shard_model`."""
    strategy = module.trainer.strategy
    if isinstance(strategy, ModelParallelStrategy):
        mixed = module.trainer.precision == "bf16-mixed"
        shard_model(module, model, method, strategy.device_mesh["data_parallel"], mixed=mixed)


def shard_model(module: torch.nn.Module, model: Any, method: str, mesh: DeviceMesh, *, mixed: bool) -> None:
    """Shard the weights of a module in place.

    FSDP gathers the weights of one unit at a time. The units are the modules that transformers declares indivisible,
    which are the decoder layers, and one unit for everything else.

    Args:
        module: Module to shard.
        model: The transformers model inside of it.
        method: Name of the module's only forward method.
        mesh: Devices that share the weights.
        mixed: Whether weights are gathered in bfloat16, and gradients reduced in float32.

    Raises:
        TapirError: If the model declares no indivisible modules.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    param_dtype, reduce_dtype = (torch.bfloat16, torch.float32) if mixed else (None, None)
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=reduce_dtype)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy}
    unit_names = set(model._no_split_modules or ())
    layers = [part for part in model.modules() if type(part).__name__ in unit_names]
    if not layers:
        raise TapirError(
            f"trainer.strategy=fsdp shards decoder layers, but {type(model).__name__} does not name its layers "
            "(_no_split_modules). Use trainer=ddp."
        )
    # The layers come first: the outer call takes what no inner one has.
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(module, **options)
    register_fsdp_forward_method(module, method)


def sync_gradients_on_last(module: pl.LightningModule, last: bool) -> AbstractContextManager[Any]:
    """Return the context of a micro-batch's backward pass, which reduces gradients after the last one only.

    FSDP reduces them after each micro-batch: unreduced gradients need the memory of a whole model on each rank, which
    is what FSDP saves.
    """
    if isinstance(module.trainer.strategy, DDPStrategy) and not last:
        return module.trainer.model.no_sync()  # type: ignore[union-attr, operator, no-any-return]
    if isinstance(module.trainer.strategy, DeepSpeedStrategy):
        module.trainer.model.set_gradient_accumulation_boundary(last)  # type: ignore[union-attr, operator]
    return nullcontext()


def clip_and_step(module: pl.LightningModule, optimizer: Any, max_grad_norm: float) -> float:
    """Clip the gradient over all ranks and step the optimiser. Return the gradient norm before clipping."""
    if isinstance(module.trainer.strategy, DeepSpeedStrategy):  # its step clips, see `build_strategy`
        optimizer.step()
        return float(module.trainer.model.get_global_grad_norm())  # type: ignore[union-attr, operator]
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
    optimizer.step()
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def is_sharded(module: torch.nn.Module) -> bool:
    """Return whether each rank has only a shard of the weights."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def gather_tensor(values: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor whole on every rank, and another one unchanged. All ranks have to call it."""
    return values.full_tensor() if isinstance(values, DTensor) else values


def shard_like(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return whole values of a parameter on its device, and as this rank's shard if the parameter is sharded."""
    values = values.to(parameter.device)
    if not isinstance(parameter, DTensor) or values.shape != parameter.shape:
        return values
    # Every rank has read the same file, so that none has to send it.
    return distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)
