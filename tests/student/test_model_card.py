"""The provenance and the model card of a student."""

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
    describe_settings,
    render_model_card,
    reproducible_figures,
    write_provenance,
)
from tapir_exp.student.training.schedule import restart_schedule, round_schedule

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
HUB = ModelRef(location=ModelLocation.HUB, name=LLAMA.model, revision="abc")


def provenance(**changes: Any) -> Provenance:
    known: dict[str, Any] = {
        "artifact": "student/0123",
        "base": HUB,
        "parent": ModelRef(location=ModelLocation.STORE, name="student/4567"),
        "data": TrainingData(artifact="train_mix/89ab", sha256="f" * 64),
        "method": Method.lora,
        "alpha": 0.3,
        "seed": 0,
        "precision": Precision.bfloat16,
        "settings": describe_settings(
            LLAMA, TrainerConfig(), LORA, BudgetConfig(epochs=3), restart_schedule(LORA), 0.3
        ),
        "figures": reproducible_figures(FIGURES),
    }
    return Provenance(**(known | changes))


def front_matter(card: str) -> dict[str, Any]:
    fields: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return fields


def test_provenance_round_trips(tmp_path: Path) -> None:
    write_provenance(tmp_path, provenance())
    assert Provenance.load(tmp_path) == provenance()
    assert Provenance.load(tmp_path / "elsewhere") is None


def test_files_do_not_depend_on_the_directory(tmp_path: Path) -> None:
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
def test_front_matter_has_the_fields_of_the_hub(changes: dict[str, Any], library: str, relation: str) -> None:
    read = front_matter(render_model_card(provenance(**changes), None))
    assert (read["library_name"], read["base_model"], read["base_model_relation"]) == (library, LLAMA.model, relation)
    assert read["pipeline_tag"] == "text-generation"
    assert "tapir" in read["tags"]
    assert "license" not in read  # that of the base model


@pytest.mark.parametrize("location", [ModelLocation.STORE, ModelLocation.DIRECTORY])
def test_base_outside_the_hub_is_not_linked(location: ModelLocation) -> None:
    assert "base_model" not in front_matter(
        render_model_card(provenance(base=ModelRef(location=location, name="models/llama")), None)
    )


def test_card_holds_data_settings_and_figures() -> None:
    card = render_model_card(provenance(), "tapir experiment=llama2_7b_paper sft=lora")
    for text in ("train_mix/89ab", "f" * 64, "40 rows", "300", "0.5000", "2 rows were cut", "student/4567", "`abc`"):
        assert text in card
    assert "| learning rate | 2e-05 | ours | not confirmed by the paper; comparable recipes use 2e-5 |" in card
    assert "$ tapir experiment=llama2_7b_paper sft=lora" in card
    assert "$ tapir" not in render_model_card(provenance(), None)
    assert "AutoPeftModelForCausalLM" in card
    assert "AutoPeft" not in render_model_card(provenance(merged_as="float32"), None)


def test_only_confirmed_settings_have_the_paper_as_source() -> None:
    sources = {setting.name: setting.source for setting in provenance().settings}
    assert {name for name, source in sources.items() if source == "paper"} == {"student", "chat template"}
    sft, budget = SFTConfig(), BudgetConfig(max_tokens=7)
    schedule = round_schedule(sft, 2, 3)
    lab = describe_settings(StudentConfig(model="lab"), TrainerConfig(), sft, budget, schedule, None)
    assert {setting.source for setting in lab} == {"ours"}
    assert "α" in sources
    assert {"α", "adapter"} & {setting.name for setting in lab} == set()
    qwen = replace(LLAMA, model="Qwen/Qwen1.5-0.5B-Chat", chat_template=ChatTemplate.chatml)
    qwen_settings = describe_settings(qwen, TrainerConfig(), sft, budget, schedule, None)
    assert {setting.name for setting in qwen_settings if setting.source == "paper"} == {"student"}


def test_no_field_of_the_card_is_read_as_markdown() -> None:
    evil = "x`|\n\n<script>1</script> [a](b)\x1b[2J"
    card = render_model_card(
        provenance(base=ModelRef(location=ModelLocation.HUB, name=evil, revision=evil), artifact=evil, merged_as=evil),
        f"tapir name={evil}\n```\n",
    )
    text = card.partition("# A student")[2]
    assert "``x`| <script>" in text  # a code span
    assert "weights in x\\`\\|" in text
    assert "````console\n$ tapir name=x`|\\n\\n<script>" in text
    assert "\x1b" not in card
    assert front_matter(card)["base_model"] == evil
