"""File names from text of any origin: one safe component, never too long, and different for different texts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.file_names import file_name

SUFFIX = "_single.jsonl.partial"
"""The longest suffix that the package appends to a name."""


@pytest.mark.parametrize("text", ["arm-lion_seed-1", "llama2_7b", "sft.lr-1e+30", "模型", "a,b=c", "console", "-x"])
def test_safe_text_stays_as_it_is(text: str) -> None:
    assert file_name(text) == text


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("org/model", "org-model"),
        ("seeds.path-/a/b", "seeds.path--a-b"),
        ("../../x", "-..-x"),
        ("/etc/passwd", "-etc-passwd"),
        ("C:\\x", "C--x"),
        ("a.", "a"),
        (".hidden", "hidden"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("LPT¹", "_LPT¹"),
        ("a\nb\x1b[31m\x00", "a-b--31m-"),
        ("gpt 4 ", "gpt-4-"),
        ("x\udcff", "x-"),
    ],
)
def test_unsafe_text_is_replaced_and_gets_a_digest(text: str, stem: str) -> None:
    name = file_name(text)
    assert name.rpartition("-")[0] == stem
    assert len(name.rpartition("-")[2]) == 8


@pytest.mark.parametrize("text", ["", ".", "..", "...", " "])
def test_text_without_a_safe_character_is_a_digest(text: str) -> None:
    assert len(file_name(text).lstrip("-")) == 8


@pytest.mark.parametrize("text", ["模" * 300, "x" * 300, "é" * 300, "😀" * 300, "学" * 119 + "/"])
def test_long_name_leaves_room_for_a_suffix(text: str, tmp_path: Path) -> None:
    name = file_name(text)
    assert len((name + SUFFIX).encode()) <= 255
    (tmp_path / (name + SUFFIX)).write_text("")
    assert name != file_name(text + "b")


def test_different_texts_have_different_names() -> None:
    texts = ["a/b", "a-b", "a\\b", "a b", "..a-b", "a-b.", "1e+30", "1e-30", "1e 30", "模" * 200, "模" * 201]
    assert len({file_name(text) for text in texts}) == len(texts)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_one_component(text: str) -> None:
    name = file_name(text)
    assert name
    assert Path(name).name == name != ".."
    assert len(name.encode()) <= 209
    assert not set(name) & set('/\\:*?"<>|\0\n ')
    assert not name.endswith(".")
