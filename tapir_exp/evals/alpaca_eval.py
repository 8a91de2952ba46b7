"""AlpacaEval 2.0: a model's outputs against a baseline's, by the log-probabilities of one token of an annotator.

The annotator, its prompt, the order in which it sees two outputs and the files are alpaca_eval 0.6.6's
(`weighted_alpaca_eval_gpt4_turbo`), so that either tool can go on where the other stopped.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from tapir_exp.core.errors import EvaluationError, ReplyError
from tapir_exp.core.json_rows import find_invalid_utf8, read_json_objects
from tapir_exp.core.records import Record
from tapir_exp.evals.length_control import (
    LengthControlRow,
    LengthComparison,
    LengthControlled,
    length_controlled_win_rate,
)
from tapir_exp.evals.win_rate import DRAW, WinRate, is_preference, win_rate
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message, TokenLogprob
from tapir_exp.llm.executor import RequestResult, run_requests

HUB = "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json"
PROMPT_IN_PACKAGE = "evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"
OFFICIAL_ANNOTATORS = {"gpt-4-1106-preview": "weighted_alpaca_eval_gpt4_turbo"}
"""Names that alpaca_eval's leaderboard gives to annotators, by model."""
MAX_TOKENS, TEMPERATURE, TOP_LOGPROBS = 1, 1.0, 5
"""The annotator's settings; the temperature does not touch the log-probabilities."""
FIRST, SECOND = "m", "M"
"""What the prompt calls the output shown first, and the one shown second."""


class Output(Record):
    """What a model wrote for an instruction: a row of model_outputs.json."""

    dataset: str | None = None
    instruction: str
    output: str
    generator: str


class Annotation(Record):
    """Baseline (1) against model (2) on one instruction: a row of annotations.json.

    preference: from 1, the baseline's output is better, to 2; None where no preference could be had, and `failure`
    says why. preference_raw_completion: the reply as alpaca_eval keeps it; None for a draw of identical outputs.
    """

    dataset: str | None
    instruction: str
    output_1: str
    generator_1: str
    output_2: str
    generator_2: str
    annotator: str
    preference: float | None
    preference_raw_completion: Any = None
    failure: str | None = None


@dataclass(frozen=True)
class OutputPair:
    """Two outputs for one instruction."""

    reference: Output
    output: Output

    @property
    def is_identical(self) -> bool:
        """Whether there is nothing to compare."""
        return self.reference.output == self.output.output


@dataclass(frozen=True)
class ParsedPreference:
    """A reply of the annotator: the preference between first and second, and the log-probabilities it is made of."""

    preference: float
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class AlpacaEvalFigures:
    """A row of the leaderboard, and what it is based on.

    missing_outputs: instructions for which the model has no output; they are in no figure, as in alpaca_eval.
    length_controlled: None where `without` says why there is no such figure.
    """

    raw: WinRate
    avg_length: int
    missing_outputs: int
    length_controlled: LengthControlled | None
    without: str | None

    def as_metrics(self) -> dict[str, Any]:
        """The figures under alpaca_eval's names."""
        controlled = self.length_controlled
        return {
            **asdict(self.raw),
            "missing_outputs": self.missing_outputs,
            "avg_length": self.avg_length,
            "length_controlled_winrate": None if controlled is None else controlled.win_rate,
            "lc_standard_error": None if controlled is None else controlled.error,
        }


def load_outputs(path: Path) -> list[Output]:
    """Read a model_outputs.json, or reference outputs. Raises EvaluationError for a row that is none, or a repeat."""
    return _distinct([_output(row, path) for row in read_json_objects(path, EvaluationError)], str(path))


def load_hub_reference() -> list[Output]:
    """The 805 instructions with GPT-4's outputs, from the hub. Raises EvaluationError where they cannot be had."""
    from datasets import load_dataset

    try:
        rows = list(load_dataset("json", data_files=HUB, split="train"))
    except Exception as error:  # of a dozen kinds
        raise EvaluationError(
            f"{HUB} cannot be read ({error.__cause__ or repr(error)}); set evals.alpaca_eval.reference to a file."
        ) from error
    return _distinct([_output(row, HUB) for row in rows], HUB)


def _output(row: Mapping[str, Any], source: object) -> Output:
    """A row under alpaca_eval's names, or with `reference_` before them."""
    values = {name: row.get(name, row.get(f"reference_{name}")) for name in ("output", "generator")}
    return Output(
        dataset=row.get("dataset"),
        instruction=_text(row.get("instruction"), "instruction", source),
        output=_text(values["output"], "output", source),
        generator=_text(values["generator"], "generator", source),
    )


def _text(value: object, name: str, source: object) -> str:
    """Return a text field of a row. Raise EvaluationError if the row has none."""
    if not isinstance(value, str):
        raise EvaluationError(f"{source}: a row has no text as {name!r}, but {value!r}.")
    return value


