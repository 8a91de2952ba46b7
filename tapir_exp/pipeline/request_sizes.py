"""Tokens of the requests of a run: what is expected of each kind, and a bound that no request exceeds.

A bound rests on three assumptions. An endpoint keeps to its length limits and reports its usage. No tokenizer counts
more tokens than `estimate_tokens` does for a known text. Two tokenizers differ by `TOKENIZERS` at most.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from statistics import fmean

from tapir_exp.config import Config, JudgeProtocol, LLMConfig
from tapir_exp.config.lab_parts import LAB_PREFIX
from tapir_exp.core.records import Example
from tapir_exp.core.task_types import TaskType
from tapir_exp.data.formats import SeedPair
from tapir_exp.distillation.curriculum.sampling import MOST_PAIRS
from tapir_exp.distillation.judge.requests import MIN_TOKENS
from tapir_exp.distillation.prompts import load_prompt, refinement_style
from tapir_exp.llm.chat import CHARS_PER_TOKEN
from tapir_exp.llm.usage import TOKENS_PER_MESSAGE, estimate_tokens

LABEL_TOKENS = 4
"""Completion that names a task type."""
RATING_TOKENS = 2
"""Completion that rates the complexity of an instruction."""
VERDICT_TOKENS = 120
"""Completion with scores and reasons."""
SHORT_VERDICTS = {JudgeProtocol.pair_logprobs: 1, JudgeProtocol.single_expected: 1, JudgeProtocol.pair_expected: 3}
"""Completion of the protocols without reasons."""
METRICS_TOKENS = 100
"""What a judge writes to check for an instruction."""
THOUGHT_TOKENS = 1000
"""Thoughts before each reply of a reasoning model, which are paid as completion; within its `reasoning_tokens`."""
RESPONSE_TOKENS = 250.0
"""Response of the teacher to a seed, if no seed has a response to measure."""
REFINED_LENGTH_RATIO = 1.5
"""Length of a refined response relative to the original."""
SPOILT_SHARE = 2 / 3
"""Length of the responses that a judge is checked on, relative to the teacher's: a third of them are cut."""
LAB_CHARS_PER_TOKEN = 7.0
"""Characters per token of the lab's models, which count words, those of tags included."""
TOKENIZERS = 2.0
"""Largest ratio between the tokens that two tokenizers count for one text."""
LETTERS_PER_TOKEN = 3
"""Letters per token by `estimate_tokens`."""
COMPLAINT_TOKENS = 300
"""Tokens of the sentence that a reply in another form is sent back with, and of its message; at most."""
PAIR_TAGS = "<pair>\n<instruction>\n\n</instruction>\n<response>\n\n</response>\n</pair>\n\n"


class RequestKind(StrEnum):
    """The kind of a request."""

    LABEL = "label"
    RESPONSE = "response"
    EXPANSION = "expansion"
    REFINEMENT = "refinement"
    VERDICT = "verdict"
    RATING = "rating"
    NOTE = "note of the judge"
    CHECK = "check of the judge"
    SUITE = "suite"
    ENDPOINT = "check of an endpoint"


@dataclass(frozen=True)
class TextBounds:
    """Bounds on the texts of the seeds, in tokens as `estimate_tokens` counts them.

    Attributes:
        instruction: Mean over the instructions.
        longest_instruction: The longest instruction.
        longest_response: The longest response.
    """

    instruction: float
    longest_instruction: float
    longest_response: float


@dataclass(frozen=True)
class SeedStatistics:
    """Number of seeds, and the lengths of their texts in tokens.

    Attributes:
        seeds: Number of seeds.
        instruction: Mean of the instructions.
        response: Mean of the responses.
        unanswered: Seeds without a response.
        bounds: Bounds on the texts; by default a token per character of the means.
    """

    seeds: int
    instruction: float
    response: float
    unanswered: int = 0
    bounds: TextBounds | None = field(default=None, compare=False)

    @property
    def most(self) -> TextBounds:
        """Return the bounds on the texts."""
        if self.bounds is not None:
            return self.bounds
        instruction, response = CHARS_PER_TOKEN * self.instruction, CHARS_PER_TOKEN * self.response
        return TextBounds(instruction, instruction, response)


