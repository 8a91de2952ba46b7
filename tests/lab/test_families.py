"""Each family poses problems that it reads back, solves exactly and grades consistently."""

import re
from random import Random

import pytest

from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.families.code import evaluate_on_inputs
from tapir_exp.lab.families.ladder import LADDER, MIX, PLACES, TREES
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.world import ALL_FAMILIES, get_family

TESTED = (*FAMILIES, LADDER[0])
"""The families of the ladder differ only in their tables."""
CELLS = [pytest.param(family, level, id=f"{family.name}-{level}") for family in TESTED for level in family.levels]
each_cell = pytest.mark.parametrize(("family", "level"), CELLS)


def pose_problems(family: Family, level: int, count: int = 200) -> list[Problem]:
    return [family.pose(Random(f"{family.name} {level} {n}"), level) for n in range(count)]


def count_tokens(text: str) -> int:
    return len(re.findall(r"[A-Za-z]+|\d|[^\w\s]|\n", text))


@each_cell
def test_read_inverts_pose(family: Family, level: int) -> None:
    for problem in pose_problems(family, level):
        assert family.read(problem.instruction) == problem
        assert problem.level == level


@each_cell
def test_pose_is_deterministic(family: Family, level: int) -> None:
    assert pose_problems(family, level, 20) == pose_problems(family, level, 20)


@each_cell
def test_right_responses_get_high_scores(family: Family, level: int) -> None:
    for problem in pose_problems(family, level):
        for response in (problem.terse, problem.refined):
            assert family.is_exact(problem, response)
            assert family.final(response) == problem.answer
            assert family.grade(problem, response).score >= 9
        assert family.grade(problem, problem.refined).score == 10


@each_cell
def test_slips_are_not_exact(family: Family, level: int) -> None:
    for problem in pose_problems(family, level):
        assert not family.is_exact(problem, problem.slip)
        assert 1 <= family.grade(problem, problem.slip).score < 9


@each_cell
@pytest.mark.parametrize(
    "response", ["", "Answer:", "I do not know.", "def f(x):", "\n", "0" * 999, "é ((", "Answer: " * 50]
)
def test_nonsense_gets_low_scores(family: Family, level: int, response: str) -> None:
    for problem in pose_problems(family, level, 20):
        assert not family.is_exact(problem, response)
        assert 1 <= family.grade(problem, response).score <= 5


@each_cell
def test_no_other_family_reads_the_instruction(family: Family, level: int) -> None:
    for problem in pose_problems(family, level, 100):
        assert [other.name for other in ALL_FAMILIES if other.read(problem.instruction)] == [family.name]


@each_cell
def test_read_needs_the_exact_instruction(family: Family, level: int) -> None:
    for problem in pose_problems(family, level, 20):
        text = problem.instruction
        for other in (text + " ", " " + text, text + "\n", text.lower(), text.replace(" ", "  ", 1), f"{text} {text}"):
            assert family.read(other) is None, other


@pytest.mark.slow
@each_cell
def test_cells_have_many_problems_and_several_wordings(family: Family, level: int) -> None:
    problems = pose_problems(family, level, 3000)
    assert len({problem.key for problem in problems}) >= (1200 if family.task in BOOSTED and level > 1 else 400)
    assert len({problem.instruction.split()[0] for problem in problems}) >= 2


@each_cell
def test_texts_are_short_ascii(family: Family, level: int) -> None:
    for problem in pose_problems(family, level):
        for text in (problem.instruction, problem.terse, problem.refined, problem.slip):
            assert text.isascii()
            assert text == text.strip()
        assert count_tokens(problem.instruction) <= 46
        assert count_tokens(problem.refined) <= 45
        if family.task not in BOOSTED:
            assert count_tokens(problem.refined) <= 1.5 * count_tokens(problem.terse)


def test_vocabulary_is_small() -> None:
    texts = [problem for family in FAMILIES for level in family.levels for problem in pose_problems(family, level)]
    words = {word for p in texts for word in re.findall("[a-z]+", f"{p.instruction} {p.terse} {p.refined}".lower())}
    assert len(words) < 400


