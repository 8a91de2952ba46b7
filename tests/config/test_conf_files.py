"""Every YAML of conf and sweeps composes, parses, and sets what its name says."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import compose_config, compose_raw
from omegaconf import DictConfig, OmegaConf

from tapir_exp.config import BudgetConfig, Config, RoundsMode, WorldName, parse, to_yaml
from tapir_exp.config.paths import data_dir
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.world import WORLDS

CONF = data_dir("conf")
OTHER_COMMANDS = {"classifier_training", "classifier_data"}
"""Groups of `tapir classify`, see tests/commands/test_classify.py."""
LEAVES = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in OTHER_COMMANDS
)
SWEEPS = sorted(path.stem for path in data_dir("sweeps").glob("*.yaml"))
ARMS = sorted(path.stem for path in (CONF / "arm").glob("*.yaml"))
STUDY_ARMS = {
    "three_fits": {},
    "one_schedule": {"sft.lr_schedule": "one"},
    "one_schedule_adam": {"sft.lr_schedule": "one", "sft.optimizer_state": "carried"},
    "wsd": {"sft.lr_schedule": "wsd", "sft.optimizer_state": "carried"},
    "wsd_average": {
        "sft.lr_schedule": "wsd",
        "sft.optimizer_state": "carried",
        "sft.judged_student": "average",
        "sft.average_checkpoints": 5,
    },
    "replay_25": {"sft.lr_schedule": "one", "curriculum.replay": 0.25},
    "replay_50": {"sft.lr_schedule": "one", "curriculum.replay": 0.5},
    "replay_100": {"sft.lr_schedule": "one", "curriculum.replay": 1.0},
    "replay_100_adam": {"sft.lr_schedule": "one", "sft.optimizer_state": "carried", "curriculum.replay": 1.0},
    "s0_cumulative": {"sft.round_start": "s0", "curriculum.replay": 1.0},
    "one_fit": {
        "curriculum.rounds_mode": "merged",
        "curriculum.rounds": 1,
        "curriculum.rows_per_round": 12000,
        "curriculum.rows_per_seed": 1.35,
        "sft.round_stage.max_tokens": 2100000,
    },
}
"""Cells of `lab_rounds`, and how each differs from `three_fits`."""
ABLATION_ARMS: dict[str, set[str]] = {
    "tapir": set(),
    "vanilla_sft": {"curriculum.rounds_mode", "curriculum.rounds", "sft.seed_stage.max_tokens"},
    "random_hard_set": {"curriculum.difficulty"},
    "natural_mix": {"task_mix.name", "task_mix.target_distribution"},
    "no_refinement": {"curriculum.refine"},
    "single_round": {
        "curriculum.rounds_mode",
        "curriculum.rounds",
        "curriculum.rows_per_round",
        "curriculum.rows_per_seed",
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
        "curriculum.replay",
        "sft.lr_schedule",
        "sft.optimizer_state",
    },
}
"""Arms of `lab_ablation`, and the settings that each changes. Arms of the user's own are in neither list."""


@pytest.fixture
def completions(tmp_path: Path) -> dict[str, list[str]]:
    """Return the overrides that a leaf requires."""
    seeds = tmp_path / "seeds.json"
    seeds.write_text("[]")
    (tmp_path / "classifier.json").write_text("{}")
    return {
        "teacher/local_openai_compatible": ["teacher.llm.model=hosted_vllm/x"],
        "judge/local_openai_compatible": ["judge.llm.model=hosted_vllm/x"],
        "judge/local_logprobs": ["judge.llm.model=hosted_vllm/x"],
        "judge/panel": ["judge.llm.model=openai/x", "judge.panel.second.llm.model=openai/y"],
        "classifier/local_openai_compatible": ["classifier.llm.model=hosted_vllm/x"],
        "classifier/deberta": [f"classifier.path={tmp_path}"],
        "student/custom": ["student.model=x/y"],
        "seeds/file": [f"seeds.path={seeds}"],
        "seeds/hub": ["seeds.path=x/y"],
        "experiment/own_data": [f"seeds.path={seeds}", "student.model=x/y"],
        "experiment/local_llm": [f"seeds.path={seeds}"],
        "experiment/local_llm_smoke": [f"seeds.path={seeds}"],
        # The lab's settings carry Adam's state over, which is inside DeepSpeed's engine.
        "trainer/deepspeed": ["sft.optimizer_state=new"],
        "llm/local_gguf": ["teacher.llm.server.weights=x.gguf"],
    }


