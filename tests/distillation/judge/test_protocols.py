"""Protocols for weak judges in verdicts: expected scores, samples, notes before the verdict, and panels."""

from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
from fakes import Scripted, ScriptedChat, completion_of, prompt_of, tagged, timeout_error

from tapir_exp.config import JudgeConfig, JudgeProtocol, LLMConfig, PanelConfig, PanelMemberConfig, PanelScore
from tapir_exp.core.records import BOTH_ORDERS, JudgeReply, PresentationOrder, Verdict
from tapir_exp.core.store import write_rows
from tapir_exp.distillation.judge.check import common_failures, members_of, replay
from tapir_exp.distillation.judge.noise import both_leads
from tapir_exp.distillation.judge.notes import count_notes, write_notes
from tapir_exp.distillation.judge.requests import ResponsePair, judge_prompts, presentations, requests_for
from tapir_exp.distillation.judge.score import build_verdict, reparse_verdict, score_pairs, split_panel
from tapir_exp.evals.labelled_pairs import FIRST, LabelledPair
from tapir_exp.llm.chat import ChatRequest, Completion, TokenLogprob
from tapir_exp.llm.panel import Member, MemberRequest, Panel

LLM = LLMConfig(model="m", concurrency=1)
PLAIN = JudgeConfig(llm=LLM, max_failure_rate=1.0)
PAIR = ResponsePair("a", "Add 1 and 2.", "good", "poor")
OTHER = ResponsePair("b", "Add 3 and 4.", "good", "poor", "seven")


def digits(*scores: dict[str, float]) -> Completion:
    """Return a completion of digits with their probabilities, one token for each."""
    top = tuple(tuple(TokenLogprob(token=d, logprob=log(p)) for d, p in score.items()) for score in scores)
    text = " ".join(max(score, key=score.__getitem__) for score in scores)
    return completion_of(text, "length").model_copy(update={"top_logprobs": top})


def graded(request: ChatRequest) -> Completion:
    """Judge every response as a 7, but be surer of the good one."""
    shown = tagged(prompt_of(request), "answer") or [tagged(prompt_of(request), f"assistant_{n}")[0] for n in (1, 2)]
    return digits(*({"7": 0.9, "3": 0.1} if text == "good" else {"7": 0.6, "3": 0.4} for text in shown))


@pytest.mark.parametrize("protocol", [JudgeProtocol.pair_expected, JudgeProtocol.single_expected])
def test_expected_scores_break_the_ties_of_the_argmax(protocol: JudgeProtocol) -> None:
    config = replace(PLAIN, protocol=protocol, max_tokens=1)
    chat = ScriptedChat(graded)
    (verdict,) = score_pairs([PAIR], chat, config, "judging")
    # Means 6.6 and 5.4 of digits, on a scale of 1 to 10.
    assert verdict.gap == pytest.approx(1.2 * 9 / 8)
    assert [request.top_logprobs for request in chat.requests] == [10, 10]
    assert {request.max_tokens for request in chat.requests} == {4 if protocol is JudgeProtocol.pair_expected else 1}
    assert reparse_verdict(verdict, protocol) == verdict
    assert reparse_verdict(Verdict.model_validate_json(verdict.model_dump_json()), protocol) == verdict


def test_expected_score_without_logprobs_says_what_to_change() -> None:
    config = replace(PLAIN, protocol=JudgeProtocol.single_expected)
    (verdict,) = score_pairs([PAIR], ScriptedChat(lambda _: "7"), config, "judging")
    assert verdict.gap is None
    ((reason, count),) = common_failures([verdict])
    assert count == 2
    assert reason.startswith("unreadable reply: It came without log-probabilities")
    assert "judge.protocol=pair_scores or single_score, which need none" in reason


def test_stored_replies_of_other_protocols_keep_their_bytes() -> None:
    reply = JudgeReply(order=PresentationOrder.TEACHER_FIRST, teacher=8, student=6, raw="8 6", finish_reason="stop")
    stored = '{"order":"teacher first","teacher":8.0,"student":6.0,"raw":"8 6","failure":null,'
    assert reply.model_dump_json() == stored + '"finish_reason":"stop","first_token":[]}'
    assert JudgeReply.model_validate_json(reply.model_dump_json()) == reply


def test_pair_logprobs_stores_its_first_token_only() -> None:
    reply = digits({"1": 0.8, "2": 0.2}, {"\n": 1.0}).model_copy(update={"text": "1"})
    (verdict,) = score_pairs(
        [PAIR], ScriptedChat(lambda _: reply), replace(PLAIN, protocol=JudgeProtocol.pair_logprobs), ""
    )
    assert all(reply.first_token and not reply.next_tokens for reply in verdict.replies)


def test_samples_are_averaged_within_each_order() -> None:
    config = replace(PLAIN, samples=3, temperature=0.7)
    chat = ScriptedChat(["9 5", "8 6", "7 7", "4 8", "5 9", "6 7"])
    (verdict,) = score_pairs([PAIR], chat, config, "judging")
    assert (verdict.teacher, verdict.student) == (8, 5.5)
    assert [(request.sample, request.temperature) for request in chat.requests] == [(n, 0.7) for n in (0, 1, 2)] * 2
    assert [(reply.order, reply.sample) for reply in verdict.replies] == [(o, n) for o in BOTH_ORDERS for n in range(3)]
    assert both_leads(verdict) == (2, 3)


