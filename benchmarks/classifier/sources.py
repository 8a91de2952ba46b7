"""Measure the default classifier on sources that it was not trained on, before and after form rules and abstention.

    python benchmarks/classifier/sources.py ../shared/assets --cache /tmp/vectors.npz

Four sources of other people: WizardLM's test set, Dolly's summaries and creative writing, and the first turns of
MT-Bench and of Vicuna's questions. Rows whose category is no task type are left out. Nothing of them is in the package.
Each source is left out in turn: temperature and limit come from the other three. A second table fits both on all four,
which gives the constants of the package.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tapir_exp.config import ClassifierFitConfig
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.calibration import fit_temperature, softmax
from tapir_exp.distillation.classifier.dataset import LabelledText, package_examples
from tapir_exp.distillation.classifier.encoder.linear_probe import LinearProbeTrainer

WIZARDLM = {"Writting": "Writing", "Academic Writing": None, "TruthfulQA": None}
DOLLY = {"creative_writing": "Writing", "summarization": "Paraphrase"}
MT_BENCH = {
    "writing": "Writing",
    "roleplay": "Roleplay",
    "reasoning": "Reasoning",
    "math": "Math",
    "coding": "Code Generation",
}
VICUNA = (
    *([None] * 20),  # generic and knowledge
    *(["Roleplay"] * 10),
    *(["Common-Sense"] * 10),
    *([None] * 10),  # estimates
    *(["Counterfactual"] * 10),
    *(["Code Generation"] * 7),
    *(["Math"] * 3),
    *(["Writing"] * 10),
)
"""Types of Vicuna's 80 questions, in their order in AlpacaEval's set."""
FIRST_EXAMPLES = 8
"""Examples of each type before those of forms were added."""
ERRORS_LEFT = 0.4
"""Share of the earlier errors that may remain on each source: the aim is a half, less a margin."""
LIMITS = np.arange(0.2, 0.91, 0.05)


@dataclass(frozen=True)
class Scored:
    """A source: its true types as indices, and its logits."""

    targets: NDArray[np.int64]
    logits: NDArray[np.float32]

    def confidence(self, temperature: float) -> NDArray[np.float64]:
        """Return the confidence of each row: (rows,)."""
        return softmax(self.logits, temperature).max(1)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each row is classified correctly without abstention: (rows,)."""
        return self.logits.argmax(1) == self.targets


def read_sources(assets: Path) -> dict[str, list[LabelledText]]:
    """Return the labelled instructions of each source."""

    def lines(name: str) -> Iterator[dict[str, str]]:
        yield from map(json.loads, (assets / name).read_text(encoding="utf-8").splitlines())

    def labelled(pairs: Iterator[tuple[str, str | None]]) -> list[LabelledText]:
        return [LabelledText(text, TaskType(task)) for text, task in dict(pairs).items() if task]

    wizardlm = (
        (r["Instruction"].strip(), WIZARDLM.get(r["Skill"], r["Skill"]))
        for r in lines("tasks/wizardlm_testset_218.jsonl")
    )
    dolly = json.loads((assets / "tasks/dolly_1498_categories.json").read_text(encoding="utf-8"))
    vicuna = (r["instruction"] for r in lines("alpacaeval/eval_set_805.jsonl") if r["dataset"] == "vicuna")
    return {
        "WizardLM": labelled(wizardlm),
        "Dolly": labelled(
            ("\n\n".join(filter(None, (r["instruction"].strip(), r["input"].strip()))), DOLLY.get(r["category"]))
            for r in dolly
        ),
        "MT-Bench": labelled((r["turns"][0], MT_BENCH.get(r["category"])) for r in lines("mtbench/question.jsonl")),
        "Vicuna": labelled(zip(vicuna, VICUNA, strict=True)),
    }


def load_vectors(trainer: LinearProbeTrainer, path: Path | None) -> None:
    """Put cached vectors into the trainer."""
    if path is not None and path.is_file():
        stored = np.load(path)
        trainer.embedded.update(zip(stored["texts"].tolist(), stored["vectors"], strict=True))


def save_vectors(trainer: LinearProbeTrainer, path: Path | None) -> None:
    """Write the trainer's vectors."""
    if path is not None:
        np.savez(path, texts=np.array(list(trainer.embedded)), vectors=np.stack(list(trainer.embedded.values())))


