"""Pairs of answers with a label by people: the formats of LLMBar, JudgeBench, MT-Bench's votes, and plain rows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import EvaluationError
from tapir_exp.core.json_rows import read_whole_rows
from tapir_exp.core.records import example_id

TIE, FIRST, SECOND = 0, 1, 2
"""Labels: neither answer is better, the first is, the second is."""
_LABELS = {
    FIRST: ("1", "a", "first", "model_a", "a>b", "a>>b", "output_1"),
    SECOND: ("2", "b", "second", "model_b", "b>a", "b>>a", "output_2"),
    TIE: ("0", "tie", "a=b", "both", "tie (bothbad)", "tie (inconsistent)", "both_bad"),
}
"""Spellings of the labels; LLMBar has 1 and 2, JudgeBench `A>B`, MT-Bench `model_a`."""
_ANSWERS = (
    ("output_1", "output_2"),
    ("response_A", "response_B"),
    ("response_1", "response_2"),
    ("answer_1", "answer_2"),
    ("answer_a", "answer_b"),
    ("first", "second"),
)
"""Names of the columns of the two answers."""
_INSTRUCTIONS = ("instruction", "input", "question", "prompt")
_LABEL_FIELDS = ("label", "winner", "preference")
_REFERENCES = ("reference", "reference_answer", "reference_output")
_ORIGINS = (("origin_1", "origin_2"), ("model_1", "model_2"), ("model_a", "model_b"))


@dataclass(frozen=True)
class LabelledPair:
    """Two answers to one instruction, and which of them is better.

    Attributes:
        id: Id of the pair within its file.
        instruction: The instruction.
        first: An answer.
        second: Another answer.
        label: `FIRST`, `SECOND` or `TIE`.
        reference: A good answer; None if there is none.
        kind: Where the pair comes from, such as a category of the data.
        origins: Who wrote each answer, such as a model, or `seed`, `expansion` and `refined`; empty if unknown.
    """

    id: str
    instruction: str
    first: str
    second: str
    label: int
    reference: str | None = None
    kind: str = ""
    origins: tuple[str, str] = ("", "")


def read_pairs(path: Path, limit: int | None = None) -> list[LabelledPair]:
    """Return the labelled pairs of a JSON or JSON-lines file; the fields of a row show its format.

    Votes of several people on one pair of MT-Bench become one label, that of the majority.

    Args:
        path: The file.
        limit: Most pairs to return, the first ones; None returns all.

    Raises:
        EvaluationError: If a row lacks an answer or has an unknown label; the message names it.
    """
    pairs: list[LabelledPair] = []
    votes: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row, (source, fields) in enumerate(read_whole_rows(path, EvaluationError)):
        pair = _read_votes(fields, source) if "conversation_a" in fields else read_pair(fields, source, row)
        key = (pair.instruction, pair.first, pair.second)
        if "conversation_a" in fields:
            votes[key].append(pair.label)
            if len(votes[key]) > 1:
                continue
        pairs.append(pair)
    if votes:
        pairs = [_with_majority(pair, votes[(pair.instruction, pair.first, pair.second)]) for pair in pairs]
    return pairs[:limit]


def read_pair(fields: Mapping[str, Any], source: str, row: int) -> LabelledPair:
    """Return the labelled pair of a row of LLMBar, of JudgeBench, or with plain names.

    Args:
        fields: The columns of the row.
        source: File and number of the row, for messages.
        row: Index of the row, its id if it has none.

    Raises:
        EvaluationError: If an answer, the instruction or the label is missing.
    """
    names = next((names for names in _ANSWERS if all(name in fields for name in names)), None)
    instruction = next((str(fields[name]) for name in _INSTRUCTIONS if fields.get(name)), None)
    if names is None or instruction is None:
        expected = ", ".join("/".join(names) for names in _ANSWERS)
        raise EvaluationError(
            f"{source}: a labelled pair needs an instruction ({', '.join(_INSTRUCTIONS)}) and two answers "
            f"({expected}); the row has {', '.join(fields) or 'no fields'}."
        )
    if "instruction" in fields and fields.get("input"):
        instruction = f"{instruction}\n\n{fields['input']}"
    answers = [fields[name] for name in names]
    for name, answer in zip(names, answers, strict=True):
        if not isinstance(answer, str):
            raise EvaluationError(f"{source}: {name} is {answer!a:.80}, expected a text.")
    reference = next((str(fields[name]) for name in _REFERENCES if fields.get(name)), None)
    return LabelledPair(
        id=str(fields.get("pair_id") or fields.get("id") or row),
        instruction=instruction,
        first=answers[0],
        second=answers[1],
        label=_read_label(fields, source),
        reference=reference,
        kind=str(fields.get("category") or fields.get("source") or ""),
        origins=_read_origins(fields),
    )


def _read_origins(fields: Mapping[str, Any]) -> tuple[str, str]:
    names = next((names for names in _ORIGINS if all(fields.get(name) for name in names)), None)
    return ("", "") if names is None else (str(fields[names[0]]), str(fields[names[1]]))


def _read_votes(fields: Mapping[str, Any], source: str) -> LabelledPair:
    """Return a vote on MT-Bench as a pair; turns before the last one become part of the instruction."""
    try:
        first, second = ([dict(turn) for turn in fields[name]] for name in ("conversation_a", "conversation_b"))
        asked, last = first[:-1], [first[-1]["content"], second[-1]["content"]]
        turns = [str(turn["content"]) for turn in asked]
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise EvaluationError(f"{source}: conversation_a and conversation_b must be lists of turns.") from error
    instruction = turns[0] if len(turns) == 1 else "\n\n".join(turns)
    name = f"{fields.get('question_id')}-{fields.get('turn', 1)}-{fields.get('model_a')}-{fields.get('model_b')}"
    label, origins = _read_label(fields, source), _read_origins(fields)
    return LabelledPair(name, instruction, str(last[0]), str(last[1]), label, origins=origins)


def _read_label(fields: Mapping[str, Any], source: str) -> int:
    value = next((fields[name] for name in _LABEL_FIELDS if fields.get(name) is not None), None)
    for label, spellings in _LABELS.items():
        if str(value).strip().lower() in spellings:
            return label
    known = ", ".join(spelling for spellings in _LABELS.values() for spelling in spellings[:3])
    raise EvaluationError(f"{source}: the label is {value!r}, expected one of {known}.")


def _with_majority(pair: LabelledPair, votes: Iterable[int]) -> LabelledPair:
    counts = Counter(votes)
    label = TIE if counts[FIRST] == counts[SECOND] else max((FIRST, SECOND), key=counts.__getitem__)
    if counts[TIE] > counts[label]:
        label = TIE
    return replace(pair, label=label)


def pair_key(pair: LabelledPair) -> str:
    """Return the id of a pair by its texts, which is the same in every file."""
    return example_id("\0".join((pair.instruction, pair.first, pair.second)))
