"""The rows that flow from stage to stage; every artifact of rows holds one of these types."""

from enum import StrEnum
from hashlib import sha256

from pydantic import BaseModel, ConfigDict

from tapir_exp.core.task_types import TaskType


class Record(BaseModel):
    """A frozen row that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(StrEnum):
    """Where an example came from."""

    SEED = "seed"
    EXPANSION = "expansion"


class Example(Record):
    """An instruction with a response, and where it came from.

    id: hash of the instruction, so that one instruction has one id in every run.
    parents: ids of the examples that the teacher was shown when it wrote this one; empty for a seed.
    round: the round in which it was born; 0 for a seed.
    """

    id: str
    instruction: str
    response: str
    origin: Origin = Origin.SEED
    parents: tuple[str, ...] = ()
    round: int = 0


class DropReason(StrEnum):
    """Why a row of a source, or a pair that the teacher proposed, was left out."""

    UNUSABLE = "unusable"
    REPEATED = "repeated"
    NEAR_DUPLICATE = "near duplicate"
    CONTAMINATED = "contaminated"
    UNLABELLED = "unlabelled"
    OFF_TYPE = "off type"
    UNRATED = "unrated"
    UNLIKE = "unlike"
    SURPLUS = "surplus"


class DroppedRow(Record):
    """A row that was left out.

    source: the file or hub dataset, or for a proposal of the teacher its round; row: its number there, from 1.
    detail: the reason in words; for a duplicate, what it repeats, for a leak, the question and the words shared.
    instruction: the text that the teacher proposed; None for a row that can be looked up in its source.
    """

    source: str
    row: int
    reason: DropReason
    detail: str
    instruction: str | None = None


class Label(Record):
    """The task type of an instruction; `task` is None where the classifier failed, and `failure` says why.

    raw: a chat model's reply; empty where a trained classifier answers.
    confidence: how sure the classifier is, 0 to 1, calibrated; None where it does not say.
    source: who labelled: a chat model by its name, a trained classifier by its kind and digest.
    """

    id: str
    task: TaskType | None
    raw: str
    failure: str | None = None
    confidence: float | None = None
    source: str | None = None


class LabelledInstruction(Record):
    """A line of `tapir-label`'s labels: a label beside its instruction, so that a classifier can be trained on it."""

    id: str
    instruction: str
    task: TaskType | None
    confidence: float | None
    source: str | None
    failure: str | None = None


class Response(Record):
    """What a model wrote for an instruction.

    text: None where no usable answer was had; `failure` says why.
    finished: False where the answer was cut at its length limit.
    """

    id: str
    text: str | None
    finished: bool = True
    failure: str | None = None


class PresentationOrder(StrEnum):
    """Whose responses the judge saw, and whose first."""

    TEACHER_FIRST = "teacher first"
    STUDENT_FIRST = "student first"
    TEACHER_ALONE = "teacher alone"
    STUDENT_ALONE = "student alone"

    @property
    def shown(self) -> tuple[str, ...]:
        """The owners of the responses, in the order in which they were shown."""
        return _SHOWN[self]


_SHOWN = {
    PresentationOrder.TEACHER_FIRST: ("teacher", "student"),
    PresentationOrder.STUDENT_FIRST: ("student", "teacher"),
    PresentationOrder.TEACHER_ALONE: ("teacher",),
    PresentationOrder.STUDENT_ALONE: ("student",),
}
BOTH_ORDERS = (PresentationOrder.TEACHER_FIRST, PresentationOrder.STUDENT_FIRST)
"""The two ways to show a pair of responses."""


class JudgeReply(Record):
    """One reply of the judge, with all that a reader of replies needs.

    teacher, student: scores from 1 to 10 of whom the reply is about; None where it was refused, and `failure` says why.
    raw: the last reply, as it came; finish_reason: the provider's, None where no reply came.
    first_token: the likeliest first tokens with their log-probabilities, where they were asked for.
    """

    order: PresentationOrder
    teacher: float | None
    student: float | None
    raw: str
    failure: str | None = None
    finish_reason: str | None = None
    first_token: tuple[tuple[str, float], ...] = ()


class Verdict(Record):
    """Teacher against student on one instruction, over the orders asked.

    teacher, student: mean scores from 1 to 10 over the ballots; None where any ballot is missing (unscored).
    """

    id: str
    replies: tuple[JudgeReply, ...]
    teacher: float | None
    student: float | None

    @property
    def gap(self) -> float | None:
        """The Model Fitting Difficulty: score(teacher) - score(student), in points from -9 to 9."""
        if self.teacher is None or self.student is None:
            return None
        return self.teacher - self.student


