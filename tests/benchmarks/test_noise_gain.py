"""The gain under a noisy judge is paired by training seed, at the same noise."""

from types import ModuleType

import pytest
from scripts import load_script

RESULTS = {
    (4.0, "random"): {1: 60.0, 2: 70.0, 3: 50.0},
    (4.0, "gap"): {1: 63.0, 2: 72.0},
    (4.0, "posterior"): {2: 71.0, 1: 66.0, 9: 10.0},
    (0.5, "gap"): {1: 80.0},
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load the script, which is no module of the package."""
    return load_script("benchmarks/judge/noise_gain.py")


def test_differences_are_paired_by_seed_at_one_noise(script: ModuleType) -> None:
    gain = script.difference(RESULTS, 4.0, "gap", "random")
    assert (gain.mean, gain.n) == (2.5, 2)
    more = script.difference(RESULTS, 4.0, "posterior", "gap")
    assert (more.mean, more.n) == (1.0, 2)
    assert script.difference(RESULTS, 0.5, "gap", "random") is None


def test_table_and_plot_have_a_row_for_each_noise_and_rule(script: ModuleType) -> None:
    lines = script.render(RESULTS).splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| 0.5", "gap"],
        ["| 4", "random"],
        ["| 4", "gap"],
        ["| 4", "posterior"],
    ]
    assert "| +2.5 (" in lines[2]
    assert "| 2 | – | – |" in lines[2]
    drawn = script.draw(RESULTS)
    assert all(f"noise {name}" in drawn for name in ("0.5 · gap", "4 · random", "4 · gap", "4 · posterior"))
