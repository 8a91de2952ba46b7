"""Load a student for full fine-tuning, LoRA or QLoRA."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from tapir_exp.config import LoraConfig, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.student.loading import (
    ADAPTER_CONFIG,
    AdapterBase,
    attach_adapter,
    find_adapter,
    load_full_model,
    load_model,
    read_adapter_base,
    resolve_commit,
)

HALF_PRECISIONS = ("bf16-true", "16-true")
"""Values of trainer.precision that convert all weights to half precision."""
PEFT_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"}
"""Settings of sft.lora, and their names in a PEFT configuration."""

_replaced: dict[tuple[ModuleType, str], Any] = {}
"""What Liger replaced, by module and name."""


def load_for_training(
    parent: Path, student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig, base: AdapterBase | None = None
) -> tuple[PreTrainedModel, AdapterBase | None]:
    """Load a student with the parameters that `sft.method` trains.

    With LoRA, a parent that is an adapter is trained further on the same base. Any other parent gets a new adapter,
    which does not change its output yet.

    Args:
        parent: Directory or hub id of the student.
        student: Precision and revision of the student.
        sft: Method and shape of the adapter.
        trainer: Precision, kernels and checkpointing of the training.
        base: Base model that a new adapter names; None for `parent`.

    Returns:
        The model, and the base of its adapter, which is None for full fine-tuning.

    Raises:
        ConfigError: If the parent's adapter differs from `sft.lora`, or 4-bit weights are not available.
    """
    if sft.method is Method.full:
        trained = replace(student, precision=training_precision(student, trainer))
        return prepare_for_training(load_model(parent, trained), trainer), None
    adapter = find_adapter(parent, student)
    if adapter is None:
        # The commit makes the adapter independent of later changes to a hub branch.
        adapter_base = base or AdapterBase(str(parent), resolve_commit(parent, student.revision))
        model = _load_frozen(parent, adapter_base.revision, student, sft, trainer)
        return add_adapter(model, sft.lora), adapter_base
    _check_adapter_settings(adapter, sft.lora)
    adapter_base = read_adapter_base(adapter)
    model = _load_frozen(adapter_base.locate(adapter), adapter_base.revision, student, sft, trainer)
    return attach_adapter(model, adapter, is_trainable=True), adapter_base


def training_precision(student: StudentConfig, trainer: TrainerConfig) -> Precision:
    """Return the precision of the weights in full fine-tuning, and warn if it loses small updates.

    Mixed precision trains float32 weights. `student.precision` only sets how they are read and saved.
    """
    if trainer.precision.endswith("-mixed"):
        return Precision.float32
    if trainer.precision in HALF_PRECISIONS or student.precision is not Precision.float32:
        print_warning(
            f"All weights are trained in half precision (trainer.precision={trainer.precision}), where an update below "
            "0.2 % of a weight is lost; trainer.precision=bf16-mixed trains float32 weights."
        )
    return student.precision


def cast_to_stored(model: PreTrainedModel, student: StudentConfig) -> PreTrainedModel:
    """Cast a trained model to the precision in which it is saved."""
    stored: PreTrainedModel = model.to(getattr(torch, student.precision.value))
    return stored


def add_adapter(model: PreTrainedModel, lora: LoraConfig) -> PreTrainedModel:
    """Freeze a model and add a new adapter, which does not change its output yet.

    Raises:
        ConfigError: If a target module does not exist, is the output layer, or shares the weights of the output layer.
    """
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        adapted: Any = peft.get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError([f"sft.lora.target_modules = {lora.target_modules}: {error}"]) from error
    # The loss reads the weights of the output layer directly, so an adapter there would never be used.
    output_layers = [adapted.get_output_embeddings()]
    if model.config.tie_word_embeddings:
        output_layers.append(adapted.get_input_embeddings())
    if any(isinstance(layer, BaseTunerLayer) for layer in output_layers):
        problem = "expected neither the output layer nor embeddings that share its weights"
        raise ConfigError([f"sft.lora.target_modules = {lora.target_modules}: {problem}; remove them from the list"])
    return adapted  # type: ignore[no-any-return]


def quantization_config(student: StudentConfig) -> BitsAndBytesConfig:
    """Return the 4-bit format of QLoRA: NF4 with double quantization, computed in `student.precision`."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, student.precision.value),
    )


