"""Loading of students for full fine-tuning, LoRA and QLoRA."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import hub_cache, llama_base, save_tokenizer
from transformers import AutoModelForCausalLM

from tapir_exp.config import BudgetConfig, ChatTemplate, Method, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.records import Subset, TrainingStep
from tapir_exp.core.store import digest_files, read_rows
from tapir_exp.student.loading import AdapterBase, load_model, read_adapter_base
from tapir_exp.student.training import adapter
from tapir_exp.student.training.adapter import check_quantization, load_for_training, quantization_config
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.train import TRAINING, finetune

NO_STEPS = BudgetConfig(epochs=0)
WEIGHTS = "adapter_model.safetensors"
Fit = Callable[..., None]


@pytest.fixture
def lora(sft: SFTConfig) -> SFTConfig:
    return replace(sft, method=Method.lora, lora=replace(sft.lora, rank=4, alpha=8, dropout=0.0))


@pytest.fixture
def fit(rows: list[TrainingRow], lora: SFTConfig, student: StudentConfig, trainer: TrainerConfig) -> Fit:
    """Train an adapter for two epochs, with changes to the job."""

    def run(parent: Path, workdir: Path, budget: BudgetConfig = BudgetConfig(epochs=2), **changes: Any) -> None:  # noqa: B008
        job = FitJob(parent, lora, budget, student, trainer, alpha=0.3)
        finetune(replace(job, **changes), rows, workdir)

    return run


@pytest.mark.slow
def test_finetune_adapter_parent_is_trained_further(fit: Fit, base: Path, tmp_path: Path) -> None:
    fit(base, tmp_path / "one")
    fit(tmp_path / "one", tmp_path / "idle", NO_STEPS)
    fit(tmp_path / "one", tmp_path / "two")
    files = {name: digest_files(tmp_path / name) for name in ("one", "idle", "two")}
    assert files["idle"][WEIGHTS] == files["one"][WEIGHTS] != files["two"][WEIGHTS]
    assert [read_adapter_base(tmp_path / name) for name in files] == [AdapterBase(str(base))] * 3
    histories = {name: read_rows(tmp_path / name / TRAINING, TrainingStep) for name in ("one", "two")}
    assert histories["two"][0].loss < 0.95 * histories["one"][0].loss


def test_add_adapter_keeps_the_logits(fit: Fit, base: Path, tmp_path: Path, student: StudentConfig) -> None:
    fit(base, tmp_path, NO_STEPS)
    tokens = torch.arange(20)[None]
    assert torch.equal(load_model(tmp_path, student)(tokens).logits, load_model(base, student)(tokens).logits)


def test_load_adapter_of_another_shape_lists_differences(fit: Fit, base: Path, tmp_path: Path, lora: SFTConfig) -> None:
    fit(base, tmp_path / "one", NO_STEPS)
    other = replace(lora, lora=replace(lora.lora, rank=8, target_modules=["q_proj"]))
    with pytest.raises(ConfigError) as error:
        fit(tmp_path / "one", tmp_path / "two", sft=other)
    assert len(error.value.problems) == 2
    assert "sft.lora.rank = 8" in error.value.problems[0]
    assert "has 4" in error.value.problems[0]
    assert "tapir export" in error.value.problems[1]


def test_add_adapter_unknown_target_raises(fit: Fit, base: Path, tmp_path: Path, lora: SFTConfig) -> None:
    with pytest.raises(ConfigError, match=r"sft\.lora\.target_modules = \['q_project'\]"):
        fit(base, tmp_path, sft=replace(lora, lora=replace(lora.lora, target_modules=["q_project"])))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_add_adapter_output_layer_or_tied_embeddings_raise(
    fit: Fit, base: Path, tmp_path: Path, lora: SFTConfig, target: str
) -> None:
    """The loss reads the weights directly, so an adapter would not be trained, but merging would change both layers."""
    with pytest.raises(ConfigError, match="expected neither the output layer nor"):
        fit(base, tmp_path, sft=replace(lora, lora=replace(lora.lora, target_modules=["q_proj", target])))


@pytest.mark.slow
def test_finetune_full_merges_the_adapter_of_the_parent(
    fit: Fit, base: Path, tmp_path: Path, sft: SFTConfig, student: StudentConfig
) -> None:
    fit(base, tmp_path / "one")
    fit(tmp_path / "one", tmp_path / "two", NO_STEPS, sft=sft)
    assert not (tmp_path / "two" / "adapter_config.json").exists()
    tokens = torch.arange(20)[None]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert torch.equal(whole(tokens).logits, load_model(tmp_path / "one", student)(tokens).logits)


@pytest.mark.slow
def test_adapter_of_a_hub_model_names_its_commit(fit: Fit, base: Path, tmp_path: Path, hub: Path) -> None:
    hub_cache(hub, "owner/model", base, "a" * 40)
    fit(Path("owner/model"), tmp_path / "one")
    assert read_adapter_base(tmp_path / "one") == AdapterBase("owner/model", "a" * 40)
    fit(tmp_path / "one", tmp_path / "two", NO_STEPS)
    assert read_adapter_base(tmp_path / "two") == AdapterBase("owner/model", "a" * 40)


def test_finetune_trains_an_end_of_turn_that_is_padding_too(tmp_path: Path, trainer: TrainerConfig) -> None:
    parent = llama_base(tmp_path / "base")
    save_tokenizer(parent, "<s>", "</s>", [], pad="</s>")
    config = json.loads((parent / "config.json").read_text())
    (parent / "config.json").write_text(json.dumps(config | {"pad_token_id": 1}))
    student = StudentConfig(model="x", chat_template=ChatTemplate.tokenizer, max_length=128)
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    (parent / "chat_template.jinja").write_text(template)
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=2)
    rows = [TrainingRow("Say some", "words", Subset.REST), TrainingRow("Say", "some words and more", Subset.REST)]
    finetune(FitJob(parent, sft, BudgetConfig(epochs=2), student, trainer), rows, tmp_path / "out")
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).get_input_embeddings().weight for path in (parent, tmp_path / "out")
    )
    assert not torch.equal(before[1], after[1])


@pytest.mark.slow
def test_liger_kernels_end_with_the_fit(
    fit: Fit, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    from transformers.models.llama import modeling_llama

    original, calls = modeling_llama.apply_rotary_pos_emb, 0

    def rotate(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments, **options)

    def apply(model: Any, **_: bool) -> None:
        modeling_llama.apply_rotary_pos_emb = rotate

    package = ModuleType("liger_kernel.transformers")
    package._apply_liger_kernel_to_instance = apply  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    fit(base, tmp_path, trainer=replace(trainer, liger_kernels=True))
    assert calls
    assert modeling_llama.apply_rotary_pos_emb is original


def test_load_missing_liger_kernels_names_the_extra(base: Path, student: StudentConfig, lora: SFTConfig) -> None:
    trainer = TrainerConfig(accelerator="cpu", liger_kernels=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "liger_kernel", None)
        for method in (Method.full, Method.lora):
            with pytest.raises(TapirError, match=r"tapir-exp\[gpu\]"):
                load_for_training(base, student, replace(lora, method=method), trainer)


def test_quantization_config_is_nf4_with_double_quantization(student: StudentConfig) -> None:
    config = quantization_config(replace(student, precision=student.precision.bfloat16))
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype is torch.bfloat16
    assert config.llm_int8_skip_modules is None  # transformers leaves the output layer as it is


def test_check_quantization_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as error:
        check_quantization(TrainerConfig())
    assert "pip install 'tapir-exp[qlora]'" in error.value.problems[0]
    assert "no GPU" in error.value.problems[1]
    assert "sft=lora" in error.value.problems[1]
    monkeypatch.setattr(adapter, "find_spec", lambda name: object())
    check_quantization(TrainerConfig(accelerator="cpu"))
    with pytest.raises(ConfigError, match="no GPU"):
        check_quantization(TrainerConfig())


def test_load_for_training_qlora_freezes_the_base(
    base: Path, student: StudentConfig, lora: SFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace bitsandbytes: weights that it would quantize are bfloat16 here."""
    configs: list[Any] = []

    def load_quantized(source: Path, config: StudentConfig, revision: str | None, bits: Any) -> Any:
        configs.append(bits)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
        model.is_loaded_in_4bit = True
        return model

    monkeypatch.setattr(adapter, "find_spec", lambda name: object())
    monkeypatch.setattr(adapter, "load_full_model", load_quantized)
    qlora = replace(lora, method=Method.qlora)
    model, adapter_base = load_for_training(base, student, qlora, TrainerConfig(accelerator="cpu"))
    assert [bits.bnb_4bit_quant_type for bits in configs] == ["nf4"]
    assert adapter_base == AdapterBase(str(base))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name} != set()
    assert {p.dtype for name, p in model.named_parameters() if "norm" in name} == {torch.float32}
    assert not getattr(model, "is_gradient_checkpointing", False)
