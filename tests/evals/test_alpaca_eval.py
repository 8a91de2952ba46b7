"""AlpacaEval: the order shown, the preference read, what is not asked, and the files of both tools."""

import csv
import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from assets import asset
from fakes import ScriptedChat, reply_of, time_out
from standins import ANNOTATOR_PROMPT, INSTRUCTIONS, reference_rows, write_alpaca

from tapir_exp.core.errors import EvaluationError, ReplyError, TooManyFailures
from tapir_exp.evals import alpaca_eval as ae
from tapir_exp.evals.length_control import load_length_control_rows
from tapir_exp.llm.chat import ChatRequest, Completion, Message, TokenLogprob

TEMPLATE = (Message(role="user", content="{instruction}|{output_1}|{output_2}"),)
SWITCHED = next(text for text in INSTRUCTIONS if ae.is_switched(text))
STRAIGHT = next(text for text in INSTRUCTIONS if not ae.is_switched(text))


def output(instruction: str, text: str, generator: str = "student") -> ae.Output:
    return ae.Output(instruction=instruction, output=text, generator=generator)


def pair(instruction: str, reference: str, text: str) -> ae.OutputPair:
    return ae.OutputPair(output(instruction, reference, "baseline"), output(instruction, text))


def likely(**logprobs: float) -> Completion:
    top = tuple(TokenLogprob(token=token, logprob=value) for token, value in logprobs.items())
    return reply_of(top[0].token).model_copy(update={"top_logprobs": (top,)})


def annotate(
    pairs: list[ae.OutputPair], chat: ScriptedChat, known: list[ae.Annotation] | None = None
) -> list[ae.Annotation]:
    return ae.annotate(pairs, TEMPLATE, known or [], "us", chat, concurrency=1, max_failure_rate=0.5)


def test_a_preference_is_what_is_not_the_first_s_share() -> None:
    tops = likely(m=math.log(0.6), M=math.log(0.2), The=math.log(0.1)).top_logprobs[0]
    assert ae.preference_from_logprobs(tops) == pytest.approx(2 - 0.75)
    assert ae.preference_from_logprobs(likely(m=-0.1).top_logprobs[0]) == 1.0
    assert ae.preference_from_logprobs(likely(The=-0.1, M=-9.0).top_logprobs[0]) == 2.0


@pytest.mark.parametrize(
    ("reply", "wrong"), [(reply_of("m"), "without log-prob"), (likely(The=-0.1), "Neither m nor M")]
)
def test_a_reply_without_either_name_is_refused(reply: Completion, wrong: str) -> None:
    with pytest.raises(ReplyError, match=wrong):
        ae.parse_preference(reply)


def test_the_order_is_alpaca_eval_s_draw() -> None:
    # as alpaca_eval 0.6.6 drew them: random_seeded_choice("is_switched_outputs" + instruction + "0", [False, True])
    assert [ae.is_switched(text) for text in "abcdef"] == [True, True, False, False, False, True]


def test_swapped_outputs_are_shown_swapped_and_the_preference_is_mirrored() -> None:
    chat = ScriptedChat([likely(m=math.log(0.9), M=math.log(0.1))] * 2)
    rows = annotate([pair(STRAIGHT, "ref", "own"), pair(SWITCHED, "ref", "own")], chat)
    shown = [request.messages[0].content for request in chat.requests]
    assert shown == [f"{STRAIGHT}|ref|own", f"{SWITCHED}|own|ref"]
    assert [row.preference for row in rows] == pytest.approx([1.1, 1.9])  # the first is liked: baseline, then model
    assert [(row.output_1, row.output_2) for row in rows] == [("ref", "own")] * 2


def test_the_annotator_is_asked_as_officially() -> None:
    chat = ScriptedChat([likely(m=-0.1)])
    annotate([pair(STRAIGHT, "ref", "own")], chat)
    (request,) = chat.requests
    assert (request.max_tokens, request.temperature, request.top_logprobs) == (1, 1.0, 5)


def test_identical_outputs_are_a_draw_without_a_call() -> None:
    chat = ScriptedChat([])
    (row,) = annotate([pair(STRAIGHT, "same", "same")], chat)
    assert (row.preference, chat.requests) == (1.5, [])


def test_a_missing_preference_stays_missing_and_says_why() -> None:
    def script(request: ChatRequest) -> Any:
        return likely(m=-0.1) if SWITCHED in request.messages[0].content else likely(The=-0.1)

    rows = annotate([pair(STRAIGHT, "ref", "own"), pair(SWITCHED, "ref", "own")], ScriptedChat(script))
    assert [row.preference for row in rows] == [None, 2.0]
    assert "Neither m nor M" in (rows[0].failure or "")
    found = ae.figures(rows, {STRAIGHT: 0, SWITCHED: 1}, None)
    assert (found.raw.n_total, found.raw.missing, found.raw.win_rate) == (1, 1, 100.0)


