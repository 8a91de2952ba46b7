"""Open the workspace of a run: its store and its models."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapir_exp.config import Config, LLMConfig
from tapir_exp.core.store import Store
from tapir_exp.distillation.classifier.base import open_classifier
from tapir_exp.lab import provider
from tapir_exp.lab.oracle import LAB_VERSION
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.litellm_transport import LAB
from tapir_exp.llm.serving.pool import ServerPool, server_identity
from tapir_exp.llm.serving.weights import find_weights
from tapir_exp.pipeline.workspace import Workspace


@contextmanager
def open_workspace(config: Config, account: SpendScope, *, calling: bool = True) -> Iterator[Workspace]:
    """The workbench of a run: the shared store, and the models that the configuration names.

    account: to whom the spend is written down. calling: whether models will be asked, so that all it takes must be
    there. Raises ConfigError where no call of a chat model can succeed, a budget
    in USD cannot be kept, or a trained classifier is not there.
    """
    store = Store(Path(config.outputs) / "store")
    call_store = CallStore(store.root, account, config.spend)
    servers = ServerPool(store.root / "servers")

    def open_checked(llm: LLMConfig, role: str) -> Client:
        chat = open_chat(llm, role, call_store, servers)
        if calling and config.curriculum.rounds:
            chat.check(priced=config.spend.max_usd is not None)
        return chat

    try:
        teacher = open_checked(config.teacher.llm, "teacher")
        judge = open_checked(config.judge.llm, "judge")
        classifier = open_classifier(config.classifier, lambda: open_checked(config.classifier.llm, "labeller"))
        yield Workspace(config, store, teacher, judge, classifier, call_store.ledger)
    finally:
        servers.close()
        call_store.close()


def open_chat(llm: LLMConfig, role: str, call_store: CallStore, servers: ServerPool) -> Client:
    """A chat model for a role; the oracles of the lab are made known to litellm first.

    servers: those of the job, of which the model's may be one. Raises ConfigError where weights are missing, or others.
    """
    if llm.server.command:
        found = None if llm.server.weights is None else find_weights(llm.server.weights)
        server = servers.open(llm.server, found.path if found else None, role)
        version = server_identity(llm.server, found.sha256 if found else None)
        return Client(llm, role, call_store, version=version, server=server)
    if not llm.model.startswith(LAB):
        return Client(llm, role, call_store)
    return Client(llm, role, call_store, prepare=provider.register, version=LAB_VERSION)
