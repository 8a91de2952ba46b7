"""`parse`: every mistake is found and named, and what is right passes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from composing import compose_config, compose_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import Config, SeedSource, parse, to_yaml
from tapir_exp.config.problems import format_value, is_secret_name
from tapir_exp.core.errors import ConfigError


def read_back(text: str) -> Config:
    cfg = OmegaConf.create(text)
    assert isinstance(cfg, DictConfig)
    return parse(cfg)


def problems(*overrides: str) -> Sequence[str]:
    with pytest.raises(ConfigError) as caught:
        compose_config(*overrides)
    return caught.value.problems


WHOLE = to_yaml(compose_config())
VALUES = yaml.safe_load(WHOLE)


def test_parse_returns_plain_dataclasses() -> None:
    config = compose_config()
    assert type(config) is Config
    assert config.judge.swap_positions is True
    assert config.seeds.source is SeedSource.lab
    assert type(config.task_mix.target_distribution) is dict
    assert type(config.sft.lora.target_modules) is list


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+student.lrr=1"], ["student.lrr", "a key of the schema"]),
        (["++studnt.lr=3"], ["studnt", "did you mean student?"]),
        (["++curriculum.detla=3"], ["curriculum.detla", "did you mean curriculum.delta?"]),
        (["+teacher.llm.modle=x"], ["teacher.llm.modle", "did you mean teacher.llm.model?"]),
        (["student.model=???"], ["student.model is missing", "a text"]),
        (["student.model=${lab.sed}"], ["student.model cannot be read", "lab.sed"]),
        (["curriculum.alpha=1.01"], ["curriculum.alpha = 1.01", "a share from 0 to 1"]),
        (["curriculum.alpha=-0.1"], ["curriculum.alpha = -0.1", "a share from 0 to 1"]),
        (["curriculum.alpha=nan"], ["curriculum.alpha = nan"]),
        (["curriculum.delta=9.5"], ["curriculum.delta = 9.5", "from -9 to 9"]),
        (["curriculum.delta=-10"], ["curriculum.delta = -10"]),
        (["curriculum.delta_alpha=2"], ["curriculum.delta_alpha = 2"]),
        (["curriculum.rounds=-1"], ["curriculum.rounds = -1", "0 or more"]),
        (["curriculum.drop_easy_expansions=true"], ["curriculum.drop_easy_expansions = True", "gap_rows=fresh"]),
        (
            ["curriculum.drop_easy_expansions=true", "curriculum.gap_rows=fresh", "curriculum.difficulty=random"],
            ["curriculum.difficulty=mfd", "got random"],
        ),
        (["curriculum.new_share=1.5"], ["curriculum.new_share = 1.5", "a share from 0 to 1"]),
        (["curriculum.max_new_rows=0"], ["curriculum.max_new_rows = 0", "at least 1"]),
        (["curriculum.rows_per_round=0"], ["curriculum.rows_per_round = 0", "at least 1"]),
        (["lab.teacher_error_rate=1.5"], ["lab.teacher_error_rate = 1.5", "a share"]),
        (["lab.judge_noise=-1"], ["lab.judge_noise = -1", "0 or more"]),
        (["lab.student.num_layers=0"], ["lab.student.num_layers = 0"]),
        (["lab.student.hidden_size=130"], ["lab.student.hidden_size = 130", "a multiple of lab.student.num_heads (4)"]),
        (["teacher.max_failure_rate=2"], ["teacher.max_failure_rate = 2", "a share"]),
        (["teacher.max_rouge_l=1.1"], ["teacher.max_rouge_l = 1.1"]),
        (["teacher.temperature=-1"], ["teacher.temperature = -1", "from 0 to 2"]),
        (["judge.max_tokens=0"], ["judge.max_tokens = 0"]),
        (["judge.llm.concurrency=0"], ["judge.llm.concurrency = 0"]),
        (["judge.llm.timeout_s=0"], ["judge.llm.timeout_s = 0", "more than 0"]),
        (["judge.llm.usd_per_million_input=-1"], ["judge.llm.usd_per_million_input = -1"]),
        (["student.generation_batch_size=0"], ["student.generation_batch_size = 0"]),
        (["seeds.size=0"], ["seeds.size = 0"]),
        (["seed=-1"], ["seed = -1", "0 or more"]),
        (["sft.learning_rate=0"], ["sft.learning_rate = 0", "more than 0"]),
        (["sft.learning_rate=inf"], ["sft.learning_rate = inf"]),
        (["sft.max_tokens_per_micro_batch=0"], ["sft.max_tokens_per_micro_batch = 0", "at least 1"]),
        (["sft.seed_stage.epochs=1"], ["sft.seed_stage = ", "exactly one of epochs and max_tokens"]),
        (["sft.round_stage.max_tokens=null"], ["sft.round_stage = ", "exactly one of epochs and max_tokens"]),
        (["sft.round_stage.max_tokens=-5"], ["sft.round_stage.max_tokens = -5", "0 or more"]),
        (
            ["sft.seed_stage={epochs: 1, max_tokens: null}", "arm=vanilla_sft"],
            ["sft.seed_stage.max_tokens = null", "seeds_only"],
        ),
        (["sft.seed_stage.extra_rows=5"], ["sft.seed_stage.extra_rows = 5", "0 beside max_tokens"]),
        (["sft.lora.dropout=2"], ["sft.lora.dropout = 2"]),
        (["sft.lora.alpha=0"], ["sft.lora.alpha = 0", "at least 1"]),
        (["evals.problems_per_level=-1"], ["evals.problems_per_level = -1"]),
        (["trainer.devices=0"], ["trainer.devices = 0", "at least 1"]),
        (["trainer.num_nodes=2"], ["trainer.hosts = []", "the names of the 2 nodes", "trainer.launcher=srun"]),
        (["trainer.num_nodes=2", "trainer.hosts=[a,b,c]"], ["trainer.hosts = ['a', 'b', 'c']", "the 2 nodes"]),
        (["trainer.num_nodes=2", "trainer.launcher=srun", "trainer.hosts=[a,b]"], ["trainer.hosts", "SLURM job"]),
        (["sft=qlora", "trainer=fsdp"], ["trainer.strategy = fsdp", "ddp or deepspeed for sft=qlora"]),
        (["trainer.port=80"], ["trainer.port = 80", "1024"]),
        (["name=a/b"], ["name = a/b", "letters"]),
        (["task_mix.target_distribution.Math=0.168"], ["task_mix.target_distribution sum to 1.001", "a sum of 1"]),
        (
            ["task_mix.target_distribution.Math=-0.167", "task_mix.target_distribution.Reasoning=0.501"],
            ["task_mix.target_distribution.Math = -0.167", "0 or more"],
        ),
        (["+task_mix.target_distribution.Maths=0"], ["task_mix.target_distribution.Maths", "did you mean Math?"]),
        (["seeds.source=file"], ["seeds.path = null", "a file of instructions"]),
        (["seeds.dedup_threshold=1.5"], ["seeds.dedup_threshold = 1.5", "a share from 0 to 1"]),
        (["seeds.max_failure_rate=-1"], ["seeds.max_failure_rate = -1", "a share from 0 to 1"]),
        (
            ["seeds.decontamination.overlap_threshold=2"],
            ["seeds.decontamination.overlap_threshold = 2", "a share from 0 to 1"],
        ),
        (["seeds.decontamination.ngram_size=0"], ["seeds.decontamination.ngram_size = 0", "at least 1"]),
        (["teacher.max_complexity_gap=10"], ["teacher.max_complexity_gap = 10", "from 0 to 9"]),
        (
            ["seeds.decontamination.benchmarks=[mtbench,alpaca_eval]"],
            ["seeds.decontamination.benchmarks = mtbench", "alpaca_eval, mt_bench, or a file that exists"],
        ),
        (["seeds.source=hub"], ["seeds.path = null", "a hub dataset"]),
        (["seeds.source=file", "seeds.path=/no/such.json"], ["seeds.path = /no/such.json", "a file that exists"]),
        (["student.model=''"], ["student.model is empty"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_parse_names_a_mistake_its_value_and_what_was_expected(overrides: list[str], words: list[str]) -> None:
    found = problems(*overrides)
    assert any(all(word in line for word in words) for line in found), found
    assert len(found) <= 2


@pytest.mark.parametrize(
    "override",
    [
        "seed=0",
        "curriculum.rounds=0",
        "curriculum.alpha=0",
        "curriculum.alpha=1",
        "curriculum.delta=-9",
        "curriculum.delta=9",
        "curriculum.delta_alpha=-0.2",
        "sft.seed_stage.max_tokens=0",
        "sft.round_stage.max_tokens=0",
        "sft.warmup_ratio=0",
        "evals.problems_per_level=0",
        "seeds.size=null",
        "task_mix.target_distribution.Math=0.1670009",
        "+teacher.llm.extra_params.max_completion_tokens=5",
        "teacher.llm.api_key_env=OPENAI_API_KEY",
    ],
)
def test_parse_accepts_the_limits_of_ranges(override: str) -> None:
    compose_config(override)


def test_parse_reports_all_mistakes_at_once() -> None:
    found = problems(
        "+student.lrr=1", "student.model=???", "seed=-1", "task_mix.target_distribution.Math=0", "lab.judge_noise=-1"
    )
    keys = [line.split()[0].rstrip(":") for line in found]
    assert sorted(keys) == ["lab.judge_noise", "seed", "student.lrr", "student.model", "task_mix.target_distribution"]


def test_parse_reports_a_mistake_once() -> None:
    assert len(problems("student.model=???")) == 1


@pytest.mark.parametrize(
    "override",
    [
        "teacher.llm.api_key_env=sk-verysecret",
        "teacher.llm.api_key_env=verysecret0123",
        "teacher.llm.api_key_env='verysecret with blanks'",
        f"teacher.llm.api_key_env={'VERYSECRET' * 9}",
        "+teacher.llm.extra_params.api_key=verysecret",
        "+judge.llm.extra_params.auth_token=verysecret",
        "+judge.llm.extra_params.SECRET=verysecret",
        "+judge.llm.extra_params.password=verysecret",
        "+judge.llm.extra_params.extra_headers={Authorization: verysecret}",
        "+judge.llm.extra_params.extra_body=[{apiKey: verysecret}]",
        "+judge.llm.extra_params.user=sk-verysecret",
        "teacher.llm.api_base=https://me:verysecret@example.org",
    ],
)
def test_parse_rejects_a_secret_without_repeating_it(override: str) -> None:
    found = problems(override)
    assert len(found) == 1
    assert "verysecret" not in found[0].lower()
    assert "value not shown" in found[0]


@pytest.mark.parametrize("name", ["max_tokens", "logprobs", "top_p", "api_key_env", "budget_tokens", "seed"])
def test_is_secret_name_accepts_ordinary_options(name: str) -> None:
    assert not is_secret_name(name)


def test_format_value_returns_the_value() -> None:
    assert format_value("seed", 3) == " = 3"
    assert format_value("teacher.llm.api_key_env", "OPENAI_API_KEY") == " = OPENAI_API_KEY"


def test_parse_names_the_file_of_a_mistake() -> None:
    cfg = compose_raw("seed=-1")
    with pytest.raises(ConfigError, match=r"seed = -1: expected 0 or more \[the place of seed\]"):
        parse(cfg, lambda key: f"the place of {key}")


def test_parse_checks_an_untyped_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(OmegaConf.create({"name": "x", "nonsense": 1}))
    assert any(line.startswith("nonsense") for line in caught.value.problems)
    assert any(line.startswith("student.model is missing") for line in caught.value.problems)


def test_parse_checks_types_of_an_untyped_configuration() -> None:
    cfg = OmegaConf.create(VALUES)
    cfg.student.max_length, cfg.judge.swap_positions, cfg.seed = "abc", "neither", -1
    with pytest.raises(ConfigError) as caught:
        parse(cfg)
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "judge.swap_positions = neither",
        "student.max_length = abc",
        "seed = -1",
    ]


def test_to_yaml_round_trips(tmp_path: Path) -> None:
    config = compose_config("curriculum.rounds=2", "student=llama2_7b", "seeds.size=null")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_back((tmp_path / "config.yaml").read_text()) == config


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_parse_accepts_distributions_that_sum_to_one(shares: list[float]) -> None:
    cfg = OmegaConf.create(VALUES)
    names = ["Math", "Reasoning", "Code Debug", "Others"]
    cfg.task_mix.target_distribution = dict(zip(names, shares, strict=True))
    try:
        parse(cfg)
    except ConfigError:
        assert abs(sum(shares) - 1) > 0.9e-6
    else:
        assert abs(sum(shares) - 1) <= 1.1e-6
