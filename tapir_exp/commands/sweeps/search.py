"""A search of the best settings: Optuna chooses the settings of each job by the results of the jobs before it.

The trials are in a journal in the directory of the sweep, from which the same command continues. A trial that was
stopped is run again with its settings, so that its artifacts and paid calls are reused.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from tapir_exp.commands.sweeps.search_space import Parameter, SearchSpace, Value
from tapir_exp.commands.sweeps.search_trial import (
    JOB,
    REASON,
    SPACE,
    dumped,
    mend_journal,
    objective,
    open_storage,
    pruner_of,
    quiet,
)
from tapir_exp.core.console import console
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.events import EVENTS, Outcome, State, outcome_of, read_events
from tapir_exp.core.store import write_text_atomic
from tapir_exp.report.sweep.plan_file import SweepPlan
from tapir_exp.report.sweep.search_file import SEARCH_FILE, SearchFile, TrialLine

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

ENDED = ("COMPLETE", "PRUNED")
"""States of the trials that count towards the total."""
MOST_SEEDS = 2**31


@dataclass(frozen=True)
class Settings:
    """Settings of a search, see `hydra_plugins.tapir_search.SearchConf`."""

    trials: int
    trials_at_once: int
    random_trials: int
    seed: int
    prune: bool
    prune_after: int


def run_search(
    launcher: Launcher, overrides: Sequence[str], config: DictConfig, settings: Settings
) -> list[Sequence[JobReturn]]:
    """Run trials until the total is reached.

    Args:
        launcher: Runs the jobs.
        overrides: The space, in Hydra's syntax, and what all jobs share.
        config: The composed configuration of the sweep.
        settings: Settings of the search.

    Returns:
        The results of the jobs, by launch.

    Raises:
        ConfigError: If the directory holds a search of another space.
    """
    directory = Path(str(config.hydra.sweep.dir))
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, directory / "multirun.yaml")
    search = Search(directory, SearchSpace.parse(overrides), settings)
    results: list[Sequence[JobReturn]] = []
    while batch := search.ask():
        jobs = list(dict.fromkeys(trial.job for trial in batch))
        numbers = search.add_jobs(jobs)
        results.append(launcher.launch([list(job) for job in jobs], initial_job_idx=numbers))
        outcomes = {job: outcome_of_job(done, directory) for job, done in zip(jobs, results[-1], strict=True)}
        for trial in batch:
            search.tell(trial, outcomes[trial.job])
        search.write()
    search.write()
    return results


@dataclass(frozen=True)
class Chosen:
    """A trial and the overrides of its job."""

    trial: "Trial"
    job: tuple[str, ...]


class Search:
    """The trials of a search, in the directory of its sweep.

    Args:
        directory: Directory of the sweep.
        space: What is searched.
        settings: Settings of the search.

    Raises:
        ConfigError: If the directory holds a search of another space, or a journal that cannot be read.
    """

    def __init__(self, directory: Path, space: SearchSpace, settings: Settings) -> None:
        self.directory, self.space, self.settings = directory, space, settings
        self.study = _open_study(directory, space, settings)
        self._distributions = {each.key: _distribution(each) for each in space.parameters}
        self._failed_now = 0
        self._requeue()

    def ask(self) -> list[Chosen]:
        """Choose the next trials; none if the total is reached."""
        left = self.settings.trials - self._failed_now - len(_in_states(self.study, ENDED))
        return [self._ask_one() for _ in range(min(left, self.settings.trials_at_once))]

    def tell(self, chosen: Chosen, outcome: Outcome) -> None:
        """Record what became of a trial."""
        from optuna.trial import TrialState

        value = objective(outcome)
        if outcome.state is State.PRUNED:
            chosen.trial.set_user_attr(JOB, _result(outcome))
            self.study.tell(chosen.trial, state=TrialState.PRUNED)
            return
        reason = outcome.reason or f"the job is {outcome.state}"
        if outcome.state is State.FINISHED:
            reason = self._bad_figure(outcome, value)
        if not reason and value is not None:
            chosen.trial.set_user_attr(JOB, _result(outcome))
            self.study.tell(chosen.trial, value)
            return
        self._failed_now += 1
        chosen.trial.set_user_attr(JOB, _result(outcome))
        chosen.trial.set_user_attr(REASON, reason)
        self.study.tell(chosen.trial, state=TrialState.FAIL)
        console.print(f"trial {chosen.trial.number}: no result: {reason}", soft_wrap=True)

    def add_jobs(self, jobs: Iterable[tuple[str, ...]]) -> int:
        """Add jobs to the plan of the sweep, and return the number of jobs before."""
        plan = SweepPlan.load(self.directory)
        known = [tuple(job) for job in plan.jobs]
        varied = [each.key.lstrip("+") for each in self.space.parameters]
        merged = list(dict.fromkeys([*known, *jobs]))
        replace(plan, jobs=merged, varied=varied, total=self.settings.trials).write(self.directory)
        return len(known)

    def write(self) -> None:
        """Write `search.json`, which the page of the sweep shows."""
        trials = [_line(trial, self.directory) for trial in self.study.get_trials(deepcopy=False)]
        figures = [trial.figure for trial in trials if trial.figure]
        content = SearchFile(
            figure=figures[0] if figures else "",
            total=self.settings.trials,
            space=self.space.described(),
            importance=_importance(self.study),
            trials=trials,
        )
        write_text_atomic(self.directory / SEARCH_FILE, json.dumps(asdict(content), indent=1) + "\n")

    def _ask_one(self) -> Chosen:
        # A sampler of its own for each trial: what it draws depends on the results, not on earlier interruptions.
        self.study.sampler = _sampler(self.settings, self._place())
        trial = self.study.ask(self._distributions)
        job = tuple(self.space.job(trial.params))
        trial.set_user_attr("overrides", list(job))
        return Chosen(trial, job)

    def _place(self) -> int:
        """Return the number of trials before the next one; the repetition of a trial is no further one."""
        trials = self.study.get_trials(deepcopy=False)
        repeated = [
            trial
            for index, trial in enumerate(trials)
            if trial.state.name == "FAIL" and any(other.params == trial.params for other in trials[index + 1 :])
        ]
        return len(trials) - len(repeated)

    def _bad_figure(self, outcome: Outcome, value: float | None) -> str:
        """Return why the figure of a finished job is no result; empty if it is one."""
        if value is None:
            return "the job has no figure; choose evals or a benchmark that gives one"
        if not math.isfinite(value):
            return f"its {outcome.figure} is {value}"
        known = next((line for trial in _in_states(self.study, ENDED) if (line := trial.user_attrs.get(JOB))), None)
        if known and known["figure"] != outcome.figure:
            return f"its figure is {outcome.figure}, that of the other trials is {known['figure']}"
        return ""

    def _requeue(self) -> None:
        """Run trials again that were stopped, or that failed in an earlier start."""
        from optuna.trial import Trial, TrialState

        for trial in _in_states(self.study, ("RUNNING",)):
            Trial(self.study, trial._trial_id).set_user_attr(REASON, "stopped")
            self.study.tell(trial.number, state=TrialState.FAIL)
        done = [trial.params for trial in _in_states(self.study, ENDED)]
        done += [trial.system_attrs["fixed_params"] for trial in _in_states(self.study, ("WAITING",))]
        for trial in _in_states(self.study, ("FAIL",)):
            if trial.params and trial.params not in done:
                self.study.enqueue_trial(trial.params, skip_if_exists=False)
                done.append(trial.params)


def outcome_of_job(done: JobReturn, directory: Path) -> Outcome:
    """Return the state of a job by its events, which also jobs on other machines have written."""
    lines = list(done.overrides or ())
    for path in directory.glob("*/.hydra/overrides.yaml"):
        if OmegaConf.to_container(OmegaConf.load(path)) == lines:
            return outcome_of(read_events(path.parents[1] / EVENTS))
    return Outcome(State.FAILED, reason="the job has left no directory")


def _open_study(directory: Path, space: SearchSpace, settings: Settings) -> "Study":
    import optuna

    quiet()
    # Input of the sampler and of the jobs that run elsewhere; equal texts are equal spaces.
    given = {"space": space.described(), "kinds": {each.key: dumped(_distribution(each)) for each in space.parameters}}
    try:
        mend_journal(directory)
        study = optuna.create_study(
            study_name="search", storage=open_storage(directory), direction="maximize", load_if_exists=True
        )
        stored = study.user_attrs.get(SPACE)
    except Exception as error:
        problem = f"search: the journal of {directory} cannot be read ({type(error).__name__}: {error})"
        raise ConfigError([f"{problem}; expected that of a search. Choose another sweep.name"]) from error
    if stored is not None and stored["kinds"] != given["kinds"]:
        raise ConfigError(_other_space(directory, stored["space"], given["space"]))
    pruner = {"prune": settings.prune, "after": settings.prune_after}
    study.set_user_attr(SPACE, given)
    study.set_user_attr("pruner", pruner)
    study.pruner = pruner_of(pruner)
    return study


def _other_space(directory: Path, stored: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Return one line for each setting that a stored search has in another way."""
    keys = [key for key in dict.fromkeys([*stored, *given]) if stored.get(key) != given.get(key)]
    return [
        f"{key}: expected {stored.get(key, 'a fixed value')}, as in the search of {directory}, got "
        f"{given.get(key, 'no values to search')}. Choose another sweep.name for another space"
        for key in keys or given
    ]


