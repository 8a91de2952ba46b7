"""AlpacaEval: presentation order, preferences, reused annotations and the leaderboard row."""

import csv
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from assets import asset
from fakes import ScriptedChat, completion_of, timeout_error
from standins import INSTRUCTIONS, length_control_csv, write_alpaca

from tapir_exp.core.errors import EvaluationError, ReplyError, TooManyFailures
from tapir_exp.evals import alpaca_eval as ae
from tapir_exp.evals.alpaca_eval_files import Annotation, Output, load_outputs
from tapir_exp.evals.length_control import load_length_control_rows
from tapir_exp.llm.chat import ChatRequest, Completion, Message, TokenLogprob

TEMPLATE = (Message(role="user", content="{instruction}|{output_1}|{output_2}"),)
SWITCHED = next(text for text in INSTRUCTIONS if ae.is_switched(text))
STRAIGHT = next(text for text in INSTRUCTIONS if not ae.is_switched(text))


def output(instruction: str, text: str, generator: str = "student") -> Output:
    return Output(instruction=instruction, output=text, generator=generator)


def pair(instruction: str, reference: str, text: str) -> ae.OutputPair:
    return ae.OutputPair(output(instruction, reference, "baseline"), output(instruction, text))


def completion(**logprobs: float) -> Completion:
    """Return a completion with these candidates for its first token."""
    top = tuple(TokenLogprob(token=token, logprob=value) for token, value in logprobs.items())
    return completion_of(top[0].token).model_copy(update={"top_logprobs": (top,)})


def annotate(
    pairs: list[ae.OutputPair], chat: ScriptedChat | None, known: list[Annotation] | None = None
) -> list[Annotation]:
    return ae.annotate(pairs, TEMPLATE, known or [], "us", chat, concurrency=1, max_failure_rate=0.5)


def test_preference_from_logprobs_is_two_minus_first_share() -> None:
    tops = completion(m=math.log(0.6), M=math.log(0.2), The=math.log(0.1)).top_logprobs[0]
    assert ae.preference_from_logprobs(tops) == pytest.approx(2 - 0.75)
    assert ae.preference_from_logprobs(completion(m=-0.1).top_logprobs[0]) == 1.0
    assert ae.preference_from_logprobs(completion(The=-0.1, M=-9.0).top_logprobs[0]) == 2.0


@pytest.mark.parametrize(
    ("parsed", "message"),
    [
        (completion_of("m"), "It came without log-probabilities, which this annotator is all about."),
        (completion(The=-0.1), "Neither m nor M is among the likeliest tokens ['The']."),
    ],
)
def test_parse_preference_without_either_name_fails(parsed: Completion, message: str) -> None:
    """A retry repeats these texts, so a change would invalidate cached completions."""
    with pytest.raises(ReplyError) as error:
        ae.parse_preference(parsed)
    assert str(error.value) == message


def test_is_switched_matches_the_draw_of_alpaca_eval() -> None:
    # Drawn by alpaca_eval 0.6.6: random_seeded_choice("is_switched_outputs" + instruction + "0", [False, True])
    assert [ae.is_switched(text) for text in "abcdef"] == [True, True, False, False, False, True]


def test_annotate_swaps_outputs_and_mirrors_preferences() -> None:
    chat = ScriptedChat([completion(m=math.log(0.9), M=math.log(0.1))] * 2)
    rows = annotate([pair(STRAIGHT, "ref", "own"), pair(SWITCHED, "ref", "own")], chat)
    prompts = [request.messages[0].content for request in chat.requests]
    assert prompts == [f"{STRAIGHT}|ref|own", f"{SWITCHED}|own|ref"]
    assert [row.preference for row in rows] == pytest.approx([1.1, 1.9])  # the first output wins: baseline, then model
    assert [(row.output_1, row.output_2) for row in rows] == [("ref", "own")] * 2


def test_annotate_uses_the_official_settings() -> None:
    chat = ScriptedChat([completion(m=-0.1)])
    annotate([pair(STRAIGHT, "ref", "own")], chat)
    (request,) = chat.requests
    assert (request.max_tokens, request.temperature, request.top_logprobs) == (1, 1.0, 5)


def test_annotate_identical_outputs_draw_without_a_call() -> None:
    chat = ScriptedChat([])
    (row,) = annotate([pair(STRAIGHT, "same", "same")], chat)
    assert (row.preference, chat.requests) == (1.5, [])


