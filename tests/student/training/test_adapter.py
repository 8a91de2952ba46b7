"""What is trained: the adapter that goes on, the base that stays as it is, and 4 bits."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama_base, save_tokenizer
from transformers import AutoModelForCausalLM

from tapir_exp.config import BudgetConfig, ChatTemplate, Method, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.records import Subset, TrainingStep
from tapir_exp.core.store import digest_files, read_rows
from tapir_exp.student.loading import AdapterBase, load_model, read_adapter_base
from tapir_exp.student.training import adapter
from tapir_exp.student.training.adapter import check_quantization, load_for_training, quantization_config
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.train import TRAINING, finetune

NOTHING = BudgetConfig(epochs=0)
WEIGHTS = "adapter_model.safetensors"
Fit = Callable[..., None]


@pytest.fixture
def lora(sft: SFTConfig) -> SFTConfig:
    return replace(sft, method=Method.lora, lora=replace(sft.lora, rank=4, alpha=8, dropout=0.0))


@pytest.fixture
def fit(rows: list[TrainingRow], lora: SFTConfig, student: StudentConfig, trainer: TrainerConfig) -> Fit:
    """One fit of an adapter, two epochs long."""

    def run(parent: Path, workdir: Path, budget: BudgetConfig = BudgetConfig(epochs=2), **changes: Any) -> None:  # noqa: B008
        sft, base = changes.pop("sft", lora), changes.pop("base", None)
        finetune(parent, rows, 0.3, sft, budget, replace(student, **changes), trainer, 0, workdir, "fit", base)

    return run


def test_the_next_fit_starts_from_the_adapter_of_the_last(fit: Fit, base: Path, tmp_path: Path) -> None:
    fit(base, tmp_path / "one")
    fit(tmp_path / "one", tmp_path / "idle", NOTHING)
    fit(tmp_path / "one", tmp_path / "two")
    files = {name: digest_files(tmp_path / name) for name in ("one", "idle", "two")}
    assert files["idle"][WEIGHTS] == files["one"][WEIGHTS] != files["two"][WEIGHTS]
    assert [read_adapter_base(tmp_path / name) for name in files] == [AdapterBase(str(base))] * 3
    ends = {name: read_rows(tmp_path / name / TRAINING, TrainingStep) for name in ("one", "two")}
    assert ends["two"][0].loss < 0.9 * ends["one"][0].loss


def test_a_new_adapter_changes_nothing_yet(fit: Fit, base: Path, tmp_path: Path, student: StudentConfig) -> None:
    fit(base, tmp_path, NOTHING)
    tokens = torch.arange(20)[None]
    assert torch.equal(load_model(tmp_path, student)(tokens).logits, load_model(base, student)(tokens).logits)


def test_an_adapter_of_another_shape_is_refused_with_every_difference(
    fit: Fit, base: Path, tmp_path: Path, lora: SFTConfig
) -> None:
    fit(base, tmp_path / "one", NOTHING)
    other = replace(lora, lora=replace(lora.lora, rank=8, targets=["q_proj"]))
    with pytest.raises(ConfigError) as refused:
        fit(tmp_path / "one", tmp_path / "two", sft=other)
    assert len(refused.value.problems) == 2
    assert "sft.lora.rank = 8" in refused.value.problems[0]
    assert "has 4" in refused.value.problems[0]
    assert "tapir-export" in refused.value.problems[1]


def test_a_target_that_is_not_there_is_refused(fit: Fit, base: Path, tmp_path: Path, lora: SFTConfig) -> None:
    with pytest.raises(ConfigError, match=r"sft\.lora\.targets = \['q_project'\]"):
        fit(base, tmp_path, sft=replace(lora, lora=replace(lora.lora, targets=["q_project"])))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_the_output_layer_and_what_shares_its_weights_have_no_adapter(
    fit: Fit, base: Path, tmp_path: Path, lora: SFTConfig, target: str
) -> None:
    """The loss reads the layer's weights, so an adapter would not be trained; merging would change both places."""
    with pytest.raises(ConfigError, match="expected no output layer"):
        fit(base, tmp_path, sft=replace(lora, lora=replace(lora.lora, targets=["q_proj", target])))