def test_families_cover_boosted_types_and_seven_more() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == 14
    tasks = {family.task for family in FAMILIES}
    assert set(BOOSTED) <= tasks
    assert len(tasks - set(BOOSTED)) >= 7
    assert TaskType.OTHERS not in tasks


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "Compute modulo 10: 3, then +1, then -2, then +2.",
            "On a ring of ten digits go from 3, then +1, then -2, then +2.",
        ),
        (
            "How many eggs now? Anna has 3, then buys 2, then loses 1, then gets 1.",
            "Count the pens that Ben has: 3, then finds 2, then drops 1, then buys 1.",
        ),
        (
            "Which way does Anna face? From north: left, back, stay, right",
            "Ben looks north and turns. Name the direction: left, back, stay, right",
        ),
        (
            "Follow the coin of Anna from cup one: first, last, outer, none",
            "Find the coin. Ben had it under cup one and swapped: first, last, outer, none",
        ),
        ("Write a sentence with man, sings and barn.", "Use man, sings and barn in a sentence."),
        ("Which is the heaviest: ant or ship?", "Name the heaviest of these: ship or ant."),
        ("Combine the bits: 00011 OR 10101.", "Compute 10101 OR 00011 bit by bit."),
    ],
)
def test_key_is_independent_of_the_wording(one: str, other: str) -> None:
    """The order of a set, as of two operands of OR, does not matter either."""
    problems = [next(p for family in FAMILIES if (p := family.read(text))) for text in (one, other)]
    assert problems[0].key == problems[1].key
    assert problems[0].answer == problems[1].answer


@pytest.mark.parametrize(
    "instruction",
    [
        "Compute modulo 10: 3, then +1, then -2.",
        "Compute modulo 10: 13, then +1, then -2, then +2.",
        "How many eggs now? Anna has 1, then sells 2, then buys 2, then buys 1.",
        "Count the pens that Ben has: 9, then finds 2, then drops 1, then buys 1.",
        "Which way does Anna face? From north: left, back, right",
        "Which way does Anna face? From north: left, back, outer, right",
        "Follow the coin of Anna from cup four: first, last, outer, none",
        "Fix the bug: def f(x): return x + 3 - 4 # first add 3, then subtract 4.",
        "Fix the bug: def f(x): return x * 3 + 4 # first add 3, then subtract 4.",
        "Fix the bug: def f(x): return x - ( # first add 3, then subtract 4.",
        "Fix the bug: def f(x): return (x + 0) * 3 # first multiply 1, then multiply 3.",
        "Which is the heaviest: ant or ant?",
        "Which is the second heaviest: ant or bee?",
        "Suppose snow is white and grass is red. What color is snow?",
        "Suppose snow is red and grass is red. What color is milk?",
        "Translate to Spanish: the red dog sees the cat.",
        "You are a pirate. Greet Anna and Anna.",
        "Write cup, cup and map as a dash list.",
        "Use man, man and barn in a sentence.",
    ],
)
def test_read_rejects_inconsistent_instructions(instruction: str) -> None:
    assert [family.name for family in FAMILIES if family.read(instruction)] == []


WORKED = {
    "Compute modulo 10: 9, then +2, then -2, then -1.": ("8", "+2=1 -2=9 -1=8. Answer: 8"),
    "How many eggs now? Anna has 3, then buys 2, then loses 1, then gets 1.": ("5", "+2=5; -1=4; +1=5. Answer: 5"),
    "Which way does Anna face? From north: left, back, stay, right": (
        "south",
        "Then left west back east stay east right south. Answer: south",
    ),
    "Follow the coin of Anna from cup one: first, last, outer, none": (
        "one",
        "Then first two last three outer one none one. Answer: one",
    ),
    "Code f(x) in Python: first add 2, then multiply 3.": (
        "def f(x): return (x + 2) * 3",
        "# one step a line\ndef f(x):\n    x += 2\n    x *= 3\n    return x",
    ),
    "Code f(x) in Python: first multiply 2, then multiply 3, then add 1.": (
        "def f(x): return x * 2 * 3 + 1",
        "# one step a line\ndef f(x):\n    x *= 2\n    x *= 3\n    x += 1\n    return x",
    ),
    "Fix the bug: def f(x): return (x - 2) * 3 # first add 2, then multiply 3.": (
        "def f(x): return (x + 2) * 3",
        "# as the comment says\ndef f(x):\n    x += 2\n    x *= 3\n    return x",
    ),
}
PLAIN = {
    "Put in the past tense: Anna walks at home and Ben eats at school.": "Anna walked at home and Ben ate at school.",
    "Translate to Spanish: the red house sees the old dog.": "la casa roja ve el perro viejo",
    "You are a robot. Greet Anna, then warn Ben.": "Beep, Anna! Welcome to my lab. Beep, Ben! Keep away from my lab.",
    "If sky is red, mud is pink and coal is blue, what color is mud and milk?": "mud is pink and milk is white.",
    "Name the second lightest of these: ship, ant, cow or man.": "The man.",
    "Write 300 in binary.": "100101100",
    "Compute 01100 AND 11010 bit by bit.": "01000",
    "Give a numbered list from A to Z of soap, cup, map and tea.": "1. cup\n2. map\n3. soap\n4. tea",
    "Write cup, map and tea as a table row.": "| cup | map | tea |",
}
"""Tasks with a refined response equal to the terse one."""
WORKED |= {instruction: (response, response) for instruction, response in PLAIN.items()}