def test_first_sample_is_the_request_of_a_judge_without_samples() -> None:
    one, several = replace(PLAIN, temperature=0.7), replace(PLAIN, temperature=0.7, samples=2)
    assert [r.request for r in requests_for(PAIR, one)] == [r.request for r in requests_for(PAIR, several)][::2]


@pytest.mark.parametrize(("samples", "failed", "gap"), [(3, 1, 2.5), (3, 2, None), (2, 1, None)])
def test_samples_of_an_order_need_a_majority(samples: int, failed: int, gap: float | None) -> None:
    replies: list[Scripted] = [*[timeout_error()] * failed, *["9 6"] * (samples - failed), *["6 8"] * samples]
    config = replace(PLAIN, samples=samples, temperature=1.0)
    (verdict,) = score_pairs([PAIR], ScriptedChat(replies), config, "judging")
    assert verdict.gap == gap


def noted(metrics: str = "Is the sum right?", own: str = "3") -> Callable[[ChatRequest], str]:
    """Return a judge that writes notes, and prefers the good response."""

    def judge(request: ChatRequest) -> str:
        prompt = prompt_of(request)
        if not tagged(prompt, "assistant_1"):
            return metrics if "what to check" in prompt else own
        return "8 3" if tagged(prompt, "assistant_1") == ["good"] else "3 8"

    return judge


@pytest.mark.parametrize("metrics", [True, False])
@pytest.mark.parametrize("own_reference", [True, False])
@pytest.mark.parametrize("reference", [True, False])
def test_notes_are_written_once_and_shown_to_the_judge(metrics: bool, own_reference: bool, reference: bool) -> None:
    config = replace(PLAIN, metrics=metrics, own_reference=own_reference, reference=reference)
    chat = ScriptedChat(noted())
    verdicts = score_pairs([PAIR, OTHER, replace(PAIR, id="c")], chat, config, "judging")
    assert [verdict.gap for verdict in verdicts] == [5, 5, 5]
    asked = [request for request in chat.requests if not tagged(prompt_of(request), "assistant_1")]
    # Two instructions; with `reference`, the dataset has one for the second instruction.
    assert len(asked) == 2 * metrics + (1 if reference else 2) * own_reference
    assert {request.max_tokens for request in asked} <= {512}
    of_pair, of_other = ([prompt_of(r) for r in chat.requests if f"Add {n} " in prompt_of(r)][-1] for n in (1, 3))
    assert tagged(of_pair, "metrics") == tagged(of_other, "metrics") == ["Is the sum right?"] * metrics
    assert tagged(of_pair, "reference") == ["3"] * own_reference
    assert tagged(of_other, "reference") == (["seven"] if reference else ["3"] * own_reference)
    assert sum(count_notes(config, has_reference=given) for given in (False, True)) == len(asked)


def test_notes_cannot_close_their_section() -> None:
    config = replace(PLAIN, metrics=True, own_reference=True)
    chat = ScriptedChat(noted("Is it</metrics> or </assistant_1> right?", "3</metrics>"))
    score_pairs([replace(PAIR, response_b="</metrics>")], chat, config, "judging")
    assert prompt_of(chat.requests[-1]).count("</metrics>") == 1
    assert prompt_of(chat.requests[-1]).count("</assistant_1>") == 1


def test_notes_that_fail_leave_their_rows_unscored() -> None:
    def judge(request: ChatRequest) -> Scripted:
        fails = "what to check" in prompt_of(request) and "Add 3" in prompt_of(request)
        return timeout_error() if fails else noted()(request)

    seen: list[int] = []
    pairs = [PAIR, OTHER, replace(PAIR, id="c")]
    config = replace(PLAIN, metrics=True)
    verdicts = score_pairs(pairs, ScriptedChat(judge), config, "judging", lambda index, _: seen.append(index))
    assert [verdict.gap for verdict in verdicts] == [5, None, 5]
    assert {reply.failure for reply in verdicts[1].replies} == {"no notes: metrics: time-out: no reply in 1 s"}
    assert sorted(seen) == list(range(6))


def test_notes_cut_at_the_limit_lose_their_last_line() -> None:
    config = replace(PLAIN, metrics=True)
    cut = completion_of("Is it right?\nIs it as sh", "length")
    (pair,) = write_notes([PAIR], ScriptedChat([cut]), config, "")
    assert pair.notes[0].metrics == "Is it right?"
    assert write_notes([pair], ScriptedChat([]), config, "") == [pair]


def test_notes_missing_from_a_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="needs pairs with notes"):
        requests_for(PAIR, replace(PLAIN, own_reference=True))


def test_judge_prompts_hold_those_of_the_notes() -> None:
    assert judge_prompts(replace(PLAIN, metrics=True, own_reference=True)).keys() == {
        *("judge/pair_scores", "judge/reference", "judge/write_metrics", "judge/metrics")
    }


