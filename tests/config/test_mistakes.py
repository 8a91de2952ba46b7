"""A table of mistakes that people make: each message says what is wrong, where, what was expected, and the remedy."""

import copy
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from composing import compose_raw
from omegaconf import DictConfig, OmegaConf

from tapir_exp.commands.command_line import compose_jobs
from tapir_exp.commands.main import main
from tapir_exp.config import parse
from tapir_exp.core.errors import ConfigError

ORIGIN = "[mine.yaml]"
PACKAGE = 'expected "# @package _global_"'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    path = tmp_path_factory.mktemp("own") / "mine.json"
    path.write_text("[]")
    return compose_raw("experiment=own_data", "teacher=gpt_4o", "student=qwen1_5_0_5b", f"seeds.path={path}")


def problems(base: DictConfig, changes: dict[str, Any]) -> Sequence[str]:
    cfg = copy.deepcopy(base)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    try:
        parse(cfg, lambda key: "mine.yaml")
    except ConfigError as error:
        return error.problems
    return []


def test_table_begins_with_a_right_configuration(base: DictConfig) -> None:
    assert problems(base, {}) == []


def test_value_that_others_follow_is_missing_once(base: DictConfig) -> None:
    """Judge and classifier are the teacher's model."""
    (problem,) = problems(base, {"teacher.llm.model": "???"})
    assert problem.startswith("teacher.llm.model is missing")


WEIGHTED = {"task_mix.target_distribution": {"Math": 1.0}}

