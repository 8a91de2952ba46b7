"""Form rules: patterns that show the form of a task, such as a summary, whatever its text is about.

The vector of a text represents its topic, so that a summary of a text about whales is close to Biology. Each rule is a
pattern over the request, that is, the instruction without the text that it is applied to. The first rule that matches
gives the form. The head has one feature for each form, so its training determines the weight of a rule.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.trainable import Matrix

REQUEST_CHARACTERS = 400
"""Longest request; in a longer first paragraph, the request may also be at its end."""
PASSAGE_CHARACTERS = 200
"""Shortest text after the request that counts as a passage."""
PASSAGE = "question about a passage"
"""The form of a question with a passage that no rule matches. It belongs to no type: the type depends on the
passage."""
FORM_SCALE = 1.0
"""Size of the feature of a form. A vector has the length 1 as well, so that the penalty treats both alike."""
PASSAGE_SCALE = 0.3
"""Length of the vector of a question about a passage. Such a vector represents the topic of the passage, not the
question, so it must not give a confident type."""


@dataclass(frozen=True)
class Form:
    """A form of tasks.

    Attributes:
        name: Name of the form.
        task: Type of most instructions of the form, for documentation: the head is trained on examples.
        patterns: Regular expressions, of which one must match the request, without regard to case.
    """

    name: str
    task: TaskType
    patterns: tuple[str, ...]

    def matches(self, request: str) -> bool:
        """Return whether a request has the form."""
        return any(re.search(pattern, request, re.IGNORECASE) for pattern in self.patterns)


_LANGUAGES = (
    r"(?:python|java|javascript|typescript|c\+\+|c#|sql|html|css|php|ruby|rust|go|bash|shell|perl|matlab|scala|kotlin"
    r"|swift|react|vba)"
)
_CODE = rf"(?:code|program|function|script|query|loop|{_LANGUAGES})\b"
_MAKE = r"(?:write|compose|draft|craft|pen|create|generate|produce|tell|make|come up with|invent|prepare|develop)"
_WORKS = (
    r"(?:poem|haiku|limerick|sonnet|ode|song|lyrics|ballad|verse|rap|story|tale|fable|novel|chapter|scene|screenplay"
    r"|dialogue|monologue|conversation|essay|letter|e-?mail|message|memo|note|invitation|blog|post|tweet|caption"
    r"|headline|slogan|tagline|jingle|article|press release|review|speech|toast|eulogy|advert\w*|commercial|ad"
    r"|description|biography|bio|obituary|diary|journal entry|resume|cv|proposal|report|paragraph|passage|newsletter"
    r"|brochure|horoscope|narrative|reply|apology|complaint|recommendation)s?"
)
_TEXT = r"(?:text|passage|paragraph|article|document|reference(?: text)?|excerpt)s?"
_TEXT_ABOVE = rf"(?:the|this|that) (?:following |given |above |below |provided )?{_TEXT}"

# The first one counts if several match: "Write a summary of this letter" is a summary, not a letter.
FORMS = (
    Form(
        "translation",
        TaskType.MULTILINGUAL,
        (r"\btranslate\b", r"\btranslation (?:of|into)\b", r"\bhow (?:do|would) (?:you|i) say\b.{1,80}\bin [a-z]"),
    ),
    Form(
        "debugging",
        TaskType.CODE_DEBUG,
        (
            r"\bdebug\b",
            rf"\bwhy (?:is|does|do|are)\b.{{0,20}}\b(?:this|my|the following)\b.{{0,40}}\b{_CODE}",
            rf"\b(?:fix|find|correct|spot|identify|locate)\b.{{0,40}}\b(?:bug|error|mistake|problem)s?\b.{{0,60}}\b{_CODE}",
            rf"\b(?:fix|correct|repair)\b.{{0,40}}\b{_CODE}",
            rf"\bwhat(?:'s| is) wrong (?:with|in)\b.{{0,40}}\b{_CODE}",
            rf"\b(?:problem|mistake|error|bug)s? (?:with|in)\b.{{0,30}}\b{_CODE}",
            r"\bcode (?:\w+ )?work as expected\b",
        ),
    ),
    Form(
        "programming",
        TaskType.CODE_GENERATION,
        (
            (
                r"\b(?:write|create|implement|develop|generate|build|construct|design|code|give me|produce|provide)"
                r"\b.{0,60}"
                r"\b(?:function|program|algorithm|query|class|method|regex|regular expression|web ?site|web ?page"
                rf"|script in|code(?! of (?:ethics|conduct))|{_LANGUAGES} script)\b"
            ),
            rf"\bimplement\b.{{0,80}}\b(?:in|using) {_LANGUAGES}",
        ),
    ),
    Form(
        "roleplay",
        TaskType.ROLEPLAY,
        (
            r"\bpretend (?:to be|you(?:'re| are)?|that you)\b",
            r"\b(?:act|respond|answer|speak|talk) as (?:if you|though you|an? |the )",
            r"\brole-?play",
            r"\b(?:assume|take on|play|adopt|embrace|embody) the (?:role|persona|part|character)\b",
            r"\bi want you to act\b",
            (
                r"\b(?:imagine|picture|envision) (?:yourself|(?:that )?you are|you're|you were)\b"
                r"(?! (?:plan|writ|visit|travel|going))"
            ),
            r"^you are (?:now )?(?:an?|the) ",
            r"^as an? [\w\s-]{3,50}, (?:how|what|describe|explain|tell|why|write)\b",
        ),
    ),
    Form(
        "grammar",
        TaskType.GRAMMAR,
        (
            (
                r"\b(?:correct|fix|check|edit|improve|find|identify|spot)\b.{0,60}"
                r"\b(?:grammar|grammatical|spelling|punctuation|typos?|tenses?)\b"
            ),
            r"\bproofread\b",
            r"\b(?:passive|active) voice\b",
            r"\b(?:past|present|future) (?:perfect |continuous )?tense\b",
            r"\bparts? of speech\b",
            (
                r"\b(?:identify|find|underline|name|list|what is|label)\b.{0,30}\b(?:noun|verb|adjective|adverb|pronoun"
                r"|preposition|conjunction|subject|predicate|clause)s?\b.{0,40}\b(?:sentence|phrase|text|following)"
            ),
            r"\bplural (?:form )?of\b",
            r"\bgrammatical(?:ly)?\b",
            r"\b(?:punctuate|capitali[sz]e)\b",
            r"\b(?:synonym|antonym)s? (?:of|for)\b",
        ),
    ),
    Form(
        "format",
        TaskType.COMPLEX_FORMAT,
        (
            (
                r"\b(?:in|into|as|to|using|return|output)\b.{0,25}"
                r"\b(?:json|csv|xml|yaml|markdown|latex|html table|tabular)\b"
            ),
            r"\b(?:create|make|draw|generate|construct|build|present)\b.{0,20} table\b",
        ),
    ),
    Form(
        "extraction",
        TaskType.OTHERS,
        (
            r"\bextract\b.{0,120}\b(?:from|in)\b|^extract\b",
            rf"\b(?:identify|find|list|name|pull)\b.{{0,60}}\b(?:from|in) {_TEXT_ABOVE}\b",
        ),
    ),
    Form(
        "summary",
        TaskType.PARAPHRASE,
        (
            r"\bsummar(?:i[sz]e|y|ies|i[sz]ing)\b",
            r"\btl;?dr\b",
            r"\b(?:condense|abridge|synopsis)\b",
            r"\bshort(?:en|er version)\b",
            r"\bmain (?:points?|ideas?|takeaways?)\b",
        ),
    ),
    Form(
        "rewriting",
        TaskType.PARAPHRASE,
        (
            r"\b(?:paraphras\w+|reword\w*|rephras\w+|re-?writ(?:e|ing)|restat\w+)\b",
            r"\bsimplify (?:the|this) (?:\w+ )?(?:sentence|text|paragraph|passage|statement|language)\b",
            r"\bin (?:your|other|different|simpler) (?:own )?words\b",
            r"\b(?:make|say)\b.{0,40}\bmore (?:concise|formal|polite\w*|simply|casual|professional)\b",
        ),
    ),
    Form(
        "classification",
        TaskType.OTHERS,
        (
            r"\b(?:classify|categori[sz]e)\b",
            r"^(?:tell me )?(?:identify|which|decide|determine|state|say|label)\b.{1,120}[:?].{1,120}(?:,|\bor\b)",
            r"\b(?:sentiment|tone)\b.{0,60}\b(?:positive|negative|neutral)\b",
            r"\b(?:detect|determine|identify|predict)\b.{0,30}\bsentiment\b",
        ),
    ),
    Form(
        "composition",
        TaskType.WRITING,
        (
            rf"\b{_MAKE}\b(?: me| us)?(?:\s+[\w'’,-]+){{0,7}}?\s+{_WORKS}\b",
            r"\bcontinue (?:the|this) (?:story|tale)\b",
        ),
    ),
    Form(
        "counterfactual",
        TaskType.COUNTERFACTUAL,
        (
            r"\bwhat (?:if|(?:might|would) have|would the world)\b",
            r"\bwhat would happen if\b",
            r"\bhow (?:might|would|could) .{3,120} (?:have|be|look|differ|change)\b.{0,120}\bif\b",
            r"\bif .{3,150}\bhad(?: not|n't| never)?\b.{0,100}\b(?:would|could|might)\b",
            r"^(?:imagine|suppose) (?:a world|that|if)\b",
        ),
    ),
)
NAMES = tuple(form.name for form in FORMS)
_SCALES = (REQUEST_CHARACTERS, PASSAGE_CHARACTERS, FORM_SCALE, PASSAGE_SCALE)
FORMS_DIGEST = sha256(json.dumps([[[form.name, form.patterns] for form in FORMS], _SCALES]).encode()).hexdigest()
"""SHA-256 of the rules: a head is useless with other features than those it was trained on."""


def find_form(text: str) -> str | None:
    """Return the name of the form of an instruction; None if there is no sign of one."""
    request, passage = split_request(text)
    for form in FORMS:
        if form.matches(request):
            return form.name
    return PASSAGE if len(passage) > PASSAGE_CHARACTERS else None


def split_request(text: str) -> tuple[str, str]:
    """Return the request and the text that it is applied to; the request is the first paragraph."""
    request, _, passage = text.strip().partition("\n")
    if len(request) > REQUEST_CHARACTERS:
        half = REQUEST_CHARACTERS // 2
        request = f"{request[:half]} … {request[-half:]}"
    return request, passage.strip()


def add_forms(vectors: Matrix, texts: Sequence[str]) -> Matrix:
    """Return the vectors with the form of each text behind them: (texts, width + forms)."""
    passages = np.array([find_form(text) == PASSAGE for text in texts])
    shortened = np.where(passages[:, np.newaxis], PASSAGE_SCALE, 1.0).astype(np.float32) * vectors
    return np.hstack([shortened, FORM_SCALE * form_features(texts)])


def form_features(texts: Sequence[str]) -> Matrix:
    """Return 1 in the column of each text's form and 0 elsewhere: (texts, forms); `PASSAGE` has no column."""
    features = np.zeros((len(texts), len(NAMES)), dtype=np.float32)
    for row, text in enumerate(texts):
        if (form := find_form(text)) in NAMES:
            features[row, NAMES.index(form)] = 1
    return features
