"""One case per YAML of conf and sweeps: it composes, it parses, and it means what its name says."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from tapir_exp.commands.hydra_app import data_dir
from tapir_exp.config import Config, RoundsMode, parse, to_yaml
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.lab.families import FAMILIES

CONF = data_dir("conf")
OTHER_COMMANDS = {"classifier_training", "classifier_data"}
"""Groups that only `tapir-label` has, see test_label_cli."""
LEAVES = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in OTHER_COMMANDS
)
SWEEPS = sorted(path.stem for path in data_dir("sweeps").glob("*.yaml"))
ARMS = sorted(path.stem for path in (CONF / "arm").glob("*.yaml"))


@pytest.fixture
def completions(tmp_path: Path) -> dict[str, list[str]]:
    """What a leaf leaves open on purpose."""
    seeds = tmp_path / "seeds.json"
    seeds.write_text("[]")
    (tmp_path / "labeller.json").write_text("{}")
    return {
        "teacher/local_openai_compatible": ["teacher.llm.model=hosted_vllm/x"],
        "judge/local_openai_compatible": ["judge.llm.model=hosted_vllm/x"],
        "judge/local_logprobs": ["judge.llm.model=hosted_vllm/x"],
        "classifier/local_openai_compatible": ["classifier.llm.model=hosted_vllm/x"],
        "classifier/deberta": [f"classifier.path={tmp_path}"],
        "seeds/file": [f"seeds.path={seeds}"],
        "experiment/local_llm": [f"seeds.path={seeds}"],
        "experiment/local_llm_smoke": [f"seeds.path={seeds}"],
        "llm/local_gguf": ["teacher.llm.server.weights=x.gguf"],
    }


def composed(overrides: Sequence[str] = ()) -> Config:
    return _composed(tuple(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> Config:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", list(overrides)))


def read_back(text: str) -> Config:
    cfg = OmegaConf.create(text)
    assert isinstance(cfg, DictConfig)
    return parse(cfg)


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_composes_and_parses(leaf: str, completions: dict[str, list[str]]) -> None:
    group, _, choice = leaf.partition("/")
    override = f"llm@teacher.llm={choice}" if group == "llm" else f"{group}={choice}"
    model = ["teacher.llm.model=x/y"] if group == "llm" else []
    config = composed([override, *model, *completions.get(leaf, [])])
    assert read_back(to_yaml(config)) == config


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_composes_and_each_of_its_jobs_parses(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, return_hydra_config=True)
    assert cfg.hydra.mode.name == "MULTIRUN"
    for key, values in cfg.hydra.sweeper.params.items():
        for value in str(values).split(","):
            composed([f"{key}={value}"])


def test_the_ablation_covers_every_arm_over_five_seeds_with_one_thread_a_process() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("lab_ablation", return_hydra_config=True).hydra
    assert sorted(hydra.sweeper.params.arm.split(",")) == ARMS
    assert hydra.sweeper.params.seed == "1,2,3,4,5"
    assert hydra.launcher.n_jobs == 2
    assert hydra.job.env_set.OMP_NUM_THREADS == "1"


def test_every_group_is_typed_by_the_schema() -> None:
    documented = {"llm", "arm", "launcher", "experiment"}
    groups = {leaf.partition("/")[0] for leaf in LEAVES}
    assert groups - documented <= set(Config.__dataclass_fields__)


def test_the_paper_s_ratios_are_its_table() -> None:
    ratios = composed(["task_mix=tapir"]).task_mix.target_distribution
    assert ratios is not None
    assert set(ratios) == {str(task) for task in TaskType}
    assert [ratios[t] for t in BOOSTED] == [0.167, 0.167, 0.083, 0.083]
    assert ratios["Others"] == 0.041
    assert {ratios[t] for t in TaskType if t not in (*BOOSTED, TaskType.OTHERS)} == {0.017}


def test_the_lab_s_ratios_name_the_types_that_the_lab_has() -> None:
    ratios = composed().task_mix.target_distribution
    assert ratios is not None
    assert set(ratios) == {str(family.task) for family in FAMILIES}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_named_after_its_file(arm: str) -> None:
    assert composed([f"arm={arm}"]).arm == arm


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    "changed",
    [
        [],
        [
            "curriculum.rounds=5",
            "sft.round_stage.max_tokens=70",
            "sft.seed_stage.max_tokens=11",
            "curriculum.rows_per_round=30",
        ],
    ],
)
def test_every_arm_trains_on_as_many_tokens_whatever_the_budgets(arm: str, changed: list[str]) -> None:
    assert total_tokens(composed([f"arm={arm}", *changed])) == total_tokens(composed(changed))


def total_tokens(config: Config) -> int:
    assert config.sft.seed_stage.max_tokens is not None
    assert config.sft.round_stage.max_tokens is not None
    return config.sft.seed_stage.max_tokens + config.curriculum.rounds * config.sft.round_stage.max_tokens


def test_vanilla_sft_runs_no_round() -> None:
    config = composed(["arm=vanilla_sft", "sft.seed_stage.max_tokens=10", "sft.round_stage.max_tokens=7"])
    assert config.curriculum.rounds == 0
    assert config.sft.seed_stage.max_tokens == 10 + 3 * 7


def test_the_single_round_has_the_rows_of_all_and_the_first_alpha() -> None:
    config, full = composed(["arm=single_round", "curriculum.rows_per_round=100"]), composed()
    assert (config.curriculum.rounds, config.curriculum.rows_per_round) == (1, 300)
    assert config.curriculum.alpha == full.curriculum.alpha


def test_merging_twice_changes_nothing() -> None:
    for merge in RoundsMode:
        config = composed([f"curriculum.rounds_mode={merge.name}"])
        assert read_back(to_yaml(config)) == config


def test_arms_differ_from_tapir_in_what_they_name_alone() -> None:
    tapir = flat(composed())
    differing = {arm: {k for k, v in flat(composed([f"arm={arm}"])).items() if tapir[k] != v} - {"arm"} for arm in ARMS}
    assert differing == {
        "tapir": set(),
        "vanilla_sft": {"curriculum.rounds_mode", "curriculum.rounds", "sft.seed_stage.max_tokens"},
        "random_hard_set": {"curriculum.difficulty"},
        "natural_mix": {"task_mix.name", "task_mix.target_distribution"},
        "no_refinement": {"curriculum.refine"},
        "single_round": {
            "curriculum.rounds_mode",
            "curriculum.rounds",
            "curriculum.rows_per_round",
            "sft.round_stage.max_tokens",
        },
        "fixed_alpha": {"curriculum.delta_alpha"},
        "reversed_curriculum": {"curriculum.alpha", "curriculum.delta_alpha"},
        "lion": {
            "task_mix.name",
            "task_mix.target_distribution",
            "curriculum.delta",
            "curriculum.alpha",
            "curriculum.delta_alpha",
            "curriculum.refine",
        },
    }


def flat(config: Config) -> dict[str, object]:
    def walk(node: object, prefix: str) -> list[tuple[str, object]]:
        if not isinstance(node, dict) or prefix.endswith("ratios."):
            return [(prefix[:-1], node)]
        return [item for name, value in node.items() for item in walk(value, f"{prefix}{name}.")]

    return dict(walk(yaml.safe_load(to_yaml(config)), ""))


def test_lab_roles_err_as_the_lab_section_says() -> None:
    config = composed(
        ["lab.teacher_error_rate=0.2", "lab.judge_noise=1", "lab.classifier_error_rate=0.3", "lab.seed=9"]
    )
    assert config.teacher.llm.extra_params == {"error_rate": 0.2, "expansion_error_rate": 0.05, "seed": 9}
    assert config.judge.llm.extra_params == {"noise": 1.0, "position_bias": 0.7, "seed": 9}
    assert config.classifier.llm.extra_params == {"error_rate": 0.3, "seed": 9}


def test_an_endpoint_is_swapped_under_one_role_alone() -> None:
    config = composed(["teacher=gpt_4o", "judge=gpt_4o", "llm@judge.llm=local_openai_compatible"])
    assert config.judge.llm.api_base == "http://localhost:8000/v1"
    assert config.judge.llm.model == config.teacher.llm.model == "openai/gpt-4o"
    assert config.teacher.llm.api_base is None


@pytest.mark.parametrize("seeds", ["alpaca", "file"])
def test_real_seeds_are_checked_against_both_benchmarks_by_default(seeds: str, tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.touch()
    settings = composed([f"seeds={seeds}", f"seeds.path={path}"]).seeds
    assert settings.decontamination.benchmarks == ["alpaca_eval", "mt_bench"]
    assert settings.dedup_threshold == 0.7


def test_the_labs_seeds_are_taken_as_they_are() -> None:
    assert composed().seeds.decontamination.benchmarks == []
    assert composed().seeds.dedup_threshold is None
