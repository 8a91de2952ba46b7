"""Training, calibration, early stopping, saving and loading of a DeBERTa-v2 with random weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tapir_exp.config import ClassifierFitConfig, ClassifierKind, TrainerConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.dataset import LabelledText
from tapir_exp.distillation.classifier.deberta.model import load_classifier
from tapir_exp.distillation.classifier.deberta.module import ClassifierModule
from tapir_exp.distillation.classifier.deberta.trainer import DebertaClassifier, DebertaTrainer, open_deberta
from tapir_exp.distillation.classifier.trainable import predict

CPU = TrainerConfig(accelerator="cpu")
TASKS = (TaskType.MATH, TaskType.WRITING, TaskType.MUSIC)


@pytest.fixture(scope="module")
def fit(deberta_base: Path) -> ClassifierFitConfig:
    return ClassifierFitConfig(
        kind=ClassifierKind.deberta,
        encoder=str(deberta_base),
        max_length=32,
        batch_size=8,
        epochs=30,
        patience=30,
        learning_rate=5e-3,
        validation_fraction=0.2,
    )


@pytest.fixture(scope="module")
def classifier(fit: ClassifierFitConfig, rows: list[LabelledText]) -> DebertaClassifier:
    return DebertaTrainer(fit, CPU).fit(rows, 0, "")


@pytest.mark.slow
def test_fit_learns_and_is_confident_but_not_certain(classifier: DebertaClassifier, rows: list[LabelledText]) -> None:
    predictions = predict(classifier, [row.text for row in rows], "")
    assert np.mean([made.task is row.task for made, row in zip(predictions, rows, strict=True)]) > 0.95
    assert 0.6 < np.mean([made.confidence or 0 for made in predictions]) < 0.995


@pytest.mark.slow
def test_save_writes_a_hugging_face_directory(
    classifier: DebertaClassifier, rows: list[LabelledText], tmp_path: Path
) -> None:
    from transformers import pipeline

    classifier.save(tmp_path)
    texts = [row.text for row in rows]
    opened = open_deberta(tmp_path, classifier.tasks, classifier.temperature, 32, 5)
    assert opened.score(texts, "") == pytest.approx(classifier.score(texts, ""), abs=1e-5)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "Math", "1": "Writing", "2": "Music"}
    assert pipeline("text-classification", model=str(tmp_path), device="cpu")(texts[0])[0]["label"] == "Math"
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))


def test_model_has_eager_attention_and_float32_weights(classifier: DebertaClassifier) -> None:
    assert classifier.model.config._attn_implementation == "eager"
    assert {str(p.dtype) for p in classifier.model.parameters()} == {"torch.float32"}


def test_fit_is_reproducible_under_any_random_state(fit: ClassifierFitConfig, rows: list[LabelledText]) -> None:
    import torch

    short, weights = replace(fit, epochs=2), []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        model = DebertaTrainer(short, CPU).fit(rows, 0, "").model
        assert torch.equal(before, torch.random.get_rng_state())
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_fit_stops_early_with_its_best_weights(
    fit: ClassifierFitConfig, rows: list[LabelledText], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.3, 0.9, 0.5, 0.4, 0.99])
    states: list[dict[str, object]] = []
    end = ClassifierModule.on_validation_epoch_end

    def scripted(module: ClassifierModule) -> None:
        monkeypatch.setattr("tapir_exp.distillation.classifier.deberta.module.macro_f1", lambda counts: next(scores))
        end(module)
        states.append({name: value.clone() for name, value in module.model.state_dict().items()})

    monkeypatch.setattr(ClassifierModule, "on_validation_epoch_end", scripted)
    classifier = DebertaTrainer(replace(fit, patience=2, epochs=9), CPU).fit(rows, 0, "")
    assert len(states) == 4  # 0.9 came second, and two epochs without improvement followed
    best = [all(value.equal(state[name]) for name, value in classifier.model.state_dict().items()) for state in states]  # type: ignore[attr-defined]
    assert best == [False, True, False, False]


def test_fit_in_bfloat16_gives_finite_logits(fit: ClassifierFitConfig, rows: list[LabelledText]) -> None:
    classifier = DebertaTrainer(replace(fit, epochs=2), replace(CPU, precision="bf16-mixed")).fit(rows, 0, "")
    assert {str(p.dtype) for p in classifier.model.parameters()} == {"torch.float32"}
    assert np.isfinite(classifier.score([row.text for row in rows], "")).all()


def test_load_rejects_other_weights_than_safetensors(deberta_base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for name in ("config.json", "spm.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((deberta_base / name).read_bytes())
    torch.save(load_file(deberta_base / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"cannot be read: .*Only safetensors(.|\n)*training\.revision=refs/pr"):
        load_classifier(str(tmp_path), TASKS, None)


def test_load_never_runs_remote_code(deberta_base: Path, tmp_path: Path) -> None:
    for path in deberta_base.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "own.py").write_text(f"import os; os.mkdir({str(tmp_path / 'run')!r})\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="needs remote code"):
        load_classifier(str(tmp_path), TASKS, None)
    assert not (tmp_path / "run").exists()


def test_fit_rejects_too_few_rows(fit: ClassifierFitConfig, rows: list[LabelledText]) -> None:
    with pytest.raises(ConfigError, match="24 rows of 1 types are too few"):
        DebertaTrainer(fit, CPU).fit(rows[:24], 0, "")