def _distribution(each: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if each.choices:
        return CategoricalDistribution(each.choices)
    if each.whole:
        return IntDistribution(int(each.low), int(each.high), log=each.log, step=int(each.step or 1))
    return FloatDistribution(each.low, each.high, log=each.log, step=each.step)


def _sampler(settings: Settings, number: int) -> Any:
    from optuna.samplers import TPESampler

    seed = (settings.seed * 1_000_003 + number) % MOST_SEEDS
    return TPESampler(seed=seed, n_startup_trials=settings.random_trials, multivariate=True)


def _in_states(study: "Study", states: Sequence[str]) -> list["FrozenTrial"]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in states]


def _result(outcome: Outcome) -> dict[str, Any]:
    seconds = None if outcome.seconds is None else round(outcome.seconds, 1)
    return {
        "figure": outcome.figure,
        "value": outcome.value if outcome.value is None or math.isfinite(outcome.value) else str(outcome.value),
        "seconds": seconds,
        "calls": outcome.calls,
        "usd": outcome.usd,
    }


def _line(trial: "FrozenTrial", directory: Path) -> TrialLine:
    job = trial.user_attrs.get(JOB, {})
    value = job.get("value")
    return TrialLine(
        number=trial.number,
        state=trial.state.name.lower(),
        values={key: _shown(value) for key, value in trial.params.items()},
        figure=job.get("figure", ""),
        value=value if isinstance(value, int | float) else None,
        seconds=job.get("seconds"),
        calls=job.get("calls", 0),
        usd=job.get("usd"),
        reason=trial.user_attrs.get(REASON, ""),
    )


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importance(study: "Study") -> dict[str, float]:
    """Return the share of each setting in the variance of the results; empty if the trials do not suffice."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    done = _in_states(study, ("COMPLETE",))
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    try:
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
    except (RuntimeError, ValueError):  # trials of one setting only, or of too few values
        return {}
