"""From the events of a job to what trackers show; the artifacts that the events name are read from the store."""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tapir_exp.core.events import Event, Kind, is_step_recorded
from tapir_exp.core.records import Label, Quota, TrainingExample, TrainingStep, Verdict
from tapir_exp.core.secrets import known_secrets, redact_secrets
from tapir_exp.core.store import ROWS, SIDECAR, read_rows
from tapir_exp.report.run_view import TRAINING
from tapir_exp.report.trackers.base import FIT, ArtifactReference, Entry, Histogram, JobInfo, Point, plain_number
from tapir_exp.report.trackers.curriculum import RoundData, Scored, curriculum_table, task_mix_table

FITS = {"student": "S_{}", "judged_student": "S_{}_judged"}
"""Stages that train, with the name of their fit."""
REFERENCED = ("seeds", "seeds_with_responses", "expansions", "train_mix", "replayed_mix", *FITS)
"""Stages with artifacts that trackers name: from the seeds over the mixes to the students."""
SUITE = "-suite"
"""End of the names of stages that hold the result of an evaluation."""
GAP_EDGES = tuple(point - 0.5 for point in range(-9, 11))
"""Bins of gaps: one for each judge point from -9 to 9."""
LARGEST_SIDECAR = 1_000_000


@dataclass(frozen=True)
class News:
    """Part of an event that trackers show.

    Attributes:
        identity: The same for everything that a resumed job repeats.
        make: Makes the entries; called only if a tracker needs them.
    """

    identity: Hashable
    make: Callable[[], Sequence[Entry]]