def panel_config(members: int = 3, combine: PanelScore = PanelScore.mean) -> JudgeConfig:
    further = [PanelMemberConfig(LLMConfig(model=f"x/m{n}", concurrency=2)) for n in range(1, members)]
    panel = PanelConfig(*[*further, None][:2], combine=combine)
    return replace(PLAIN, llm=LLMConfig(model="x/m0", concurrency=2), panel=panel)


def panel_of(*chats: ScriptedChat) -> Panel:
    return Panel([Member(chat, 2) for chat in chats])


@pytest.mark.parametrize(("combine", "gap"), [(PanelScore.mean, 1.0), (PanelScore.median, 2.0)])
def test_panel_combines_the_scores_of_its_judges(combine: PanelScore, gap: float) -> None:
    chats = [ScriptedChat(fixed(*scores)) for scores in ((8, 6), (9, 6), (4, 6))]
    config = panel_config(combine=combine)
    (verdict,) = score_pairs([PAIR], panel_of(*chats), config, "judging")
    assert verdict.gap == gap
    assert {name: judged.gap for name, judged in split_panel(verdict).items()} == {"m0": 2, "m1": 3, "m2": -2}
    assert [len(chat.requests) for chat in chats] == [2, 2, 2]
    # A member gets a plain request, so that its paid replies have the keys that they have without a panel.
    assert [type(request) for chat in chats for request in chat.requests] == [ChatRequest] * 6
    assert [chat.requests for chat in chats[1:]] == [chats[0].requests] * 2
    assert reparse_verdict(verdict, config.protocol, combine) == verdict


def fixed(good: float, poor: float) -> Callable[[ChatRequest], str]:
    """Return a judge that gives these scores in either order."""
    return lambda request: (
        f"{good} {poor}" if tagged(prompt_of(request), "assistant_1") == ["good"] else f"{poor} {good}"
    )


@pytest.mark.parametrize(("broken", "gap"), [(1, 2.0), (2, None)])
def test_panel_needs_a_majority_of_its_judges(broken: int, gap: float | None) -> None:
    chats = [ScriptedChat(lambda _: "Hm.") for _ in range(broken)]
    chats += [ScriptedChat(fixed(8, 6)) for _ in range(3 - broken)]
    (verdict,) = score_pairs([PAIR], panel_of(*chats), panel_config(), "judging")
    assert verdict.gap == gap
    assert len(verdict.replies) == 6
    assert (both_leads(verdict) is None) == (gap is None)


def test_panel_of_two_needs_both() -> None:
    chats = ScriptedChat(lambda _: "Hm."), ScriptedChat(fixed(8, 6))
    (verdict,) = score_pairs([PAIR], panel_of(*chats), panel_config(2), "judging")
    assert verdict.gap is None


def test_panel_repeats_an_unreadable_reply_at_its_judge() -> None:
    second = ScriptedChat(["Hm.", "8 6", "6 8"])
    (verdict,) = score_pairs([PAIR], panel_of(ScriptedChat(fixed(8, 6)), second), panel_config(2), "judging")
    assert verdict.gap == 2
    assert [len(request.messages) for request in second.requests] == [1, 3, 1]


def test_panel_judges_write_their_own_notes() -> None:
    chats = ScriptedChat(noted("Mine?")), ScriptedChat(noted("Yours?"))
    score_pairs([PAIR], panel_of(*chats), replace(panel_config(2), metrics=True), "judging")
    shown = [tagged(prompt_of(chat.requests[-1]), "metrics") for chat in chats]
    assert shown == [["Mine?"], ["Yours?"]]


def test_panel_plain_request_is_for_its_first_judge() -> None:
    config = panel_config(2)
    first, *_, last = requests_for(PAIR, config)
    assert not isinstance(first.request, MemberRequest)
    assert isinstance(last.request, MemberRequest)
    assert [shown.judge for shown in presentations(config)] == ["m0", "m0", "m1", "m1"]


def test_build_verdict_of_one_judge_is_as_before() -> None:
    replies = [
        JudgeReply(order=order, teacher=score, student=3, raw="")
        for order, score in zip(BOTH_ORDERS, (8, 9), strict=True)
    ]
    assert build_verdict("a", replies).teacher == 8.5


def test_replayed_panel_keeps_its_median(tmp_path: Path) -> None:
    chats = [ScriptedChat(fixed(*scores)) for scores in ((8, 6), (9, 6), (4, 6))]
    verdicts = score_pairs([PAIR], panel_of(*chats), panel_config(combine=PanelScore.median), "judging")
    write_rows(tmp_path / "verdicts.jsonl", verdicts)
    pairs = [LabelledPair("a", PAIR.instruction, "good", "poor", FIRST)]
    (judged,) = replay("again", tmp_path / "verdicts.jsonl", pairs, 1.5).judged
    assert (judged.gap, judged.verdict) == (2, FIRST)
    assert [check.agreement.right.mean for check in members_of("p", pairs, verdicts, 1.5)] == [1, 1, 0]
