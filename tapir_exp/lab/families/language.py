"""Language: the past tense, Spanish, sentences from given words, and role play."""

import re
from random import Random

from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families.wording import Slots, WordedFamily, join_items, one_of, several_of, split_items
from tapir_exp.lab.families.words import NAMES, word_list
from tapir_exp.lab.family import Grade, Problem

REGULAR = {
    "walks": "walked", "plays": "played", "works": "worked", "waits": "waited",
    "rests": "rested", "talks": "talked", "jumps": "jumped", "cooks": "cooked",
}  # fmt: skip
IRREGULAR = {
    "runs": "ran", "sits": "sat", "sings": "sang", "eats": "ate",
    "sleeps": "slept", "swims": "swam", "writes": "wrote", "reads": "read",
}  # fmt: skip
PAST = REGULAR | IRREGULAR
WHERE = ("in the park", "at home", "near the river", "at school", "in the garden", "by the sea")
DOING = rf"{one_of(NAMES)} {one_of(PAST)} {one_of(WHERE)}"


class Tenses(WordedFamily):
    """Turning a sentence into the past: a regular verb, an irregular one, two clauses."""

    name = "tenses"
    task = TaskType.GRAMMAR
    wordings = (
        "Put in the past tense: {text}.",
        "Change to the past tense: {text}.",
        "Rewrite as if it was yesterday: {text}.",
    )
    slots = {"text": rf"{DOING}(?: and {DOING})?"}

    def draw(self, rng: Random, level: int) -> Slots:
        verbs = {1: list(REGULAR), 2: list(IRREGULAR), 3: list(PAST)}[level]
        people = rng.sample(NAMES, 2 if level == 3 else 1)
        return {"text": " and ".join(f"{who} {rng.choice(verbs)} {rng.choice(WHERE)}" for who in people)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        text = slots["text"]
        verbs = re.findall(one_of(PAST), text)
        past = [re.sub(one_of(PAST), lambda match: PAST[match[0]], clause) for clause in text.split(" and ")]
        right = " and ".join(past)
        slip = " and ".join([*past[:-1], text.split(" and ")[-1]])  # the last clause stays in the present
        return Problem(
            key=text,
            level=3 if len(verbs) == 2 else 2 if verbs[0] in IRREGULAR else 1,
            instruction=instruction,
            answer=f"{right}.",
            terse=f"{right}.",
            refined=f"{right}.",
            slip=f"{slip}.",
        )


MASCULINE = {
    "dog": "perro", "cat": "gato", "boy": "chico", "horse": "caballo", "book": "libro", "bread": "pan", "hat": "gorro",
}  # fmt: skip
FEMININE = {
    "house": "casa", "cow": "vaca", "girl": "chica", "table": "mesa", "flower": "flor", "duck": "pata", "wall": "pared",
}  # fmt: skip
NOUNS = MASCULINE | FEMININE
VERBS = {
    "sees": "ve", "has": "tiene", "wants": "quiere", "buys": "compra", "paints": "pinta", "takes": "toma",
}  # fmt: skip
ADJECTIVES = {
    "red": "roj", "white": "blanc", "black": "negr", "small": "pequen", "new": "nuev", "old": "viej", "pretty": "bonit",
}  # fmt: skip
SOMETHING = rf"the (?:{one_of(ADJECTIVES)} )?{one_of(NOUNS)}"


class Spanish(WordedFamily):
    """Translating a sentence without adjectives, with one, with two; in Spanish they follow and agree with the noun."""

    name = "spanish"
    task = TaskType.MULTILINGUAL
    wordings = (
        "Translate to Spanish: {subject} {verb} {object}.",
        "How do you say in Spanish: {subject} {verb} {object}?",
        "Say in Spanish: {subject} {verb} {object}.",
    )
    slots = {"subject": SOMETHING, "verb": one_of(VERBS), "object": SOMETHING}

    def draw(self, rng: Random, level: int) -> Slots:
        subject, other = rng.sample(list(NOUNS), 2)
        first, second = rng.sample(list(ADJECTIVES), 2)
        return {
            "subject": f"the {first} {subject}" if level == 3 else f"the {subject}",
            "verb": rng.choice(list(VERBS)),
            "object": f"the {other}" if level == 1 else f"the {second} {other}",
        }

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        subject, verb, other = slots["subject"], slots["verb"], slots["object"]
        adjectives = [phrase.count(" ") - 1 for phrase in (subject, other)]
        if adjectives == [1, 0]:  # `draw` gives the first adjective to the object
            return None
        right = f"{to_spanish(subject)} {VERBS[verb]} {to_spanish(other)}"
        return Problem(
            key=f"{subject} {verb} {other}",
            level=1 + sum(adjectives),
            instruction=instruction,
            answer=right,
            terse=right,
            refined=right,
            slip=("la" if right.startswith("el") else "el") + right[2:],
        )


def to_spanish(phrase: str) -> str:
    """Translate an article, an optional adjective and a noun: `the red house` is `la casa roja`."""
    _, *adjective, noun = phrase.split()
    article, ending = ("el", "o") if noun in MASCULINE else ("la", "a")
    return " ".join([article, NOUNS[noun], *(ADJECTIVES[word] + ending for word in adjective)])


ACTORS = word_list("dog cat man girl horse cow bird king farmer duck")
ACTIONS = word_list("sleeps sings runs waits eats rests plays jumps")
LOOKS = word_list("red old happy small big young sad tired")
PLACES = word_list("park garden house school kitchen forest barn street")
CLAUSE = rf"[Tt]he (?:{one_of(LOOKS)} )?{one_of(ACTORS)} {one_of(ACTIONS)}(?: in the {one_of(PLACES)})?"
SENTENCE = re.compile(rf"{CLAUSE}(?: and {CLAUSE})?\.")


class Sentences(WordedFamily):
    """Writing a sentence with three, four (in any order) or five given words; any sentence with all is right."""

    name = "sentences"
    task = TaskType.WRITING
    wordings = ("Write a sentence with {words}.", "Use {words} in a sentence.", "Make one sentence of {words}.")
    slots = {"words": several_of(one_of(sorted({*ACTORS, *ACTIONS, *LOOKS, *PLACES})), ", ", " and ")}

    def draw(self, rng: Random, level: int) -> Slots:
        counts = {1: (0, 1, 1), 2: (1, 1, 1), 3: (0, 2, 2)}[level]
        classes = zip((LOOKS, ACTORS, ACTIONS), counts, strict=True)
        words = [word for words, count in classes for word in rng.sample(words, count)] + [rng.choice(PLACES)]
        if level > 1:  # at level 1 the words are already in the order of a sentence
            rng.shuffle(words)
        return {"words": join_items(words)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        required = split_items(slots["words"])
        looks, actors, actions, locations = (
            [word for word in required if word in words] for words in (LOOKS, ACTORS, ACTIONS, PLACES)
        )
        level = {(0, 1, 1, 1): 1, (1, 1, 1, 1): 2, (0, 2, 2, 1): 3}.get(
            (len(looks), len(actors), len(actions), len(locations))
        )
        if level is None or len(set(required)) < len(required):
            return None
        clauses = [f"the {' '.join([*looks, actor])} {action}" for actor, action in zip(actors, actions, strict=True)]
        sentence = f"{' and '.join(clauses).capitalize()} in the {locations[0]}."
        return Problem(
            key=" ".join(sorted(required)),
            level=level,
            instruction=instruction,
            answer=sentence,
            terse=sentence,
            refined=sentence,
            slip=f"{' and '.join(clauses).capitalize()}.",
        )

    def is_exact(self, problem: Problem, response: str) -> bool:
        """Return whether the response is one sentence with all the given words."""
        is_sentence = bool(SENTENCE.fullmatch(self.final(response)))
        return is_sentence and set(required_words(problem)) <= set(re.findall(r"\w+", response))

    def grade(self, problem: Problem, response: str) -> Grade:
        """Score a response: full marks for a sentence with all words, else up to 6 by the share of words.

        A response that is not a sentence gets at most 4.
        """
        if self.is_exact(problem, response):
            return self._grade_style(problem, response)
        words = required_words(problem)
        used = sum(word in re.findall(r"\w+", response) for word in words)
        if not SENTENCE.fullmatch(self.final(response)):
            return Grade(1 + round(3 * used / len(words)), f"not a good sentence; {used} of {len(words)} words used")
        return Grade(1 + round(5 * used / len(words)), f"only {used} of {len(words)} words used")


def required_words(problem: Problem) -> list[str]:
    """Return the words that a problem of `Sentences` requires."""
    return problem.key.partition(": ")[2].split()


VOICES = {
    "pirate": ("Ahoy", "ship"), "robot": ("Beep", "lab"), "knight": ("Hail", "castle"), "cowboy": ("Howdy", "ranch"),
    "wizard": ("Behold", "tower"), "teacher": ("Hello", "class"), "ghost": ("Boo", "attic"),
    "queen": ("Rise", "palace"), "cook": ("Yum", "kitchen"), "farmer": ("Hey", "barn"),
}  # fmt: skip
ACTS = {"greet": "Welcome to my", "warn": "Keep away from my", "invite": "Come and see my", "tell": "I live in a"}

PERSON = one_of(NAMES)


class Personas(WordedFamily):
    """Speaking as a pirate, a robot, ...: to one person, to two, two things to two people."""

    name = "personas"
    task = TaskType.ROLEPLAY
    wordings = ("You are a {who}. {acts}.", "Play a {who}. {acts}.", "Speak as a {who}. {acts}.")
    slots = {
        "who": one_of(VOICES),
        "acts": rf"{one_of(map(str.capitalize, ACTS))} {PERSON}(?: and {PERSON}|, then {one_of(ACTS)} {PERSON})?",
    }

    def draw(self, rng: Random, level: int) -> Slots:
        one, other = rng.sample(NAMES, 2)
        first, second = rng.sample(list(ACTS), 2)
        more = {1: "", 2: f" and {other}", 3: f", then {second} {other}"}[level]
        return {"who": rng.choice(list(VOICES)), "acts": f"{first.capitalize()} {one}{more}"}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        call, location = VOICES[slots["who"]]
        acts = [act.split(" ", 1) for act in slots["acts"].split(", then ")]
        names = re.findall(PERSON, slots["acts"])
        if len(set(names)) < len(names) or acts[0][0].lower() == acts[-1][0]:
            return None
        right = " ".join(f"{call}, {people}! {ACTS[act.lower()]} {location}." for act, people in acts)
        # The slip keeps the text but uses the call of another character.
        other_call = next(voice for voice, _ in VOICES.values() if voice != call)
        return Problem(
            key=f"{slots['who']}: {slots['acts']}",
            level=3 if len(acts) == 2 else 2 if " and " in slots["acts"] else 1,
            instruction=instruction,
            answer=right,
            terse=right,
            refined=right,
            slip=right.replace(call, other_call),
        )
