"""What the processes that share a fit, its ranks, do together; how depends on Lightning's strategy.

ddp: every rank has the whole model, and gradients are averaged over the ranks before the optimiser step. fsdp: every
rank has a part of every weight, gradient and moment (PyTorch's FSDP2). deepspeed: every rank has the whole weights and
a part of the rest (ZeRO-2), by DeepSpeed's engine.
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
from torch.distributed.tensor import DTensor

from tapir_exp.config import Launcher, StrategyName, TrainerConfig
from tapir_exp.core.errors import TapirError


def build_strategy(config: TrainerConfig, clip: float) -> Strategy | str:
    """The strategy of a fit, for Lightning. clip: of the gradient's norm, which DeepSpeed does by itself.

    Raises TapirError where DeepSpeed is not installed.
    """
    ranks = config.devices * config.num_nodes
    match config.strategy:
        case StrategyName.fsdp if ranks > 1:
            return ModelParallelStrategy(ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)
        case StrategyName.deepspeed:
            if find_spec("deepspeed") is None:
                raise TapirError("trainer.strategy=deepspeed needs DeepSpeed: pip install 'tapir-exp[deepspeed]'.")
            zero = {"stage": 2, "overlap_comm": True, "contiguous_gradients": True}
            return DeepSpeedStrategy(config={"zero_optimization": zero, "gradient_clipping": clip})
    return DDPStrategy(gradient_as_bucket_view=True) if ranks > 1 else "auto"


def cluster_environments(config: TrainerConfig) -> list[Any]:
    """What must tell Lightning where it runs; a fit of one process is one, even inside a job of torchrun or SLURM.

    SLURM's does not requeue the job: the same command goes on where a killed one was.
    """
    if config.devices * config.num_nodes == 1:
        return [LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False) if config.launcher is Launcher.srun else TorchElasticEnvironment()]


def shard_if_fsdp(module: pl.LightningModule, model: Any, method: str) -> None:
    """Under FSDP, divide the model's weights among the ranks; see `shard_model`."""
    strategy = module.trainer.strategy
    if isinstance(strategy, ModelParallelStrategy):
        mixed = module.trainer.precision == "bf16-mixed"
        shard_model(module, model, method, strategy.device_mesh["data_parallel"], mixed=mixed)


def shard_model(module: torch.nn.Module, model: Any, method: str, mesh: DeviceMesh, *, mixed: bool) -> None:
    """Divide the weights of the module, whose part is the model; `method` of the module is its only forward pass.

    A unit, whose weights are put together while they are used, is what transformers declares that must not be split:
    the decoder layers. All else is one unit more. mixed: weights are put together in bfloat16. Raises TapirError where
    the model declares no unit.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    kinds = (torch.bfloat16, torch.float32) if mixed else (None, None)
    policy = MixedPrecisionPolicy(param_dtype=kinds[0], reduce_dtype=kinds[1])
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy}
    units = set(model._no_split_modules or ())
    layers = [part for part in model.modules() if type(part).__name__ in units]
    if not layers:
        raise TapirError(f"{type(model).__name__} does not name its layers, which fsdp shards: take trainer=ddp.")
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(module, **options)
    register_fsdp_forward_method(module, method)


def sync_gradients_on_last(module: pl.LightningModule, last: bool) -> AbstractContextManager[Any]:
    """Around the backward pass of a micro-batch: the ranks' gradients are brought together after the last one only.

    Under FSDP they are after every one: a rank that kept its own gradients till the last would need the memory for
    all of them, which is what FSDP saves.
    """
    if isinstance(module.trainer.strategy, DDPStrategy) and not last:
        return module.trainer.model.no_sync()  # type: ignore[union-attr, operator, no-any-return]
    if isinstance(module.trainer.strategy, DeepSpeedStrategy):
        module.trainer.model.set_gradient_accumulation_boundary(last)  # type: ignore[union-attr, operator]
    return nullcontext()


def clip_and_step(module: pl.LightningModule, optimizer: Any, limit: float) -> float:
    """Clip the gradient of all ranks and step; returns its norm before clipping."""
    if isinstance(module.trainer.strategy, DeepSpeedStrategy):  # whose step clips
        optimizer.step()
        return float(module.trainer.model.get_global_grad_norm())  # type: ignore[union-attr, operator]
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), limit)
    optimizer.step()
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def is_sharded(module: torch.nn.Module) -> bool:
    """Whether each rank has but a part of the weights."""
    return any(isinstance(p, DTensor) for p in module.parameters())