def _distinct(outputs: Sequence[Output], source: str) -> list[Output]:
    if len({output.instruction for output in outputs}) < len(outputs):
        raise EvaluationError(f"{source}: an instruction occurs twice; keep one output for each.")
    if len({output.generator for output in outputs}) > 1:
        raise EvaluationError(f"{source}: holds outputs of several generators; keep those of one.")
    return list(outputs)


def load_template(path: str | None) -> tuple[Message, ...]:
    """The annotator's prompt as messages with {instruction}, {output_1} and {output_2} in them.

    Raises EvaluationError, which says how to come by the file, where it is not there.
    """
    file = _packaged_prompt() if path is None else Path(path)
    if file is None or not file.is_file():
        raise EvaluationError(
            f"There is no annotator's prompt{'' if path is None else f' {path}'}: set evals.alpaca_eval.prompt to "
            "alpaca_eval_clf.txt, which the package alpaca_eval ships (pip download --no-deps alpaca_eval, and unzip), "
            f"at {PROMPT_IN_PACKAGE}."
        )
    if failure := find_invalid_utf8(file):
        raise EvaluationError(f"{file} cannot be read: {failure}.")
    blocks = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", file.read_text(encoding="utf-8"), re.DOTALL)
    fields = {"instruction", "output_1", "output_2"}
    if set(re.findall(r"\{(\w+)\}", "".join(content for _, content in blocks))) != fields:
        raise EvaluationError(f"{file} is not a prompt of alpaca_eval: ChatML with the fields {sorted(fields)}.")
    return tuple(Message(role=role, content=content.strip()) for role, content in blocks)


def _packaged_prompt() -> Path | None:
    """Where an installed alpaca_eval keeps its prompt; the package itself is not imported."""
    spec = find_spec("alpaca_eval")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / PROMPT_IN_PACKAGE


def annotator_name(model: str) -> str:
    """The annotator's name in files: the leaderboard's, or one that no leaderboard has."""
    short = model.rpartition("/")[2]
    return OFFICIAL_ANNOTATORS.get(short, f"weighted_alpaca_eval_{short}")


def pair_up(references: Sequence[Output], outputs: Sequence[Output]) -> list[OutputPair]:
    """The instructions for which both have an output, in the order of the references."""
    known = {output.instruction: output for output in outputs}
    pairs = [OutputPair(ref, known[ref.instruction]) for ref in references if ref.instruction in known]
    if not pairs:
        raise EvaluationError("None of the outputs answers an instruction of the benchmark.")
    return pairs


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether the annotator sees the model's output first: alpaca_eval's draw, which the instruction alone decides."""
    return Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]


def render(template: Sequence[Message], pair: OutputPair) -> tuple[Message, ...]:
    """The prompt for a pair, in the order of `is_switched`. Fields are filled in one pass, whatever the texts hold."""
    shown = [pair.reference.output, pair.output.output]
    first, second = reversed(shown) if is_switched(pair.reference.instruction) else shown
    values = {"instruction": pair.reference.instruction, "output_1": first, "output_2": second}
    return tuple(
        Message(role=part.role, content=re.sub(r"\{(\w+)\}", lambda field: values[field[1]], part.content))
        for part in template
    )


def parse_preference(reply: Completion) -> ParsedPreference:
    """The preference from 1, first, to 2, second. Raises ReplyError where the likeliest tokens hold neither name."""
    if not reply.top_logprobs:
        raise ReplyError("It came without log-probabilities, which this annotator is all about.")
    return ParsedPreference(preference_from_logprobs(reply.top_logprobs[0]), reply.top_logprobs[0])


def preference_from_logprobs(logprobs: Sequence[TokenLogprob]) -> float:
    """2 - P(m) / (P(m) + P(M)); a name that is not listed has no probability. Raises ReplyError without either."""
    known = {top.token: top.logprob for top in logprobs}
    if FIRST not in known and SECOND not in known:
        raise ReplyError(f"Neither {FIRST} nor {SECOND} is among the likeliest tokens {sorted(known)}.")
    first, second = known.get(FIRST, -math.inf), known.get(SECOND, -math.inf)
    return 2 - math.exp(first - _log_sum(first, second))


def _log_sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b)); at most one of them is minus infinity."""
    return max(a, b) + math.log1p(math.exp(min(a, b) - max(a, b)))


def unswap_preference(preference: float, instruction: str) -> float:
    """A preference between first and second as one between baseline and model."""
    return 3 - preference if is_switched(instruction) else preference


def annotate(
    pairs: Sequence[OutputPair],
    template: Sequence[Message],
    known: Sequence[Annotation],
    annotator: str,
    chat: ChatModel,
    *,
    concurrency: int,
    max_failure_rate: float,
) -> list[Annotation]:
    """One annotation a pair, in order. Identical outputs are a draw, and what is known already is not asked again.

    Raises TooManyFailures where more than the share `max_failure_rate` of the calls brought no preference.
    """
    ready = {_key(row): row for row in known if is_preference(row.preference)}
    settled = [_settled(pair, annotator, ready) for pair in pairs]
    open_pairs = [pair for pair, row in zip(pairs, settled, strict=True) if row is None]
    requests = [_request(render(template, pair)) for pair in open_pairs]
    label = f"{annotator} compares"
    heard = run_requests(
        chat, requests, parse_preference, label=label, concurrency=concurrency, max_failure_rate=max_failure_rate
    )
    fresh = iter([_annotation(pair, annotator, outcome) for pair, outcome in zip(open_pairs, heard, strict=True)])
    return [row if row is not None else next(fresh) for row in settled]


