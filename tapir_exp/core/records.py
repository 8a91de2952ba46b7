"""Rows that pass from stage to stage; every artifact of rows holds one of these types."""

from enum import StrEnum
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from tapir_exp.core.task_types import TaskType


class Record(BaseModel):
    """A frozen row that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(StrEnum):
    """Source of an example."""

    SEED = "seed"
    EXPANSION = "expansion"


class Example(Record):
    """An instruction with a response, and their source.

    Attributes:
        id: Hash of the instruction, so that an instruction has the same id in every run.
        instruction: The text of the instruction, its input included.
        response: The response of the dataset, or of the teacher for an expansion.
        origin: Whether it is a seed or an expansion.
        parents: Ids of the in-context examples in the teacher's prompt; empty for a seed.
        round: The round in which it was created; 0 for a seed.
    """

    id: str
    instruction: str
    response: str
    origin: Origin = Origin.SEED
    parents: tuple[str, ...] = ()
    round: int = 0


class DropReason(StrEnum):
    """Reason why a source row, or a pair proposed by the teacher, was dropped."""

    UNUSABLE = "unusable"
    REPEATED = "repeated"
    NEAR_DUPLICATE = "near duplicate"
    CONTAMINATED = "contaminated"
    UNLABELLED = "unlabelled"
    OFF_TYPE = "off type"
    UNRATED = "unrated"
    COMPLEXITY_MISMATCH = "unlike"
    OVER_QUOTA = "surplus"
    EASY = "easy"


class DroppedRow(Record):
    """A row that was dropped.

    Attributes:
        source: File or hub dataset; for a proposal of the teacher, its round.
        row: Number of the row in its source, from 1.
        reason: Kind of the reason.
        detail: The reason in words: for a duplicate the row it repeats, for a leak the question and the shared words.
        instruction: The text that the teacher proposed; None for a row that can be looked up in its source.
    """

    source: str
    row: int
    reason: DropReason
    detail: str
    instruction: str | None = None


class Label(Record):
    """Predicted task type of an instruction.

    Attributes:
        id: Id of the instruction.
        task: The task type; None if the prediction failed.
        raw: The completion of a chat model; the most probable type if a trained classifier abstained, otherwise empty.
        failure: Reason of the failure; None for a prediction.
        confidence: Calibrated probability of the most probable type, 0 to 1; None if the classifier gives none.
        source: The classifier: the name of a chat model, or kind and digest of a trained one.
    """

    id: str
    task: TaskType | None
    raw: str
    failure: str | None = None
    confidence: float | None = None
    source: str | None = None

    @property
    def best_guess(self) -> TaskType | None:
        """Return the type, or the most probable one if a trained classifier abstained.

        It counts if the type was requested, such as that of a new row: abstention is then no contradiction.
        """
        if self.task is None and self.confidence is not None:
            return TaskType(self.raw)
        return self.task


class LabelledInstruction(Record):
    """A row of `tapir classify`: an instruction with its label, on which a classifier can be trained."""

    id: str
    instruction: str
    task: TaskType | None
    confidence: float | None
    source: str | None
    failure: str | None = None


class Response(Record):
    """Response of a model to an instruction.

    Attributes:
        id: Id of the instruction.
        text: The response; None if there is no usable one.
        finished: False if the response was cut off at its length limit.
        failure: Reason why there is no response; None if there is one.
    """

    id: str
    text: str | None
    finished: bool = True
    failure: str | None = None


class PresentationOrder(StrEnum):
    """Which responses the judge got, and in which order."""

    TEACHER_FIRST = "teacher first"
    STUDENT_FIRST = "student first"
    TEACHER_ALONE = "teacher alone"
    STUDENT_ALONE = "student alone"

    @property
    def shown(self) -> tuple[str, ...]:
        """Authors of the responses, in the order in which the judge got them."""
        return _SHOWN[self]


_SHOWN = {
    PresentationOrder.TEACHER_FIRST: ("teacher", "student"),
    PresentationOrder.STUDENT_FIRST: ("student", "teacher"),
    PresentationOrder.TEACHER_ALONE: ("teacher",),
    PresentationOrder.STUDENT_ALONE: ("student",),
}
BOTH_ORDERS = (PresentationOrder.TEACHER_FIRST, PresentationOrder.STUDENT_FIRST)
"""Both orders of a pair of responses."""


class JudgeReply(Record):
    """One completion of the judge, with everything that parsing it again needs.

    Attributes:
        order: Which responses the judge got, and in which order.
        teacher: Score of the teacher's response, 1 to 10; None if it was not shown, or parsing failed.
        student: Score of the student's response, likewise.
        raw: The last completion as received.
        failure: Reason why there are no scores; None if there are.
        finish_reason: The provider's reason; None if no completion was received.
        first_token: The most probable first tokens with their log-probabilities, if requested.
        next_tokens: The same for the tokens after the first one, if an expected score was computed.
        judge: Name of the judge in a panel; empty if there is no panel.
        sample: Number of the sample, if there are several.
    """

    order: PresentationOrder
    teacher: float | None
    student: float | None
    raw: str
    failure: str | None = None
    finish_reason: str | None = None
    first_token: tuple[tuple[str, float], ...] = ()
    next_tokens: tuple[tuple[tuple[str, float], ...], ...] = ()
    judge: str = ""
    sample: int = 0

    @model_serializer(mode="wrap")
    def _without_unused(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only some protocols use, so that verdicts of the others keep their bytes."""
        fields: dict[str, Any] = write(self)
        for name in ("next_tokens", "judge", "sample"):
            if not fields[name]:
                del fields[name]
        return fields


