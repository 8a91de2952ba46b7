"""Synthetic replies: readable forms are read, contradictions and quotations never give a number."""

import importlib.util
import sys
from types import ModuleType

import pytest
from assets import ROOT


@pytest.fixture(scope="module")
def fuzzing() -> ModuleType:
    """Return the fuzz of `benchmarks/judge`, which runs longer by hand."""
    spec = importlib.util.spec_from_file_location("judge_fuzz", ROOT / "benchmarks" / "judge" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_fuzzed_replies_are_read_and_never_wrong(fuzzing: ModuleType) -> None:
    outcome = fuzzing.fuzz(3000, seed=1)
    assert [reply.text for reply in outcome.wrong] == []
    assert {form: total for form, total in outcome.readable.items() if outcome.read[form] < total} == {}
