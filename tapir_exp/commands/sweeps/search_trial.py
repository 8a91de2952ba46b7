"""The trial of a search on the side of its job: it reports each round, and ends if other trials were better by then."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir_exp.core.events import Event, EventStream, Kind, Outcome, Pruned

JOURNAL = "search.journal"
JOB, REASON, SPACE = "job", "reason", "space"
LOSS = "loss"
"""Figure that is better if it is smaller."""


def open_storage(directory: Path) -> Any:
    """Open the journal of a search, which several processes and machines may append to."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(directory / JOURNAL)))


def mend_journal(directory: Path) -> None:
    """Remove half a line that a kill or a full disk has left at the end of a journal."""
    path = directory / JOURNAL
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def quiet() -> None:
    """Leave messages to the table of the sweep."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def pruner_of(settings: Mapping[str, Any]) -> Any:
    """Return the pruner of a study by its settings."""
    from optuna.pruners import MedianPruner, NopPruner

    return MedianPruner(n_startup_trials=settings["after"], n_warmup_steps=0) if settings["prune"] else NopPruner()


def dumped(distribution: Any) -> str:
    """Return a distribution as text."""
    from optuna.distributions import distribution_to_json

    return str(distribution_to_json(distribution))


def objective(outcome: Outcome) -> float | None:
    """Return what the search maximises: the figure of a job, or the negative loss; None without a figure."""
    if outcome.value is None:
        return None
    return -outcome.value if outcome.figure == LOSS else outcome.value


@contextmanager
def reporting_rounds(sweep_dir: Path | None, overrides: Sequence[str], stream: EventStream) -> Iterator[None]:
    """Report the rounds of the run in progress if it is a trial of a search; otherwise do nothing.

    Args:
        sweep_dir: Directory of its sweep, if any.
        overrides: Overrides of the job.
        stream: Events of the run.

    Raises:
        Pruned: By the event of a round in which the trial is worse than the median of others.
    """
    if sweep_dir is None or not (sweep_dir / JOURNAL).is_file():
        yield
        return
    import optuna

    quiet()
    study = optuna.load_study(study_name="search", storage=open_storage(sweep_dir))
    study.pruner = pruner_of(study.user_attrs["pruner"])
    running = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name == "RUNNING" and trial.user_attrs.get("overrides") == list(overrides)
    ]
    if not running:  # the repetition of a trial
        yield
        return
    reader = RoundReader(optuna.Trial(study, running[0]._trial_id))
    stream.subscribe(reader)
    try:
        yield
    finally:
        stream.unsubscribe(reader)


class RoundReader:
    """Reader of events that reports the figure of each round to the trial.

    Args:
        trial: The trial of Optuna.
    """

    def __init__(self, trial: Any) -> None:
        self._trial = trial

    def __call__(self, event: Event) -> None:
        """Report a finished round; S_0 is the same for most settings, so it is no ground for pruning."""
        if event["event"] != Kind.ROUND_FINISHED or int(event["round"]) < 1:
            return
        figure, value = event.get("figure", ""), event.get("value")
        result = objective(Outcome(figure=figure, value=value))
        if result is None or not math.isfinite(result):
            return
        self._trial.report(result, step=int(event["round"]))
        if not event.get("last") and self._trial.should_prune():
            raise Pruned(int(event["round"]), figure, value)
