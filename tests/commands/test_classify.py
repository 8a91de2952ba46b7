"""The command `tapir-label`: help, mistakes and every choice of its groups, before anything heavy is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
from assets import HEAVY
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tapir_exp.commands.classify import GROUPS, main, read
from tapir_exp.commands.hydra_app import data_dir
from tapir_exp.config import ClassifierKind, ClassifyJob, parse_classify, to_yaml
from tapir_exp.core.errors import ConfigError

CONF = data_dir("conf")
SEVERAL = {"trainer=ddp", "trainer=fsdp", "trainer=deepspeed"}
"""Choices of several devices; a classifier is fitted on one."""
LEAVES = sorted({f"{group}={leaf.stem}" for group in GROUPS for leaf in (CONF / group).glob("*.yaml")} - SEVERAL)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with what a leaf leaves open."""
    (tmp_path / "classifier.json").write_text("{}")
    (tmp_path / "rows.json").write_text("[]")
    return tmp_path


def completed(here: Path, *overrides: str) -> list[str]:
    """The command line of a job whose files are there."""
    open_keys = {
        "classifier=deberta": f"classifier.path={here}",
        "classifier=local_openai_compatible": "classifier.llm.model=hosted_vllm/x",
        "classifier_data=wizardlm": f"classifier_data.path={here / 'rows.json'}",
        "classifier_data=dolly": f"classifier_data.path={here / 'rows.json'}",
    }
    return [*overrides, *(open_keys[line] for line in overrides if line in open_keys), f"pool={here / 'rows.json'}"]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_choice_composes_parses_and_is_read_back(here: Path, leaf: str) -> None:
    config = read(completed(here, leaf))
    cfg = OmegaConf.create(to_yaml(config))
    assert OmegaConf.is_dict(cfg)
    assert parse_classify(cfg) == config
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("leaf", sorted(SEVERAL))
def test_a_labeller_is_fitted_on_one_device(here: Path, leaf: str) -> None:
    with pytest.raises(ConfigError, match="a classifier is fitted on one device"):
        read(completed(here, leaf))


def test_a_choice_means_what_its_name_says(here: Path) -> None:
    assert read(completed(here)).classifier.kind is ClassifierKind.encoder
    assert read(completed(here)).job is ClassifyJob.label
    for size in ("xsmall", "small", "base"):
        fit = read(completed(here, f"fit=deberta_v3_{size}")).classifier_training
        assert (fit.kind, fit.encoder) == (ClassifierKind.deberta, f"microsoft/deberta-v3-{size}")
    names = read(completed(here, "classifier_data=wizardlm")).classifier_data.names
    assert names == {"Writting": "Writing", "Academic Writing": None, "TruthfulQA": None}
    assert (
        sum(task is not None for task in read(completed(here, "classifier_data=dolly")).classifier_data.names.values())
        == 2
    )


def test_the_lab_s_labeller_errs_as_the_lab_section_says(here: Path) -> None:
    config = read(completed(here, "classifier=lab", "lab.classifier_error_rate=0.4"))
    assert config.classifier.llm.extra_params["error_rate"] == 0.4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pool=null"], ["pool = null", "a file of instructions, since job is label"]),
        (["job=distil", "pool=/no/such.json"], ["pool = /no/such.json", "since job is distil"]),
        (
            ["job=train", "classifier_data.path=/no/such.json"],
            ["classifier_data.path = /no/such.json", "a file that exists"],
        ),
        (
            ["job=train", "classifier_data=wizardlm"],
            ["classifier_data.path = null", "whose types classifier_data.names maps"],
        ),
        (["trainer.precision=16-mixed"], ["trainer.precision = 16-mixed", "float16 overflows in DeBERTa-v3"]),
        (
            ["job=train", "classifier_training.kind=llm"],
            ["classifier_training.kind = llm", "a chat model is asked, not trained"],
        ),
        (["+classifier_data.names.x=Maths"], ["classifier_data.names.x = Maths", "did you mean Math?"]),
        (
            ["classifier.path=/no/such"],
            ["classifier.path = /no/such", "classifier.json, as tapir-label job=train writes"],
        ),
        (["classifier=deberta"], ["classifier.path = null", "since kind is deberta"]),
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
        (["fit=deberta_v3_large"], ["fit = deberta_v3_large", "deberta_v3_base", "[command line]"]),
        (["student=lab"], ["student", "a key or a group"]),
        (["job=lable"], ["job = lable", "one of label, train, evaluate, distil"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_named_with_its_value_and_what_was_expected(
    here: Path, overrides: list[str], words: list[str]
) -> None:
    line = overrides if any(part.startswith("pool=") for part in overrides) else completed(here)[-1:] + overrides
    with pytest.raises(ConfigError) as caught:
        read(line)
    assert any(all(word in problem for word in words) for problem in caught.value.problems), caught.value.problems


def test_mistakes_are_told_together_and_end_with_two() -> None:
    code = (
        "import sys; sys.argv = ['tapir-label', 'folds=1', 'classifier_training.epoch=2']\n"
        "from tapir_exp.commands.classify import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CONF.parent, timeout=60)
    assert done.returncode == 2
    assert "tapir-label: The configuration holds 3 mistakes:" in done.stderr
    assert all(word in done.stderr for word in ("folds = 1", "classifier_training.epoch", "pool = null"))


def test_cfg_prints_what_would_be_done(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tapir-label", "--cfg", *completed(here, "folds=7")])
    main()
    assert "folds: 7" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job=train"], ["folds=1"]], ids=" ".join)
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['tapir-label', *arguments]!r}\n"
        "from tapir_exp.commands.classify import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {(*HEAVY, 'numpy', 'sklearn')!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CONF.parent, timeout=60)
    assert done.stderr.strip().endswith("[]"), done.stderr


def test_help_lists_every_choice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tapir-label", "--help"])
    main()
    told = capsys.readouterr().out
    assert all(leaf.partition("=")[2] in told for leaf in LEAVES)
    assert all(f"job={job.name}" in told for job in ClassifyJob if job is not ClassifyJob.label)
