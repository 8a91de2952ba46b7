"""What the chosen trackers need is checked before a job."""

import socket

import pytest

from tapir_exp.config import LoggerConfig, TrackerKind, WandbMode
from tapir_exp.report.trackers import access
from tapir_exp.report.trackers.access import check_trackers, chosen_trackers


@pytest.mark.parametrize(
    ("mode", "environment", "chosen"),
    [
        (WandbMode.offline, {}, ["wandb", "csv"]),
        (WandbMode.disabled, {}, ["csv"]),
        (WandbMode.online, {"WANDB_MODE": "disabled"}, ["csv"]),
    ],
)
def test_trackers_are_chosen_once(mode: WandbMode, environment: dict[str, str], chosen: list[str]) -> None:
    kinds = [TrackerKind.csv, TrackerKind.wandb, TrackerKind.csv]
    assert [kind.value for kind in chosen_trackers(LoggerConfig(kinds, mode), environment)] == chosen


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_missing_package_names_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "find_spec", lambda name: None)
    (problem,) = check_trackers(LoggerConfig([TrackerKind(kind)]), {})
    assert f"logger.report_to = {kind}: expected the package {kind}: pip install 'tapir-exp[{kind}]'" in problem


def test_missing_key_of_wandb_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", "/nowhere")
    (problem,) = check_trackers(LoggerConfig(mode=WandbMode.online), {})
    assert "set WANDB_API_KEY" in problem


@pytest.mark.parametrize("by_environment", [True, False])
def test_server_of_mlflow_that_does_not_answer_is_named(by_environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        config = LoggerConfig([TrackerKind.mlflow], tracking_uri=None if by_environment else uri)
        environment = {"MLFLOW_TRACKING_URI": uri} if by_environment else {}
        assert check_trackers(config, environment) == []
    (problem,) = check_trackers(config, environment)
    assert "expected a server of MLflow at 127.0.0.1:" in problem


def test_directory_of_mlflow_needs_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "find_spec", lambda name: name)
    assert check_trackers(LoggerConfig([TrackerKind.mlflow], tracking_uri="runs/mlflow"), {}) == []