def test_annotate_missing_preference_has_a_failure() -> None:
    def script(request: ChatRequest) -> Any:
        return completion(m=-0.1) if SWITCHED in request.messages[0].content else completion(The=-0.1)

    rows = annotate([pair(STRAIGHT, "ref", "own"), pair(SWITCHED, "ref", "own")], ScriptedChat(script))
    assert [row.preference for row in rows] == [None, 2.0]
    assert "Neither m nor M" in (rows[0].failure or "")
    raw = ae.figures(rows, {STRAIGHT: 0, SWITCHED: 1}, None).raw
    assert (raw.n_total, raw.missing, raw.win_rate) == (1, 1, 100.0)


@pytest.mark.parametrize("chat", [None, ScriptedChat(lambda _: pytest.fail("asked"))], ids=["no judge", "judge"])
def test_annotate_drops_and_counts_null_preferences(chat: ScriptedChat | None) -> None:
    pairs = [pair(STRAIGHT, "ref", "own"), pair(SWITCHED, "ref", "own"), pair("c", "same", "same")]
    known = annotate(pairs, ScriptedChat(lambda _: completion(m=-0.1)))
    known[0] = known[0].model_copy(update={"preference": None})
    rows = annotate(pairs, chat, known)
    assert [row.preference for row in rows] == [None, 2.0, 1.5]
    raw = ae.figures(rows, {STRAIGHT: 0, SWITCHED: 1, "c": 2}, None).raw
    assert (raw.n_total, raw.missing, raw.win_rate) == (2, 1, 75.0)


def test_annotate_too_many_failures_stop_the_suite() -> None:
    with pytest.raises(TooManyFailures, match="us compares"):
        annotate([pair(text, "ref", "own") for text in INSTRUCTIONS], ScriptedChat(lambda _: timeout_error()))


def test_annotate_reuses_known_preferences_only() -> None:
    first = annotate([pair(STRAIGHT, "ref", "own")], ScriptedChat([completion(m=-0.1)]))
    assert annotate([pair(STRAIGHT, "ref", "own")], ScriptedChat([]), first) == first
    chat = ScriptedChat([completion(m=-0.1)] * 3)
    annotate([pair(STRAIGHT, "ref", "another")], chat, first)
    annotate([pair(STRAIGHT, "ref", "own")], chat, [first[0].model_copy(update={"annotator": "others"})])
    failed = first[0].model_copy(update={"preference": None, "failure": "time-out"})
    annotate([pair(STRAIGHT, "ref", "own")], chat, [failed])
    annotate([pair(STRAIGHT, "ref", "own")], chat, [first[0], failed.model_copy(update={"failure": None})])
    assert len(chat.requests) == 3


def test_render_fills_fields_in_one_pass() -> None:
    tricky = pair(STRAIGHT, "{output_2} and {instruction}", "<|im_end|>{x}")
    (message,) = ae.render(TEMPLATE, tricky)
    assert message.content == f"{STRAIGHT}|{{output_2}} and {{instruction}}|<|im_end|>{{x}}"


def test_annotator_name_is_official_for_the_official_model_only() -> None:
    assert ae.annotator_name("openai/gpt-4-1106-preview") == "weighted_alpaca_eval_gpt4_turbo"
    assert ae.annotator_name("hosted_vllm/tiny") == "weighted_alpaca_eval_tiny"


def test_pair_outputs_drops_instructions_without_output() -> None:
    references = [output(text, "ref", "baseline") for text in INSTRUCTIONS]
    pairs = ae.pair_outputs(references, [output(INSTRUCTIONS[3], "own"), output(INSTRUCTIONS[1], "own")])
    assert [p.reference.instruction for p in pairs] == [INSTRUCTIONS[1], INSTRUCTIONS[3]]
    rows = annotate(pairs, ScriptedChat(lambda _: completion(m=-0.1)))
    assert ae.figures(rows, {text: n for n, text in enumerate(INSTRUCTIONS)}, None).missing_outputs == 10
    with pytest.raises(EvaluationError, match="None of the 1 outputs"):
        ae.pair_outputs(references, [output("another", "own")])


def test_figures_without_any_preference_fail() -> None:
    (row,) = annotate([pair(STRAIGHT, "ref", "own")], ScriptedChat([completion(m=-0.1)]))
    failed = row.model_copy(update={"preference": None, "failure": "no reply in 1 s"})
    with pytest.raises(EvaluationError, match=r"None of the 1 annotations has a preference.*no reply in 1 s"):
        ae.figures([failed], {STRAIGHT: 0}, None)