def composed(overrides: Sequence[str] = ()) -> Config:
    return _composed(tuple(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> Config:
    return compose_config(*overrides)


def read_back(text: str) -> Config:
    cfg = OmegaConf.create(text)
    assert isinstance(cfg, DictConfig)
    return parse(cfg)


def first_of_each_group(leaves: Sequence[str]) -> list[Any]:
    """Mark all but the first leaf of each group as slow: composing one takes half a second."""
    groups = [leaf.partition("/")[0] for leaf in leaves]
    marks = [pytest.mark.slow if group in groups[:number] else () for number, group in enumerate(groups)]
    return [pytest.param(leaf, marks=mark) for leaf, mark in zip(leaves, marks, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("leaf", first_of_each_group(LEAVES))
def test_leaf_composes_parses_and_round_trips(leaf: str, completions: dict[str, list[str]]) -> None:
    group, _, choice = leaf.partition("/")
    override = f"llm@teacher.llm={choice}" if group == "llm" else f"{group}={choice}"
    model = ["teacher.llm.model=x/y"] if group == "llm" else []
    config = composed([override, *model, *completions.get(leaf, [])])
    assert read_back(to_yaml(config)) == config


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_sweep_composes_and_its_jobs_parse(name: str) -> None:
    cfg = compose_raw(config_name=name, hydra=True)
    assert cfg.hydra.mode.name == "MULTIRUN"
    paper = "override experiment:" in (data_dir("sweeps") / f"{name}.yaml").read_text(encoding="utf-8")
    for key, values in cfg.hydra.sweeper.params.items():
        # Any seed composes like the first.
        for value in str(values).split(",")[: 1 if key == "seed" else None]:
            composed([*(["experiment=llama2_7b_paper"] if paper else []), f"{key}={value}"])


def test_lab_ablation_covers_all_arms_and_five_seeds() -> None:
    hydra = compose_raw(config_name="lab_ablation", hydra=True).hydra
    assert set(hydra.sweeper.params.arm.split(",")) == set(ABLATION_ARMS)
    assert hydra.sweeper.params.seed == "1,2,3,4,5"
    assert hydra.launcher.n_jobs == 2
    assert hydra.job.env_set.OMP_NUM_THREADS == "1"


def test_lab_rounds_covers_its_cells_at_equal_teacher_rows() -> None:
    cfg = compose_raw(config_name="lab_rounds", hydra=True)
    assert set(cfg.hydra.sweeper.params.arm.split(",")) == set(STUDY_ARMS)
    assert cfg.curriculum.new_share == 1
    assert cfg.curriculum.max_new_rows < 3 * cfg.curriculum.rows_per_round


@pytest.mark.slow
def test_study_arms_pin_their_cell() -> None:
    """A cell states every setting of the fits, so that a change of a default does not move it."""
    blocked = flat(composed(["arm=three_fits"]))
    pinned = ("sft.lr_schedule", "sft.round_start", "sft.optimizer_state", "sft.judged_student", "curriculum.replay")
    for arm, changes in STUDY_ARMS.items():
        cell = flat(composed([f"arm={arm}"]))
        assert {key: value for key, value in cell.items() if blocked[key] != value and key != "arm"} == changes
        file = OmegaConf.load(CONF / "arm" / f"{arm}.yaml")
        assert all(OmegaConf.select(file, key) is not None for key in pinned)


def test_lab_ladder_names_the_types_of_its_world() -> None:
    cfg = compose_raw(config_name="lab_ladder")
    assert cfg.lab.world is cfg.seeds.world is WorldName.ladder
    ladder = {str(family.task) for family in WORLDS[WorldName.ladder].families}
    assert set(cfg.task_mix.target_distribution) == ladder


def test_groups_are_typed_by_the_schema() -> None:
    untyped = {"llm", "arm", "launcher", "search", "experiment", "debug"}
    groups = {leaf.partition("/")[0] for leaf in LEAVES}
    assert groups - untyped <= set(Config.__dataclass_fields__)


def test_task_mix_tapir_matches_the_paper() -> None:
    ratios = composed(["task_mix=tapir"]).task_mix.target_distribution
    assert ratios is not None
    assert set(ratios) == {str(task) for task in TaskType}
    assert [ratios[t] for t in BOOSTED] == [0.167, 0.167, 0.083, 0.083]
    assert ratios["Others"] == 0.041
    assert {ratios[t] for t in TaskType if t not in (*BOOSTED, TaskType.OTHERS)} == {0.017}


def test_task_mix_lab_names_the_types_of_the_lab() -> None:
    ratios = composed().task_mix.target_distribution
    assert ratios is not None
    assert set(ratios) == {str(family.task) for family in FAMILIES}


@pytest.mark.parametrize("arm", ARMS)
def test_arm_is_named_after_its_file(arm: str) -> None:
    assert composed([f"arm={arm}"]).arm == arm


@pytest.mark.parametrize("arm", [*ABLATION_ARMS, *STUDY_ARMS])
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
def test_arms_train_on_equal_tokens(arm: str, changed: list[str]) -> None:
    assert total_tokens(composed([f"arm={arm}", *changed])) == total_tokens(composed(changed))


def total_tokens(config: Config) -> int:
    assert config.sft.seed_stage.max_tokens is not None
    assert config.sft.round_stage.max_tokens is not None
    return config.sft.seed_stage.max_tokens + config.curriculum.rounds * config.sft.round_stage.max_tokens


def test_arm_vanilla_sft_runs_no_round() -> None:
    config = composed(["arm=vanilla_sft", "sft.seed_stage.max_tokens=10", "sft.round_stage.max_tokens=7"])
    assert config.curriculum.rounds == 0
    assert config.sft.seed_stage.max_tokens == 10 + 3 * 7


def test_arm_vanilla_sft_in_epochs_trains_the_rows_of_all_rounds() -> None:
    budgets = ["sft.seed_stage={epochs: 2, max_tokens: null}", "sft.round_stage={epochs: 3, max_tokens: null}"]
    given = composed(["arm=vanilla_sft", *budgets, "curriculum.rows_per_round=100", "curriculum.rounds=4"])
    assert (given.sft.seed_stage, given.curriculum.rounds) == (BudgetConfig(epochs=2, extra_rows=4 * 3 * 100), 0)
    by_seed = composed(["arm=vanilla_sft", *budgets, "curriculum.rows_per_round=null", "curriculum.rows_per_seed=0.5"])
    assert by_seed.sft.seed_stage == BudgetConfig(epochs=2 + 3 * 3 * 0.5)


def test_arm_single_round_has_all_rows_and_the_first_alpha() -> None:
    config, full = composed(["arm=single_round", "curriculum.rows_per_round=100"]), composed()
    assert (config.curriculum.rounds, config.curriculum.rows_per_round) == (1, 300)
    assert config.curriculum.alpha == full.curriculum.alpha


@pytest.mark.slow
def test_rounds_mode_applied_twice_changes_nothing() -> None:
    for merge in RoundsMode:
        config = composed([f"curriculum.rounds_mode={merge.name}"])
        assert read_back(to_yaml(config)) == config


def test_arms_change_only_the_settings_of_their_name() -> None:
    tapir = flat(composed())
    differing = {
        arm: {k for k, v in flat(composed([f"arm={arm}"])).items() if tapir[k] != v} - {"arm"} for arm in ABLATION_ARMS
    }
    assert differing == ABLATION_ARMS


def flat(config: Config) -> dict[str, object]:
    def walk(node: object, prefix: str) -> list[tuple[str, object]]:
        if not isinstance(node, dict) or prefix.endswith("target_distribution."):
            return [(prefix[:-1], node)]
        return [item for name, value in node.items() for item in walk(value, f"{prefix}{name}.")]

    return dict(walk(yaml.safe_load(to_yaml(config)), ""))


def test_lab_models_take_the_error_rates_of_lab() -> None:
    config = composed(
        ["lab.teacher_error_rate=0.2", "lab.judge_noise=1", "lab.classifier_error_rate=0.3", "lab.seed=9"]
    )
    assert config.teacher.llm.extra_params == {"error_rate": 0.2, "expansion_error_rate": 0.05, "seed": 9}
    assert config.judge.llm.extra_params == {"noise": 1.0, "position_bias": 0.7, "seed": 9}
    assert config.classifier.llm.extra_params == {"error_rate": 0.3, "seed": 9}


def test_llm_override_changes_the_endpoint_of_one_role() -> None:
    config = composed(["teacher=gpt_4o", "judge=gpt_4o", "llm@judge.llm=local_openai_compatible"])
    assert config.judge.llm.api_base == "http://localhost:8000/v1"
    assert config.judge.llm.model == config.teacher.llm.model == "openai/gpt-4o"
    assert config.teacher.llm.api_base is None


@pytest.mark.parametrize("seeds", ["alpaca", "file"])
def test_real_seeds_are_decontaminated_by_default(seeds: str, tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.touch()
    settings = composed([f"seeds={seeds}", f"seeds.path={path}"]).seeds
    assert settings.decontamination.benchmarks == ["alpaca_eval", "mt_bench"]
    assert settings.dedup_threshold == 0.7


def test_lab_seeds_are_not_filtered() -> None:
    assert composed().seeds.decontamination.benchmarks == []
    assert composed().seeds.dedup_threshold is None
