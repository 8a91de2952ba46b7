"""AlpacaEval 2.0: compare a model's outputs with a baseline's by the log-probabilities of an annotator's first token.

Annotator, prompt, order of the outputs and files are those of alpaca_eval 0.6.6 (`weighted_alpaca_eval_gpt4_turbo`),
so either tool can resume the work of the other.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean
from typing import Any

from tapir_exp.core.errors import EvaluationError, ReplyError
from tapir_exp.evals.alpaca_eval_files import Annotation, Output
from tapir_exp.evals.length_control import (
    LengthComparison,
    LengthControlled,
    LengthControlRow,
    length_controlled_win_rate,
)
from tapir_exp.evals.resume import judge_missing
from tapir_exp.evals.win_rate import DRAW, WinRate, is_preference, win_rate
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message, TokenLogprob
from tapir_exp.llm.executor import RequestResult

OFFICIAL_ANNOTATORS = {"gpt-4-1106-preview": "weighted_alpaca_eval_gpt4_turbo"}
"""Names of annotators on alpaca_eval's leaderboard, by model."""
MAX_TOKENS, TEMPERATURE, TOP_LOGPROBS = 1, 1.0, 5
"""Settings of the official annotator; the temperature does not change the log-probabilities."""
FIRST, SECOND = "m", "M"
"""Names that the prompt gives to the output shown first and to the one shown second."""
LEADERBOARD_COLUMNS = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode",
    "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip
"""Columns of leaderboard.csv in alpaca_eval's order."""


@dataclass(frozen=True)
class OutputPair:
    """Two outputs for one instruction.

    Attributes:
        reference: Output of the baseline.
        output: Output of the model.
    """

    reference: Output
    output: Output

    @property
    def is_identical(self) -> bool:
        """True if both texts are equal, which is a draw without a call."""
        return self.reference.output == self.output.output


@dataclass(frozen=True)
class ParsedPreference:
    """Preference in a completion of the annotator.

    Attributes:
        preference: From 1 (the output shown first is better) to 2 (the second is).
        logprobs: The log-probabilities from which it was computed.
    """

    preference: float
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class AlpacaEvalFigures:
    """One row of the leaderboard.

    Attributes:
        raw: The win rate without length control.
        avg_length: Mean length of the model's outputs in characters, rounded down.
        missing_outputs: Instructions without an output of the model. As in alpaca_eval, no figure includes them.
        length_controlled: The length-controlled win rate, with the difficulty of each instruction; None if it was not
            computed.
        length_controlled_by_row: The same with difficulties taken by row number, as in alpaca_eval's own table: each
            missing output moves the difficulties of later rows by one. None if no output is missing.
        omission_reason: Reason why `length_controlled` is None; None if it is not.
    """

    raw: WinRate
    avg_length: int
    missing_outputs: int
    length_controlled: LengthControlled | None
    length_controlled_by_row: LengthControlled | None
    omission_reason: str | None

    def as_metrics(self) -> dict[str, Any]:
        """Return the figures under alpaca_eval's names."""
        controlled, by_row = self.length_controlled, self.length_controlled_by_row
        metrics = {
            **asdict(self.raw),
            "missing_outputs": self.missing_outputs,
            "avg_length": self.avg_length,
            "length_controlled_winrate": None if controlled is None else controlled.win_rate,
            "lc_standard_error": None if controlled is None else controlled.error,
        }
        if by_row is not None:
            metrics |= {"length_controlled_winrate_by_row": by_row.win_rate, "lc_standard_error_by_row": by_row.error}
        return metrics


def annotator_name(model: str) -> str:
    """Return the annotator's name in files: that of the leaderboard if the model is on it, else one not used there."""
    short = model.rpartition("/")[2]
    return OFFICIAL_ANNOTATORS.get(short, f"weighted_alpaca_eval_{short}")


