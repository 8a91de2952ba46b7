"""Names of run and sweep directories."""

from tapir_exp.commands.naming import file_name, run_name, sweep_name


def test_run_name_has_a_digest_of_the_overrides() -> None:
    assert run_name("lab", "") == "lab"
    assert run_name("lab", "seed-1") == run_name("lab", "seed-1") != run_name("lab", "seed-2")


def test_sweep_name_is_that_of_the_file_or_experiment() -> None:
    assert sweep_name("lab_delta", "lab", "") == "lab_delta"
    assert sweep_name("config", "lab", "seed-1,2").startswith("lab-")


def test_file_name_is_one_short_unique_path_component() -> None:
    assert file_name("arm-lion_seed-1") == "arm-lion_seed-1"
    assert "/" not in file_name("seeds.path-/a/b")
    assert file_name("seeds.path-/a/b") != file_name("seeds.path-/a-b")
    assert len(file_name("x" * 500)) < 140
