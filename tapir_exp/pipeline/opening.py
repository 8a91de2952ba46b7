"""Open the workspace of a run: its store and its models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tapir_exp.config import Config, JudgeConfig, LLMConfig, Suite
from tapir_exp.core.evaluation_manifest import JUDGED
from tapir_exp.core.store import Store
from tapir_exp.distillation.classifier.base import open_classifier
from tapir_exp.lab import provider
from tapir_exp.lab.oracle import LAB_VERSION
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.litellm_transport import LAB_PREFIX
from tapir_exp.llm.panel import Member, Panel
from tapir_exp.llm.serving.pool import ServerPool, server_identity
from tapir_exp.llm.serving.weights import find_weights
from tapir_exp.pipeline.workspace import Workspace

Chat = TypeVar("Chat", bound=Client | Panel)


@contextmanager
def open_workspace(config: Config, scope: SpendScope, *, calling: bool = True) -> Iterator[Workspace]:
    """Open the workspace of a run: the shared store, and the models that the configuration names.

    Args:
        config: The whole configuration.
        scope: The run, or the job of a sweep, that the spend is recorded for.
        calling: Whether chat models will be called, so that keys and prices are checked now.

    Raises:
        ConfigError: If no call of a chat model can succeed, a budget in USD cannot be kept, or the directory of a
            trained classifier is missing.
    """
    store = Store(Path(config.outputs) / "store")
    call_store = CallStore(store.root, scope, config.spend)
    servers = ServerPool(store.root / "servers")

    def open_checked(llm: LLMConfig, role: str) -> Client:
        return checked(open_chat(llm, role, call_store, servers))

    def checked(chat: Chat) -> Chat:
        if calling and config.curriculum.rounds:
            chat.check(priced=config.spend.max_usd is not None)
        return chat

    try:
        teacher = open_checked(config.teacher.llm, "teacher")
        judge = checked(open_judge(config.judge, call_store, servers))
        classifier = open_classifier(config.classifier, lambda: open_checked(config.classifier.llm, "classifier"))
        suite_judges = {
            suite: open_chat(own.llm, "judge", call_store, servers)
            for suite in config.evals.suites
            if (own := config.evals.judge_of(suite)) is not None
        }
        if calling:
            _check_suite_judges(config, judge, suite_judges)
        yield Workspace(config, store, teacher, judge, classifier, call_store.ledger, suite_judges)
    finally:
        servers.close()
        call_store.close()


def _check_suite_judges(config: Config, judge: Client | Panel, own: Mapping[Suite, Client]) -> None:
    """Check the models that the suites will ask."""
    if not config.evals.ask_judge:
        return
    for suite in config.evals.suites:
        if suite.value in JUDGED:
            own.get(suite, judge).check(priced=config.spend.max_usd is not None)


def open_judge(judge: JudgeConfig, call_store: CallStore, servers: ServerPool) -> Client | Panel:
    """Open the judge, or the judges of a panel. Raises like `open_chat`."""
    clients = [open_chat(llm, "judge", call_store, servers) for llm in judge.models]
    if len(clients) == 1:
        return clients[0]
    return Panel(
        [Member(client, llm.most_in_flight, llm.batch) for client, llm in zip(clients, judge.models, strict=True)]
    )


def open_chat(llm: LLMConfig, role: str, call_store: CallStore, servers: ServerPool) -> Client:
    """Open the chat model of a role; the models of the lab are called directly, or registered with litellm first.

    Args:
        llm: The model and its endpoint.
        role: The name of the role in the spend.
        call_store: Cache and spend on disk.
        servers: The servers that this job has started; one is added if the model needs it.

    Raises:
        ConfigError: If the weights of a local server are missing or have the wrong SHA-256.
    """
    if llm.server.command:
        weights = None if llm.server.weights is None else find_weights(llm.server.weights)
        server = servers.open(llm.server, weights.path if weights else None, role)
        version = server_identity(llm.server, weights.sha256 if weights else None)
        return Client(llm, role, call_store, version=version, server=server)
    if not llm.model.startswith(LAB_PREFIX):
        return Client(llm, role, call_store)
    transport = None if llm.use_litellm else provider.OracleTransport(llm)
    return Client(llm, role, call_store, prepare=provider.register, transport=transport, version=LAB_VERSION)
