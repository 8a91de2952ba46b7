"""Check that Weights & Biases can be reached before anything is paid, and follow its environment variables."""

import netrc
import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from tapir_exp.config import WandbMode
from tapir_exp.core.errors import ConfigError

SERVER = "https://api.wandb.ai"
"""Server of accounts without one of their own; `WANDB_BASE_URL` names another."""
TIMEOUT_S = 4.0
"""Seconds that the server may take to accept a connection."""
REMEDY = "or choose logger=offline (and `wandb sync` later), or logger=disabled"


def effective_mode(configured: WandbMode, environment: Mapping[str, str] = os.environ) -> WandbMode:
    """Return the mode of a run: `WANDB_MODE` of the environment, if set, may only lower `online`.

    Raises:
        ConfigError: If `WANDB_MODE` is no mode.
    """
    named = environment.get("WANDB_MODE", "").strip().lower()
    if not named or configured is not WandbMode.online:
        return configured
    named = {"dryrun": "offline", "run": "online"}.get(named, named)  # earlier names, which wandb accepts
    if named not in WandbMode.__members__:
        raise ConfigError(
            [f"WANDB_MODE = {named}: expected one of {', '.join(WandbMode.__members__)} [the environment]"]
        )
    return WandbMode[named]


def check_access(environment: Mapping[str, str] = os.environ) -> None:
    """Check that there is a key, and that the server accepts a connection.

    Raises:
        ConfigError: With what is missing and how to get it.
    """
    server = environment.get("WANDB_BASE_URL", "").strip() or SERVER
    host = urlsplit(server).hostname
    if host is None:
        raise ConfigError([f"WANDB_BASE_URL = {server}: expected an address such as {SERVER} [the environment]"])
    if not environment.get("WANDB_API_KEY", "").strip() and not _has_netrc_entry(host):
        raise ConfigError(
            [f"logger.mode = online: expected a key of {host}: set WANDB_API_KEY or run `wandb login`; {REMEDY}"]
        )
    if any(environment.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")):
        return  # only the proxy can detect whether the server is there
    port = urlsplit(server).port or (80 if urlsplit(server).scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(
            [f"logger.mode = online: expected a server at {host}:{port}, which does not answer ({error}); {REMEDY}"]
        ) from error


def _has_netrc_entry(host: str) -> bool:
    """Return whether `wandb login` has stored a key; a file that cannot be read has none."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False