def _request(messages: tuple[Message, ...]) -> ChatRequest:
    return ChatRequest(messages=messages, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, top_logprobs=TOP_LOGPROBS)


def _key(row: Annotation) -> tuple[str, str, str, str]:
    """What alpaca_eval tells annotations apart by."""
    return row.instruction, row.output_1, row.output_2, row.annotator


def _settled(
    pair: OutputPair, annotator: str, ready: Mapping[tuple[str, str, str, str], Annotation]
) -> Annotation | None:
    if pair.is_identical:
        return _row(pair, annotator, DRAW)
    known = ready.get((pair.reference.instruction, pair.reference.output, pair.output.output, annotator))
    return None if known is None else _row(pair, annotator, known.preference, known.preference_raw_completion)


def _annotation(pair: OutputPair, annotator: str, outcome: RequestResult[ParsedPreference]) -> Annotation:
    if outcome.value is None:
        return _row(pair, annotator, None, {"text": outcome.raw}, outcome.failure)
    preference = unswap_preference(outcome.value.preference, pair.reference.instruction)
    return _row(pair, annotator, preference, _completion(outcome.raw, outcome.value.logprobs))


def _completion(text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """A reply in the form that alpaca_eval's `logprob_parser` reads again."""
    top = [row.model_dump() for row in logprobs]
    written = next((row for row in top if row["token"] == text), {"token": text, "logprob": None})
    return {"text": text, "logprobs": {"content": [{**written, "top_logprobs": top}]}}


def _row(
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


def load_annotations(path: Path) -> list[Annotation]:
    """Read an annotations.json, without columns that are not ours. Raises EvaluationError for a row that is none."""
    texts = ("instruction", "output_1", "output_2", "annotator")
    return [
        Annotation(
            **{name: _text(row.get(name), name, path) for name in texts},
            **{name: row.get(name) or "" for name in ("generator_1", "generator_2")},  # its cache files lack them
            dataset=row.get("dataset"),
            preference=row.get("preference"),
            preference_raw_completion=row.get("preference_raw_completion", row.get("raw_completion")),
            failure=row.get("failure"),
        )
        for row in read_json_objects(path, EvaluationError)
    ]


def figures(
    annotations: Sequence[Annotation], places: Mapping[str, int], gamed: Sequence[LengthControlRow] | None
) -> AlpacaEvalFigures:
    """The leaderboard's figures from annotations in the order of their instructions.

    places: where each instruction stands in the benchmark, which its difficulty is looked up by. gamed: the rows of
    df_gamed.csv; None leaves the length-controlled win rate out. Raises EvaluationError where no row has a preference.
    """
    preferences = [row.preference for row in annotations]
    if not any(map(is_preference, preferences)):
        raise EvaluationError("None of the comparisons has a preference, so there is no win rate.")
    controlled, without = _controlled(annotations, places, gamed)
    return AlpacaEvalFigures(
        raw=win_rate(preferences),
        avg_length=int(fmean(len(row.output_2) for row in annotations)),
        missing_outputs=len(places) - len(annotations),
        length_controlled=controlled,
        without=without,
    )


def _controlled(
    annotations: Sequence[Annotation], places: Mapping[str, int], gamed: Sequence[LengthControlRow] | None
) -> tuple[LengthControlled | None, str | None]:
    if gamed is None:
        return None, "evals.alpaca_eval.length_control_data names no df_gamed.csv"
    if annotations[0].generator_1 == annotations[0].generator_2:
        return LengthControlled(50.0, 0.0, 0.0, 0.0, 0.0), None
    rows = [
        LengthComparison(places[row.instruction], len(row.output_1), len(row.output_2), row.preference)
        for row in annotations
    ]
    try:
        return length_controlled_win_rate(rows, gamed), None
    except EvaluationError as error:
        return None, str(error)


def to_json(rows: Sequence[Output | Annotation]) -> str:
    """Rows as the file that alpaca_eval reads: a list of objects."""
    return json.dumps([row.model_dump() for row in rows], indent=2, ensure_ascii=False) + "\n"


def to_leaderboard(name: str, found: AlpacaEvalFigures) -> str:
    """A leaderboard.csv of one row, with alpaca_eval's columns in its order."""
    row = {**found.as_metrics(), "mode": "community"}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["", *LEADERBOARD])
    writer.writerow([name, *(row[column] for column in LEADERBOARD)])
    return out.getvalue()


LEADERBOARD = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode",
    "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip
