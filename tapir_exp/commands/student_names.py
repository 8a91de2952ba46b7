"""Name the students of runs in the files of the benchmarks; no two jobs of a sweep have the same name."""

import re
from pathlib import Path

from tapir_exp.core.yaml_files import read_yaml
from tapir_exp.report.sweep.plan_file import PLAN, SweepPlan

NO_NAME = re.compile(r"[^\w.+-]+")
"""Characters that a name has no use for."""
JOB_OVERRIDES = ".hydra/overrides.yaml"


def student_name(run: Path, experiment: str, arm: str, seed: int) -> str:
    """Return the name of the students of a run: its experiment, and arm and seed, or the settings of a sweep's job.

    Args:
        run: The directory of the run.
        experiment: Name of the experiment.
        arm: Arm of the run.
        seed: Seed of the run.
    """
    overrides = run / JOB_OVERRIDES
    if not (run.parent / PLAN).is_file() or not overrides.is_file():
        return f"{experiment}-{arm}-seed{seed}"
    label = SweepPlan.load(run.parent).label([str(line) for line in read_yaml(overrides) or ()])
    return f"{experiment}-{NO_NAME.sub('-', label).strip('-')}"