def seed_statistics(seeds: Sequence[Example | SeedPair]) -> SeedStatistics:
    """Measure seeds, at least one."""
    responses = [len(seed.response) for seed in seeds if seed.response]
    instructions = [estimate_tokens(seed.instruction) for seed in seeds]
    return SeedStatistics(
        seeds=len(seeds),
        instruction=fmean(len(seed.instruction) for seed in seeds) / CHARS_PER_TOKEN,
        response=fmean(responses) / CHARS_PER_TOKEN if responses else RESPONSE_TOKENS,
        unanswered=len(seeds) - len(responses),
        bounds=TextBounds(
            fmean(instructions),
            max(instructions),
            max((estimate_tokens(seed.response) for seed in seeds if seed.response), default=0),
        ),
    )


@dataclass(frozen=True)
class Measured:
    """What a probe has measured of one kind of request.

    Attributes:
        requests: Requests that were made.
        prompt_ratio: Prompt tokens relative to the estimate for the same texts.
        completion: Mean completion tokens of a reply.
        repeats: Share of the requests that were made again.
        seconds: Mean time of a call that was not cached; None if all were.
    """

    requests: int
    prompt_ratio: float
    completion: float
    repeats: float
    seconds: float | None


@dataclass(frozen=True)
class Assumptions:
    """What an estimate assumes; a probe replaces assumptions by what it has measured.

    Attributes:
        response: Tokens of a response of the teacher; None takes those of the seeds.
        refined: Length of a refined response relative to the original.
        pair: Tokens of a new pair; None takes those of a seed with its response.
        accepted: Share of the proposed pairs that are accepted.
        labelled: Share of the proposed pairs that are new, so that the classifier is asked.
        measured: Measurements by the kind of request.
    """

    response: float | None = None
    refined: float = REFINED_LENGTH_RATIO
    pair: float | None = None
    accepted: float = 0.8
    labelled: float = 0.97
    measured: Mapping[RequestKind, Measured] = field(default_factory=dict)

    def measured_of(self, kind: RequestKind | None) -> Measured | None:
        """Return what was measured of a kind of request; None if nothing was."""
        # The check of the judge requests verdicts.
        return self.measured.get(RequestKind.VERDICT if kind is RequestKind.CHECK else kind) if kind else None


@dataclass(frozen=True)
class RequestSize:
    """Tokens of one request.

    Attributes:
        kind: The kind of the request.
        prompt: Expected tokens of the prompt.
        completion: Expected tokens of the completion, without thoughts.
        most_prompt: Bound on the prompt.
        limit: Length limit of the first reply, without the room for thoughts.
    """

    kind: RequestKind
    prompt: float
    completion: float
    most_prompt: float
    limit: int


