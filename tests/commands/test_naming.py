"""Names of run and sweep directories."""

import pytest

from tapir_exp.commands.naming import run_name, sweep_name


def test_run_name_has_a_digest_of_the_overrides() -> None:
    assert run_name("lab", "") == "lab"
    assert run_name("lab", "seed-1") == run_name("lab", "seed-1") != run_name("lab", "seed-2")


def test_sweep_name_is_that_of_the_file_or_experiment() -> None:
    assert sweep_name("lab_delta", "lab", "") == "lab_delta"
    assert sweep_name("config", "lab", "seed-1,2").startswith("lab-")


@pytest.mark.parametrize("name", ["../../escape", "/tmp/escape", "a/b", "", "..", "实验" * 200])
def test_name_of_an_experiment_is_one_component(name: str) -> None:
    for made in (run_name(name, ""), run_name(name, "seed-\udcff"), sweep_name("config", name, "seed-1")):
        assert made not in ("", "..")
        assert "/" not in made
        assert len(made.encode()) <= 255