def pair_outputs(references: Sequence[Output], outputs: Sequence[Output]) -> list[OutputPair]:
    """Return the instructions for which both models have an output, in the order of the references.

    Raises:
        EvaluationError: If there are none.
    """
    by_instruction = {output.instruction: output for output in outputs}
    pairs = [
        OutputPair(ref, by_instruction[ref.instruction]) for ref in references if ref.instruction in by_instruction
    ]
    if not pairs:
        raise EvaluationError(
            f"None of the {len(outputs)} outputs is for an instruction of the benchmark. Use outputs for the "
            "instructions of evals.alpaca_eval.reference."
        )
    return pairs


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Return whether the prompt shows the model's output first: alpaca_eval's draw, seeded by the instruction."""
    return Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]


def render(template: Sequence[Message], pair: OutputPair) -> tuple[Message, ...]:
    """Return the prompt for a pair, with the outputs in the order of `is_switched`."""
    texts = [pair.reference.output, pair.output.output]
    first, second = reversed(texts) if is_switched(pair.reference.instruction) else texts
    values = {"instruction": pair.reference.instruction, "output_1": first, "output_2": second}
    # A single pass fills the fields, so an output that contains "{output_2}" is not filled again.
    return tuple(
        Message(role=part.role, content=re.sub(r"\{(\w+)\}", lambda field: values[field[1]], part.content))
        for part in template
    )


def parse_preference(completion: Completion) -> ParsedPreference:
    """Return the preference between the outputs in the order in which they were shown.

    Raises:
        ReplyError: If the completion has no log-probabilities, or its likeliest tokens include neither name.
    """
    # The texts of ReplyError are part of the cache keys of paid completions: do not rephrase them.
    if not completion.top_logprobs:
        raise ReplyError("It came without log-probabilities, which this annotator is all about.")
    first_token = completion.top_logprobs[0]
    return ParsedPreference(preference_from_logprobs(first_token), first_token)


def preference_from_logprobs(logprobs: Sequence[TokenLogprob]) -> float:
    """Return 2 - P(m) / (P(m) + P(M)); a name that is not among the tokens has probability 0.

    Raises:
        ReplyError: If neither name is among them.
    """
    by_token = {top.token: top.logprob for top in logprobs}
    if FIRST not in by_token and SECOND not in by_token:
        raise ReplyError(f"Neither {FIRST} nor {SECOND} is among the likeliest tokens {sorted(by_token)}.")
    first, second = by_token.get(FIRST, -math.inf), by_token.get(SECOND, -math.inf)
    # log(P(m) + P(M)). One of the two may be minus infinity, the larger one never is.
    low, high = min(first, second), max(first, second)
    log_sum = high + math.log1p(math.exp(low - high))
    return 2 - math.exp(first - log_sum)


def unswap_preference(preference: float, instruction: str) -> float:
    """Turn a preference between first and second output into one between baseline and model."""
    return 3 - preference if is_switched(instruction) else preference


def annotate(
    pairs: Sequence[OutputPair],
    template: Sequence[Message],
    known: Sequence[Annotation],
    annotator: str,
    chat: ChatModel | None,
    *,
    concurrency: int,
    max_failure_rate: float,
) -> list[Annotation]:
    """Return one annotation for each pair, in order. Identical outputs are a draw, and known preferences are reused.

    A known annotation without a preference is dropped from the figures without a call, as in alpaca_eval. One with a
    failure is of an evaluation of ours, and the judge is asked again.

    Args:
        pairs: The outputs to compare.
        template: The annotator's prompt.
        known: Annotations of an earlier evaluation.
        annotator: Name of the annotator in files.
        chat: The annotator; None makes no calls, so that a pair without a known preference has none.
        concurrency: Number of calls in flight.
        max_failure_rate: Share of the calls that may fail.

    Raises:
        TooManyFailures: If more calls fail or return no preference.
    """
    # alpaca_eval's cache has the same four fields as its key.
    empty = [row for row in known if row.preference is None and row.failure is None]
    judged = [row for row in known if is_preference(row.preference)]
    reusable = {(row.instruction, row.output_1, row.output_2, row.annotator): row for row in (*empty, *judged)}

    def find_known(pair: OutputPair) -> Annotation | None:
        if pair.is_identical:
            return _annotation(pair, annotator, DRAW)
        row = reusable.get((pair.reference.instruction, pair.reference.output, pair.output.output, annotator))
        return None if row is None else _annotation(pair, annotator, row.preference, row.preference_raw_completion)

    return judge_missing(
        pairs,
        find_known,
        lambda pair: _chat_request(render(template, pair)),
        parse_preference,
        lambda pair, result: _annotation_of_result(pair, annotator, result),
        chat,
        label=f"{annotator} compares",
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
    )


def _chat_request(messages: tuple[Message, ...]) -> ChatRequest:
    return ChatRequest(messages=messages, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, top_logprobs=TOP_LOGPROBS)


def _annotation_of_result(pair: OutputPair, annotator: str, result: RequestResult[ParsedPreference]) -> Annotation:
    if result.value is None:
        return _annotation(pair, annotator, None, {"text": result.raw}, result.failure)
    preference = unswap_preference(result.value.preference, pair.reference.instruction)
    return _annotation(pair, annotator, preference, _raw_completion(result.raw, result.value.logprobs))


def _raw_completion(text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return a completion in the format that alpaca_eval's `logprob_parser` reads."""
    top = [row.model_dump() for row in logprobs]
    sampled = next((row for row in top if row["token"] == text), {"token": text, "logprob": None})
    return {"text": text, "logprobs": {"content": [{**sampled, "top_logprobs": top}]}}


