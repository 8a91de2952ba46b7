"""Options for the present version of Hydra and for the next one."""

import warnings

import pytest
from omegaconf import OmegaConf

from tapir_exp.config.hydra_versions import initialize_options, is_at_least, main_options, register_resolver


@pytest.mark.parametrize(
    ("version", "expected"), [("1.3.8", False), ("1.4.0rc3", True), ("1.4.0", True), ("1.10.2", True), ("2.0.0", True)]
)
def test_version_is_compared_by_its_numbers(version: str, expected: bool) -> None:
    assert is_at_least(version, 1, 4) is expected


@pytest.mark.parametrize(
    ("version", "of_main", "of_initialize"),
    [("1.3.8", {"version_base"}, {"version_base"}), ("1.4.0rc3", {"execution_whitelist"}, set())],
)
def test_options_are_those_of_the_version(
    monkeypatch: pytest.MonkeyPatch, version: str, of_main: set[str], of_initialize: set[str]
) -> None:
    monkeypatch.setattr("hydra.__version__", version)
    assert set(main_options()) == of_main
    assert set(initialize_options()) == of_initialize


def test_resolver_is_registered_without_a_warning_and_replaced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_resolver("tapir.test", lambda: 1)
        register_resolver("tapir.test", lambda: 2)
    assert OmegaConf.create({"x": "${tapir.test:}"}).x == 2
    OmegaConf.clear_resolver("tapir.test")
