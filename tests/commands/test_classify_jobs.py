"""Jobs of `tapir classify`: in the lab, on the package's examples, and on data of others."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assets import asset
from fakes import ScriptedChat, example, prompt_of

from tapir_exp.commands.classify import read_config
from tapir_exp.commands.classify_jobs import cross_validate, evaluate, label_pool, run_job
from tapir_exp.commands.classify_pool import UNREADABLE, Pool
from tapir_exp.config import (
    ClassifierConfig,
    ClassifierFitConfig,
    ClassifierKind,
    ClassifyConfig,
    Precision,
    TrainerConfig,
)
from tapir_exp.core.errors import ConfigError, SeedError
from tapir_exp.core.records import Label, LabelledInstruction
from tapir_exp.core.store import read_rows
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.base import open_classifier
from tapir_exp.distillation.classifier.baselines import Baseline
from tapir_exp.distillation.classifier.card import read_card
from tapir_exp.distillation.classifier.confidence import Validation
from tapir_exp.distillation.classifier.dataset import LabelledDataset, LabelledText
from tapir_exp.distillation.classifier.encoder_weights import PACKAGE
from tapir_exp.distillation.classifier.llm import LLMClassifier
from tapir_exp.distillation.classifier.trainable import Matrix, known_tasks
from tapir_exp.distillation.classifier.trained import CachedClassifier, open_trainer
from tapir_exp.lab.world import natural_problems
from tapir_exp.llm.chat import ChatRequest

needs_minilm = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra `local` is not installed")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write seed instructions of the lab, with Alpaca's fields."""
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    rows = [{"instruction": problem.instruction, "input": "", "output": "?"} for _, problem in natural_problems(240, 0)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def configured(tmp_path: Path, *overrides: str) -> ClassifyConfig:
    return read_config([f"output_dir={tmp_path / 'out'}", f"outputs={tmp_path}", "bootstrap_samples=50", *overrides])


def test_pool_is_labelled_with_the_source_of_each_label(tmp_path: Path) -> None:
    chat = ScriptedChat(lambda request: "Math" if "add" in prompt_of(request) else "no type")
    classifier = LLMClassifier(chat, ClassifierConfig(max_failure_rate=1.0))
    counts = label_pool([example("add 1"), example("add 2"), example("hum")], classifier, tmp_path)
    assert counts == {"Math": 2, "unlabelled": 1}
    rows = read_rows(tmp_path / "labels.jsonl", LabelledInstruction)
    assert [(row.instruction, row.task, row.confidence) for row in rows] == [
        ("add 1", TaskType.MATH, None),
        ("add 2", TaskType.MATH, None),
        ("hum", None, None),
    ]
    assert {row.source for row in rows} == {"scripted"}
    assert (rows[2].failure or "").startswith("unreadable reply")


def test_pool_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_exp.commands.classify_jobs.CHUNK", 2)
    read, labelled = [], []

    class Watched(LLMClassifier):
        def label(self, examples, progress):  # type: ignore[no-untyped-def]
            labelled.append((len(read), len(examples)))
            return super().label(examples, progress)

    def rows():  # type: ignore[no-untyped-def]
        for index in range(5):
            read.append(index)
            yield example(f"add {index}")

    label_pool(rows(), Watched(ScriptedChat(lambda request: "Math"), ClassifierConfig()), tmp_path)
    assert labelled == [(2, 2), (4, 2), (5, 1)]


def test_interrupted_labelling_goes_on_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ends in its second chunk, which the next start labels again."""
    monkeypatch.setattr("tapir_exp.commands.classify_jobs.CHUNK", 2)
    labelled: list[str] = []

    class Interrupted(LLMClassifier):
        def label(self, examples, progress):  # type: ignore[no-untyped-def]
            labelled.extend(row.instruction for row in examples)
            if "add 3" in labelled and len(labelled) < 5:
                raise KeyboardInterrupt
            return super().label(examples, progress)

    def reply(request: ChatRequest) -> str:
        return "?" if "add 4" in prompt_of(request) else "Math"

    classifier = Interrupted(ScriptedChat(reply), ClassifierConfig(max_failure_rate=1))
    rows = [example(f"add {index}") for index in range(5)]
    with pytest.raises(KeyboardInterrupt):
        label_pool(rows, classifier, tmp_path)
    assert not (tmp_path / "labels.jsonl").exists()
    assert label_pool(rows, classifier, tmp_path) == {"Math": 4, "unlabelled": 1}
    assert labelled == ["add 0", "add 1", "add 2", "add 3", "add 2", "add 3", "add 4"]
    assert [path.name for path in tmp_path.iterdir()] == ["labels.jsonl"]


def test_bad_rows_are_counted_and_the_others_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("tapir_exp.commands.classify_pool.print_warning", warnings.append)
    path = tmp_path / "pool.jsonl"
    rows = ['{"instruction": "a"}', '{"input": "b"}', "{", '{"instruction": "\\ud83d"}', "", '{"instruction": "c"}']
    path.write_text("\n".join(rows))
    classifier = LLMClassifier(ScriptedChat(lambda request: "Math"), ClassifierConfig())
    assert label_pool(Pool(path), classifier, tmp_path) == {"Math": 2}
    lines = [json.loads(line) for line in (tmp_path / UNREADABLE).read_text().splitlines()]
    assert [line["row"] for line in lines] == [2, 3, 4]
    assert ["no instruction" in lines[0]["reason"], "JSON" in lines[1]["reason"], "\\ud83d" in lines[2]["reason"]] == [
        True
    ] * 3
    (warning,) = warnings
    assert "3 rows" in warning
    assert "the first is row 2: no instruction" in warning
    path.write_text(rows[0])  # a mended pool leaves no old list behind
    label_pool(Pool(path), classifier, tmp_path)
    assert not (tmp_path / UNREADABLE).exists()


@pytest.mark.parametrize("text", ["{\n", '{"input": "b"}\n', '[{"instruction": "a"} {'])
def test_pool_without_a_readable_row_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text(text)
    with pytest.raises(SeedError, match=r"pool\.jsonl (has no readable row; the first is row 1|cannot be read beyond)"):
        list(Pool(path))


class Unsure(LLMClassifier):
    """Gives a confidence to each row, and no type to rows below 0.5."""

    def validation(self) -> Validation:  # type: ignore[override]
        return Validation(rows=99, accuracy=0.8, mean_confidence=0.7)

    def label(self, examples, progress):  # type: ignore[no-untyped-def]
        values = [int(row.instruction) / 100 for row in examples]
        return [
            Label(id=row.id, task=TaskType.MATH if value >= 0.5 else None, raw="Math", confidence=value)
            for row, value in zip(examples, values, strict=True)
        ]


@pytest.mark.parametrize(("low", "warned"), [(20, True), (60, False)])
def test_low_confidence_over_a_pool_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: int, warned: bool
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("tapir_exp.commands.classify_jobs.print_warning", warnings.append)
    monkeypatch.setattr("tapir_exp.commands.classify_jobs.CHUNK", 16)
    pool = [example(str(low + number)) for number in range(40)]
    counts = label_pool(pool, Unsure(ScriptedChat([]), ClassifierConfig()), tmp_path)
    assert counts["unlabelled"] == (30 if warned else 0)
    assert ["out of its depth" in text and "75% of the rows" in text for text in warnings] == [True] * warned


def test_abstained_rows_do_not_enter_the_calibration(tmp_path: Path) -> None:
    rows = tuple(LabelledText(str(number), TaskType.MATH) for number in (20, 80, 90))
    config = ClassifyConfig(bootstrap_samples=10)
    figures = evaluate(
        LabelledDataset(rows, {}, "", ""), Unsure(ScriptedChat([]), ClassifierConfig()), config, tmp_path
    )
    assert (figures.unlabelled, figures.accuracy.mean, figures.labelled_accuracy) == (1, pytest.approx(2 / 3), 1.0)
    assert sum(part.rows for part in figures.reliability) == 2


@pytest.mark.slow
@needs_minilm
def test_distil_trains_an_encoder_on_labels_of_a_chat_model(tmp_path: Path, pool: Path) -> None:
    config = configured(tmp_path, "job=distil", f"pool={pool}", "classifier=lab", "sample=200", "folds=4")
    run_job(config)
    directory = tmp_path / "out" / "classifier"
    card = read_card(directory)
    assert card.kind == "encoder"
    assert card.data["rows"] == len(
        {row.id for row in read_rows(tmp_path / "out" / "labels.jsonl", LabelledInstruction)}
    )
    assert card.base["encoder"] == "minilm"
    assert card.figures["kappa"]["mean"] > 0.8  # agreement with the oracle, which errs at 3 %
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    assert (
        json.loads((tmp_path / "out" / "spend.json").read_text())["stages"]["task_labels"]["classifier"]["calls"] == 200
    )
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]
    assert figures["trained classifier"]["macro_f1"]["mean"] > figures["commonest type"]["macro_f1"]["mean"]

    trained = configured(
        tmp_path,
        "job=evaluate",
        f"classifier_data.path={tmp_path / 'out' / 'labels.jsonl'}",
        f"classifier.path={directory}",
    )
    run_job(trained)
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]
    assert figures["classifier"]["kappa"]["mean"] > 0.9


class Parrot:
    """Memorise rows: label a known row correctly, and any other as the last known type."""

    temperature = 1.0
    validation = None

    def __init__(self, rows: Sequence[LabelledText] = ()) -> None:
        self.seen = {row.text: row.task for row in rows}
        self.tasks = known_tasks(rows)

    def baselines(self) -> dict[str, Baseline]:
        return {}

    def base(self) -> dict[str, Any]:
        return {}

    def fit(self, rows: Sequence[LabelledText], seed: int, progress: str) -> "Parrot":
        return Parrot(rows)

    def save(self, directory: Path) -> None:
        raise AssertionError("unexpected call")

    def score(self, texts: Sequence[str], progress: str) -> Matrix:
        indices = [self.tasks.index(self.seen.get(text, self.tasks[-1])) for text in texts]
        return 9 * np.eye(len(self.tasks), dtype=np.float32)[indices]


@pytest.mark.parametrize(("held_out", "rows"), [(None, 60), (2, 24)])
def test_figures_come_from_rows_outside_the_training_folds(held_out: int | None, rows: int) -> None:
    pytest.importorskip("sklearn", reason="the extra `local` is not installed")
    tasks = [TaskType.MATH, TaskType.LAW, TaskType.ART] * 20
    dataset = LabelledDataset(tuple(LabelledText(f"word{index}", task) for index, task in enumerate(tasks)), {}, "", "")
    comparisons = cross_validate(Parrot(), dataset, ClassifyConfig(folds=5, folds_evaluated=held_out))
    for name, comparison in comparisons.items():
        assert len(comparison.truth) == rows
        assert comparison.measure(10, 0).accuracy.mean <= 0.4, name  # by heart it would be 1, by chance a third


@pytest.mark.slow
@needs_minilm
def test_trained_classifier_is_identified_by_its_files(tmp_path: Path) -> None:
    run_job(configured(tmp_path, "job=train", "folds_evaluated=1"))
    directory = tmp_path / "out" / "classifier"
    config = ClassifierConfig(kind=ClassifierKind.encoder, path=str(directory))
    before = CachedClassifier(config)
    assert before.recipe() == CachedClassifier(config).recipe()
    (label,) = before.label([example("What is 7 times 8?")], "")
    assert (label.task, label.source, label.raw) == (TaskType.MATH, before.source, "")
    assert label.confidence is not None
    assert 0 < label.confidence < 1

    head = directory / "head.safetensors"
    data = bytearray(head.read_bytes())
    data[-1] ^= 1
    head.write_bytes(data)
    after = CachedClassifier(config)
    assert after.recipe() != before.recipe()
    assert after.source != before.source

    card = directory / "classifier.json"
    card.write_text(card.read_text().replace('"sha256": "', '"sha256": "0', 1).replace('"sha256":"', '"sha256":"0', 1))
    with pytest.raises(ConfigError, match=r"minilm: the weights differ from those that .* was trained on"):
        CachedClassifier(config)


@pytest.mark.slow
@needs_minilm
def test_without_a_path_the_head_is_fit_on_package_examples() -> None:
    classifier = open_classifier(ClassifierConfig(kind=ClassifierKind.encoder), no_chat)
    assert classifier.recipe()["classifier"].keys() == {"examples", "forms", "temperature", "encoder", "fit"}
    expected = {
        "Fix this Python code, which raises a KeyError: d = {}; print(d['a'])": TaskType.CODE_DEBUG,
        "Translate into Italian: I am hungry.": TaskType.MULTILINGUAL,
        "Who composed the Moonlight Sonata?": TaskType.MUSIC,
        "What is the chemical formula of ammonia?": TaskType.CHEMISTRY,
        "Pretend to be a wizard and greet me.": TaskType.ROLEPLAY,
    }
    labels = classifier.label([example(text) for text in expected], "")
    assert [label.task for label in labels] == list(expected.values())


@pytest.mark.slow
@needs_minilm
def test_precision_changes_the_recipe_but_hardly_the_labels() -> None:
    whole, half = (
        open_classifier(ClassifierConfig(kind=ClassifierKind.encoder, precision=precision), no_chat)
        for precision in Precision
    )
    assert half.recipe()["classifier"] == whole.recipe()["classifier"] | {"precision": "bfloat16"}
    examples = [example(text) for text in ("Who composed the Moonlight Sonata?", "Fix this bug: print(d['a'] raises")]
    exact, near = whole.label(examples, ""), half.label(examples, "")
    assert [label.task for label in near] == [label.task for label in exact]
    assert [label.confidence for label in near] == pytest.approx([label.confidence for label in exact], abs=0.02)
    assert [label.confidence for label in near] != [label.confidence for label in exact]


def no_chat():  # type: ignore[no-untyped-def]
    raise AssertionError("a trained classifier asks no chat model")


def test_training_without_the_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_exp.distillation.classifier.trained.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"scikit-learn, which is not installed\. .*pip install .*tapir-exp\[local\]"):
        open_trainer(ClassifierFitConfig(), TrainerConfig())


def test_classifier_of_another_kind_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "classifier.json").write_text(
        '{"kind": "encoder", "tasks": [], "temperature": 1, "base": {}, "data": {}, "settings": {}, "figures": {}}'
    )
    with pytest.raises(ConfigError, match=r"classifier\.kind = deberta: expected encoder, the kind of "):
        CachedClassifier(ClassifierConfig(kind=ClassifierKind.deberta, path=str(tmp_path)))


@pytest.mark.slow
@needs_minilm
def test_accuracy_on_instructions_of_others_beats_chance(tmp_path: Path) -> None:
    path = asset("tasks/wizardlm_testset_218.jsonl")
    run_job(configured(tmp_path, "job=evaluate", "classifier_data=wizardlm", f"classifier_data.path={path}"))
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["data"]["rows"] == 207
    result = figures["figures"]["classifier"]
    assert result["labelled_accuracy"] > 0.8  # measured: 0.857
    assert result["unlabelled"] < 0.6 * 207  # measured: 52.7 %