@pytest.mark.parametrize("instruction", WORKED)
def test_read_gives_responses_by_hand(instruction: str) -> None:
    (problem,) = [p for family in FAMILIES if (p := family.read(instruction))]
    assert (problem.terse, problem.refined) == WORKED[instruction]


@pytest.mark.parametrize(
    ("code", "score"),
    [
        ("def f(x): return (x + 2) * 3", 9),
        ("def g(n): return 3 * n + 6", 9),
        ("def f(x):\n    y = x + 2  # add two, for a start\n    y *= 3      # then three times that\n    return y", 10),
        ("def f(x): return x * 3", 2),
        ("def f(x): return x * x + 6", 3),
        ("def f(x): return x / 2", 1),
        ("def f(x): return y", 1),
        ("def f(x): return 9 ** 9 ** 9", 1),
        ("def f(x): return True", 1),
        ("import os\ndef f(x): return (x + 2) * 3", 1),
        ("def f(x): return __import__('os')", 1),
        ("def f(x):\n    while True: pass", 1),
        ("def f(x): pass", 1),
        ("(x + 2) * 3", 1),
        ("def f(x): return " + "(" * 300 + "x" + ")" * 300, 1),
        ("def f(x): return \0", 1),
        ("def f(x): return " + "-" * 380 + "x", 2),
        ("def f(x): return (x + 2) * 3  " + "#" * 400, 1),
        ("def f(x):" + "\n    x *= 99999" * 3 + "\n    return x", 1),
    ],
)
def test_grade_of_code_depends_on_its_values(code: str, score: int) -> None:
    family = get_family("functions")
    problem = family.read("Code f(x) in Python: first add 2, then multiply 3.")
    assert problem
    assert family.grade(problem, code).score == score
    assert family.is_exact(problem, code) is (score >= 9)


def test_code_is_interpreted_not_executed() -> None:
    with pytest.raises(ValueError, match="neither an assignment nor a return"):
        evaluate_on_inputs("def f(x):\n    open('/tmp/owned', 'w')\n    return x")


def test_any_sentence_with_all_words_is_exact() -> None:
    family = get_family("sentences")
    problem = family.read("Use red, sings, man and barn in a sentence.")
    assert problem
    assert family.is_exact(problem, "The cow eats in the barn and the red man sings.")
    assert not family.is_exact(problem, "red man sings barn")
    assert family.grade(problem, "The man sings in the barn.").score < 9


def test_ladder_families_share_task_types_and_no_move() -> None:
    assert [family.task for family in LADDER] == list(PLACES.values())
    assert {family.task for family in LADDER} == {family.task for family in FAMILIES}
    moves = [move for family in LADDER for own in family.moves.values() for move in own]
    assert len(set(moves) - set(TREES)) == len(moves) == 12 * 3 * 4


@pytest.mark.parametrize("level", MIX)
def test_ladder_level_uses_its_own_moves_and_those_below(level: int) -> None:
    family = LADDER[3]
    for problem in pose_problems(family, level, 50):
        moves = problem.key.replace(",", "").split()[2:]
        counts = [sum(move in own for move in moves) for own in family.moves.values()]
        assert sum(counts) == 4
        assert counts[level - 1] == max(counts) >= 2
        assert not any(counts[level:])


def test_ladder_response_follows_the_ring() -> None:
    family = LADDER[0]
    move, step = next(iter(family.moves[1].items()))
    problem = family.read(f"Walk the river from ash: {', '.join([move] * 4)}")
    assert problem is not None
    assert problem.answer == TREES[4 * step % 6]
    assert problem.terse.split()[:3] == ["ash", move, TREES[step % 6]]