@dataclass
class EntryReader:
    """Turns the events of a job into entries, attempt after attempt.

    Attributes:
        job: The job.
        curriculum_rows: Most rows of a round's curriculum.
    """

    job: JobInfo
    curriculum_rows: int
    _known: tuple[str, ...] = field(default_factory=known_secrets)
    _started: float | None = None
    _fit: str = "S_0"
    _last_step: tuple[str, int, float] | None = None
    _spend: Mapping[str, Any] = field(default_factory=dict)
    _artifacts: dict[str, tuple[str, str]] = field(default_factory=dict)
    _numbers: dict[Hashable, int] = field(default_factory=dict)
    _verdicts: dict[str, Mapping[str, Scored]] = field(default_factory=dict)
    _labels: list[Label] = field(default_factory=list)

    def take(self, event: Event) -> Iterator[News]:
        """Process an event, and yield its news."""
        self._started = event["time"] if self._started is None else self._started
        match event["event"]:
            case Kind.STAGE_STARTED:
                stage, number = split_stage(event["stage"])
                self._fit = FITS[stage].format(number) if stage in FITS else self._fit
                self._last_step = None
            case Kind.STAGE_FINISHED | Kind.STAGE_REUSED | Kind.STAGE_FAILED:
                yield from self._stage(event)
            case Kind.TRAINING_STEP:
                yield self._step(event)
            case Kind.SPEND | Kind.CALLS:
                yield self._spending(event)
            case Kind.FIGURES:
                figures = dict(_flatten(event["figures"]))
                make = partial(Point, "round", 0, figures, event["time"])
                yield News(("figures", json.dumps(figures, sort_keys=True)), lambda: [make()])
            case Kind.ROUND_FINISHED:
                identity = ("round", event["round"], json.dumps(event["metrics"], sort_keys=True))
                yield News(identity, partial(self._round, event, dict(self._artifacts)))

    def clean(self, text: str) -> str:
        """Remove secrets from a text."""
        return redact_secrets(text, self._known)

    def _stage(self, event: Event) -> Iterator[News]:
        name, key, failed = event["stage"], event.get("key"), event["event"] == Kind.STAGE_FAILED
        identity = ("stage", name, key, event["time"] if failed else None)
        number = self._numbers.setdefault(identity, len(self._numbers))
        values: dict[str, float | str | None] = {
            "stage/name": name,
            "stage/state": event["event"].removeprefix("stage_"),
        }
        if failed:
            values["stage/reason"] = self.clean(event["reason"])
        else:
            rows = (event.get("figures") or {}).get("rows")
            values |= {"stage/seconds": event["seconds"], **({} if rows is None else {"stage/rows": rows})}
            self._artifacts[name] = (split_stage(name)[0], str(key))
        yield News(identity, lambda: [Point("stage/number", number, values, event["time"])])
        stage, round_number = split_stage(name)
        if not failed and stage in REFERENCED:
            known = dict(self._artifacts)
            yield News(("artifact", key), lambda: [self._reference(event, known)])
        if not failed and stage.endswith(SUITE):
            scores = {f"evaluation/{stage.removesuffix(SUITE)}/{figure}": value for figure, value in _numbers(event)}
            yield News(("suite", name, key), lambda: [Point("round", round_number or 0, scores, event["time"])])
        if not failed and stage in FITS:
            yield from self._missing_steps(FITS[stage].format(round_number), name, event["time"])

    def _missing_steps(self, fit: str, name: str, time: float) -> Iterator[News]:
        """Yield the steps of a finished fit; those of a fit that this job has made were logged before."""
        path = self._path(name) / TRAINING
        # A budget that allows no step leaves no file.
        steps = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for number, line in enumerate(steps, 1):
            if is_step_recorded(number, len(steps)):
                yield News(("step", fit, number), partial(self._stored_step, fit, line, time))

    def _step(self, event: Event) -> News:
        values = {name: event[name] for name in ("tokens", "loss", "learning_rate")}
        last = self._last_step
        if last is not None and last[0] == self._fit and event["tokens"] > last[1] and event["time"] > last[2]:
            values["tokens_per_second"] = (event["tokens"] - last[1]) / (event["time"] - last[2])
        self._last_step = (self._fit, event["tokens"], event["time"])
        make = partial(self._step_point, self._fit, event["step"], values, event["time"])
        return News(("step", self._fit, event["step"]), make)

    def _stored_step(self, fit: str, line: str, time: float) -> list[Entry]:
        step = TrainingStep.model_validate_json(line)
        values = step.model_dump(include={"tokens", "loss", "learning_rate"})
        return self._step_point(fit, step.step, values, time)

    def _step_point(self, fit: str, step: int, values: Mapping[str, float], time: float) -> list[Entry]:
        return [Point(f"{FIT}{fit}/step", step, {f"{FIT}{fit}/{name}": value for name, value in values.items()}, time)]

    def _spending(self, event: Event) -> News:
        """Return the spend so far: that of the last finished stage, and the calls of the stage in progress."""
        if event["event"] == Kind.SPEND:
            self._spend = event
            values = {f"spend/{name}": event.get(name) for name in ("calls", "cached", "tokens", "usd")}
        else:
            pairs = {name: (self._spend.get(name, 0), event.get(name)) for name in ("calls", "cached", "usd")}
            values = {f"spend/{name}": None if None in pair else sum(pair) for name, pair in pairs.items()}
        seconds = int(event["time"] - (self._started or event["time"]))
        point = Point("spend/seconds", seconds, values, event["time"])
        return News((event["event"], *values.values()), lambda: [point])

    def _round(self, event: Event, artifacts: Mapping[str, tuple[str, str]]) -> list[Entry]:
        number, time, metrics = int(event["round"]), float(event["time"]), event["metrics"]
        values = {name: value for name, value in metrics.items() if isinstance(value, int | float | str | None)}
        entries: list[Entry] = [Point("round", number, {k: v for k, v in values.items() if k != "round"}, time)]
        for stage in ("fresh_verdicts", "verdicts"):
            if scored := self._scored(f"{stage}-{number}", artifacts):
                gaps = [row.gap for row in scored.values() if row.gap is not None]
                name = "fresh_gap/histogram" if stage.startswith("fresh") else "gap/histogram"
                entries.append(Histogram(name, number, gaps, GAP_EDGES, time))
        if f"train_mix-{number}" in artifacts:
            data = self._round_data(number, metrics["curriculum/alpha"], artifacts)
            if self.curriculum_rows:
                entries.append(curriculum_table(data, self.curriculum_rows, time, self.clean))
            entries.append(task_mix_table(data, time))
        return entries

    def _round_data(self, number: int, alpha: float, artifacts: Mapping[str, tuple[str, str]]) -> RoundData:
        self._labels = self._labels or read_rows(self._path("task_labels") / ROWS, Label)
        fresh: dict[str, Scored] = {}
        for earlier in range(number):
            fresh |= self._scored(f"verdicts-{earlier}", artifacts)
            fresh |= self._scored(f"fresh_verdicts-{earlier + 1}", artifacts)
        return RoundData(
            number=number,
            alpha=alpha,
            mix=read_rows(self._path(f"train_mix-{number}") / ROWS, TrainingExample),
            plan=read_rows(self._path(f"plan-{number}") / ROWS, Quota),
            labels=self._labels,
            fresh=fresh,
            trained=self._scored(f"verdicts-{number}", artifacts),
        )

    def _scored(self, name: str, artifacts: Mapping[str, tuple[str, str]]) -> Mapping[str, Scored]:
        """Return the gaps and scores of an artifact of verdicts; each is read once."""
        if name not in artifacts:
            return {}
        if name not in self._verdicts:
            rows = read_rows(self._path(name) / ROWS, Verdict)
            self._verdicts[name] = {row.id: Scored.of(row) for row in rows}
        return self._verdicts[name]

    def _reference(self, event: Event, known: Mapping[str, tuple[str, str]]) -> ArtifactReference:
        stage, key = known[event["stage"]]
        metadata = {
            "key": key,
            "round": split_stage(event["stage"])[1] or 0,
            "rows": (event.get("figures") or {}).get("rows"),
            "made_from": self._inputs(event["stage"], known),
        }
        return ArtifactReference(f"{stage}-{key}", stage, self._path(event["stage"]), metadata, event["time"])

    def _inputs(self, name: str, known: Mapping[str, tuple[str, str]]) -> list[str]:
        """Return the artifacts that the recipe of this one names by their keys."""
        path = self._path(name) / SIDECAR
        if not path.is_file() or path.stat().st_size > LARGEST_SIDECAR:
            return []
        recipe = json.dumps(json.loads(path.read_text(encoding="utf-8")).get("recipe"))
        return [f"{stage}-{key}" for other, (stage, key) in known.items() if other != name and f'"{key}"' in recipe]

    def _path(self, name: str) -> Any:
        return self.job.store.joinpath(*self._artifacts[name])


def _numbers(event: Event) -> list[tuple[str, float]]:
    """Return the numbers among the figures of a stage."""
    figures = (event.get("figures") or {}).items()
    return [(name, number) for name, value in figures if (number := plain_number(value)) is not None]


def _flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested figures, by the path to each."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        elif (number := plain_number(value)) is not None:
            yield f"{prefix}{name}", number


def split_stage(name: str) -> tuple[str, int | None]:
    """Return the stage and the round of a name such as `student-2`; None if it has no round."""
    stage, _, number = name.rpartition("-")
    return (stage, int(number)) if stage and number.isdigit() else (name, None)