def score(
    rows: Sequence[LabelledText], sources: dict[str, list[LabelledText]], fit: ClassifierFitConfig, cache: Path | None
) -> tuple[dict[str, Scored], float]:
    """Train on rows; return the scored sources, and the temperature of the training rows' folds."""
    trainer = LinearProbeTrainer(fit)
    load_vectors(trainer, cache)
    trained = trainer.fit(rows, 0, "training")
    scored = {
        name: Scored(
            np.array([trained.tasks.index(row.task) for row in source]),
            trained.head.logits(trainer.vectors([row.text for row in source], name)),
        )
        for name, source in sources.items()
    }
    save_vectors(trainer, cache)
    return scored, trained.temperature


def fit_on(sources: list[Scored]) -> float:
    """Return the temperature over sources, each of which weighs the same."""
    most = max(len(source.targets) for source in sources)
    copies = [(source, round(most / len(source.targets))) for source in sources]
    logits = np.concatenate([np.tile(source.logits, (count, 1)) for source, count in copies])
    return fit_temperature(logits, np.concatenate([np.tile(source.targets, count) for source, count in copies]))


def choose_limit(sources: list[Scored], before: list[Scored], temperature: float) -> float:
    """Return the lowest limit at which at most `ERRORS_LEFT` of the earlier errors remain on every source."""
    for limit in LIMITS:
        if all(
            ((~now.correct) & (now.confidence(temperature) >= limit)).sum() <= ERRORS_LEFT * (~then.correct).sum()
            for now, then in zip(sources, before, strict=True)
        ):
            break
    return round(float(limit), 2)


def calibration_error(source: Scored, temperature: float) -> float:
    """Return the ECE over ten bins of equal width."""
    confidence = source.confidence(temperature)
    bins = np.ceil(confidence * 10)
    gaps = [abs(confidence[bins == b].sum() - source.correct[bins == b].sum()) for b in np.unique(bins)]
    return float(sum(gaps) / len(confidence))


def report(before: Mapping[str, Scored], now: Mapping[str, Scored], old_temperature: float, *, on_all: bool) -> None:
    """Print a line for each source, and the means over the sources.

    Args:
        before: Scored sources of the earlier head.
        now: Scored sources of the head with forms.
        old_temperature: Temperature of the earlier head.
        on_all: Whether temperature and limit are fitted on all sources, otherwise on all but the line's.
    """
    print("source    rows | right  conf   ECE |    T limit  right  conf   ECE  typed of them | errors")
    accuracies, confidences = [], []
    for name, new in now.items():
        others = [other for other in now if on_all or other != name]
        temperature = fit_on([now[other] for other in others])
        limit = choose_limit([now[other] for other in others], [before[other] for other in others], temperature)
        old, confidence = before[name], new.confidence(temperature)
        typed = confidence >= limit
        accuracies.append(new.correct.mean())
        confidences.append(confidence.mean())
        print(
            f"{name:9} {len(old.targets):4d} | {old.correct.mean():5.1%} {old.confidence(old_temperature).mean():5.2f}"
            f" {calibration_error(old, old_temperature):5.2f} | {temperature:4.2f} {limit:5.2f} {accuracies[-1]:6.1%}"
            f" {confidences[-1]:5.2f} {calibration_error(new, temperature):5.2f} {typed.mean():6.1%}"
            f" {new.correct[typed].mean():7.1%} | {(~old.correct).sum():3d} -> {(typed & ~new.correct).sum():3d}"
        )
    print(f"means over the sources: accuracy {np.mean(accuracies):.4f}, confidence {np.mean(confidences):.4f}")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path, help="directory of the sources")
    parser.add_argument("--cache", type=Path, help="file of vectors, read and written")
    options = parser.parse_args()
    sources, rows = read_sources(options.assets), package_examples().rows
    first = [row for task in TaskType for row in [row for row in rows if row.task is task][:FIRST_EXAMPLES]]
    before, old_temperature = score(first, sources, ClassifierFitConfig(form_rules=False), options.cache)
    now, _ = score(rows, sources, ClassifierFitConfig(), options.cache)
    print("Temperature and limit from the other sources:")
    report(before, now, old_temperature, on_all=False)
    print("Temperature and limit from all sources, which gives the constants of the package:")
    report(before, now, old_temperature, on_all=True)


if __name__ == "__main__":
    main()
