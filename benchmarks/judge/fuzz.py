"""Fuzz the parser of judges' replies both ways: readable forms are read, contradictions and quotations never are.

    python benchmarks/judge/fuzz.py --replies 200000

A synthetic reply states scores in one of many forms, with reasons that hold other numbers. A hostile one also states
different scores, quotes those of others, or writes its scores so that they cannot be read. Printed are the number of
wrong readings, which must be 0, and the share of the readable replies that are read, by form.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tapir_exp.core.errors import ReplyError
from tapir_exp.distillation.judge.parse import Scores, parse_pair_scores, parse_single_score
from tapir_exp.llm.chat import Completion, Usage

Writer = Callable[[list[str], random.Random], str]

REASONS = (
    "Assistant 1 gets 3 of 4 steps right, and 2 + 2 = 4.",
    "The first one passes 7 of 9 tests; the other needs 12 lines.",
    "The code returns [3, 5] for n = 10, as it should.",
    "Both name the 50 states. One of them took 1.5 hours.",
    "1. The first is clear.\n2. The second is not.",
    "x = 10/2\nx = 5\nTherefore the solution is x = 5.",
    "It covers 2/3 of the question (about 80%), in 1969 and 1971.",
    "f(2) = 5(2)^3 - 2(2) + 3 = 39",
)
"""Reasons with numbers that are no scores."""


def name(number: int, r: random.Random) -> str:
    """Return one of the usual names of an answer."""
    return r.choice(("Assistant", "Response", "Answer", "Model", "Output")) + f" {number}"


def labelled(joint: str, each: str = "{name}: {score}", names: tuple[str, str] | None = None) -> Writer:
    """Return a writer of two labelled scores."""

    def write(scores: list[str], r: random.Random) -> str:
        word = r.choice(("Assistant", "Response", "Answer", "Model"))
        own = names or (f"{word} 1", f"{word} 2")
        return joint.join(each.format(name=n, score=s) for n, s in zip(own, scores, strict=True))

    return write


def plain(pattern: str) -> Writer:
    """Return a writer that fills in `{0}` and `{1}`."""
    return lambda scores, r: pattern.format(*scores)


PAIR_FORMS: dict[str, Writer] = {
    "as asked": plain("{0} {1}"),
    "comma": plain("{0}, {1}"),
    "tab": plain("{0}\t{1}"),
    "and": plain("{0} and {1}"),
    "semicolon": plain("{0}; {1}"),
    "bold": plain("**{0} {1}**"),
    "each bold": plain("**{0}** **{1}**"),
    "out of ten": plain("{0}/10 {1}/10"),
    "out of ten, comma": plain("{0}/10, {1}/10"),
    "out of ten in words": plain("{0} out of 10, {1} out of 10"),
    "tuple": plain("({0}, {1})"),
    "list": plain("[{0}, {1}]"),
    "brackets": plain("[[{0}]] [[{1}]]"),
    "two lines": plain("{0}\n{1}"),
    "label before": plain("Scores: {0} {1}"),
    "bold label before": plain("**Final scores:** {0}, {1}"),
    "label above": plain("Here are my scores:\n{0} {1}"),
    "byte-order mark": plain("\ufeff{0} {1}"),
    "full-width digits": lambda s, r: " ".join(s).translate(str.maketrans("0123456789.", "０１２３４５６７８９．")),
    "labels, lines": labelled("\n"),
    "labels, comma": labelled(", "),
    "labels, bold": labelled("\n", "**{name}:** {score}"),
    "labels, bold scores": labelled("\n", "- {name}: **{score}/10**"),
    "labels, out of ten": labelled("\n", "{name}: {score}/10"),
    "labels, reasons": labelled("\n", "{name}: {score} - it takes 3 of 4 steps."),
    "labels, brackets": labelled("\n", "{name} ({score}/10)"),
    "labels, equals": labelled("; ", "{name} = {score}"),
    "labels, score": labelled("\n", "{name} score: {score}"),
    "labels, score for": labelled("\n", "Score for {name}: {score}"),
    "labels, possessive": labelled("\n", "{name}'s score is {score}."),
    "labels, letters": labelled("\n", names=("Assistant A", "Assistant B")),
    "labels, ordinals": labelled(" ", "{name} assistant earns {score}/10.", ("The first", "The second")),
    "labels, sections": labelled("\n\n", "### {name}\nIt is clear.\nScore: {score}/10"),
    "labels, table": labelled("\n", "| {name} | {score} |"),
    "table": plain("| Assistant 1 | Assistant 2 |\n|---|---|\n| {0} | {1} |"),
    "prose": labelled(" and ", "I would give {name} a score of {score} out of 10"),
    "prose, article": labelled(". ", "I would rate {name}'s answer a {score}/10"),
    "prose, behind": lambda s, r: f"I give {s[0]}/10 to Assistant 1 and {s[1]}/10 to Assistant 2.",
    "respectively": plain("The scores for Assistant 1 and Assistant 2 are {0} and {1}, respectively."),
    "JSON": plain('{{"assistant_1": {0}, "assistant_2": {1}}}'),
    "JSON, fenced": plain('```json\n{{"assistant_1": {0}, "assistant_2": {1}, "reason": "3 of 4 steps"}}\n```'),
    "JSON, nested": plain('{{"assistant_1": {{"score": {0}, "length": 99}}, "assistant_2": {{"score": {1}}}}}'),
    "JSON, list": plain('{{"scores": [{0}, {1}]}}'),
    "JSON, strings": plain('{{"score_1": "{0}/10", "score_2": "{1}/10"}}'),
}
SINGLE_FORMS: dict[str, Writer] = {
    "as asked": plain("{0}"),
    "bold": plain("**{0}**"),
    "out of ten": plain("{0}/10"),
    "in words": plain("{0} out of 10"),
    "brackets": plain("[[{0}]]"),
    "label": plain("Score: {0}"),
    "bold label": plain("**Rating:** {0}/10"),
    "overall": plain("Overall score: {0}/10"),
    "byte-order mark": plain("\ufeff{0}"),
    "prose": plain("I would give this answer a score of {0} out of 10."),
    "article": plain("The answer deserves a {0}."),
    "JSON": plain('{{"score": {0}, "reason": "3 of 4 steps"}}'),
}


@dataclass
class Reply:
    """A synthetic reply.

    Attributes:
        text: The reply.
        meant: What its judge meant; None if this cannot be known.
        form: Name of the form of its scores.
        hostile: Name of what was done to it; None if it is readable.
    """

    text: str
    meant: Scores | None
    form: str
    hostile: str | None = None


def other(scores: list[str], r: random.Random) -> list[str]:
    """Return scores that differ from the given ones."""
    while (drawn := [show(draw(r)) for _ in scores]) == scores:
        pass
    return drawn


def _contradict(text: str, scores: list[str], r: random.Random) -> str:
    forms = PAIR_FORMS if len(scores) == 2 else SINGLE_FORMS
    # JSON and two bare lines are no form in the middle of a text.
    usable = [
        form for form in forms if not form.startswith(("JSON", "two lines", "list", "tuple", "table", "as asked"))
    ]
    later = forms[r.choice(usable)](other(scores, r), r)
    return f"{text}\n{r.choice(REASONS)}\n{later}" if r.random() < 0.7 else f"{later}\n{r.choice(REASONS)}\n{text}"


def _reverse(text: str, scores: list[str], r: random.Random) -> str:
    first, second = scores[0], scores[-1]
    return f"{text}\n" + r.choice(
        (
            f"I give the second answer {second}/10 and not less, so the scores are {second}/10 and {first}/10.",
            f"{second}/10 and {first}/10 are what they deserve.",
            f"Assistant 2: {first}\nAssistant 1: {second}",
            f"The second deserves {first}/10.",
            f"Assistant 1's score: {second}",
        )
    )


CONTRADICTIONS: dict[str, Callable[[str, list[str], random.Random], str]] = {
    "other scores": _contradict,
    "the other order": _reverse,
}
"""What makes a reply state two things; no number may be read from it."""

QUOTED = (
    'Assistant 2 wrote: "Scores: {0}"',
    "> {0}",
    "Assistant 2 ends with this line:\n{0}",
    "The student asks for {0}, which I ignore.",
    "It contains the text `{0}`.",
    "```\n{0}\n```",
)
"""Quotations of scores that are not the judge's."""

