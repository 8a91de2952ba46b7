"""Sizes that follow from the seeds and from the budget: rows of a round, held-out rows, and how many seeds are used.

Whatever is given in the configuration stays as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from tapir_exp.config import Config, SeedSource
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example
from tapir_exp.data.formats import SeedPair
from tapir_exp.data.seeds import undrawn_rows
from tapir_exp.pipeline.estimate import estimate_run
from tapir_exp.pipeline.request_sizes import Assumptions, SeedStatistics, seed_statistics
from tapir_exp.pipeline.stage_costs import StageEstimate
from tapir_exp.pipeline.wall_time import stage_seconds, without_overlap

USED_SHARE = 0.9
"""Share of a budget that the estimate may use, since completions may be longer than assumed, and some are repeated."""
MOST_ROWS_PER_SEED = 2
"""Rows of a round for each seed beyond which most rows are the teacher's; ours. The paper has 0.45."""
FEWEST_SEEDS = 4
"""Fewest seeds that a budget may leave."""


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
    if config.fit_to_budget and _has_budget(config):
        count = _affordable_seeds(config, seed_statistics(seeds), undrawn)
    if count < len(seeds):
        config = replace(config, seeds=replace(config.seeds, size=count))
    fitted = _with_sizes(config, count, undrawn)
    _warn_of_few_rows(config, fitted, len(seeds))
    _warn_of_large_rounds(fitted, count)
    return fitted


def _has_budget(config: Config) -> bool:
    spend = config.spend
    limits = (spend.max_usd, spend.max_calls, spend.max_tokens, config.time_budget_minutes)
    return any(limit is not None for limit in limits)


def _warn_of_few_rows(given: Config, fitted: Config, seeds: int) -> None:
    """Warn if the source has far fewer rows than requested."""
    size, held_out = given.seeds.size, given.evals.held_out_size
    if size is not None and seeds < size:
        _warn_once(f"warning: seeds.size = {size:,}: the source has {seeds:,} rows to draw.")
    if given.seeds.reserve and held_out > seeds:
        _warn_once(
            f"warning: evals.held_out_size = {held_out:,}: {fitted.evals.held_out_size:,} rows are held out, "
            "a tenth of the source at most."
        )


def _warn_of_large_rounds(config: Config, seeds: int) -> None:
    """Warn if a round has many more rows than there are seeds, as the paper's size has for a small file."""
    rows, curriculum = config.curriculum.round_rows, config.curriculum
    if not curriculum.rounds or config.seeds.source is SeedSource.lab or rows <= MOST_ROWS_PER_SEED * seeds:
        return
    follow = max(1, round(curriculum.rows_per_seed * seeds))
    _warn_once(
        f"warning: curriculum.rows_per_round = {rows:,} for {seeds:,} seeds: the teacher writes most rows of a round, "
        f"and is paid for them. With curriculum.rows_per_round=null a round has {follow:,} rows, "
        f"{curriculum.rows_per_seed:g} for each seed."
    )


@cache
def _warn_once(text: str) -> None:
    """Warn once in a process, since the jobs of a sweep mostly share their seeds."""
    print_warning(text)


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

    An unknown price or time limits nothing here: the price is rejected elsewhere, and the time is not known.
    """
    budgets: tuple[tuple[str, float | None, Callable[[], float | None]], ...] = (
        ("spend.max_usd", config.spend.max_usd, lambda: total_usd(stages)),
        ("spend.max_calls", config.spend.max_calls, lambda: sum(stage.expected.calls for stage in stages)),
        ("spend.max_tokens", config.spend.max_tokens, lambda: sum(stage.expected.tokens for stage in stages)),
        ("time_budget_minutes", config.time_budget_minutes, lambda: estimate_minutes(config, stages)),
    )
    for key, limit, measure in budgets:
        needed = None if limit is None else measure()
        if limit is not None and needed is not None and needed > USED_SHARE * limit:
            return key, limit, needed
    return None


def total_usd(stages: Sequence[StageEstimate]) -> float | None:
    """Return the cost of stages in USD; None if a price is unknown."""
    known = [stage.expected.usd for stage in stages if stage.expected.usd is not None]
    return sum(known) if len(known) == len(stages) else None


def estimate_minutes(config: Config, stages: Sequence[StageEstimate]) -> float | None:
    """Return the expected minutes of the calls, the fits and the student's responses; None if its size is not known."""
    if any(stage.llm is None and stage.expected.gpu_hours is None for stage in stages):
        return None
    seconds = [(stage, stage_seconds(config, stage, Assumptions())) for stage in stages]
    return sum(time.expected for time in without_overlap(config, seconds)) / 60
