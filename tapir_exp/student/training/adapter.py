"""What is trained: all of a student, or a low-rank adapter over its base, which may be in 4 bits."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
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
    load_model,
    load_full_model,
    read_adapter_base,
    resolve_commit,
)

HALF_PRECISIONS = ("bf16-true", "16-true")
"""Of trainer.precision, what makes every weight a half."""
PEFT_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "targets": "target_modules"}
"""The settings of sft.lora and what peft calls them."""


def load_for_training(
    parent: Path, student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig, base: AdapterBase | None = None
) -> tuple[PreTrainedModel, AdapterBase | None]:
    """The student in `parent`, a directory or hub id, ready to be trained, and the base of its adapter if it has one.

    A student that is an adapter goes on from it, over the same base; any other gets a new one, which changes nothing
    yet. `base` is how a new adapter shall name its base; None names it as `parent` is given.
    Raises ConfigError where the adapter has another shape than sft.lora, or 4 bits cannot be had here.
    """
    if sft.method is Method.full:
        trained = replace(student, precision=training_precision(student, trainer))
        return prepare_for_training(load_model(parent, trained), trainer), None
    adapter = find_adapter(parent, student)
    if adapter is None:
        over = base or AdapterBase(str(parent), resolve_commit(parent, student.revision))
        model = _load_frozen(parent, over.revision, student, sft, trainer)
        return add_adapter(model, sft.lora), over
    _check_adapter_settings(adapter, sft.lora)
    over = read_adapter_base(adapter)
    model = _load_frozen(over.locate(adapter), over.revision, student, sft, trainer)
    return attach_adapter(model, adapter, is_trainable=True), over


def training_precision(student: StudentConfig, trainer: TrainerConfig) -> Precision:
    """In what the weights are kept while all of them are trained; says so where that loses updates.

    Mixed precision has float32 weights, whatever student.precision they are read and saved in.
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
    """The trained model in the precision in which it is saved."""
    stored: PreTrainedModel = model.to(getattr(torch, student.precision.value))
    return stored


def add_adapter(model: PreTrainedModel, lora: LoraConfig) -> PreTrainedModel:
    """The model frozen, with an adapter over it that does nothing yet.

    Raises ConfigError where a target is not there, or is the output layer or an embedding that has its weights.
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
    tables = [adapted.get_output_embeddings()]
    if model.config.tie_word_embeddings:
        tables.append(adapted.get_input_embeddings())
    if any(isinstance(table, BaseTunerLayer) for table in tables):
        raise ConfigError(
            [
                f"sft.lora.target_modules = {lora.target_modules}: expected no output layer, since the loss reads its weights alone"
            ]
        )
    return adapted  # type: ignore[no-any-return]


def quantization_config(student: StudentConfig) -> BitsAndBytesConfig:
    """QLoRA's 4 bits: NF4, its scales quantised too, computing in student.precision."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, student.precision.value),
    )


def check_quantization(trainer: TrainerConfig) -> None:
    """Raises ConfigError where bitsandbytes or a GPU is missing, unless the CPU is asked for by name."""
    problems = []
    if find_spec("bitsandbytes") is None:
        problems.append("sft.method = qlora: bitsandbytes is missing; pip install 'tapir-exp[qlora]', or take sft=lora")
    if not torch.cuda.is_available() and trainer.accelerator != "cpu":
        problems.append(
            "sft.method = qlora: no GPU is here; take sft=lora, or trainer.accelerator=cpu, where it is slow"
        )
    if problems:
        raise ConfigError(problems)


def _load_frozen(
    source: Path, revision: str | None, student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig
) -> PreTrainedModel:
    """The base, of which nothing will be trained."""
    if sft.method is not Method.qlora:
        return prepare_for_training(load_full_model(source, student, revision), trainer)
    from peft import prepare_model_for_kbit_training

    check_quantization(trainer)
    model = load_full_model(source, student, revision, quantization_config(student))
    prepared: PreTrainedModel = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    return prepare_for_training(prepared, trainer)


def prepare_for_training(model: PreTrainedModel, trainer: TrainerConfig) -> PreTrainedModel:
    """The model with the kernels and the checkpointing that are asked for, and every embedding trained alike.

    torch gives the padding token's embedding no gradient; where padding is the end of turn, as in SmolLM2, that would
    be a token that every prompt has. Of real padding there is none, since rows are packed.
    """
    model.get_input_embeddings().padding_idx = None  # type: ignore[assignment]
    if trainer.liger_kernels:
        _apply_liger_kernels(model)
    if trainer.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    return model


def _apply_liger_kernels(model: PreTrainedModel) -> None:
    """Let Triton kernels compute norms, rotations and MLPs; the loss stays ours."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance as apply
    except ImportError as error:
        raise TapirError("trainer.liger_kernels needs liger-kernel: pip install 'tapir-exp[gpu]'") from error
    apply(model=model, cross_entropy=False, fused_linear_cross_entropy=False)


def _check_adapter_settings(adapter: Path, lora: LoraConfig) -> None:
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    has = {name: settings.get(key) for name, key in PEFT_NAMES.items()}
    if isinstance(has["targets"], list):
        has["targets"] = sorted(has["targets"])
    wanted = {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout, "targets": sorted(lora.target_modules)}
    problems = [
        f"sft.lora.{name} = {wanted[name]}: the adapter in {adapter}, from which the fit goes on, has {has[name]}; "
        f"set that, or begin a new adapter over what `tapir-export {adapter} OUT` writes"
        for name in PEFT_NAMES
        if has[name] != wanted[name]
    ]
    if problems:
        raise ConfigError(problems)
