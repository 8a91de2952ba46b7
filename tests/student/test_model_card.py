"""What a student's directory says of its origin, to people and to programs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_exp.config import BudgetConfig, ChatTemplate, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.student.model_card import (
    CARD,
    PROVENANCE,
    ModelLocation,
    ModelRef,
    Provenance,
    TrainingData,
    reproducible_figures,
    render_model_card,
    describe_settings,
    write_provenance,
)

LLAMA = StudentConfig(model="meta-llama/Llama-2-7b-hf", chat_template=ChatTemplate.llama2, precision=Precision.bfloat16)
LORA = SFTConfig(method=Method.lora)
FIGURES = {
    "steps": 10,
    "tokens": 1000,
    "supervised_tokens": 300,
    "rows": 40,
    "truncated": 2,
    "dropped": 0,
    "final_loss": 0.5,
    "tokens_per_second": 123.0,
}
HUB = ModelRef(place=ModelLocation.HUB, name=LLAMA.model, revision="abc")


def provenance(**changes: Any) -> Provenance:
    known: dict[str, Any] = {
        "artifact": "student/0123",
        "base": HUB,
        "parent": ModelRef(place=ModelLocation.STORE, name="student/4567"),
        "data": TrainingData(artifact="mix/89ab", sha256="f" * 64),
        "method": Method.lora,
        "alpha": 0.3,
        "seed": 0,
        "precision": Precision.bfloat16,
        "settings": describe_settings(LLAMA, TrainerConfig(), LORA, BudgetConfig(epochs=3), 0.3),
        "figures": reproducible_figures(FIGURES),
    }
    return Provenance(**(known | changes))


def head(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_provenance(tmp_path, provenance())
    assert Provenance.load(tmp_path) == provenance()
    assert Provenance.load(tmp_path / "elsewhere") is None


def test_its_bytes_depend_on_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_provenance(tmp_path / name, provenance())
    for file in (PROVENANCE, CARD):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert str(tmp_path) not in (tmp_path / "one" / file).read_text()
    assert "tokens_per_second" not in provenance().figures


@pytest.mark.parametrize(
    ("changes", "library", "relation"),
    [
        ({}, "peft", "adapter"),
        ({"method": Method.qlora}, "peft", "adapter"),
        ({"merged_as": "bfloat16"}, "transformers", "finetune"),
        ({"method": Method.full}, "transformers", "finetune"),
    ],
)
def test_the_head_is_what_the_hub_reads(changes: dict[str, Any], library: str, relation: str) -> None:
    read = head(render_model_card(provenance(**changes), None))
    assert (read["library_name"], read["base_model"], read["base_model_relation"]) == (library, LLAMA.model, relation)
    assert read["pipeline_tag"] == "text-generation"
    assert "tapir" in read["tags"]
    assert "license" not in read  # it is the base's


@pytest.mark.parametrize("place", [ModelLocation.STORE, ModelLocation.DIRECTORY])
def test_a_base_that_is_not_on_the_hub_is_no_link(place: ModelLocation) -> None:
    assert "base_model" not in head(
        render_model_card(provenance(base=ModelRef(place=place, name="models/llama")), None)
    )


def test_the_card_tells_data_method_and_figures() -> None:
    card = render_model_card(provenance(), "tapir experiment=llama2_7b_paper sft=lora")
    for told in ("mix/89ab", "f" * 64, "40 rows", "300", "0.5000", "2 rows were cut", "student/4567", "`abc`"):
        assert told in card
    assert "| learning rate | 2e-05 | ours | not confirmed by the paper; neighbouring recipes have 2e-5 |" in card
    assert "$ tapir experiment=llama2_7b_paper sft=lora" in card
    assert "$ tapir" not in render_model_card(provenance(), None)
    assert "AutoPeftModelForCausalLM" in card
    assert "AutoPeft" not in render_model_card(provenance(merged_as="float32"), None)


def test_only_what_a_primary_source_confirms_is_the_papers() -> None:
    whose = {setting.name: setting.whose for setting in provenance().settings}
    assert {name for name, of in whose.items() if of == "paper"} == {"student", "chat template"}
    lab = describe_settings(StudentConfig(model="lab"), TrainerConfig(), SFTConfig(), BudgetConfig(max_tokens=7), None)
    assert {setting.whose for setting in lab} == {"ours"}
    assert "α" in whose
    assert {"α", "adapter"} & {setting.name for setting in lab} == set()
    qwen = replace(LLAMA, model="Qwen/Qwen1.5-0.5B-Chat", chat_template=ChatTemplate.chatml)
    of_qwen = describe_settings(qwen, TrainerConfig(), SFTConfig(), BudgetConfig(max_tokens=7), None)
    assert {setting.name for setting in of_qwen if setting.whose == "paper"} == {"student"}
