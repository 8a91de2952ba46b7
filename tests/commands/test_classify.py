"""`tapir classify`: help, mistakes and every choice of its groups, before anything heavy is loaded."""

import io
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console

from tapir_exp.commands.classify import GROUPS, main, read_config
from tapir_exp.commands.main import main as tapir
from tapir_exp.config import ClassifierKind, ClassifyJob, parse_classify, to_yaml
from tapir_exp.config.paths import data_dir
from tapir_exp.core import console as console_module
from tapir_exp.core.errors import ConfigError

CONF = data_dir("conf")
SEVERAL_DEVICES = {"trainer=ddp", "trainer=fsdp", "trainer=deepspeed"}
"""Choices of several devices; a classifier is trained on one."""
CHOICES = {f"{group}={leaf.stem}" for group in GROUPS for leaf in (CONF / group).glob("*.yaml")}
TEACHER = {"classifier=as_teacher"}
"""Choices that take the settings of a teacher, which only a run has."""
LEAVES = sorted(CHOICES - SEVERAL_DEVICES - TEACHER)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Create the files that the configuration must name."""
    (tmp_path / "classifier.json").write_text("{}")
    (tmp_path / "rows.json").write_text("[]")
    return tmp_path


def completed(here: Path, *overrides: str) -> list[str]:
    """Complete a command line with files that exist."""
    open_keys = {
        "classifier=deberta": f"classifier.path={here}",
        "classifier=local_openai_compatible": "classifier.llm.model=hosted_vllm/x",
        "classifier_data=wizardlm": f"classifier_data.path={here / 'rows.json'}",
        "classifier_data=dolly": f"classifier_data.path={here / 'rows.json'}",
    }
    return [*overrides, *(open_keys[line] for line in overrides if line in open_keys), f"pool={here / 'rows.json'}"]


@pytest.mark.slow
@pytest.mark.parametrize("leaf", LEAVES)
def test_every_choice_composes_and_is_read_back(here: Path, leaf: str) -> None:
    config = read_config(completed(here, leaf))
    cfg = OmegaConf.create(to_yaml(config))
    assert OmegaConf.is_dict(cfg)
    assert parse_classify(cfg) == config
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("leaf", sorted(TEACHER))
def test_choice_that_follows_a_teacher_is_one_mistake(here: Path, leaf: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(completed(here, leaf))
    (problem,) = caught.value.problems
    assert problem.startswith("classifier.llm.model = ${teacher.llm.model}, and 25 more keys of classifier like it: ")
    assert "expected another choice of the group classifier, because this command has no teacher" in problem
    assert problem.endswith("classifier/as_teacher.yaml]")


@pytest.mark.parametrize("leaf", sorted(SEVERAL_DEVICES))
def test_training_on_several_devices_is_rejected(here: Path, leaf: str) -> None:
    with pytest.raises(ConfigError, match="classifiers are trained on one device"):
        read_config(completed(here, leaf))


def test_choices_set_kind_encoder_and_names(here: Path) -> None:
    assert read_config(completed(here)).classifier.kind is ClassifierKind.encoder
    assert read_config(completed(here)).job is ClassifyJob.label
    for size in ("xsmall", "small", "base"):
        fit = read_config(completed(here, f"classifier_training=deberta_v3_{size}")).classifier_training
        assert (fit.kind, fit.encoder) == (ClassifierKind.deberta, f"microsoft/deberta-v3-{size}")
    names = read_config(completed(here, "classifier_data=wizardlm")).classifier_data.names
    assert names == {"Writting": "Writing", "Academic Writing": None, "TruthfulQA": None}
    names = read_config(completed(here, "classifier_data=dolly")).classifier_data.names
    assert sum(task is not None for task in names.values()) == 2


def test_lab_classifier_has_the_error_rate_of_the_lab(here: Path) -> None:
    config = read_config(completed(here, "classifier=lab", "lab.classifier_error_rate=0.4"))
    assert config.classifier.llm.extra_params["error_rate"] == 0.4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pool=null"], ["pool = null", "a file of instructions, because job is label"]),
        (["job=distil", "pool=/no/such.json"], ["pool = /no/such.json", "because job is distil"]),
        (
            ["job=train", "classifier_data.path=/no/such.json"],
            ["classifier_data.path = /no/such.json", "a file that exists"],
        ),
        (
            ["job=train", "classifier_data=wizardlm"],
            ["classifier_data.path = null", "a file, because classifier_data.names is set"],
        ),
        (["trainer.precision=16-mixed"], ["trainer.precision = 16-mixed", "exceed 65504, the largest float16"]),
        (
            ["job=train", "classifier_training.kind=llm"],
            ["classifier_training.kind = llm", "a chat model is not trained"],
        ),
        (["+classifier_data.names.x=Maths"], ["classifier_data.names.x = Maths", "did you mean Math?"]),
        (
            ["classifier.path=/no/such"],
            ["classifier.path = /no/such", "classifier.json, from `tapir classify job=train`"],
        ),
        (["classifier.min_confidence=1.5"], ["classifier.min_confidence = 1.5", "between 0 and 1"]),
        (
            ["classifier=gpt_4o_mini", "classifier.min_confidence=0.5"],
            ["classifier.min_confidence = 0.5", "null, because a chat model states no confidence"],
        ),
        (["classifier=deberta"], ["classifier.path = null", "because classifier.kind is deberta"]),
        (["classifier=deberta", "classifier.precision=bfloat16"], ["classifier.precision = bfloat16", "float32"]),
        (
            ["classifier_training.kind=deberta", "classifier_training.precision=bfloat16"],
            ["classifier_training.precision = bfloat16", "trainer.precision"],
        ),
        (["folds=1"], ["folds = 1", "at least 2"]),
        (["folds_evaluated=0"], ["folds_evaluated = 0", "at least 1"]),
        (
            ["classifier_training.validation_fraction=1"],
            ["classifier_training.validation_fraction = 1", "between 0 and 1"],
        ),
        (["classifier_training.regularization_c=0"], ["classifier_training.regularization_c = 0", "more than 0"]),
        (["classifier_training.epoch=3"], ["classifier_training.epoch", "did you mean classifier_training.epochs?"]),
        (
            ["classifier_training=deberta_v3_large"],
            ["classifier_training = deberta_v3_large", "deberta_v3_base", "[command line]"],
        ),
        (["student=lab"], ["student", "a key or a group"]),
        (["job=lable"], ["job = lable", "one of label, train, evaluate, distil"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistake_is_reported_with_value_and_expectation(here: Path, overrides: list[str], words: list[str]) -> None:
    line = overrides if any(part.startswith("pool=") for part in overrides) else completed(here)[-1:] + overrides
    with pytest.raises(ConfigError) as caught:
        read_config(line)
    assert any(all(word in problem for word in words) for problem in caught.value.problems), caught.value.problems


def test_all_mistakes_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(console_module, "console", Console(file=err, width=80, highlight=False))
    with pytest.raises(SystemExit) as stop:
        tapir(["classify", "folds=1", "classifier_training.epoch=2"])
    assert stop.value.code == 2
    text = err.getvalue()
    assert "tapir classify: The configuration holds 3 mistakes:" in text
    assert all(word in text for word in ("folds = 1", "classifier_training.epoch", "pool = null"))


def test_cfg_prints_the_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--cfg", "job", *completed(here, "folds=7", "job=label")])
    assert "folds: 7" in capsys.readouterr().out


def test_help_lists_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert all(leaf.partition("=")[2] in text for leaf in LEAVES)
    assert all(f"job={job.name}" in text for job in ClassifyJob if job is not ClassifyJob.label)
