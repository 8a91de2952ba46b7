"""Read what a sweep report is built from, in tests."""

import json
from pathlib import Path
from typing import Any


def final_metrics(sweep_dir: Path, arm: str) -> list[dict[str, Any]]:
    """Return the metrics of the last student of seeds 1 to 3 of an arm of the `ablation` fixture."""
    paths = [sweep_dir / f"arm-{arm}_seed-{seed}" / "metrics.jsonl" for seed in (1, 2, 3)]
    return [json.loads(path.read_text().splitlines()[-1]) for path in paths]


def final_accuracies(sweep_dir: Path, arm: str) -> list[float]:
    """Return the macro accuracy of the last student of seeds 1 to 3 of an arm."""
    return [metrics["benchmark/accuracy"] for metrics in final_metrics(sweep_dir, arm)]