class Verdict(Record):
    """Scores of teacher and student on one instruction.

    Attributes:
        id: Id of the instruction.
        replies: The judge's completions: one for each presentation order, sample, and judge of a panel.
        teacher: Mean score of the teacher over the replies, 1 to 10; None (unscored) if too many replies have none.
        student: Mean score of the student, likewise.
    """

    id: str
    replies: tuple[JudgeReply, ...]
    teacher: float | None
    student: float | None

    @property
    def is_of_panel(self) -> bool:
        """Return whether several judges have scored the row."""
        return any(reply.judge for reply in self.replies)

    @property
    def gap(self) -> float | None:
        """Model Fitting Difficulty: score(teacher) - score(student), in points from -9 to 9; None if unscored."""
        if self.teacher is None or self.student is None:
            return None
        return self.teacher - self.student


class Rating(Record):
    """The judge's rating of an instruction's complexity, 1 to 10; None if parsing failed, see `failure`."""

    id: str
    complexity: float | None
    raw: str
    failure: str | None = None


class ResponseLoss(Record):
    """Loss of a student on a response, in nats per token.

    Attributes:
        id: Id of the instruction.
        instructed: Loss given the instruction; None if the row does not fit the context of the student.
        alone: Loss without an instruction; None likewise.
        tokens: Supervised tokens, the end of turn included.
        failure: Reason why there are no losses; None if there are.
    """

    id: str
    instructed: float | None
    alone: float | None
    tokens: int
    failure: str | None = None


class Subset(StrEnum):
    """Subset of a round's mix; the loss weighs them by alpha and 1 - alpha."""

    HARD = "hard"
    REST = "rest"


class TrainingExample(Record):
    """A training row of a round's mix, with its lineage.

    Attributes:
        id: Hash of the instruction.
        instruction: The text of the instruction.
        response: The response to train on, refined if the run refines.
        task: The task type; None for the seeds of S_0.
        subset: Hard set or rest, which determines its weight in the loss.
        origin: Whether it is a seed or an expansion.
        parents: Ids of the in-context examples of an expansion.
        created_in_round: The round in which it was created; 0 for a seed.
        difficulty: The score that determined the subset, MFD unless configured otherwise; None for a new expansion, to
            which no student has responded yet.
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
    """Return the id of an instruction: the first 16 hex digits of the SHA-256 of its text."""
    return sha256(instruction.encode()).hexdigest()[:16]


def rollout_id(row_id: str, number: int) -> str:
    """Return the id of one of several sampled responses to a row, counted from 0."""
    return f"{row_id}/{number}"


def row_id_of_rollout(rollout: str) -> str:
    """Return the id of the row that a sampled response belongs to."""
    return rollout.rpartition("/")[0]


class TrainingStep(Record):
    """One optimiser step.

    Attributes:
        step: Number of the step, from 1.
        tokens: Tokens seen so far, prompt and response, without padding.
        loss: Alpha-weighted loss of the step, in nats.
        loss_hard: Mean negative log-likelihood per response token of the hard rows; None if the batch has none.
        loss_rest: The same for the rest.
        learning_rate: Learning rate of the step.
        gradient_norm: Gradient norm before clipping.
    """

    step: int
    tokens: int
    loss: float
    loss_hard: float | None
    loss_rest: float | None
    learning_rate: float
    gradient_norm: float


class Quota(Record):
    """Planned rows of one task type in one subset of a round's mix.

    Attributes:
        task: The task type.
        subset: Hard set or rest.
        wanted: Rows by the target distribution.
        drawn: Rows drawn from the pool.
        ordered: Rows requested from the teacher.
        filled: Rows that the teacher supplied, at most `ordered`.
    """

    task: TaskType
    subset: Subset
    wanted: int
    drawn: int
    ordered: int
    filled: int


class BenchmarkResult(Record):
    """Response of a student to one held-out problem of the lab.

    Attributes:
        family: Family of the problem.
        task: Task type of the family.
        level: Level of difficulty, from 1.
        instruction: The problem.
        expected: The correct answer.
        response: The student's response.
        exact: Whether the response holds the correct answer.
        score: Score of the grader, 1 to 10.
    """

    family: str
    task: TaskType
    level: int
    instruction: str
    expected: str
    response: str
    exact: bool
    score: int