def test_too_many_missing_preferences_stop_the_suite() -> None:
    with pytest.raises(TooManyFailures, match="us compares"):
        annotate([pair(text, "ref", "own") for text in INSTRUCTIONS], ScriptedChat(lambda _: time_out()))


def test_what_is_annotated_is_not_asked_again_and_other_outputs_are() -> None:
    first = annotate([pair(STRAIGHT, "ref", "own")], ScriptedChat([likely(m=-0.1)]))
    assert annotate([pair(STRAIGHT, "ref", "own")], ScriptedChat([]), first) == first
    chat = ScriptedChat([likely(m=-0.1)] * 3)
    annotate([pair(STRAIGHT, "ref", "another")], chat, first)
    annotate([pair(STRAIGHT, "ref", "own")], chat, [first[0].model_copy(update={"annotator": "others"})])
    annotate([pair(STRAIGHT, "ref", "own")], chat, [first[0].model_copy(update={"preference": None})])
    assert len(chat.requests) == 3


def test_the_prompt_is_filled_in_one_pass() -> None:
    tricky = pair(STRAIGHT, "{output_2} and {instruction}", "<|im_end|>{x}")
    (message,) = ae.render(TEMPLATE, tricky)
    assert message.content == f"{STRAIGHT}|{{output_2}} and {{instruction}}|<|im_end|>{{x}}"


def test_the_prompt_file_becomes_messages(tmp_path: Path) -> None:
    (tmp_path / "clf.txt").write_text(ANNOTATOR_PROMPT)
    system, user = ae.load_template(str(tmp_path / "clf.txt"))
    assert (system.role, system.content) == ("system", "Two answers, one choice.")
    assert user.content.startswith("Asked: {instruction}\n")
    assert user.content.endswith("Say m or M.")