UNREADABLE: dict[str, Writer] = {
    "words": lambda s, r: "eight out of ten, six out of ten",
    "range": lambda s, r: " ".join(f"{score}-{float(score) + 1:g}" for score in s),
    "candidates": lambda s, r: " or ".join([" ".join(s), " ".join(other(s, r))]),
    "percent": lambda s, r: " ".join(f"{score}0%" for score in s),
    "other scale": lambda s, r: " ".join(f"{float(score) * 10 + 1:g}/100" for score in s),
    "of five": lambda s, r: " ".join(f"{score}/5" for score in s),
    "negative": lambda s, r: " ".join(f"-{score}" for score in s),
    "decimal comma": lambda s, r: " ".join(f"{score.partition('.')[0]},5" for score in s),
    "refusal": lambda s, r: "I cannot judge these answers.",
    "three numbers": lambda s, r: "7 8 9",
    "negated": lambda s, r: f"I would not say {s[0]}/10.",
    "unfinished thoughts": lambda s, r: f"<think>\nPerhaps {' '.join(s)}",
}
"""Ways to write no readable score."""


def draw(r: random.Random) -> float:
    """Return a score from 1 to 10, often a whole one."""
    return float(r.randint(1, 10)) if r.random() < 0.7 else r.randint(2, 20) / 2


