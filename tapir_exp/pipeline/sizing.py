"""Sizes that follow from the seeds and from the budget: rows of a round, held-out rows, and how many seeds are used.

Whatever is given in the configuration stays as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tapir_exp.config import Config
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example
from tapir_exp.core.store import Artifact
from tapir_exp.data.formats import SeedPair
from tapir_exp.data.seeds import undrawn_rows
from tapir_exp.pipeline import data
from tapir_exp.pipeline.estimate import SeedStatistics, StageEstimate, estimate_run, seed_statistics
from tapir_exp.pipeline.hardware import cpu_hours, uses_cpu
from tapir_exp.pipeline.workspace import Workspace

USED_SHARE = 0.9
"""Share of a budget that the estimate may use, since completions may be longer than assumed, and some are repeated."""
CALL_SECONDS = 4.0
"""Seconds of a call of a chat model, by which minutes are estimated."""
FEWEST_SEEDS = 4
"""Fewest seeds that a budget may leave."""


def prepare_seeds(ws: Workspace) -> Artifact:
    """Return the seeds of a run, each with a response; see `draw_seeds`.

    Raises:
        ConfigError: If the budget does not even pay for a few seeds.
    """
    return data.add_missing_responses(ws, draw_seeds(ws))


def draw_seeds(ws: Workspace) -> Artifact:
    """Return the seeds of a run without a call; the sizes that follow from them are set in `ws.config`.

    Raises:
        ConfigError: If the budget does not even pay for a few seeds.
    """
    seeds = data.load_seeds(ws)
    rows = seeds.stored_rows(Example)
    fitted = fit_sizes(ws.config, rows, seeds.figures["undrawn"])
    if fitted.seeds != ws.config.seeds:
        print_warning(f"the budget pays for {fitted.seeds.size} of {len(rows)} seeds by the estimate of `tapir plan`.")
        ws.config = fitted
        ws.entries[:] = [entry for entry in ws.entries if entry.key != seeds.key]
        seeds = data.load_seeds(ws)
    ws.config = fitted
    return seeds


def fit_sizes(config: Config, seeds: Sequence[Example | SeedPair], undrawn: int) -> Config:
    """Return the configuration with every size as a number.

    Args:
        config: The configuration of the run.
        seeds: The seeds that were drawn, at least one.
        undrawn: Clean rows of the source that were not drawn.

    Raises:
        ConfigError: If the budget does not even pay for a few seeds.
    """
    count = len(seeds)
    if config.fit_to_budget:
        count = _affordable_seeds(config, seed_statistics(seeds), undrawn)
    if count < len(seeds):
        config = replace(config, seeds=replace(config.seeds, size=count))
    return _with_sizes(config, count, undrawn)


def _with_sizes(config: Config, seeds: int, undrawn: int) -> Config:
    """Return the configuration with the rows of a round and the held-out rows that follow from the number of seeds."""
    curriculum, evals = config.curriculum, config.evals
    if curriculum.rows_per_round is None:
        curriculum = replace(curriculum, rows_per_round=max(1, round(curriculum.rows_per_seed * seeds)))
    if config.seeds.reserve:
        held_out = min(evals.held_out_size, undrawn, undrawn_rows(seeds, config.seeds.reserve))
        evals = replace(evals, held_out_size=held_out)
    return replace(config, curriculum=curriculum, evals=evals)


def _affordable_seeds(config: Config, sizes: SeedStatistics, undrawn: int) -> int:
    """Return the largest number of seeds whose estimate stays within every budget.

    Raises:
        ConfigError: If not even `FEWEST_SEEDS` do.
    """

    def excess(seeds: int) -> tuple[str, float, float] | None:
        part = replace(sizes, seeds=seeds, unanswered=sizes.unanswered * seeds // sizes.seeds)
        return _find_excess(config, estimate_run(_with_sizes(config, seeds, undrawn), part))

    if excess(sizes.seeds) is None:
        return sizes.seeds
    fewest = min(FEWEST_SEEDS, sizes.seeds)
    if (over := excess(fewest)) is not None:
        key, limit, needed = over
        least = needed / USED_SHARE
        expected = f"at least {least:,.{0 if least >= 100 else 2}f}, the estimate of a run on {fewest} seeds"
        raise ConfigError([f"{key} = {limit:g}: expected {expected}; `tapir plan` shows what it consists of"])
    enough, too_many = fewest, sizes.seeds
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        enough, too_many = (middle, too_many) if excess(middle) is None else (enough, middle)
    return enough


def _find_excess(config: Config, stages: Sequence[StageEstimate]) -> tuple[str, float, float] | None:
    """Return the first budget that an estimate exceeds: its key, its limit, and what is needed; None if there is none.

    An unknown price or time limits nothing here: the price is refused elsewhere, and the time is not known.
    """
    budgets: tuple[tuple[str, float | None, Callable[[], float | None]], ...] = (
        ("spend.max_usd", config.spend.max_usd, lambda: total_usd(stages)),
        ("spend.max_calls", config.spend.max_calls, lambda: sum(stage.calls for stage in stages)),
        (
            "spend.max_tokens",
            config.spend.max_tokens,
            lambda: sum(stage.prompt_tokens + stage.completion_tokens for stage in stages),
        ),
        ("time_budget_minutes", config.time_budget_minutes, lambda: estimate_minutes(config, stages)),
    )
    for key, limit, measure in budgets:
        needed = None if limit is None else measure()
        if limit is not None and needed is not None and needed > USED_SHARE * limit:
            return key, limit, needed
    return None


def total_usd(stages: Sequence[StageEstimate]) -> float | None:
    """Return the cost of stages in USD; None if a price is unknown."""
    known = [stage.usd for stage in stages if stage.usd is not None]
    return sum(known) if len(known) == len(stages) else None


def estimate_minutes(config: Config, stages: Sequence[StageEstimate]) -> float | None:
    """Return the minutes of the calls and of the fits; None if the size of the student is not known.

    Fits take the hours of an A100, or those of this machine's cores if they run on the CPU.

    Calls of a role run at once, as many as its concurrency. The student's own responses are not counted.
    """
    if any(stage.role == "fit" and stage.gpu_hours is None for stage in stages):
        return None
    models = {"teacher": config.teacher.llm, "judge": config.judge.llm, "classifier": config.classifier.llm}
    waits = sum(stage.calls * CALL_SECONDS / models[stage.role].most_in_flight for stage in stages if stage.calls)
    hours = sum(stage.gpu_hours or 0.0 for stage in stages)
    return waits / 60 + 60 * (cpu_hours(hours) if uses_cpu(config.trainer) else hours)
