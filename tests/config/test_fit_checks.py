"""Settings of fits that have no meaning together."""

from collections.abc import Callable

import pytest

from tapir_exp.config import Config
from tapir_exp.core.errors import ConfigError

Compose = Callable[..., Config]
PLAIN = ["sft.lr_schedule=restart", "sft.optimizer_state=new"]
AVERAGE = ["sft.judged_student=average", "sft.average_checkpoints=3"]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["sft.round_start=base", "sft.optimizer_state=carried"], "sft.optimizer_state"),
        (["sft.round_start=s0", "sft.optimizer_state=carried"], "sft.optimizer_state"),
        (["sft.round_start=base", "sft.lr_schedule=one"], "sft.lr_schedule"),
        (["sft.round_start=s0", "sft.lr_schedule=falling"], "sft.lr_schedule"),
        (["sft.judged_student=annealed"], "sft.judged_student"),
        (["sft.judged_student=annealed", "sft.lr_schedule=falling"], "sft.judged_student"),
        (["sft.judged_student=average"], "sft.average_checkpoints"),
        (["sft.average_checkpoints=3"], "sft.average_checkpoints"),
        (["sft.judged_student=annealed", "sft.lr_schedule=wsd", *AVERAGE[1:]], "sft.average_checkpoints"),
        (["sft.optimizer_state=carried", "trainer.strategy=deepspeed"], "sft.optimizer_state"),
        ([*AVERAGE, "trainer.strategy=deepspeed"], "sft.judged_student"),
        (["sft.average_checkpoints=0"], "sft.average_checkpoints"),
        (["sft.beta2=1"], "sft.beta2"),
        (["sft.anneal_ratio=1.5"], "sft.anneal_ratio"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_parse_rejects_settings_without_meaning(compose_config: Compose, overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config(*PLAIN, *overrides)
    assert [problem.partition(" = ")[0] for problem in error.value.problems] == [key]


@pytest.mark.parametrize(
    "overrides",
    [
        ["sft.lr_schedule=one", "sft.optimizer_state=carried", *AVERAGE, "trainer.devices=2"],
        ["sft.lr_schedule=wsd", "sft.judged_student=annealed", "sft.optimizer_state=carried"],
        ["sft.lr_schedule=one", "curriculum.rounds_mode=merged", "sft.optimizer_state=carried"],
        ["sft.round_start=base", *AVERAGE, "trainer.strategy=fsdp", "trainer.devices=2"],
    ],
    ids=lambda value: ",".join(value),
)
def test_parse_accepts_settings_that_go_together(compose_config: Compose, overrides: list[str]) -> None:
    compose_config(*PLAIN, *overrides)
