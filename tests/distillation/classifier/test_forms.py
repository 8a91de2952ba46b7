"""Form rules find the form of a task in its request, whatever its topic."""

import re

import numpy as np
import pytest

from tapir_exp.distillation.classifier.forms import (
    FORM_SCALE,
    FORMS,
    NAMES,
    PASSAGE,
    PASSAGE_SCALE,
    add_forms,
    find_form,
    form_features,
    split_request,
)

PASSAGE_TEXT = "The lake is deep and cold. Many rivers feed it, and one leaves it in the west. " * 4


@pytest.mark.parametrize(
    ("request_text", "form"),
    [
        ("Summarize the article below in one sentence.", "summary"),
        ("Write a summary of this letter.", "summary"),
        ("Without quoting it, what are the main points?", "summary"),
        ("Rephrase the text for children.", "rewriting"),
        ("Tell me in your own words what it says.", "rewriting"),
        ("Extract the names of the rivers from the text.", "extraction"),
        ("From the passage, list every number in the text.", "extraction"),
        ("Classify each word as an animal or a plant.", "classification"),
        ("Which of these are fish: trout, heron or pike?", "classification"),
        ("Write a short, funny poem about a lake.", "composition"),
        ("Can you draft an e-mail to my teacher?", "composition"),
        ("Translate the sentence into Greek.", "translation"),
        ("Correct the spelling of this sentence.", "grammar"),
        ("Turn the list into JSON.", "format"),
        ("Write a Python function that adds two numbers.", "programming"),
        ("Why does this Ruby code not run?", "debugging"),
        ("Pretend to be a frog and say hello.", "roleplay"),
        ("What if rivers flowed uphill?", "counterfactual"),
    ],
)
@pytest.mark.parametrize("passage", ["", f"\n\n{PASSAGE_TEXT}"], ids=["alone", "with passage"])
def test_find_form_reads_the_request(request_text: str, form: str, passage: str) -> None:
    assert find_form(request_text + passage) == form


@pytest.mark.parametrize(
    "text",
    [
        "How do enzymes speed up a reaction?",
        "Who composed the Moonlight Sonata?",
        "Simplify the expression 2x + 3x.",
        "What is 7 times 8?",
        "Why do birds migrate?",
        "Is there a code of conduct for lawyers?",
    ],
)
def test_find_form_of_a_question_about_a_subject_is_none(text: str) -> None:
    assert find_form(text) is None


def test_find_form_ignores_words_of_the_passage() -> None:
    # The passage speaks of summaries, poems and code, but none of them is asked for.
    passage = "They summarize code, rewrite poems and pretend to be pirates. Write a letter, they say. " * 4
    assert find_form(f"How deep is the lake?\n\n{passage}") == PASSAGE
    assert find_form("How deep is the lake?\n\nIt is cold.") is None


def test_split_request_keeps_both_ends_of_a_long_paragraph() -> None:
    request, passage = split_request(f"{'word ' * 200}Summarize it.\n\nrest")
    assert (request.endswith("Summarize it."), request.startswith("word"), passage) == (True, True, "rest")
    assert len(request) < 410


def test_form_features_mark_one_column() -> None:
    features = form_features(["Summarize it.", "Why do birds migrate?"])
    assert features.shape == (2, len(NAMES))
    assert np.flatnonzero(features[0]).tolist() == [NAMES.index("summary")]
    assert not features[1].any()


def test_add_forms_shortens_the_vector_of_a_passage_question() -> None:
    vectors = np.ones((2, 3), dtype=np.float32)
    rows = add_forms(vectors, [f"How deep is the lake?\n\n{PASSAGE_TEXT}", f"Summarize it.\n\n{PASSAGE_TEXT}"])
    assert rows[:, :3].tolist() == [pytest.approx([PASSAGE_SCALE] * 3), [1, 1, 1]]
    assert rows[:, 3:].sum(1).tolist() == [0, FORM_SCALE]


def test_patterns_end_soon_on_long_text() -> None:
    text = "write the " * 4000 + "a" * 4000
    for form in FORMS:
        for pattern in form.patterns:
            re.compile(pattern)  # a pattern with a syntax error is named
    assert find_form(text) is None or find_form(text) in NAMES