MISTAKES: list[tuple[dict[str, Any], str, list[str]]] = [
    # Seeds.
    ({"seeds.path": "nowhere.json"}, "seeds.path = nowhere.json", ["a file that exists"]),
    ({"seeds.path": None}, "seeds.path = null", ["a file of instructions"]),
    ({"seeds.source": "hub", "seeds.path": None}, "seeds.path = null", ["the name of a hub dataset"]),
    ({"seeds.path": "???"}, "seeds.path is missing", ["seeds.path=..."]),
    ({"seeds.columns.instrution": "q"}, "seeds.columns.instrution", ["did you mean seeds.columns.instruction?"]),
    ({"seeds.size": 0}, "seeds.size = 0", ["at least 1"]),
    ({"seeds.max_failure_rate": 5}, "seeds.max_failure_rate = 5", ["a share from 0 to 1"]),
    ({"seeds.dedup_threshold": 70}, "seeds.dedup_threshold = 70", ["a share from 0 to 1"]),
    ({"seeds.reserve": -1}, "seeds.reserve = -1", ["0 or more"]),
    (
        {"seeds.decontamination.benchmarks": ["mmlu"]},
        "seeds.decontamination.benchmarks = mmlu",
        ["alpaca_eval, mt_bench"],
    ),
    ({"seeds.source": "lab"}, "seeds.path = ", ["seeds=file"]),
    # Student.
    ({"student.model": "/no/such/dir"}, "student.model = /no/such/dir", ["a directory that exists", "OWNER/NAME"]),
    ({"student.model": "./student"}, "student.model = ./student", ["a directory that exists"]),
    ({"student.model": "a/b/c"}, "student.model = a/b/c", ["a hub id OWNER/NAME"]),
    ({"student.model": "my model"}, "student.model = my model", ["a hub id"]),
    ({"student.model": "???"}, "student.model is missing", ["student=qwen1_5_0_5b", "DIR_OR_HUB_ID"]),
    ({"student.model": ""}, "student.model is empty", ["a text"]),
    ({"student.max_lenght": 5}, "student.max_lenght", ["did you mean student.max_length?"]),
    ({"student.max_new_tokens": 0}, "student.max_new_tokens = 0", ["at least 1"]),
    ({"student.engine": "ctranslate2"}, "student.engine = ctranslate2", ["student.precision=float32"]),
    # Teacher, judge, classifier and their endpoints.
    ({"teacher.llm.model": "???"}, "teacher.llm.model is missing", ["teacher.llm.model=hosted_vllm/NAME"]),
    ({"teacher.llm.api_base": "localhost:8000/v1"}, "teacher.llm.api_base = ", ["http:// or https://"]),
    ({"teacher.llm.api_base": "http://host:99999/v1"}, "teacher.llm.api_base = ", ["an address"]),
    ({"teacher.llm.api_base": "http://my host/v1"}, "teacher.llm.api_base = ", ["an address"]),
    ({"teacher.llm.api_key_env": "sk-1234567890"}, "teacher.llm.api_key_env", ["the NAME of an environment variable"]),
    (
        {"teacher.llm.usd_per_million_input": 1.0},
        "teacher.llm.usd_per_million_output = null",
        ["that of the other side"],
    ),
    ({"teacher.llm.usd_per_million_input": -1.0}, "teacher.llm.usd_per_million_input = -1", ["0 or more"]),
    ({"teacher.llm.concurrency": 0}, "teacher.llm.concurrency = 0", ["at least 1"]),
    ({"teacher.llm.concurrency": "fast"}, "teacher.llm.concurrency", ["a whole number of at least 1, or auto"]),
    ({"teacher.llm.max_concurrency": 0}, "teacher.llm.max_concurrency = 0", ["at least 1"]),
    ({"teacher.llm.modle": "x"}, "teacher.llm.modle", ["did you mean teacher.llm.model?"]),
    ({"teacher.llm.model": "lab/teacher"}, "teacher.llm.model = lab/teacher", ["no part of the lab", "teacher=gpt_4o"]),
    ({"teacher.temperature": 3.0}, "teacher.temperature = 3", ["from 0 to 2"]),
    ({"judge.llm.model": "lab/judge"}, "judge.llm.model = lab/judge", ["no part of the lab", "judge=as_teacher"]),
    ({"judge.max_unusable_responses": 50}, "judge.max_unusable_responses = 50", ["a share from 0 to 1"]),
    ({"classifier.llm.model": "lab/labeller"}, "classifier.llm.model = lab/labeller", ["classifier=minilm"]),
    ({"classifier.kind": "deberta"}, "classifier.path = null", ["a trained classifier"]),
    # Curriculum, task mix and evaluation.
    ({"curriculum.alpha": 30}, "curriculum.alpha = 30", ["a share from 0 to 1"]),
    ({"curriculum.rounds": -1}, "curriculum.rounds = -1", ["0 or more"]),
    ({"curriculum.rows_per_round": 0}, "curriculum.rows_per_round = 0", ["at least 1"]),
    ({"curriculum.detla": 1}, "curriculum.detla", ["did you mean curriculum.delta?"]),
    ({"task_mix.name": "lab"}, "task_mix.name = lab", ["no part of the lab", "task_mix=natural"]),
    ({"task_mix.target_distribution": {"Maths": 1.0}}, "task_mix.target_distribution.Maths", ["did you mean Math?"]),
    ({"task_mix.target_distribution": {"Math": 0.4}}, "task_mix.target_distribution sum to 0.4", ["a sum of 1"]),
    (WEIGHTED | {"task_mix.weights": {"Maths": 2.0}}, "task_mix.weights.Maths", ["(did you mean Math?)"]),
    (WEIGHTED | {"task_mix.weights": {"Math": -1.0}}, "task_mix.weights.Math", ["a factor of 0 or more"]),
    ({"evals.problems_per_level": 12}, "evals.problems_per_level = 12", ["no part of the lab", "evals=held_out"]),
    ({"evals.run": "nowhere"}, "evals.run = nowhere", ["the directory of a finished run"]),
    # Fits, budgets and names.
    ({"sft.seed_stage.max_tokens": 9}, "sft.seed_stage = ", ["exactly one of epochs and max_tokens"]),
    ({"sft.learning_rate": 0.0}, "sft.learning_rate = 0", ["more than 0"]),
    ({"sft.warmup_ratio": 6}, "sft.warmup_ratio = 6", ["a share from 0 to 1"]),
    ({"spend.max_usd": 0.0}, "spend.max_usd = 0", ["more than 0"]),
    ({"spend.max_usb": 5}, "spend.max_usb", ["did you mean spend.max_usd?"]),
    ({"time_budget_minutes": 0.0}, "time_budget_minutes = 0", ["more than 0"]),
    ({"name": "my run/1"}, "name = my run/1", ["letters, digits"]),
    ({"outputs": ""}, "outputs is empty", ["a text"]),
    ({"trainer.devices": 0}, "trainer.devices = 0", ["at least 1"]),
    ({"studnt.model": "x"}, "studnt", ["did you mean student?"]),
    ({"teacher.num_output_samples": 0}, "teacher.num_output_samples = 0", ["at least 1"]),
    ({"evals.held_out_size": -1}, "evals.held_out_size = -1", ["0 or more"]),
    ({"spend.max_calls": 0}, "spend.max_calls = 0", ["more than 0"]),
]


def in_batches() -> list[int]:
    """Return a batch for each mistake, at most one of each section, since checking a configuration takes a while."""
    counts: Counter[str] = Counter()
    batches = []
    for changes, _, _ in MISTAKES:
        section = next(iter(changes)).partition(".")[0]
        batches.append(counts[section])
        counts[section] += 1
    return batches


@pytest.fixture(scope="module")
def messages(base: DictConfig) -> dict[int, Sequence[str]]:
    """Return the messages of every batch of mistakes."""
    together: dict[int, dict[str, Any]] = {}
    for batch, (changes, _, _) in zip(in_batches(), MISTAKES, strict=True):
        together.setdefault(batch, {}).update(changes)
    return {batch: problems(base, changes) for batch, changes in together.items()}


