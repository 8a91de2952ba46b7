"""A scripted server on the loopback interface, and clients with either transport."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_batch_api import FakeBatchApi
from loopback import Server
from serving import serving

from tapir_exp.config import LLMConfig
from tapir_exp.llm import client
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import Ledger


@pytest.fixture
def api() -> FakeBatchApi:
    return FakeBatchApi()


@pytest.fixture
def server(api: FakeBatchApi) -> Iterator[Server]:
    with serving(Server(), api.add_routes) as server:
        yield server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.02)


@pytest.fixture
def ledger(call_store: CallStore) -> Ledger:
    return call_store.ledger


@pytest.fixture(params=["direct", "litellm"])
def make(server: Server, call_store: CallStore, request: pytest.FixtureRequest) -> Callable[..., Client]:
    """Return a factory of clients, with the HTTP transport or litellm."""

    def make_client(**changes: Any) -> Client:
        values = {"model": "openai/m", "api_base": server.base, "timeout_s": 10.0, "max_attempts": 3}
        values |= {"use_litellm": request.param == "litellm", **changes}
        return Client(LLMConfig(**values), "teacher", call_store)

    return make_client