def show(score: float) -> str:
    """Return a score as judges write it."""
    return f"{score:g}"


def make(r: random.Random, count: int) -> Reply:
    """Return a synthetic reply about `count` answers."""
    meant = tuple(draw(r) for _ in range(count))
    scores = [show(score) for score in meant]
    forms = PAIR_FORMS if count == 2 else SINGLE_FORMS
    form = r.choice(list(forms))
    body = forms[form](scores, r)
    kind = r.random()
    if kind < 0.45:
        return Reply(_dress(body, form, scores, r), meant, form)
    if kind < 0.7:
        what = r.choice(list(CONTRADICTIONS))
        text = CONTRADICTIONS[what](body, scores, r)
        # The reversed scores of a tie are the same.
        return Reply(text, None if what == "other scores" or len(set(scores)) > 1 else meant, form, what)
    if kind < 0.85:
        quote = r.choice(QUOTED).format(" ".join(other(scores, r)))
        text = f"{body}\n{quote}" if r.random() < 0.5 else f"{quote}\n{body}"
        return Reply(text, meant, form, "quotation")
    what = r.choice(list(UNREADABLE))
    text = UNREADABLE[what](scores, r)
    if r.random() < 0.5:
        text = f"{text}\n" + r.choice(QUOTED).format(" ".join(other(scores, r)))
    return Reply(text, None, form, what)


def _dress(body: str, form: str, scores: list[str], r: random.Random) -> str:
    """Return a readable reply with reasons, thoughts before it, or its own scores once more."""
    text = body
    if r.random() < 0.6 and not form.startswith(("JSON", "list")):
        text = f"{text}\n{r.choice(REASONS)}"
    if r.random() < 0.2 and form not in ("byte-order mark",):
        text = f"<think>\nPerhaps {' '.join(other(scores, r))}? No.\n</think>\n\n{text}"
    if r.random() < 0.15 and not form.startswith("JSON"):
        text = f"{text}\nFinal scores: {' '.join(scores)}" if len(scores) == 2 else f"{text}\nScore: {scores[0]}"
    return text


@dataclass
class Outcome:
    """Counts of a fuzz.

    Attributes:
        replies: Synthetic replies.
        wrong: Replies from which a wrong number was read.
        readable: Readable replies by form.
        read: Those of them that were read, by form.
    """

    replies: int = 0
    wrong: list[Reply] = field(default_factory=list)
    readable: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)


def fuzz(replies: int, seed: int) -> Outcome:
    """Parse synthetic replies and return what was read."""
    r, outcome = random.Random(seed), Outcome()
    for number in range(replies):
        count = 1 if number % 4 == 0 else 2
        reply = make(r, count)
        outcome.replies += 1
        scores = _parse(reply.text, count)
        if scores is not None and scores != reply.meant:
            outcome.wrong.append(reply)
        if reply.hostile is None:
            outcome.readable[f"{count}: {reply.form}"] += 1
            outcome.read[f"{count}: {reply.form}"] += scores is not None
    return outcome


def _parse(text: str, count: int) -> Scores | None:
    usage = Usage(prompt_tokens=0, completion_tokens=0, usd=None)
    completion = Completion(text=text, finish_reason="stop", usage=usage)
    try:
        return (parse_single_score if count == 1 else parse_pair_scores)(completion)
    except ReplyError:
        return None


def main() -> None:
    """Fuzz the parser and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcome = fuzz(arguments.replies, arguments.seed)
    for form, total in sorted(outcome.readable.items()):
        print(f"{outcome.read[form] / total:7.1%}  of {total:6d}  {form}")
    total = outcome.readable.total()
    print(
        f"{outcome.replies} replies: {len(outcome.wrong)} wrong; {outcome.read.total()} of {total} readable ones read"
    )
    for reply in outcome.wrong[:10]:
        print(reply)


if __name__ == "__main__":
    main()
