"""Synthetic replies: readable forms are read, contradictions and quotations never give a number."""

from types import ModuleType

import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def fuzzing() -> ModuleType:
    """Return the fuzz of `benchmarks/judge`, which runs longer by hand."""
    return load_script("benchmarks/judge/fuzz.py")


def test_fuzzed_replies_are_read_and_never_wrong(fuzzing: ModuleType) -> None:
    outcome = fuzzing.fuzz(3000, seed=1)
    assert [reply.text for reply in outcome.wrong] == []
    assert {form: total for form, total in outcome.readable.items() if outcome.read[form] < total} == {}
