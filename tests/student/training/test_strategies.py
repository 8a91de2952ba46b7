"""Lightning strategies and cluster environments."""

from dataclasses import replace

import pytest

from tapir_exp.config import Launcher, StrategyName, TrainerConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.student.training.strategies import build_strategy, cluster_environments


def test_cluster_environments_follow_the_launcher() -> None:
    (single,), (elastic,) = cluster_environments(TrainerConfig()), cluster_environments(TrainerConfig(devices=2))
    (slurm,) = cluster_environments(TrainerConfig(devices=2, launcher=Launcher.srun))
    names = [type(environment).__name__ for environment in (single, elastic, slurm)]
    assert names == ["LightningEnvironment", "TorchElasticEnvironment", "SLURMEnvironment"]
    assert slurm.auto_requeue is False


def test_build_strategy_missing_deepspeed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_exp.student.training.strategies.find_spec", lambda name: None)
    deepspeed = TrainerConfig(devices=2, strategy=StrategyName.deepspeed)
    with pytest.raises(TapirError, match=r"pip install 'tapir-exp\[deepspeed\]'"):
        build_strategy(deepspeed, 1.0)
    assert build_strategy(replace(deepspeed, devices=1, strategy=StrategyName.auto), 1.0) == "auto"