def test_a_missing_or_wrong_prompt_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"set evals\.alpaca_eval\.prompt to alpaca_eval_clf\.txt"):
        ae.load_template(str(tmp_path / "none.txt"))
    (tmp_path / "other.txt").write_text("<|im_start|>user\n{question}<|im_end|>")
    with pytest.raises(EvaluationError, match="is not a prompt of alpaca_eval"):
        ae.load_template(str(tmp_path / "other.txt"))
    (tmp_path / "latin.txt").write_bytes(ANNOTATOR_PROMPT.encode() + "café".encode("cp1252"))
    with pytest.raises(EvaluationError, match=r"latin\.txt cannot be read: not valid UTF-8: byte 0xe9"):
        ae.load_template(str(tmp_path / "latin.txt"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_load_outputs_accepts_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps([{"instruction": "i", "output": "o", "generator": "g"}]), encoding=encoding)
    assert [output.instruction for output in ae.load_outputs(path)] == ["i"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"caf\xe9"', r"outputs\.json, row 1: not valid UTF-8: byte 0xe9 at position 36 of the file"),
        (rb'"\ud83d"', r"outputs\.json, row 1: text that UTF-8 cannot hold: the lone surrogate"),
    ],
)
def test_load_outputs_names_row_and_byte(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "outputs.json"
    path.write_bytes(b'[{"instruction": "i", "output": ' + text + b', "generator": "g"}]')
    with pytest.raises(EvaluationError, match=message):
        ae.load_outputs(path)


def test_the_annotator_s_name_is_the_leaderboard_s_only_for_its_own_model() -> None:
    assert ae.annotator_name("openai/gpt-4-1106-preview") == "weighted_alpaca_eval_gpt4_turbo"
    assert ae.annotator_name("hosted_vllm/tiny") == "weighted_alpaca_eval_tiny"


def test_files_are_read_as_they_are_written_and_as_alpaca_eval_writes_them(tmp_path: Path) -> None:
    rows = annotate(
        [pair(STRAIGHT, "a\u2028b", "own"), pair(SWITCHED, "x", "x")], ScriptedChat([likely(m=-0.1, M=-3.0)])
    )
    path = tmp_path / "annotations.json"
    path.write_text(ae.to_json(rows))
    assert ae.load_annotations(path) == rows
    content = json.loads(path.read_text())[0]["preference_raw_completion"]["logprobs"]["content"][0]
    assert content["token"] == "m"
    assert {top["token"] for top in content["top_logprobs"]} == {"m", "M"}
    theirs = [{**row.model_dump(exclude={"failure"}), "preference_price_per_example": 0.01} for row in rows]
    path.write_text(json.dumps(theirs))
    assert [row.preference for row in ae.load_annotations(path)] == [row.preference for row in rows]
    cached = [{k: v for k, v in row.items() if "generator" not in k} for row in theirs]
    path.write_text(json.dumps(cached))
    assert annotate([pair(STRAIGHT, "a\u2028b", "own")], ScriptedChat([]), ae.load_annotations(path)) == rows[:1]


def test_outputs_are_read_from_lists_and_lines(tmp_path: Path) -> None:
    listed = tmp_path / "model_outputs.json"
    listed.write_text(json.dumps(reference_rows()))
    lines = tmp_path / "reference.jsonl"
    names = {"output": "reference_output", "generator": "reference_generator"}
    renamed = [{names.get(name, name): value for name, value in row.items()} for row in reference_rows()]
    lines.write_text("\n".join(map(json.dumps, renamed)))
    assert [r.output for r in ae.load_outputs(listed)] == [r.output for r in ae.load_outputs(lines)]


def test_the_hub_s_file_is_the_default_and_its_absence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(kind: str, data_files: str, split: str) -> list[dict[str, Any]]:
        asked.append((data_files, split))
        if len(asked) > 1:
            raise ConnectionError("no network")
        return reference_rows()

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [row.output for row in ae.load_hub_reference()] == [row["output"] for row in reference_rows()]
    with pytest.raises(EvaluationError, match=r"no network.*set evals\.alpaca_eval\.reference to a file"):
        ae.load_hub_reference()
    assert set(asked) == {("hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json", "train")}


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([{"instruction": "i", "generator": "g"}], "no text as 'output'"),
        ([{"instruction": "i", "output": "o", "generator": "g"}] * 2, "an instruction occurs twice"),
        ([{"instruction": i, "output": "o", "generator": i} for i in "ab"], "several generators"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(rows: list[dict[str, str]], wrong: str, tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text(json.dumps(rows))
    with pytest.raises(EvaluationError, match=wrong):
        ae.load_outputs(tmp_path / "outputs.json")


def test_instructions_without_an_output_are_counted() -> None:
    references = [output(text, "ref", "baseline") for text in INSTRUCTIONS]
    pairs = ae.pair_up(references, [output(INSTRUCTIONS[3], "own"), output(INSTRUCTIONS[1], "own")])
    assert [p.reference.instruction for p in pairs] == [INSTRUCTIONS[1], INSTRUCTIONS[3]]
    rows = annotate(pairs, ScriptedChat(lambda _: likely(m=-0.1)))
    assert ae.figures(rows, {text: n for n, text in enumerate(INSTRUCTIONS)}, None).missing_outputs == 10
    with pytest.raises(EvaluationError, match="None of the outputs"):
        ae.pair_up(references, [output("another", "own")])


def test_the_leaderboard_row_and_why_length_control_is_absent(tmp_path: Path) -> None:
    gamed = load_length_control_rows(Path(write_alpaca(tmp_path)["length_control_data"]))
    references = ae.load_outputs(tmp_path / "reference.json")
    outputs = [output(row.instruction, "x" * (3 + n * n)) for n, row in enumerate(references)]
    rows = annotate(ae.pair_up(references, outputs), ScriptedChat(lambda _: likely(m=-0.1, M=-2.5)))
    places = {row.instruction: n for n, row in enumerate(references)}
    found = ae.figures(rows, places, gamed)
    header, values = csv.reader(io.StringIO(ae.to_leaderboard("student", found)))
    named = dict(zip(header, values, strict=True))
    assert named[""] == "student"
    assert float(named["win_rate"]) == found.raw.win_rate
    assert float(named["length_controlled_winrate"]) == pytest.approx(found.length_controlled.win_rate)  # type: ignore[union-attr]
    assert int(named["avg_length"]) == int(sum(len(row.output) for row in outputs) / 12)
    without = ae.figures(rows, places, None)
    assert (without.length_controlled, without.without) == (
        None,
        "evals.alpaca_eval.length_control_data names no df_gamed.csv",
    )
    strange = ae.figures(rows, {text: n + 100 for text, n in places.items()}, gamed)
    assert "have no difficulty" in (strange.without or "")


def test_the_baseline_against_itself_wins_half() -> None:
    pairs = [ae.OutputPair(output(text, "same", "baseline"), output(text, "same", "baseline")) for text in INSTRUCTIONS]
    found = ae.figures(annotate(pairs, ScriptedChat([])), {text: n for n, text in enumerate(INSTRUCTIONS)}, [])
    assert found.length_controlled is not None
    assert (found.raw.win_rate, found.length_controlled.win_rate) == (50.0, 50.0)


def test_every_stored_preference_comes_out_of_its_log_probabilities() -> None:
    references = ae.load_outputs(asset("alpacaeval/eval_set_805.jsonl"))
    lines = asset("alpacaeval/raw_logprobs_vicuna-7b.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        if row["top_logprobs"] is None:  # identical outputs, for which nobody was asked
            assert row["preference"] == 1.5
            continue
        tops = [TokenLogprob(token=token, logprob=value) for token, value in row["top_logprobs"]]
        found = ae.unswap_preference(ae.preference_from_logprobs(tops), references[row["index"]].instruction)
        assert found == pytest.approx(row["preference"], abs=1e-9)
    assert len(lines) == 805
