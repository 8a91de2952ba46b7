"""Opening models of others: what is read, and what is never run."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny import hub_cache
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.loading import AdapterBase, find_adapter, load_model, read_adapter_base

Weights = dict[str, torch.Tensor]


class Trap:
    """An object whose unpickling makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def pickled(base: Path, tmp_path: Path) -> Path:
    """The base with its weights as a pickle only."""
    directory = tmp_path / "pickled"
    directory.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(base / "model.safetensors"), directory / "pytorch_model.bin")
    return directory


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A foreign adapter over the base, its tokenizer beside it."""
    directory = tmp_path / "adapter"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(directory))
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(20)[None]).logits
    return found


def test_pickles_are_refused_by_the_setting_that_would_allow_them(pickled: Path, student: StudentConfig) -> None:
    with pytest.raises(ConfigError, match=r"student\.allow_pickle = False.*no safetensors"):
        load_model(pickled, student)


def test_allowed_pickles_are_read(pickled: Path, base: Path, student: StudentConfig) -> None:
    read = load_model(pickled, replace(student, allow_pickle=True))
    assert torch.equal(logits(read), logits(load_model(base, student)))


@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickle_with_code_is_not_run(pickled: Path, tmp_path: Path, student: StudentConfig, allowed: bool) -> None:
    torch.save({"model.norm.weight": Trap(tmp_path / "sprung")}, pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="hold more than tensors" if allowed else "allow_pickle = False"):
        load_model(pickled, replace(student, allow_pickle=allowed))
    assert not (tmp_path / "sprung").exists()
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap is a real one


def test_safetensors_come_before_a_pickle(pickled: Path, base: Path, tmp_path: Path, student: StudentConfig) -> None:
    (pickled / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    torch.save({"model.norm.weight": Trap(tmp_path / "sprung")}, pickled / "pytorch_model.bin")
    read = load_model(pickled, replace(student, allow_pickle=True))
    assert torch.equal(logits(read), logits(load_model(base, student)))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickled_adapter_is_not_run(adapter: Path, tmp_path: Path, student: StudentConfig, allowed: bool) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "sprung")}, adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match="more than tensors" if allowed else "student.allow_pickle = False"):
        load_model(adapter, replace(student, allow_pickle=allowed))
    assert not (tmp_path / "sprung").exists()


def give_code(directory: Path, mark: Path) -> None:
    """Let a model need code of its own, which leaves a mark when it is imported."""
    (directory / "own.py").write_text(
        f"import os; os.makedirs({str(mark)!r}, exist_ok=True)\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (directory / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("opened", [load_model, load_chat])
def test_code_of_a_model_is_run_only_where_that_is_allowed(
    pickled: Path,
    base: Path,
    tmp_path: Path,
    student: StudentConfig,
    opened: Callable[[Path, StudentConfig], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (pickled / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    give_code(pickled, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"set student\.trust_remote_code=true"):
        opened(pickled, student)
    assert not (tmp_path / "run").exists()
    opened(pickled, replace(student, trust_remote_code=True))
    assert (tmp_path / "run").exists()  # the code is one that would run


def test_an_adapter_of_others_comes_merged(adapter: Path, student: StudentConfig) -> None:
    merged, plain = load_model(adapter, student), peft.AutoPeftModelForCausalLM.from_pretrained(str(adapter))
    assert type(merged).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(merged), logits(plain.eval()), rtol=0, atol=1e-5)


def test_a_base_is_found_beside_the_adapter_or_by_its_name(adapter: Path, base: Path, tmp_path: Path) -> None:
    assert read_adapter_base(adapter).locate(adapter) == base
    beside = AdapterBase(os.path.relpath(base, adapter))
    assert beside.locate(adapter).resolve() == base.resolve()
    assert AdapterBase("owner/model", "abc").locate(adapter) == Path("owner/model")


def test_a_base_that_is_gone_is_named(adapter: Path, student: StudentConfig) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "../../gone/k"}))
    with pytest.raises(ConfigError, match=r"\.\./\.\./gone/k"):
        load_model(adapter, student)


def test_what_is_not_there_is_named(tmp_path: Path, student: StudentConfig) -> None:
    for opened in (load_model, load_chat):
        with pytest.raises(ConfigError, match="nowhere"):
            opened(tmp_path / "nowhere", student)


def test_a_model_of_the_hub_is_opened_at_its_revision(
    hub: Path, base: Path, pickled: Path, student: StudentConfig
) -> None:
    hub_cache(hub, "owner/model", base, "a" * 40)
    assert torch.equal(logits(load_model(Path("owner/model"), student)), logits(load_model(base, student)))
    hub_cache(hub, "owner/model", pickled, "b" * 40)
    assert load_model(Path("owner/model"), replace(student, revision="a" * 40)).num_parameters()
    with pytest.raises(ConfigError, match="allow_pickle"):
        load_model(Path("owner/model"), student)


def test_an_adapter_of_the_hub_is_opened_over_its_base(
    hub: Path, base: Path, adapter: Path, student: StudentConfig
) -> None:
    hub_cache(hub, "owner/adapter", adapter, "a" * 40)
    found = find_adapter(Path("owner/adapter"), student)
    assert found
    assert found.name == "a" * 40
    assert torch.equal(logits(load_model(Path("owner/adapter"), student)), logits(load_model(adapter, student)))
