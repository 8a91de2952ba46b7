"""Names of run and sweep directories."""

import pytest

from tapir_exp.commands.naming import run_name, sweep_name
from tapir_exp.core.file_names import file_name


def test_run_name_has_a_digest_of_the_overrides() -> None:
    assert run_name("lab", "") == "lab"
    assert run_name("lab", "seed-1") == run_name("lab", "seed-1") != run_name("lab", "seed-2")


def test_sweep_name_is_that_of_the_file_or_experiment() -> None:
    assert sweep_name("lab_delta", "lab", "") == "lab_delta"
    assert sweep_name("config", "lab", "seed-1,2").startswith("lab-")


def test_sweep_name_is_the_chosen_one_for_any_overrides() -> None:
    assert (
        sweep_name("config", "lab", "seed-1,2", "mine") == sweep_name("config", "lab", "seed-1,2,3", "mine") == "mine"
    )
    assert "/" not in sweep_name("config", "lab", "", "../mine")


@pytest.mark.parametrize("value", ["1e+30", "1e-30", "-1"])
def test_override_with_a_safe_value_keeps_it(value: str) -> None:
    assert file_name(f"curriculum.delta-{value}") == f"curriculum.delta-{value}"


@pytest.mark.parametrize("name", ["../../escape", "/tmp/escape", "a/b", "", "..", "实验" * 200])
def test_name_of_an_experiment_is_one_component(name: str) -> None:
    for made in (run_name(name, ""), run_name(name, "seed-\udcff"), sweep_name("config", name, "seed-1")):
        assert made not in ("", "..")
        assert "/" not in made
        assert len(made.encode()) <= 255