@pytest.mark.parametrize(
    ("batch", "what", "expected"),
    [(batch, what, expected) for batch, (_, what, expected) in zip(in_batches(), MISTAKES, strict=True)],
    ids=[what.strip() for _, what, _ in MISTAKES],
)
def test_mistake_says_what_where_expected_and_how(
    messages: dict[int, Sequence[str]], batch: int, what: str, expected: list[str]
) -> None:
    found = [problem for problem in messages[batch] if problem.startswith(what)]
    assert len(found) == 1
    assert ": expected " in found[0]
    assert found[0].endswith(ORIGIN)
    assert [word for word in expected if word not in found[0]] == []


def mistakes_of(*arguments: str) -> Sequence[str]:
    with pytest.raises(ConfigError) as caught:
        compose_jobs(arguments)
    return caught.value.problems


def test_mistakes_of_a_command_line_are_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "arm").mkdir(parents=True)
    (tmp_path / "mine" / "arm" / "ours.yaml").write_text("")
    found = mistakes_of("+experiment=lab", "+curriculum.rounds=1", "arm=ours", "seed")
    assert {line.partition(":")[0] for line in found} == {
        "+experiment = lab",
        "+curriculum.rounds = 1",
        "arm = ours",
        "seed",
    }
    assert all(line.endswith(" [command line]") for line in found)
    text = "\n".join(found)
    assert "seed: expected key=value, such as seed=VALUE" in text
    assert "+experiment = lab: expected experiment without the +" in text
    assert "+curriculum.rounds = 1: expected curriculum.rounds without the +" in text
    assert "mine/arm/ours.yaml, needs --config-dir mine" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("arm/ours.yaml", "arm: ours\ncurriculum:\n  rounds: 2\n", [f"arm sets arm, curriculum: {PACKAGE}"]),
        ("experiment/ours.yaml", "name: ours\n", [f"experiment sets name: {PACKAGE}"]),
        ("experiment/ours.yaml", "defaults:\n  - override /seeds: file\n", [f"experiment overrides seeds: {PACKAGE}"]),
        ("experiment/ours.yaml", "", ['experiment sets nothing: expected "# @package _global_" and keys']),
        ("experiment/ours.yaml", "- seed\n", ["experiment/ours holds no keys: expected lines such as seed: 3"]),
        ("experiment/ours.yaml", "lab:\n\tseed: 1\n", ["not valid YAML: found character '\\t'"]),
        (
            "student/ours.yaml",
            "model: a/b\nmax_length: long\nmax_lenght: 3\narchitecture:\n  hidden_sise: 1\n",
            [
                "student.max_length = long: expected an integer",
                "student.max_lenght: expected a key of the schema (did you mean student.max_length?)",
                "student.architecture.hidden_sise: expected a key of the schema",
            ],
        ),
    ],
    ids=["arm", "experiment", "override", "empty", "list", "tab", "student"],
)  # fmt: skip
def test_every_mistake_of_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    group = file.partition("/")[0]
    found = mistakes_of("--config-dir", "mine", f"{group}=ours")
    assert [line.startswith(start) for line, start in zip(found, expected, strict=True)] == [True] * len(expected)
    assert all(re.search(rf"\[mine/{file}(, line \d+)?\]$", line) for line in found)


def test_unknown_flag_is_named_with_a_near_one() -> None:
    found = mistakes_of("--config_dir", "mine", "--jobs=3")
    assert found[0].startswith("--config_dir: expected an override such as key=value")
    assert found[0].endswith("(did you mean --config-dir?)")
    assert found[1].startswith("--jobs=3: expected an override such as key=value")


def test_missing_config_dir_is_named() -> None:
    (problem,) = mistakes_of("--config-dir", "nowhere")
    assert problem.startswith("--config-dir = nowhere: expected a directory that exists")


COMMANDS: list[tuple[list[str], list[str]]] = [
    (["preview", "--rows", "0"], ["argument --rows: '0': expected a number of rows from 1 to 50"]),
    (["preview", "--rows", "all"], ["argument --rows: 'all': expected a number of rows from 1 to 50"]),
    (["chat"], ["the following arguments are required: RUN_OR_STUDENT"]),
    (["chat", "x", "Hi", "--temperature", "warm"], ["argument --temperature: 'warm': expected a number from 0 to 2"]),
    (["chat", "x", "--temperature", "3"], ["argument --temperature: '3': expected a number from 0 to 2, such as 0.7"]),
    (["chat", "x", "--max-new-tokens", "0"], ["argument --max-new-tokens: '0': expected a number of tokens, at least"]),
    (["chta", "x"], ["chta", "did you mean `tapir chat`?"]),
    (["previw"], ["previw", "did you mean `tapir preview`?"]),
]


@pytest.mark.parametrize(("arguments", "expected"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_mistake_of_a_command_ends_with_a_remedy(
    arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code in (1, 2)
    text = capsys.readouterr().err
    assert [words for words in expected if words not in text] == []
