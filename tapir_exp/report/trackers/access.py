"""Check what the chosen trackers need before a job: packages, keys and servers."""

import os
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from tapir_exp.config import LoggerConfig, TrackerKind, WandbMode
from tapir_exp.core.errors import ConfigError
from tapir_exp.report.trackers.wandb_access import TIMEOUT_S, check_access, effective_mode

PACKAGES = {TrackerKind.tensorboard: "tensorboard", TrackerKind.mlflow: "mlflow"}
"""Packages that are no dependency, by the tracker that needs them; each is an extra of its name."""


def chosen_trackers(config: LoggerConfig, environment: Mapping[str, str] = os.environ) -> list[TrackerKind]:
    """Return the trackers of a job, in the order of opening; without W&B if its mode is `disabled`."""
    # W&B comes first: it starts three times faster in a process that has not loaded torch yet.
    kinds = [kind for kind in TrackerKind if kind in config.report_to]
    if TrackerKind.wandb in kinds and effective_mode(config.mode, environment) is WandbMode.disabled:
        kinds.remove(TrackerKind.wandb)
    return kinds


def check_trackers(config: LoggerConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the problems of the chosen trackers: a missing package or key, or a server that does not answer."""
    try:
        kinds = chosen_trackers(config, environment)
        if TrackerKind.wandb in kinds and effective_mode(config.mode, environment) is WandbMode.online:
            check_access(environment)
    except ConfigError as error:
        return list(error.problems)
    problems = []
    for kind in kinds:
        package = PACKAGES.get(kind)
        if package is not None and find_spec(package) is None:
            problems.append(
                f"logger.report_to = {kind.value}: expected the package {package}: "
                f"pip install 'tapir-exp[{package}]'; or leave {kind.value} out"
            )
    if TrackerKind.mlflow in kinds and not problems:
        problems += _server_problems(config.tracking_uri or environment.get("MLFLOW_TRACKING_URI", "").strip())
    return problems


def _server_problems(uri: str) -> list[str]:
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or address.hostname is None:
        return []
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=TIMEOUT_S).close()
    except OSError as error:
        problem = f"expected a server of MLflow at {address.hostname}:{port}, which does not answer ({error})"
        return [f"logger.tracking_uri: {problem}; null writes into the outputs directory"]
    return []
