"""Access to Weights & Biases is checked before a run: key, server, and the environment's mode."""

import socket
import time
from pathlib import Path

import pytest

from tapir_exp.config import WandbMode
from tapir_exp.core.errors import ConfigError
from tapir_exp.report.trackers.wandb_access import check_access, effective_mode


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.parametrize(
    ("configured", "named", "mode"),
    [
        ("online", "offline", "offline"),
        ("online", "dryrun", "offline"),
        ("online", " Disabled ", "disabled"),
        ("online", "", "online"),
        ("offline", "online", "offline"),
        ("disabled", "online", "disabled"),
    ],
)
def test_mode_of_the_environment_may_only_lower_online(configured: str, named: str, mode: str) -> None:
    assert effective_mode(WandbMode[configured], {"WANDB_MODE": named}) is WandbMode[mode]


def test_unknown_mode_of_the_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="WANDB_MODE = never: expected one of offline, online, disabled"):
        effective_mode(WandbMode.online, {"WANDB_MODE": "never"})


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_missing_key_names_variable_and_remedies(key: str | None) -> None:
    with pytest.raises(
        ConfigError, match=r"api\.wandb\.ai: set WANDB_API_KEY or run `wandb login`; or choose logger=offline"
    ):
        check_access({} if key is None else {"WANDB_API_KEY": key})


def test_key_of_a_login_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password key\n")
        check_access({"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}"})


def test_unreachable_server_is_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ConfigError, match=rf"expected a server at 127\.0\.0\.1:{port}, which does not answer"):
        check_access({"WANDB_API_KEY": "key", "WANDB_BASE_URL": f"http://127.0.0.1:{port}"})
    assert time.monotonic() - start < 5


def test_address_without_a_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="WANDB_BASE_URL = wandb: expected an address such as https://"):
        check_access({"WANDB_API_KEY": "key", "WANDB_BASE_URL": "wandb"})