def _annotation(
    pair: OutputPair, annotator: str, preference: float | None, raw: Any = None, failure: str | None = None
) -> Annotation:
    return Annotation(
        dataset=pair.reference.dataset,
        instruction=pair.reference.instruction,
        output_1=pair.reference.output,
        generator_1=pair.reference.generator,
        output_2=pair.output.output,
        generator_2=pair.output.generator,
        annotator=annotator,
        preference=preference,
        preference_raw_completion=raw,
        failure=failure,
    )


def figures(
    annotations: Sequence[Annotation],
    indices: Mapping[str, int],
    length_control_rows: Sequence[LengthControlRow] | None,
) -> AlpacaEvalFigures:
    """Return the leaderboard's figures.

    Args:
        annotations: Annotations in the order of their instructions in the benchmark.
        indices: Index of each instruction in the benchmark, by which its difficulty is looked up.
        length_control_rows: Rows of df_gamed.csv; None omits the length-controlled win rate.

    Raises:
        EvaluationError: If no annotation has a preference.
    """
    preferences = [row.preference for row in annotations]
    if not any(map(is_preference, preferences)):
        reason = next((row.failure for row in annotations if row.failure), "none is given")
        raise EvaluationError(
            f"None of the {len(annotations)} annotations has a preference, so there is no win rate. "
            f"Reason of the first failure: {reason}"
        )
    numbers = [indices[row.instruction] for row in annotations]
    controlled, omission_reason = _length_controlled(annotations, numbers, length_control_rows)
    missing = len(indices) - len(annotations)
    by_row = None
    if missing and controlled is not None:
        by_row, _ = _length_controlled(annotations, range(len(annotations)), length_control_rows)
    return AlpacaEvalFigures(
        raw=win_rate(preferences),
        avg_length=int(fmean(len(row.output_2) for row in annotations)),
        missing_outputs=missing,
        length_controlled=controlled,
        length_controlled_by_row=by_row,
        omission_reason=omission_reason,
    )


def _length_controlled(
    annotations: Sequence[Annotation],
    indices: Sequence[int],
    length_control_rows: Sequence[LengthControlRow] | None,
) -> tuple[LengthControlled | None, str | None]:
    """Return the length-controlled win rate, or None and the reason why there is none.

    Args:
        annotations: The annotations.
        indices: Index in df_gamed.csv by which the difficulty of each annotation is looked up.
        length_control_rows: Rows of df_gamed.csv.
    """
    if length_control_rows is None:
        return None, "evals.alpaca_eval.length_control_data is null, expected the file df_gamed.csv"
    # The baseline against itself: all lengths are equal, so there is nothing to fit and the win rate is known.
    if annotations[0].generator_1 == annotations[0].generator_2:
        return LengthControlled(50.0, 0.0, 0.0, 0.0, 0.0), None
    comparisons = [
        LengthComparison(index, len(row.output_1), len(row.output_2), row.preference)
        for index, row in zip(indices, annotations, strict=True)
    ]
    try:
        return length_controlled_win_rate(comparisons, length_control_rows), None
    except EvaluationError as error:
        return None, str(error)


def to_leaderboard(name: str, figures: AlpacaEvalFigures) -> str:
    """Format a leaderboard.csv of one row.

    Args:
        name: Name of the model.
        figures: Its figures.
    """
    row = {**figures.as_metrics(), "mode": "community"}
    # The file is alpaca_eval's, which takes difficulties by row number.
    official = {name: row.get(f"{name}_by_row") for name in ("length_controlled_winrate", "lc_standard_error")}
    row |= {name: value for name, value in official.items() if value is not None}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["", *LEADERBOARD_COLUMNS])
    writer.writerow([name, *(row[column] for column in LEADERBOARD_COLUMNS)])
    return out.getvalue()