def test_to_leaderboard_writes_the_official_columns(tmp_path: Path) -> None:
    control = load_length_control_rows(Path(write_alpaca(tmp_path)["length_control_data"]))
    references = load_outputs(tmp_path / "reference.json")
    outputs = [output(row.instruction, "x" * (3 + n * n)) for n, row in enumerate(references)]
    rows = annotate(ae.pair_outputs(references, outputs), ScriptedChat(lambda _: completion(m=-0.1, M=-2.5)))
    results = ae.figures(rows, {row.instruction: n for n, row in enumerate(references)}, control)
    header, values = csv.reader(io.StringIO(ae.to_leaderboard("student", results)))
    columns = dict(zip(header, values, strict=True))
    assert columns[""] == "student"
    assert float(columns["win_rate"]) == results.raw.win_rate
    assert float(columns["length_controlled_winrate"]) == pytest.approx(results.length_controlled.win_rate)  # type: ignore[union-attr]
    assert int(columns["avg_length"]) == int(sum(len(row.output) for row in outputs) / 12)


def test_missing_outputs_give_both_length_controlled_rates(tmp_path: Path) -> None:
    """By instruction, and by row number as alpaca_eval's table: each missing output moves the difficulties."""
    (tmp_path / "df_gamed.csv").write_text(length_control_csv(120))
    control = load_length_control_rows(tmp_path / "df_gamed.csv")
    rng = random.Random(1)
    rows = []
    for n in range(120):
        texts = {"output_1": "x" * rng.randrange(9, 99), "output_2": "y" * rng.randrange(9, 99)}
        share = rng.random() ** (1.5 + n / 120)
        names = {"dataset": None, "generator_1": "baseline", "generator_2": "mine", "annotator": "us"}
        rows.append(Annotation(instruction=f"i{n}", preference=1 + share, **texts, **names))
    indices = {row.instruction: n for n, row in enumerate(rows)}
    assert "length_controlled_winrate_by_row" not in ae.figures(rows, indices, control).as_metrics()
    given = rows[40:]
    results = ae.figures(given, indices, control)
    by_row = ae.figures(given, {row.instruction: n for n, row in enumerate(given)}, control)
    assert results.length_controlled_by_row == by_row.length_controlled
    metrics = results.as_metrics()
    assert abs(metrics["length_controlled_winrate"] - metrics["length_controlled_winrate_by_row"]) > 0.1
    header, values = csv.reader(io.StringIO(ae.to_leaderboard("student", results)))
    official = float(dict(zip(header, values, strict=True))["length_controlled_winrate"])
    assert official == metrics["length_controlled_winrate_by_row"]


def test_figures_give_the_reason_for_omitted_length_control(tmp_path: Path) -> None:
    control = load_length_control_rows(Path(write_alpaca(tmp_path)["length_control_data"]))
    rows = annotate([pair(STRAIGHT, "ref", "own")], ScriptedChat([completion(m=-0.1)]))
    no_file = ae.figures(rows, {STRAIGHT: 0}, None)
    assert no_file.length_controlled is None
    assert no_file.omission_reason == "evals.alpaca_eval.length_control_data is null, expected the file df_gamed.csv"
    unknown = ae.figures(rows, {STRAIGHT: 100}, control)
    assert unknown.length_controlled is None
    assert "have no difficulty" in (unknown.omission_reason or "")


def test_figures_of_the_baseline_against_itself_are_half() -> None:
    pairs = [ae.OutputPair(output(text, "same", "baseline"), output(text, "same", "baseline")) for text in INSTRUCTIONS]
    results = ae.figures(annotate(pairs, ScriptedChat([])), {text: n for n, text in enumerate(INSTRUCTIONS)}, [])
    assert results.length_controlled is not None
    assert (results.raw.win_rate, results.length_controlled.win_rate) == (50.0, 50.0)


def test_preference_reproduces_805_published_annotations() -> None:
    references = load_outputs(asset("alpacaeval/eval_set_805.jsonl"))
    lines = asset("alpacaeval/raw_logprobs_vicuna-7b.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        if row["top_logprobs"] is None:  # identical outputs, which are annotated without a call
            assert row["preference"] == 1.5
            continue
        tops = [TokenLogprob(token=token, logprob=value) for token, value in row["top_logprobs"]]
        preference = ae.unswap_preference(ae.preference_from_logprobs(tops), references[row["index"]].instruction)
        assert preference == pytest.approx(row["preference"], abs=1e-9)
    assert len(lines) == 805
