"""Loading models from elsewhere: what is read, and what never runs."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import hub_cache
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.loading import AdapterBase, attach_adapter, find_adapter, load_model, read_adapter_base

Weights = dict[str, torch.Tensor]


class Trap:
    """An object that creates a directory when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def pickled(base: Path, tmp_path: Path) -> Path:
    """Return a copy of the base with its weights as a pickle only."""
    directory = tmp_path / "pickled"
    directory.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(base / "model.safetensors"), directory / "pytorch_model.bin")
    return directory


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """Return an adapter over the base that PEFT saved, with its tokenizer."""
    directory = tmp_path / "adapter"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(directory))
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(torch.arange(20)[None]).logits
    return result


def test_pickle_error_names_the_setting_that_allows_it(pickled: Path, student: StudentConfig) -> None:
    with pytest.raises(ConfigError, match=r"student\.allow_pickle = False.*no safetensors"):
        load_model(pickled, student)


def test_allowed_pickle_is_loaded(pickled: Path, base: Path, student: StudentConfig) -> None:
    read = load_model(pickled, replace(student, allow_pickle=True))
    assert torch.equal(logits(read), logits(load_model(base, student)))


@pytest.mark.parametrize("allowed", [False, True])
def test_code_in_a_pickle_never_runs(pickled: Path, tmp_path: Path, student: StudentConfig, allowed: bool) -> None:
    torch.save({"model.norm.weight": Trap(tmp_path / "triggered")}, pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="hold more than tensors" if allowed else "allow_pickle = False"):
        load_model(pickled, replace(student, allow_pickle=allowed))
    assert not (tmp_path / "triggered").exists()
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "triggered").exists()  # the trap works


def test_safetensors_take_precedence_over_a_pickle(
    pickled: Path, base: Path, tmp_path: Path, student: StudentConfig
) -> None:
    (pickled / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    torch.save({"model.norm.weight": Trap(tmp_path / "triggered")}, pickled / "pytorch_model.bin")
    read = load_model(pickled, replace(student, allow_pickle=True))
    assert torch.equal(logits(read), logits(load_model(base, student)))
    assert not (tmp_path / "triggered").exists()


@pytest.mark.parametrize("allowed", [False, True])
def test_code_in_a_pickled_adapter_never_runs(
    adapter: Path, tmp_path: Path, student: StudentConfig, allowed: bool
) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "triggered")}, adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match="more than tensors" if allowed else "student.allow_pickle = False"):
        load_model(adapter, replace(student, allow_pickle=allowed))
    assert not (tmp_path / "triggered").exists()


def add_custom_code(directory: Path, mark: Path) -> None:
    """Make a model need custom code, which creates a directory when it is imported."""
    (directory / "custom.py").write_text(
        f"import os; os.makedirs({str(mark)!r}, exist_ok=True)\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class CustomConfig(LlamaConfig):\n    model_type = 'custom'\n"
        "class CustomModel(LlamaForCausalLM):\n    config_class = CustomConfig\n"
        "class CustomTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "custom", "architectures": ["CustomModel"]}
    config["auto_map"] = {"AutoConfig": "custom.CustomConfig", "AutoModelForCausalLM": "custom.CustomModel"}
    (directory / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "CustomTokenizer", "auto_map": {"AutoTokenizer": [None, "custom.CustomTokenizer"]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("load", [load_model, load_chat])
def test_remote_code_runs_only_if_allowed(
    pickled: Path,
    base: Path,
    tmp_path: Path,
    student: StudentConfig,
    load: Callable[[Path, StudentConfig], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (pickled / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    add_custom_code(pickled, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"set student\.trust_remote_code=true"):
        load(pickled, student)
    assert not (tmp_path / "run").exists()
    load(pickled, replace(student, trust_remote_code=True))
    assert (tmp_path / "run").exists()  # the code works


def test_external_adapter_is_merged(adapter: Path, student: StudentConfig) -> None:
    merged, plain = load_model(adapter, student), peft.AutoPeftModelForCausalLM.from_pretrained(str(adapter))
    assert type(merged).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(merged), logits(plain.eval()), rtol=0, atol=1e-5)


def test_adapter_of_a_hub_model_sends_nothing_to_the_hub(
    adapter: Path, base: Path, student: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "owner/model"}))
    asked: list[str] = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *names: asked.append(names[0]))
    attach_adapter(load_model(base, student), adapter)
    assert asked == []


def test_base_is_located_by_relative_path_or_name(adapter: Path, base: Path, tmp_path: Path) -> None:
    assert read_adapter_base(adapter).locate(adapter) == base
    relative = AdapterBase(os.path.relpath(base, adapter))
    assert relative.locate(adapter).resolve() == base.resolve()
    assert AdapterBase("owner/model", "abc").locate(adapter) == Path("owner/model")


def test_missing_base_is_named(adapter: Path, student: StudentConfig) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "../../missing/k"}))
    with pytest.raises(ConfigError, match=r"\.\./\.\./missing/k"):
        load_model(adapter, student)


def test_missing_model_is_named(tmp_path: Path, student: StudentConfig) -> None:
    for load in (load_model, load_chat):
        with pytest.raises(ConfigError, match="nowhere"):
            load(tmp_path / "nowhere", student)


def test_hub_model_is_loaded_at_its_revision(hub: Path, base: Path, pickled: Path, student: StudentConfig) -> None:
    hub_cache(hub, "owner/model", base, "a" * 40)
    assert torch.equal(logits(load_model(Path("owner/model"), student)), logits(load_model(base, student)))
    hub_cache(hub, "owner/model", pickled, "b" * 40)
    assert load_model(Path("owner/model"), replace(student, revision="a" * 40)).num_parameters()
    with pytest.raises(ConfigError, match="allow_pickle"):
        load_model(Path("owner/model"), student)


def test_hub_adapter_is_loaded_over_its_base(hub: Path, base: Path, adapter: Path, student: StudentConfig) -> None:
    hub_cache(hub, "owner/adapter", adapter, "a" * 40)
    directory = find_adapter(Path("owner/adapter"), student)
    assert directory
    assert directory.name == "a" * 40
    assert torch.equal(logits(load_model(Path("owner/adapter"), student)), logits(load_model(adapter, student)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type 'PROMPT_TUNING'; expected LORA"),
        ({"megatron_config": {}, "megatron_core": "planted"}, "names code to import"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"r": 64}, "cannot be loaded"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_odd_adapter_is_one_sentence(
    adapter: Path, student: StudentConfig, changes: dict[str, object], words: str
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(ConfigError, match=words) as caught:
        load_model(adapter, student)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_adapter_that_is_cut_off_is_one_sentence(adapter: Path, student: StudentConfig, name: str) -> None:
    (adapter / name).write_bytes((adapter / name).read_bytes()[:-9])
    with pytest.raises(ConfigError, match=f"{name}.*copy or download it again"):
        load_model(adapter, student)


def test_adapter_with_a_missing_part_is_refused(adapter: Path, student: StudentConfig) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="missing adapter keys"):
        load_model(adapter, student)


def test_adapter_with_a_nan_is_refused(adapter: Path, student: StudentConfig) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=f"{adapter} holds NaN or infinity in {name}"):
        load_model(adapter, student)
