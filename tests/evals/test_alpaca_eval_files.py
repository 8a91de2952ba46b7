"""Files of AlpacaEval: round trips, the files that alpaca_eval writes, and the errors for missing or wrong files."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import ScriptedChat, completion_of
from standins import ANNOTATOR_PROMPT, INSTRUCTIONS, reference_rows

from tapir_exp.core.errors import EvaluationError
from tapir_exp.evals import alpaca_eval_files as aef
from tapir_exp.evals.alpaca_eval import OutputPair, annotate
from tapir_exp.llm.chat import Message, TokenLogprob

TEMPLATE = (Message(role="user", content="{instruction}|{output_1}|{output_2}"),)


def pair(instruction: str, reference: str, text: str) -> OutputPair:
    return OutputPair(
        aef.Output(instruction=instruction, output=reference, generator="baseline"),
        aef.Output(instruction=instruction, output=text, generator="student"),
    )


@pytest.fixture
def rows() -> list[aef.Annotation]:
    """Annotations of one comparison and of one pair of identical outputs."""
    pairs = [pair(INSTRUCTIONS[0], "a\u2028b", "own"), pair(INSTRUCTIONS[1], "x", "x")]
    top = (TokenLogprob(token="m", logprob=-0.1), TokenLogprob(token="M", logprob=-3.0))
    chat = ScriptedChat([completion_of("m").model_copy(update={"top_logprobs": (top,)})])
    return annotate(pairs, TEMPLATE, [], "us", chat, concurrency=1, max_failure_rate=0)


def test_annotations_round_trip(tmp_path: Path, rows: list[aef.Annotation]) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(aef.to_json(rows))
    assert aef.load_annotations(path) == rows
    content = json.loads(path.read_text())[0]["preference_raw_completion"]["logprobs"]["content"][0]
    assert content["token"] == "m"
    assert {top["token"] for top in content["top_logprobs"]} == {"m", "M"}


def test_load_annotations_reads_files_of_alpaca_eval(tmp_path: Path, rows: list[aef.Annotation]) -> None:
    """Official files have more columns; the cache files of alpaca_eval lack the generators, yet are reused."""
    path = tmp_path / "annotations.json"
    official = [{**row.model_dump(exclude={"failure"}), "preference_price_per_example": 0.01} for row in rows]
    path.write_text(json.dumps(official))
    assert [row.preference for row in aef.load_annotations(path)] == [row.preference for row in rows]
    cached = [{name: value for name, value in row.items() if "generator" not in name} for row in official]
    path.write_text(json.dumps(cached))
    known = aef.load_annotations(path)
    pairs = [pair(INSTRUCTIONS[0], "a\u2028b", "own")]
    assert annotate(pairs, TEMPLATE, known, "us", ScriptedChat([]), concurrency=1, max_failure_rate=0) == rows[:1]


def test_load_template_parses_chatml(tmp_path: Path) -> None:
    (tmp_path / "clf.txt").write_text(ANNOTATOR_PROMPT)
    system, user = aef.load_template(str(tmp_path / "clf.txt"))
    assert (system.role, system.content) == ("system", "Two answers, one choice.")
    assert user.content.startswith("Asked: {instruction}\n")
    assert user.content.endswith("Say m or M.")


def test_load_template_missing_or_wrong_file_fails(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"set evals\.alpaca_eval\.prompt to alpaca_eval_clf\.txt"):
        aef.load_template(str(tmp_path / "none.txt"))
    (tmp_path / "other.txt").write_text("<|im_start|>user\n{question}<|im_end|>")
    with pytest.raises(EvaluationError, match=r"not a prompt of alpaca_eval: found the fields \['question'\]"):
        aef.load_template(str(tmp_path / "other.txt"))
    (tmp_path / "latin.txt").write_bytes(ANNOTATOR_PROMPT.encode() + "café".encode("cp1252"))
    with pytest.raises(EvaluationError, match=r"latin\.txt cannot be read: not valid UTF-8: byte 0xe9"):
        aef.load_template(str(tmp_path / "latin.txt"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_load_outputs_accepts_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps([{"instruction": "i", "output": "o", "generator": "g"}]), encoding=encoding)
    assert [output.instruction for output in aef.load_outputs(path)] == ["i"]


OUTPUT = {"instruction": "i", "output": "o", "generator": "g"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b'"caf\xe9"',
            r"outputs\.json, row 1: output is not valid UTF-8: byte 0xe9 at position 36 of the file; .*1252",
        ),
        (rb'"\ud83d"', r"outputs\.json, row 1: output is text that UTF-8 cannot hold: the lone surrogate"),
    ],
)
def test_load_outputs_names_row_and_byte(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "outputs.json"
    path.write_bytes(b'[{"instruction": "i", "output": ' + text + b', "generator": "g"}]')
    with pytest.raises(EvaluationError, match=message):
        aef.load_outputs(path)


def test_load_outputs_reads_lists_and_lines(tmp_path: Path) -> None:
    json_list = tmp_path / "model_outputs.json"
    json_list.write_text(json.dumps(reference_rows()))
    lines = tmp_path / "reference.jsonl"
    names = {"output": "reference_output", "generator": "reference_generator"}
    renamed = [{names.get(name, name): value for name, value in row.items()} for row in reference_rows()]
    lines.write_text("\n".join(map(json.dumps, renamed)))
    assert [r.output for r in aef.load_outputs(json_list)] == [r.output for r in aef.load_outputs(lines)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"instruction": "i", "generator": "g"}], r"row 1 is no Output: output: .*valid string, got None"),
        ([OUTPUT, {**OUTPUT, "output": 3}], r"row 2 is no Output: output: .*valid string, got 3"),
        ([{**OUTPUT, "dataset": ["x"]}], r"row 1 is no Output: dataset: .*valid string"),
        ([], "has no rows"),
        ([{"instruction": "i", "output": "o", "generator": "g"}] * 2, "an instruction occurs twice"),
        ([{"instruction": i, "output": "o", "generator": i} for i in "ab"], "several generators"),
    ],
)
def test_load_outputs_unusable_rows_fail(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text(json.dumps(rows))
    with pytest.raises(EvaluationError, match=message):
        aef.load_outputs(tmp_path / "outputs.json")


ANNOTATION = {"instruction": "i", "output_1": "a", "output_2": "b", "annotator": "x", "preference": 1.5}


@pytest.mark.parametrize("raw", ["[" * 300 + "]" * 300, '"\\ud83d"', "[NaN, 1e999]", "1" * 5000])
def test_annotation_is_kept_without_an_unreadable_completion(tmp_path: Path, raw: str) -> None:
    text = json.dumps(ANNOTATION)[:-1] + f', "raw_completion": {raw}, "other": {raw}}}'
    (tmp_path / "annotations.json").write_text(f"[{text}]")
    (annotation,) = aef.load_annotations(tmp_path / "annotations.json")
    assert annotation.preference == 1.5
    assert json.loads(annotation.model_dump_json())["preference"] == 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [({"preference": "high"}, "preference"), ({"dataset": 3}, "dataset"), ({"output_1": None}, "output_1")],
)
def test_load_annotations_unusable_rows_fail(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps([ANNOTATION, {**ANNOTATION, **change}]))
    with pytest.raises(EvaluationError, match=rf"annotations\.json, row 2 is no Annotation: {message}: "):
        aef.load_annotations(tmp_path / "annotations.json")


def test_load_hub_reference_failure_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def load_dataset(kind: str, data_files: str, split: str) -> list[dict[str, Any]]:
        calls.append((data_files, split))
        if len(calls) > 1:
            raise ConnectionError("no network")
        return reference_rows()

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [row.output for row in aef.load_hub_reference()] == [row["output"] for row in reference_rows()]
    with pytest.raises(EvaluationError, match=r"no network.*[Ss]et evals\.alpaca_eval\.reference to a local copy"):
        aef.load_hub_reference()
    assert set(calls) == {("hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json", "train")}
