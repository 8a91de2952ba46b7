"""Checks before the first call: endpoints, and all that `local_checks` finds without a call."""

import shutil
from collections.abc import Iterator

from tapir_exp.config import Config, LLMConfig
from tapir_exp.config.lab_parts import LAB_PREFIX
from tapir_exp.core.errors import TapirError
from tapir_exp.llm.ledger import Ledger
from tapir_exp.llm.probe import Probe, address_of, probe_all
from tapir_exp.llm.serving.weights import find_weights
from tapir_exp.pipeline.local_checks import Check, local_checks, print_checks, raise_problems, used_models

STAGE = "checks"
"""Name in the spend of the tokens that the checks take."""


def check_before_work(config: Config, ledger: Ledger) -> None:
    """Check everything that a run needs, and print what was checked; a run of the lab prints nothing.

    Raises:
        TapirError: With every problem.
    """
    with ledger.record_stage(STAGE):
        checks = [*_endpoint_checks(config, ledger), *local_checks(config)]
    if any(check.problem for check in checks) or any(check.subject != "disk" for check in checks):
        print_checks(checks)
    raise_problems(checks)


def all_checks(config: Config) -> list[Check]:
    """Return the checks of a configuration, endpoints included; nothing is recorded."""
    return [*_endpoint_checks(config, None), *local_checks(config)]


def _endpoint_checks(config: Config, ledger: Ledger | None) -> Iterator[Check]:
    """Ask each endpoint for one token; roles with the same model and endpoint are asked once."""
    by_endpoint: dict[str, tuple[list[str], LLMConfig]] = {}
    for role, llm in used_models(config):
        if llm.model.startswith(LAB_PREFIX):
            continue
        if llm.server.command:
            yield _check_server(role, llm)
            continue
        key = repr(
            (llm.model, llm.api_base, llm.api_key_env, llm.use_litellm, sorted(map(str, llm.extra_params.items())))
        )
        by_endpoint.setdefault(key, ([], llm))[0].append(role)
    if not by_endpoint:
        return
    probes = probe_all([(roles[0], llm) for roles, llm in by_endpoint.values()])
    for (roles, llm), probe in zip(by_endpoint.values(), probes, strict=True):
        if ledger is not None and probe.usage is not None:
            ledger.record_paid(roles[0], probe.usage)
        yield Check(", ".join(roles), _describe_probe(llm, probe), probe.problem)


def _describe_probe(llm: LLMConfig, probe: Probe) -> str:
    answer = probe.note or f"answers in {probe.seconds:.1f} s"
    return f"{llm.model} at {address_of(llm)}: {answer}"


def _check_server(role: str, llm: LLMConfig) -> Check:
    """Check what the run needs to start a server itself; the start takes minutes and is left to the first call."""
    program = llm.server.command[0]
    if program != "{python}" and shutil.which(program) is None:
        return Check(role, problem=f"the program {program} of {role}.llm.server.command is not installed")
    if llm.server.weights is not None:
        try:
            find_weights(llm.server.weights)
        except TapirError as error:
            return Check(role, problem=str(error))
    return Check(role, f"{llm.model}: a server of this run, started when it is needed")
