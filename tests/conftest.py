"""What every test shares: one thread a process, property tests that draw the same examples, the slowest tests first."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from composing import compose_config
from hypothesis import settings

from tapir_exp.config import Config, SpendConfig
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.ledger import SpendScope

# Where a script's `&` began us, Ctrl-C is ignored, and every process that a test starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OMP_NUM_THREADS"] = "1"  # before any test imports torch: the machine's cores are few and contended

settings.register_profile("tapir", deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile("tapir")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, the others after them as they were: of two processes, none waits for the other at the end.

    pytest-xdist hands out long runs of neighbours, so the tests that share a slow fixture stay in one process.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def call_store(tmp_path: Path) -> Iterator[CallStore]:
    """Open a call store without spend limits."""
    call_store = CallStore(tmp_path / "call_store", SpendScope("run"), SpendConfig())
    yield call_store
    call_store.close()


@pytest.fixture(scope="session", name="compose_config")
def compose_config_fixture() -> Callable[..., Config]:
    """Compose and parse the configuration with the overrides of a command line."""
    return compose_config
