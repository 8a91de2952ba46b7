"""The remaining calls and cost of `tapir evaluate`, suite by suite, without a call to any model."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tapir_exp.commands.dry_run import NotInStore, open_dry
from tapir_exp.commands.evaluate_job import find_subject, sweep_jobs
from tapir_exp.commands.plan_job import PlannedStage, plan_stages
from tapir_exp.config import Config
from tapir_exp.core.errors import ConfigError, EvaluationError
from tapir_exp.core.records import Example
from tapir_exp.core.store import Store
from tapir_exp.pipeline.benchmarks import SUITES
from tapir_exp.pipeline.estimate import estimate_suites
from tapir_exp.pipeline.request_sizes import REFINED_LENGTH_RATIO, RESPONSE_TOKENS, seed_statistics
from tapir_exp.pipeline.stage_costs import StageEstimate
from tapir_exp.pipeline.subject import EvaluatedModel


def plan_evaluation(config: Config) -> list[PlannedStage]:
    """Return the stages of `tapir evaluate`, for the student, or each student of a sweep, that the configuration names.

    Raises:
        ConfigError: If it names none.
        StoreError: If its run is not finished.
    """
    jobs: list[Path | None] = [*sweep_jobs(config)]
    subjects = [find_subject(config, job) for job in jobs or [None]]
    if not (Path(config.outputs) / "store").is_dir():
        return [stage for subject in subjects for stage in plan_stages(config, _suites(config, subject))]
    with open_dry(config) as dry:
        planned = []
        for subject in subjects:
            dry.finished.clear()
            for suite in config.evals.suites:
                with suppress(NotInStore, EvaluationError, ConfigError):
                    SUITES[suite](dry, subject)
            planned += plan_stages(config, _suites(config, subject), finished=dry.finished)
        return planned


def _suites(config: Config, subject: EvaluatedModel) -> list[StageEstimate]:
    """Estimate the suites of a model; a student of a run writes responses as long as those that it was trained on."""
    response, manifest = RESPONSE_TOKENS, subject.manifest
    if manifest is not None and subject.run is not None:
        store = Store((subject.run / manifest.store).resolve())
        seeds = next((entry for entry in manifest.artifacts if entry.stage == "seeds"), None)
        if seeds is not None and store.has(seeds.stage, seeds.key):
            response = seed_statistics(store.open(seeds.stage, seeds.key).rows(Example)).response
        response *= REFINED_LENGTH_RATIO if manifest.alphas else 1.0
    return list(estimate_suites(replace(config, student=subject.student), response, None, repr(subject.identity)))