class RequestSizes:
    """Sizes of the requests of a run on its seeds.

    Attributes:
        response: Expected tokens of a response of the teacher.
        refined: The same after refinement, if the run refines.
        student: Expected tokens of a response of a student that was trained on the seeds' responses.
        trained: The same of a student that was trained on refined responses.
        pair: Expected tokens of a new pair.
        row: Expected tokens of a row of a mix.
    """

    def __init__(self, config: Config, seeds: SeedStatistics, assumed: Assumptions) -> None:
        """Set up the lengths.

        Args:
            config: The configuration.
            seeds: Lengths of the seeds.
            assumed: Assumptions.
        """
        self._config, self._seeds, self._assumed = config, seeds, assumed
        ratio = assumed.refined if config.curriculum.refine else 1.0
        longest = config.student.max_new_tokens
        self.response = seeds.response if assumed.response is None else assumed.response
        self.refined = ratio * self.response
        self.student, self.trained = min(seeds.response, longest), min(self.refined, longest)
        self.pair = seeds.instruction + self.response if assumed.pair is None else assumed.pair
        self.row = seeds.instruction + self.refined
        teacher = config.teacher
        # A reply that was cut is requested again with twice the limit, and may fill the room for thoughts with text.
        self._most_reply = TOKENIZERS * (2 * teacher.max_tokens + teacher.llm.reasoning_tokens)
        self._most_answer = TOKENIZERS * longest

    def label(self, *, seeds: bool = True) -> RequestSize:
        """Return the size of a request for the task type of seeds, or of new pairs with `seeds=False`."""
        classifier, types = self._config.classifier, ", ".join(TaskType)
        pairs = self._config.teacher.num_output_samples
        prompt, most = _template(load_prompt("label").text, types)
        # The new pairs of a reply share its length limit.
        shown = self._seeds.most.instruction if seeds else self._most_reply / (MOST_PAIRS * pairs)
        return self._size(
            RequestKind.LABEL,
            classifier.llm,
            prompt + self._seeds.instruction,
            LABEL_TOKENS,
            most + shown,
            classifier.max_tokens,
        )

    def responses(self, *, held_out: bool = False) -> RequestSize:
        """Return the size of a request for the teacher's response."""
        teacher, seeds = self._config.teacher, self._seeds
        # Held-out rows come from the same source, but are not those that were measured.
        most = TOKENIZERS * seeds.most.longest_instruction if held_out else seeds.most.instruction
        return self._size(RequestKind.RESPONSE, teacher.llm, seeds.instruction, self.response, most, teacher.max_tokens)

    def expansion(self, pairs: float) -> RequestSize:
        """Return the size of a request for so many new pairs."""
        teacher, shown = self._config.teacher, self._config.teacher.num_in_context_samples
        prompt, most = _template(load_prompt("expand").text, PAIR_TAGS * shown)
        row = self._seeds.instruction + self.response
        most_row = max(self._seeds.most.longest_instruction + self._most_response(), self._most_reply)
        return self._size(
            RequestKind.EXPANSION,
            teacher.llm,
            prompt + shown * row,
            pairs * self.pair,
            most + shown * most_row,
            teacher.max_tokens,
            part=pairs / teacher.num_output_samples,
        )

    def refinement(self) -> RequestSize:
        """Return the size of a request for a refined response."""
        teacher = self._config.teacher
        prompt, most = _template(load_prompt("refine").text, refinement_style(TaskType.MATH).text)
        most += _longest_style()
        most += max(self._seeds.most.longest_instruction + self._most_response(), self._most_reply)
        row = self._seeds.instruction + self.response
        return self._size(RequestKind.REFINEMENT, teacher.llm, prompt + row, self.refined, most, teacher.max_tokens)

    def verdict(self, llm: LLMConfig, *, seeds: bool, refined: bool, students: int = 1) -> RequestSize:
        """Return the size of a request for a verdict.

        Args:
            llm: The judge, or a judge of a panel.
            seeds: Whether it is about a seed; else about a row of a mix, which may be new.
            refined: Whether the responses are refined ones.
            students: Number of students in a pair: 2 for a comparison with the predecessor.
        """
        student = self.trained if refined else self.student
        teacher = student if students > 1 else self.refined if refined else self.response
        most_teacher = self._most_answer if students > 1 else self._most_response()
        both = not self._config.judge.protocol.alone
        shown = teacher + student if both else (teacher + student) / 2
        most = most_teacher + self._most_answer if both else max(most_teacher, self._most_answer)
        most += self._instruction(seeds) if seeds or refined else self._seeds.most.longest_instruction
        return self._verdict(RequestKind.VERDICT, llm, self._seeds.instruction + shown, most)

    def judge_check(self, llm: LLMConfig, texts: Iterable[str] | None) -> RequestSize:
        """Return the size of a request of the judge's check.

        Args:
            llm: The judge, or a judge of a panel.
            texts: The instruction with both responses of each pair of a file; None for pairs of the seeds.
        """
        known = [*map(estimate_tokens, texts or ())]
        if known:
            return self._verdict(RequestKind.CHECK, llm, LETTERS_PER_TOKEN / CHARS_PER_TOKEN * fmean(known), max(known))
        shown = self._seeds.instruction + (1 + SPOILT_SHARE) * self.response
        return self._verdict(
            RequestKind.CHECK, llm, shown, self._seeds.most.longest_instruction + 2 * self._most_response()
        )

    def note(self, llm: LLMConfig, *, seeds: bool, metrics: bool) -> RequestSize:
        """Return the size of a request for what the judge writes about an instruction: its metrics, or a response."""
        judge = self._config.judge
        prompt, most = _template(load_prompt("judge/write_metrics").text if metrics else "")
        return self._size(
            RequestKind.NOTE,
            llm,
            prompt + self._seeds.instruction,
            METRICS_TOKENS if metrics else self.response,
            most + self._instruction(seeds),
            judge.notes_max_tokens,
        )

    def _verdict(self, kind: RequestKind, llm: LLMConfig, shown: float, most_shown: float) -> RequestSize:
        """Return the size of a request that shows texts of so many tokens, besides a reference and metrics."""
        judge = self._config.judge
        texts = [load_prompt(f"judge/{judge.protocol.value}").text]
        if judge.reference or judge.own_reference:
            texts.append(load_prompt("judge/reference").text)
            shown += self._seeds.response if judge.reference else self.response
            most_shown += max(self._most_note(llm), self._seeds.most.longest_response)
        if judge.metrics:
            texts.append(load_prompt("judge/metrics").text)
            shown += METRICS_TOKENS
            most_shown += self._most_note(llm)
        prompt, most = _template(*texts)
        completion = SHORT_VERDICTS.get(judge.protocol, VERDICT_TOKENS)
        limit = max(judge.max_tokens, MIN_TOKENS.get(judge.protocol, 1))
        return self._size(kind, llm, prompt + shown, completion, most + most_shown, limit)

    def _most_note(self, llm: LLMConfig) -> float:
        return TOKENIZERS * (2 * self._config.judge.notes_max_tokens + llm.reasoning_tokens)

    def rating(self, *, seeds: bool, tokens: int) -> RequestSize:
        """Return the size of a request for the complexity of an instruction, whose reply has so many tokens."""
        judge = self._config.judge
        prompt, most = _template(load_prompt("judge/complexity").text)
        most += self._instruction(seeds)
        return self._size(
            RequestKind.RATING, judge.llm, prompt + self._seeds.instruction, tokens, most, judge.max_tokens
        )

    def _size(
        self,
        kind: RequestKind,
        llm: LLMConfig,
        prompt: float,
        completion: float,
        most_prompt: float,
        limit: int,
        part: float = 1.0,
    ) -> RequestSize:
        """Return a size, with what a probe has measured of its kind.

        Args:
            kind: The kind of the requests.
            llm: The model of the requests.
            prompt: Expected tokens of the prompt, at `CHARS_PER_TOKEN`.
            completion: Expected tokens of the completion.
            most_prompt: Bound on the prompt.
            limit: Length limit of a reply.
            part: Length of the completion relative to a measured one.
        """
        most_prompt += TOKENS_PER_MESSAGE
        measured = self._assumed.measured_of(kind)
        if measured is not None:
            return RequestSize(kind, measured.prompt_ratio * prompt, part * measured.completion, most_prompt, limit)
        scale = CHARS_PER_TOKEN / LAB_CHARS_PER_TOKEN if llm.model.startswith(LAB_PREFIX) else 1.0
        # A reply longer than the limit would be cut.
        return RequestSize(kind, scale * prompt, min(scale * completion, limit), most_prompt, limit)

    def _most_response(self) -> float:
        """Return a bound on a response of the teacher, or of the dataset."""
        return max(self._most_reply, self._seeds.most.longest_response)

    def _instruction(self, seeds: bool) -> float:
        """Return a bound on the mean instruction of all seeds, or on the longest one of a row that may be new."""
        return self._seeds.most.instruction if seeds else max(self._seeds.most.longest_instruction, self._most_reply)


@cache
def _longest_style() -> int:
    """Return a bound on the tokens of a style of refined responses and of the name of its task type."""
    return max(estimate_tokens(refinement_style(task).text + task) for task in TaskType)


def _template(*texts: str) -> tuple[float, float]:
    """Return the expected tokens of fixed parts of a prompt, and a bound on them."""
    whole = "".join(texts)
    return len(whole) / CHARS_PER_TOKEN, estimate_tokens(whole)