def check_quantization(trainer: TrainerConfig) -> None:
    """Check that QLoRA can run here.

    Raises:
        ConfigError: If bitsandbytes is missing, or there is no GPU and the CPU is not chosen explicitly.
    """
    problems = []
    if find_spec("bitsandbytes") is None:
        problems.append("sft.method = qlora: bitsandbytes is missing; pip install 'tapir-exp[qlora]', or use sft=lora")
    if not torch.cuda.is_available() and trainer.accelerator != "cpu":
        problems.append("sft.method = qlora: no GPU was found; use sft=lora, or trainer.accelerator=cpu, which is slow")
    if problems:
        raise ConfigError(problems)


def _load_frozen(
    source: Path, revision: str | None, student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig
) -> PreTrainedModel:
    """Load the base model of an adapter, in 4 bits for QLoRA."""
    if sft.method is not Method.qlora:
        return prepare_for_training(load_full_model(source, student, revision), trainer)
    from peft import prepare_model_for_kbit_training

    check_quantization(trainer)
    model = load_full_model(source, student, revision, quantization_config(student))
    prepared: PreTrainedModel = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    return prepare_for_training(prepared, trainer)


def prepare_for_training(model: PreTrainedModel, trainer: TrainerConfig) -> PreTrainedModel:
    """Apply the configured kernels and activation checkpointing, and let all embeddings be trained.

    torch gives the embedding of `padding_idx` no gradient. If the padding token is also the end of turn, as in
    SmolLM2, a token of every prompt would stay untrained. Packed rows have no padding, so none is needed.
    """
    model.get_input_embeddings().padding_idx = None  # type: ignore[assignment]
    if trainer.liger_kernels:
        _apply_liger_kernels(model)
    if trainer.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    return model


def _apply_liger_kernels(model: PreTrainedModel) -> None:
    """Use Liger's Triton kernels for norms, rotary embeddings and MLPs, but not for the loss."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance as apply
    except ImportError as error:
        raise TapirError("trainer.liger_kernels needs liger-kernel: pip install 'tapir-exp[gpu]'") from error
    modeling = sys.modules[type(model).__module__]
    before = dict(vars(modeling))
    apply(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    for name, original in before.items():
        if vars(modeling)[name] is not original:
            _replaced.setdefault((modeling, name), original)


@contextmanager
def kernel_scope() -> Iterator[None]:
    """Undo on exit what Liger replaces in transformers' modules.

    Otherwise every model that this process loads later has Liger's kernels. A process that resumes the run, or
    evaluates its student, loads models without them.
    """
    try:
        yield
    finally:
        for (modeling, name), original in _replaced.items():
            setattr(modeling, name, original)
        _replaced.clear()


def _check_adapter_settings(adapter: Path, lora: LoraConfig) -> None:
    """Raise a ConfigError that lists all differences between an adapter and `sft.lora`."""
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    actual = {name: settings.get(key) for name, key in PEFT_NAMES.items()}
    if isinstance(actual["target_modules"], list):  # PEFT saves a set, in any order
        actual["target_modules"] = sorted(actual["target_modules"])
    expected = {
        "rank": lora.rank,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "target_modules": sorted(lora.target_modules),
    }
    problems = [
        f"sft.lora.{name} = {expected[name]}: the parent adapter in {adapter} has {actual[name]}. Use that value, or "
        f"train a new adapter on the merged model that `tapir export {adapter} OUT` writes"
        for name in PEFT_NAMES
        if actual[name] != expected[name]
    ]
    if problems:
        raise ConfigError(problems)
