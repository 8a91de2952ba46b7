"""A linear head on an encoder: accuracy, confidence, and saving."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tapir_exp.config import ClassifierFitConfig, Precision
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.stored_rows import RowLog, StoredVector
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.calibration import softmax
from tapir_exp.distillation.classifier.dataset import LabelledText
from tapir_exp.distillation.classifier.encoder.embedding import Embedder
from tapir_exp.distillation.classifier.encoder.linear_probe import LinearProbeTrainer, fit_head, open_linear
from tapir_exp.distillation.classifier.encoder_weights import PACKAGE, find_encoder
from tapir_exp.distillation.classifier.forms import NAMES
from tapir_exp.distillation.classifier.trainable import Matrix, predict

pytest.importorskip("sklearn", reason="the extra `local` is not installed")
needs_minilm = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra `local` is not installed")


@pytest.fixture(scope="module")
def trainer(deberta_base: Path) -> LinearProbeTrainer:
    """Return a trainer on a random encoder; words differ only by their letters."""
    return LinearProbeTrainer(ClassifierFitConfig(encoder=str(deberta_base), max_length=32, regularization_c=1000.0))


def test_embed_returns_unit_vectors_independent_of_the_batch(deberta_base: Path) -> None:
    embedder = Embedder(deberta_base, 32, 2, Precision.float32)
    texts = ["Add both of them now", "Hum", "Draft the red one", "Hum the large one now"]
    rows = embedder.embed(texts, "")
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    for text, row in zip(texts, rows, strict=True):
        assert embedder.embed([text], "")[0] == pytest.approx(row, abs=1e-5)
    assert embedder.embed([], "").shape == (0, 32)


def test_interrupted_embedding_goes_on_with_the_missing_batches(
    deberta_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(deberta_base, 32, 2, Precision.float32)
    texts = ["Add both of them now", "Hum", "Draft the red one", "Hum the large one now", "Draw"]
    whole, embed = embedder.embed(texts, ""), embedder._embed
    batches: list[int] = []

    def interrupted(batch: list[str]) -> Matrix:
        batches.append(len(batch))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return embed(batch)

    monkeypatch.setattr(embedder, "_embed", interrupted)
    with pytest.raises(KeyboardInterrupt), RowLog(tmp_path / "log", StoredVector) as kept:
        embedder.embed(texts, "", kept)
    with RowLog(tmp_path / "log", StoredVector) as kept:
        assert np.array_equal(embedder.embed(texts, "", kept), whole)
    assert batches == [2, 2, 1, 1]


def test_embed_ignores_tokens_beyond_the_maximum(deberta_base: Path) -> None:
    embedder = Embedder(deberta_base, 8, 4, Precision.float32)
    long = "Add the red one now the blue one now the green one now"
    assert embedder.embed([long], "")[0] == pytest.approx(embedder.embed([long + " and more"], "")[0], abs=1e-6)


def test_embed_in_bfloat16_is_close_to_float32(deberta_base: Path) -> None:
    texts = ["Add both of them now", "Hum", "Draft the red one"]
    whole, half = (Embedder(deberta_base, 32, 2, precision).embed(texts, "") for precision in Precision)
    assert half.dtype == np.float32
    assert np.linalg.norm(half, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert (whole * half).sum(1) == pytest.approx(np.ones(3), abs=1e-3)
    assert not np.array_equal(whole, half)


def test_fit_learns_saves_and_reproduces(
    trainer: LinearProbeTrainer, rows: list[LabelledText], tmp_path: Path, deberta_base: Path
) -> None:
    texts = [row.text for row in rows]
    classifier = trainer.fit(rows, 0, "")
    correct = [made.task is row.task for made, row in zip(predict(classifier, texts, ""), rows, strict=True)]
    assert np.mean(correct) > 0.9
    classifier.save(tmp_path)
    opened = open_linear(
        tmp_path, str(deberta_base), classifier.tasks, classifier.temperature, 32, 8, Precision.float32
    )
    assert opened.score(texts, "") == pytest.approx(classifier.score(texts, ""), abs=1e-4)
    again = trainer.fit(rows, 0, "")
    assert (again.temperature, again.head.weight.tobytes()) == (
        classifier.temperature,
        classifier.head.weight.tobytes(),
    )


def test_vectors_embed_each_text_once(
    trainer: LinearProbeTrainer, rows: list[LabelledText], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.vectors([row.text for row in rows], "")
    monkeypatch.setattr(trainer._embedder, "embed", lambda texts, progress: np.zeros((len(texts), 32))[len(texts) :])
    assert trainer.vectors([rows[3].text, rows[3].text], "").shape == (2, 32 + len(NAMES))


def test_fit_of_two_types_works_and_of_one_type_fails(trainer: LinearProbeTrainer, rows: list[LabelledText]) -> None:
    two = [row for row in rows if row.task is not TaskType.MUSIC]
    classifier = trainer.fit(two, 0, "")
    predictions = predict(classifier, [row.text for row in two], "")
    assert np.mean([made.task is row.task for made, row in zip(predictions, two, strict=True)]) > 0.9
    assert all(made.confidence is not None and made.confidence >= 0.5 for made in predictions)
    with pytest.raises(ConfigError, match="24 rows of 1 types are too few"):
        trainer.fit([row for row in rows if row.task is TaskType.MUSIC], 0, "")


def test_class_weights_raise_the_probability_of_a_rare_type() -> None:
    vectors = np.array([[1.0, 0.0]] * 40 + [[0.8, 0.6]] * 2, dtype=np.float32)
    targets = np.array([0] * 40 + [1] * 2)

    def rare_probability(weighted: bool) -> float:
        head = fit_head(vectors, targets, ClassifierFitConfig(class_weights=weighted, regularization_c=1.0))
        return float(softmax(head.logits(np.array([[0.9, 0.3]], dtype=np.float32)), 1.0)[0, 1])

    assert rare_probability(weighted=True) > 2 * rare_probability(weighted=False)


@needs_minilm
def test_minilm_classifies_unseen_sentences() -> None:
    trainer = LinearProbeTrainer(ClassifierFitConfig())
    rows = [
        LabelledText("Multiply 17 by 23.", TaskType.MATH),
        LabelledText("What is 15 percent of 80?", TaskType.MATH),
        LabelledText("Compose a lullaby in verse.", TaskType.WRITING),
        LabelledText("Write a letter to a friend.", TaskType.WRITING),
        LabelledText("Implement bubble sort in Python.", TaskType.CODE_GENERATION),
        LabelledText("Write a function that reverses a list.", TaskType.CODE_GENERATION),
    ]
    expected = {
        "Solve the equation 2x + 3 = 11.": TaskType.MATH,
        "Compose a poem about autumn.": TaskType.WRITING,
        "Implement a stack in C++.": TaskType.CODE_GENERATION,
    }
    assert [made.task for made in predict(trainer.fit(rows, 0, ""), list(expected), "")] == list(expected.values())
    assert find_encoder("minilm").name == "model"