def test_all_of_a_student_with_an_adapter_is_trained_merged(
    fit: Fit, base: Path, tmp_path: Path, sft: SFTConfig, student: StudentConfig
) -> None:
    fit(base, tmp_path / "one")
    fit(tmp_path / "one", tmp_path / "two", NOTHING, sft=sft)
    assert not (tmp_path / "two" / "adapter_config.json").exists()
    tokens = torch.arange(20)[None]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert torch.equal(whole(tokens).logits, load_model(tmp_path / "one", student)(tokens).logits)


def test_a_hub_model_is_pinned_to_the_commit_that_was_trained(
    fit: Fit, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants
    from test_load import hub_cache

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_cache(tmp_path / "hub", "owner/model", base, "a" * 40)
    fit(Path("owner/model"), tmp_path / "one")
    assert read_adapter_base(tmp_path / "one") == AdapterBase("owner/model", "a" * 40)
    fit(tmp_path / "one", tmp_path / "two", NOTHING)
    assert read_adapter_base(tmp_path / "two") == AdapterBase("owner/model", "a" * 40)


def test_the_end_of_turn_is_trained_where_it_is_also_the_padding(tmp_path: Path, trainer: TrainerConfig) -> None:
    parent = llama_base(tmp_path / "base")
    save_tokenizer(parent, "<s>", "</s>", [], pad="</s>")
    config = json.loads((parent / "config.json").read_text())
    (parent / "config.json").write_text(json.dumps(config | {"pad_token_id": 1}))
    student = StudentConfig(model="x", chat_template=ChatTemplate.tokenizer, max_length=128)
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    (parent / "chat_template.jinja").write_text(template)
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=2)
    rows = [TrainingRow("Say some", "words", Subset.REST), TrainingRow("Say", "some words and more", Subset.REST)]
    finetune(parent, rows, None, sft, BudgetConfig(epochs=2), student, trainer, 0, tmp_path / "out", "fit")
    before, after = (
        AutoModelForCausalLM.from_pretrained(place).get_input_embeddings().weight
        for place in (parent, tmp_path / "out")
    )
    assert not torch.equal(before[1], after[1])


def test_kernels_that_are_not_installed_are_told(base: Path, student: StudentConfig, lora: SFTConfig) -> None:
    trainer = TrainerConfig(accelerator="cpu", liger_kernels=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "liger_kernel", None)
        for method in (Method.full, Method.lora):
            with pytest.raises(TapirError, match=r"tapir-exp\[gpu\]"):
                load_for_training(base, student, replace(lora, method=method), trainer)


def test_four_bits_are_those_of_qlora(student: StudentConfig) -> None:
    asked = quantization_config(replace(student, precision=student.precision.bfloat16))
    assert (asked.load_in_4bit, asked.bnb_4bit_quant_type, asked.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert asked.bnb_4bit_compute_dtype is torch.bfloat16
    assert asked.llm_int8_skip_modules is None  # transformers leaves the output layer as it is


def test_what_qlora_lacks_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as refused:
        check_quantization(TrainerConfig())
    assert "pip install 'tapir-exp[qlora]'" in refused.value.problems[0]
    assert "no GPU" in refused.value.problems[1]
    assert "sft=lora" in refused.value.problems[1]
    monkeypatch.setattr(adapter, "find_spec", lambda name: object())
    check_quantization(TrainerConfig(accelerator="cpu"))
    with pytest.raises(ConfigError, match="no GPU"):
        check_quantization(TrainerConfig())


def test_a_base_in_few_bits_is_prepared_and_frozen(
    base: Path, student: StudentConfig, lora: SFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without bitsandbytes: what it would have quantised stands in bfloat16 here."""
    asked: list[Any] = []

    def quantised(source: Path, config: StudentConfig, revision: str | None, bits: Any) -> Any:
        asked.append(bits)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
        model.is_loaded_in_4bit = True
        return model

    monkeypatch.setattr(adapter, "find_spec", lambda name: object())
    monkeypatch.setattr(adapter, "load_full_model", quantised)
    qlora = replace(lora, method=Method.qlora)
    model, over = load_for_training(base, student, qlora, TrainerConfig(accelerator="cpu"))
    assert [bits.bnb_4bit_quant_type for bits in asked] == ["nf4"]
    assert over == AdapterBase(str(base))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name} != set()
    assert {p.dtype for name, p in model.named_parameters() if "norm" in name} == {torch.float32}
    assert not getattr(model, "is_gradient_checkpointing", False)
