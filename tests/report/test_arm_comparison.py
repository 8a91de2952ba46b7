"""Tests of the comparison of arms with TAPIR."""

import pytest
from evaluations_dir import EvaluationsDir

from tapir_exp.report.arm_comparison import compare_arms


def test_compare_arms_pairs_by_seed_and_instruction(evaluations: EvaluationsDir) -> None:
    for seed in (1, 2, 3):
        evaluations.add(f"t{seed}", [float(10 * n + 10 + seed) for n in range(8)], seed=seed)
        evaluations.add(f"v{seed}", [float(10 * n + 10 + seed - 4) for n in range(8)], seed=seed, arm="vanilla_sft")
        evaluations.add(f"l{seed}", [float(10 * n + 10 + seed + (-1) ** n) for n in range(8)], seed=seed, arm="lion")
    rows = {row.arm: row for row in compare_arms("alpaca_eval", evaluations.load())}
    vanilla = rows["vanilla_sft"]
    assert vanilla.interval.mean == pytest.approx(-4)
    assert (vanilla.seeds, vanilla.instructions) == (3, 8)
    assert vanilla.p_instructions == pytest.approx(2 / 2**8)
    assert vanilla.p_instructions_holm == pytest.approx(2 * 2 / 2**8)
    assert (vanilla.p_seeds, vanilla.p_seeds_holm) == (0.25, 0.5)
    assert rows["lion"].p_instructions == 1.0
    assert rows["lion"].interval.low < 0 < rows["lion"].interval.high  # type: ignore[operator]


def test_compare_arms_requires_tapir_with_the_same_judge(evaluations: EvaluationsDir) -> None:
    evaluations.add("v", [1.0, 2.0], arm="vanilla_sft")
    evaluations.add("t", [1.0, 2.0], judge="another")
    assert compare_arms("alpaca_eval", evaluations.load()) == []