class Rating(Record):
    """How complex the judge calls an instruction, from 1 to 10; None where the reply was refused, and `failure` why."""

    id: str
    complexity: float | None
    raw: str
    failure: str | None = None


class ResponseLoss(Record):
    """How surprised a student is by a response, in nats per token: after its instruction, and without one.

    tokens: supervised tokens, the end of turn included. Losses are None where the row does not fit the student's
    context, and `failure` says so.
    """

    id: str
    instructed: float | None
    alone: float | None
    tokens: int
    failure: str | None = None


class Subset(StrEnum):
    """The two parts of a round's mix, which the loss weighs by alpha and 1 - alpha."""

    HARD = "hard"
    REST = "rest"


class TrainingExample(Record):
    """A row of a round's mix: what the student is trained on, and the whole way it came here.

    difficulty: the difficulty by which it was placed, MFD unless the run chose another score; for a new expansion, which
    nobody has answered yet, None.
    """

    id: str
    instruction: str
    response: str
    task: TaskType | None
    subset: Subset
    origin: Origin
    parents: tuple[str, ...]
    created_in_round: int
    difficulty: float | None

    @classmethod
    def from_example(
        cls, example: Example, task: TaskType | None, subset: Subset, difficulty: float | None
    ) -> "TrainingExample":
        """Return an example as a row of a mix."""
        return cls(
            id=example.id,
            instruction=example.instruction,
            response=example.response,
            task=task,
            subset=subset,
            origin=example.origin,
            parents=example.parents,
            created_in_round=example.round,
            difficulty=difficulty,
        )

    @classmethod
    def from_seed(cls, seed: Example) -> "TrainingExample":
        """Return a row of the fit of S_0, which has no task types, no hard set and no difficulty."""
        return cls.from_example(seed, None, Subset.REST, None)

    def to_example(self) -> Example:
        """Return the example that the row was made from."""
        return Example(
            id=self.id,
            instruction=self.instruction,
            response=self.response,
            origin=self.origin,
            parents=self.parents,
            round=self.created_in_round,
        )


def example_id(instruction: str) -> str:
    """The id of an instruction: the first 16 hex digits of the SHA-256 of its text."""
    return sha256(instruction.encode()).hexdigest()[:16]


def rollout_id(row: str, number: int) -> str:
    """The id of one of several answers to a row, counted from 0."""
    return f"{row}/{number}"


def row_id_of_rollout(rollout: str) -> str:
    """The id of the row that an answer of that id is to."""
    return rollout.rpartition("/")[0]


class TrainingStep(Record):
    """One optimiser step of a fit.

    tokens: real tokens seen so far, prompt and response.
    loss: the alpha-weighted loss of the step, in nats; loss_hard, loss_rest: the mean negative log-likelihood
    per response token of each part, None where the step's batch holds none of it. gradient_norm: before clipping.
    """

    step: int
    tokens: int
    loss: float
    loss_hard: float | None
    loss_rest: float | None
    learning_rate: float
    gradient_norm: float


class StepTiming(Record):
    """How fast one optimiser step of a fit was; measured, so that no two fits have the same.

    seconds: wall time since the step before, the loading of its rows included. tokens, supervised: real tokens of the
    step, and those that the loss counted, over all devices. mfu: model FLOPs utilisation, the multiplications that the
    model needs by those that the devices could do at their peak; None where that is not known. memory_mb: the most
    that the device, or on a CPU the process, took so far, in MiB.
    """

    step: int
    seconds: float
    tokens: int
    supervised: int
    mfu: float | None
    memory_mb: float


class Quota(Record):
    """What a round's plan wants of one task type in one part of the mix, and where it comes from.

    wanted: rows by the target ratio; drawn: rows taken from the pool; ordered: rows asked of the teacher;
    filled: rows that the teacher delivered, at most `ordered`.
    """

    task: TaskType
    subset: Subset
    wanted: int
    drawn: int
    ordered: int
    filled: int


class BenchmarkResult(Record):
    """One held-out problem of the lab and what the student made of it.

    score: the grader's, from 1 to 10; exact: whether the answer is the exact one.
    """

    family: str
    task: TaskType
    level: int
    instruction: str
    expected: str
    response: str
    exact: bool
    score: int
