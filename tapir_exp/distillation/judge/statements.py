"""Find every statement of scores in the text of a judge.

A statement is *clear* if it could be the judge's own verdict. Its scores are alone on the first or the last line, after
a label such as `Assistant 1:`, or in a phrase ("a score of 8"). Quoted, negated and unlabelled ones are not clear. They
may contradict a verdict, but they never make one.

Numbers that count something ("3 of 4 steps", "7/8 of the facts", "x = 10") are no statements.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MAX_SENTENCE = 600
"""Characters of a sentence that are read together."""
PartialScores = tuple[float | None, ...]
"""Scores by position; None for a response without a score in the statement."""


@dataclass(frozen=True)
class Statement:
    """Scores that a text states.

    Attributes:
        scores: The scores, one for each response.
        clear: Whether they can be the judge's own verdict.
        text: The words of the statement.
    """

    scores: PartialScores
    clear: bool
    text: str


@dataclass(frozen=True)
class Loose:
    """A score of a response that the text does not name."""

    score: float
    clear: bool
    text: str


_INVISIBLE = re.compile("[\ufeff\u200b-\u200f\u2060\u00ad]")
_SPACES = re.compile("[\t\u00a0\u2000-\u200a\u202f\u3000]")
_FULL_WIDTH = str.maketrans("０１２３４５６７８９．，：；（）／［］｜＝", "0123456789.,:;()/[]|=")
_EMPHASIS = re.compile(r"(?<![A-Za-z0-9)*_])[*_]+(?=\S)|(?<=\S)[*_]+(?![A-Za-z0-9(*_])")
_BRACKETS = re.compile(r"\[\[([^\[\]\n]{1,12})\]\]|\\boxed\{([^{}\n]{1,12})\}")

_PLAIN = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_BEFORE = r"(?<![\w.,/+\-\u2010-\u2015~^$€%])"
_AFTER = r"(?![^\W分]|[.,][0-9]|\.?%|[+^]|\s*(?:-|[\u2010-\u2015]|\bto\b|\bor\b)\s*[0-9])"
_TEN = r"(?:\s?/\s?10(?!\s?/)|\s+out\s+of\s+(?:10|ten)\b)"
NUMBER = rf"{_BEFORE}({_PLAIN})(?:{_TEN})?{_AFTER}"
_OUT_OF_TEN = rf"{_BEFORE}({_PLAIN}){_TEN}{_AFTER}"
_JOINT = r"(?:\s*(?:,\s|;|\||&)\s*(?:and\s+)?|\s+(?:and|vs\.?|versus)\s+| +)"

_NOUN = r"(?:assistant|response|answer|model|output|candidate|submission|reply|chatbot|ai|solution|助手|助理|回答)"
_OWNER = (
    rf"(?:\b{_NOUN}s?[ _#]*(?:no\.?\s*)?(?P<index{{0}}>[12]|one|two|(?-i:[AB])|(?<=_)[ab])(?![\w.]\w|[0-9])"
    rf"|\b(?:score|rating|grade)[ _]?(?P<score{{0}}>[12ab])(?=\s*[:=|])"
    rf"|\bthe (?P<ordinal{{0}}>first|second|former|latter)(?=(?: {_NOUN}| one)\b"
    rf"| (?:gets?|earns?|deserves?|receives?|is|a|an)\b|[,:]| \(?[0-9]))"
)
_OWNERS = re.compile(_OWNER.format(""), re.IGNORECASE)
_TWO_OWNERS = re.compile(
    rf"{_OWNER.format('_a')}(?:'s)?(?: {_NOUN}s?\b)?(?:\s*(?:,|/|&|\band\b)\s*)"
    rf"(?:{_OWNER.format('_b')}|(?P<bare>[12])(?!\w|[.,/]))(?:'s?)?",
    re.IGNORECASE,
)
_POSITION = {"1": 0, "one": 0, "a": 0, "first": 0, "former": 0, "2": 1, "two": 1, "b": 1, "second": 1, "latter": 1}

_FILL = (
    r"(?:my|the|a|an|final|overall|revised|total|score|scores|rating|ratings|grade|grades|mark|marks|is|are|was|were|be|"
    r"of|for|as|would|code|answer|answers|response|responses|submission|submissions|output|outputs|receives?|earns?|"
    r"gets?|deserves?|respectively|both|each|given|rated|scored|with|at|verdict|evaluation|tuple|here|out|on|scale|s)"
)
_CUE = r"(?:scores?|ratings?|grades?|marks?|verdict|tuple|rate[sd]?|scored)"
_LINE_WORDS = (
    r"(?:my|the|final|overall|revised|corrected|adjusted|actual|true|total|scores?|ratings?|grades?|marks?|verdict|"
    r"output|tuple|evaluation|result|are|is|here|and|for|both)"
)
CUE_WORD = re.compile(rf"\b{_CUE}\b", re.IGNORECASE)
_ENDS = (
    r"(?=\s*(?:$|[\n,;:()\[\]|}<\"\u2010-\u2015-]|\.(?:\s|$)|分"
    r"|points?\b(?!\s+(?:higher|lower|more|less|better|worse|for))"
    r"|(?:and|while|but|because|since|as|for|to|respectively)\b))"
)
"""What may follow a score that no `/10` marks; a noun would make it a count."""

_GUARD = re.compile(
    r"\b(?:not|never|cannot|than|instead|least|most|between|under|below|above|almost|nearly|maximum|max|perfect|if|"
    r"could|minus|deduct\w*|los[et]s?|originally|initially|might|may|wrote|writes?|written|says?|said|saying|claim\w*|"
    r"quot\w*|demand\w*|ask\w*|instruct\w*|ignor\w*|cop(?:y|ies|ied)|inject\w*|pretend\w*|tells?|told|request\w*|"
    r"scale|range|example|e\.g|suggest\w*|propos\w*|tr(?:y|ies|ied)|prints?|returns?|want\w*|contain\w*|includ\w*|"
    r"(?:ends?|begins?|starts?) with|previous\w*|draft|first thought|tempt\w*|used to)\b|n't\b|[<>≤≥?]",
    re.IGNORECASE,
)
"""Words that mark the number after them as a quotation, or as no verdict."""
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|`[^`\n]*`|「[^」\n]*」")
_SENTENCE_END = re.compile(r"\n|(?<=[.!?])\s+|(?<=。)")
_FENCE = re.compile(r"^\s*(?:```|~~~)\w*\s*$")
_RANGE_BEFORE = re.compile(rf"(?:\bbetween\s+{_PLAIN}\s+and|(?<![/\d.]){_PLAIN}\s*(?:or|to))\s*$", re.IGNORECASE)
_RESET = re.compile(
    r"^\W*(?:overall|in conclusion|in summary|therefore|finally|summary|conclusion|both)\b", re.IGNORECASE
)
_HEADING = re.compile(
    rf"^[\W_]*(?:[0-9]{{1,2}}[.)]\s*)?(?:(?:evaluation|assessment|review|analysis|score|rating|feedback)s?\s+(?:of|for)\s+)?"
    rf"{_OWNER.format('')}(?:'s)?(?:\s+{_NOUN}s?)?[\W_]*$",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"\b(first|second|former|latter)\b", re.IGNORECASE)
_BOTH = re.compile(rf"\bboth\b|\beach (?:of them|{_NOUN})", re.IGNORECASE)


def clean_text(text: str) -> str:
    """Return a text in plain characters: no invisible ones, no emphasis, ASCII digits, and `\\n` at the line ends."""
    text = _INVISIBLE.sub("", text).replace("\r\n", "\n").replace("\r", "\n").translate(_FULL_WIDTH)
    text = _BRACKETS.sub(lambda match: f" {match[1] or match[2]} ", _SPACES.sub(" ", text))
    return _EMPHASIS.sub("", text)


def find_statements(text: str, count: int) -> tuple[list[Statement], list[Loose]]:
    """Return the statements of a cleaned text about one or two responses, and the scores of unnamed responses."""
    lines = _Lines(text, count)
    statements = list(lines.alone())
    loose: list[Loose] = []
    owner: int | None = None
    for number, line in enumerate(lines.rest):
        if heading := _HEADING.match(line):
            owner = _position(heading)
            continue
        if _RESET.match(line):
            owner = None
        quoted = lines.is_foreign(number)
        for sentence in _sentences(line):
            made, unnamed = _Sentence(sentence, count, owner, quoted).read()
            statements += made
            loose += unnamed
    return statements, loose


def _sentences(line: str) -> Iterator[str]:
    """Return the sentences of a line; long ones in pieces, since reading takes time quadratic in their length."""
    for sentence in _SENTENCE_END.split(line):
        yield from re.findall(rf"(?s).{{1,{MAX_SENTENCE}}}(?:\s|$)|.{{1,{MAX_SENTENCE}}}", sentence)


def is_announcement(line: str) -> bool:
    """Return whether a line announces the next one as a quotation, as in "It ends with:"."""
    return not line.rstrip().endswith((".", "!")) and _GUARD.search(line) is not None


def _position(match: re.Match[str], suffix: str = "") -> int:
    return _POSITION[(match[f"index{suffix}"] or match[f"ordinal{suffix}"] or match[f"score{suffix}"]).lower()]


class _Lines:
    """The lines of a text, and the scores that stand alone on them."""

    def __init__(self, text: str, count: int) -> None:
        self.lines = [line for line in text.split("\n") if line.strip()]
        fences = [number for number, line in enumerate(self.lines) if _FENCE.match(line)]
        # A fence around everything is no quotation.
        if fences in ([0], [0, len(self.lines) - 1]):
            self.lines = [line for line in self.lines if not _FENCE.match(line)]
        self.count = count
        self.rest = list(self.lines)
        """The lines without those that hold scores alone."""
        self._fenced: set[int] = set()
        inside = False
        for number, line in enumerate(self.lines):
            if _FENCE.match(line):
                inside = not inside
            elif inside:
                self._fenced.add(number)

    def is_foreign(self, number: int) -> bool:
        """Return whether a line is quoted: in a block of code, behind `>`, or announced as a quotation."""
        before = self.lines[number - 1] if number else ""
        return number in self._fenced or self.lines[number].lstrip().startswith(">") or is_announcement(before)

    def alone(self) -> Iterator[Statement]:
        """Return the scores that stand alone on lines, and drop these lines from the rest."""
        yield from self._stacked()
        numbers = _JOINT.join([NUMBER] * self.count)
        tuple_ = r"[(\[]\s*" + r"\s*,\s*".join([rf"({_PLAIN})(?:{_TEN})?"] * self.count) + r"\s*[)\]]"
        form = re.compile(
            rf"^(?P<lead>[\W_]*(?:{_LINE_WORDS}[\W_]+)*)(?:{tuple_}|{numbers})"
            rf"(?P<tail>\s*(?:points?|respectively|分)?[^\w\n]*)$",
            re.IGNORECASE,
        )
        for number, line in enumerate(self.rest):
            if (match := form.match(line)) is None:
                continue
            found = [float(group) for group in match.groups()[1:-1] if group is not None]
            if len(found) == self.count:
                yield Statement(tuple(found), self._is_clear(number, match["lead"], match["tail"]), line.strip())
                self.rest[number] = ""

    def _stacked(self) -> Iterator[Statement]:
        """Return two scores on neighbouring lines, each alone; they are clear at the start of the text."""
        if self.count == 1:
            return
        form = re.compile(rf"^[\s*]*{NUMBER}\s*\.?\s*$")
        numbers = [form.match(line) for line in self.lines]
        for at, (first, second) in enumerate(pairwise(numbers)):
            if first and second:
                clear = at == 0 and (len(numbers) == 2 or not numbers[2])
                yield Statement((float(first[1]), float(second[1])), clear, f"{first[0]} {second[0]}")
                self.rest[at : at + 2] = ["", ""]

    def _is_clear(self, number: int, lead: str, tail: str) -> bool:
        before = self.lines[number - 1] if number else ""
        announced = before.rstrip().endswith(":") and CUE_WORD.search(before)
        cue = bool(announced or CUE_WORD.search(lead))
        if self.is_foreign(number) or any(mark in lead + tail for mark in ">\"“«?'"):
            return False
        if ("#" in lead and not cue) or ("`" in lead and number):
            return False
        context = before if before.rstrip().endswith(":") else ""
        if "|" in lead + tail:  # a table: its header names the owners of the scores
            start = number
            while start and self.lines[start - 1].lstrip().startswith("|"):
                start -= 1
            context = " ".join(self.lines[max(0, start - 1) : number])
            cue = cue or bool(owners_in(context))
        owners = owners_in(context)
        if self.count == 2 and owners not in ([], [0, 1]):
            return False
        return cue or number in (0, len(self.lines) - 1)


def owners_in(text: str) -> list[int]:
    """Return the responses that a text names, in the order of their first mention."""
    return list(dict.fromkeys(_position(match) for match in _OWNERS.finditer(text)))


def _of_one(index: int, score: float, clear: bool, text: str) -> Statement:
    return Statement((score, None) if index == 0 else (None, score), clear, text)


class _Sentence:
    """A sentence, and the scores that it gives to responses."""

    def __init__(self, text: str, count: int, owner: int | None, quoted: bool) -> None:
        self.text, self.count, self.owner, self.quoted = text, count, owner, quoted
        self._spans = [match.span() for match in _QUOTED.finditer(text)]

    def read(self) -> tuple[list[Statement], list[Loose]]:
        """Return the statements of the sentence, and scores of unnamed responses."""
        statements: list[Statement] = []
        if self.count == 2:
            statements += self._pairs()
        made, loose = self._each()
        return statements + made, loose

    def _is_clear(self, start: int, before: str) -> bool:
        quoted = self.quoted or any(first <= start < last for first, last in self._spans)
        return not quoted and not _GUARD.search(before)

    def _pairs(self) -> Iterator[Statement]:
        """Return the scores that come in pairs, and blank them out."""
        numbers = rf"(?:[(\[]\s*)?{NUMBER}{_JOINT}{NUMBER}"
        named = re.compile(rf"{_TWO_OWNERS.pattern}(?:[^\w\n.]+{_FILL}\b)*[^\w\n.]+{numbers}", re.IGNORECASE)
        adjacent = re.compile(rf"(?P<tuple>[(\[]\s*)?{NUMBER}(?P<joint>{_JOINT}){NUMBER}", re.IGNORECASE)
        for match in named.finditer(self.text):
            first = _position(match, "_a")
            second = _POSITION[match["bare"]] if match["bare"] else _position(match, "_b")
            scores = tuple(map(float, match.groups()[-2:]))
            if first != second:
                ordered = scores if first == 0 else scores[::-1]
                yield Statement(ordered, self._is_clear(match.start(), self.text[: match.end()]), match[0])
                self._blank(match)
        for match in adjacent.finditer(self.text):
            tens = len(re.findall(_OUT_OF_TEN, match[0]))
            cue = bool(match["tuple"]) and CUE_WORD.search(self.text[: match.start()])
            if tens != 2 and not cue and (tens or match["joint"].strip()):
                continue  # two numbers in prose, such as a list or an interval
            scores = (float(match[2]), float(match[4]))
            owners = owners_in(self.text)
            named_after = _TWO_OWNERS.match(
                self.text[match.end() :].lstrip(" )]-:").removeprefix("for ").removeprefix("to ")
            )
            clear = (tens == 2 or bool(cue)) and owners in ([], [0, 1]) and bool(not owners or named_after)
            yield Statement(scores, clear and self._is_clear(match.start(), self.text[: match.end()]), match[0])
            self._blank(match)

    def _blank(self, match: re.Match[str]) -> None:
        self.text = self.text[: match.start()] + "\0" * len(match[0]) + self.text[match.end() :]

    def _each(self) -> tuple[list[Statement], list[Loose]]:
        """Return the scores that come one by one."""
        statements, loose, previous = [], [], 0
        names = [match.span() for match in _OWNERS.finditer(self.text)] if self.count == 2 else []
        for match in re.finditer(NUMBER, self.text):
            segment = self.text[previous : match.start()]
            if any(first <= match.start() < last for first, last in names):
                continue
            after = re.match(
                rf"\s*(?:points?\s*)?(?:for|to|goes to)\s+{_OWNER.format('')}", self.text[match.end() :], re.I
            )
            is_score = self._is_score(match, segment) or (after and self.count == 2)
            if not is_score or _RANGE_BEFORE.search(segment):
                continue
            score = float(match[1])
            whose = self._whose(segment, after)
            ordinals = {word.lower() for word in _ORDINAL.findall(segment)} if whose is None else set()
            if len(ordinals) == 1 and not _OWNERS.search(segment):
                # "First" may be an adverb, so it contradicts but does not score.
                statements.append(_of_one(_POSITION[ordinals.pop()], float(match[1]), False, match[0]))
            previous = match.end() + (after.end() if after else 0)
            clear = self._is_clear(match.start(), segment)
            words = f"{segment[-60:]}{match[0]}".strip(" \0")
            if self.count == 1:
                statements.append(Statement((score,), clear, words))
            elif whose is None:
                loose.append(Loose(score, clear, words))
            else:
                statements += [_of_one(index, score, clear, words) for index in whose]
        return statements, loose

    def _is_score(self, match: re.Match[str], segment: str) -> bool:
        """Return whether a number is a score: out of ten, or after a word or a label for a score."""
        if re.fullmatch(_OUT_OF_TEN, match[0]):
            return True
        if not re.match(_ENDS, self.text[match.end() :], re.IGNORECASE):
            return False
        before = self.text[: match.start()]
        if re.search(rf"\b{_CUE}(?:\W+(?:of|is|as|at|an?|be|was)\b)*\W*$", segment, re.I):
            return True
        # Only "a 7", since "Assistant 1 gets 7" may be about a sum.
        label = rf"{_OWNER.format('')}(?:'s)?(?:\W+{_FILL}\b)*\s*(?:[:=|(]|\s[-\u2010-\u2015])\s*(?:an? )?$"
        verb = re.search(r"\b(?:gets?|receives?|earns?|deserves?|give|rate|award|assign)\b.*\ban? $", before, re.I)
        if verb and (self.count == 1 or _OWNERS.search(segment)):
            return True
        return self.count == 2 and re.search(label, segment, re.I) is not None

    def _whose(self, segment: str, after: re.Match[str] | None) -> set[int] | None:
        """Return the responses that a score belongs to; None if the words do not name them."""
        owners = {_position(match) for match in _OWNERS.finditer(segment)}
        if _BOTH.search(segment) or (len(owners) == 2 and _TWO_OWNERS.search(segment)):
            return {0, 1} if after is None else None
        named = {_position(after)} if after else set()
        # "Better than Assistant 1" is about the other one.
        if re.search(rf"\b(?:than|unlike|like|to|with|over|by|from|against)\s+{_OWNER.format('')}", segment, re.I):
            return None
        if len(owners | named) == 1:
            return owners | named
        if not owners and not named and self.owner is not None:
            return {self.owner}
        return None
