"""Write finished evaluations for tests of the paper tables."""

import json
from pathlib import Path
from typing import Any

from tapir_exp.core.evaluation_manifest import Evaluation
from tapir_exp.core.manifest import entry_of
from tapir_exp.core.store import Store
from tapir_exp.report.evaluations import EvaluationResult
from tapir_exp.report.paper_tables import load_evaluations

LLAMA = "meta-llama/Llama-2-7b-hf"
OFFICIAL_JUDGE = "openai/gpt-4-1106-preview"


class EvaluationsDir:
    """A directory of evaluations and the store that they share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")

    def add(
        self,
        name: str,
        wins: list[float],
        *,
        arm: str | None = "tapir",
        seed: int | None = 0,
        model: str | None = LLAMA,
        judge: str = OFFICIAL_JUDGE,
        **figures: Any,
    ) -> Path:
        """Write a finished AlpacaEval evaluation.

        Args:
            name: Name of the student and of the directory.
            wins: Win share on each instruction, in per cent.
            arm: Arm of the run; None for a model from elsewhere.
            seed: Seed of the run.
            model: Base model; None for given outputs.
            judge: Model of the judge.
            **figures: Further figures, or replacements of the usual ones.

        Returns:
            The directory of the evaluation.
        """

        def make(directory: Path) -> dict[str, Any]:
            rows = [{"instruction": f"i{n}", "preference": 1 + share / 100} for n, share in enumerate(wins)]
            (directory / "annotations.json").write_text(json.dumps(rows))
            return {"win_rate": sum(wins) / len(wins), "standard_error": 0.8, **figures}

        entry = entry_of("alpaca-suite", 0, self.store.produce("alpaca-suite", {"name": name}, make))
        directory = self.root / "evaluations" / name
        directory.mkdir(parents=True)
        Evaluation(
            student=name,
            model=model,
            experiment="llama" if arm else None,
            arm=arm,
            seed=seed,
            run=f"../../runs/{name}" if arm else None,
            judge=judge,
            store="../../store",
            suites={"alpaca_eval": "alpaca-suite"},
            artifacts=(entry,),
        ).write(directory)
        return directory

    def load(self) -> list[EvaluationResult]:
        """Load all evaluations, with links relative to a directory `paper`."""
        directory = self.root / "evaluations"
        return load_evaluations(directory, directory / "paper")[0]
