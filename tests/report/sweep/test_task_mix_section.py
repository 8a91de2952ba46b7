"""Tests of the task mix: means over rounds and seeds, targets, columns, and arms without a mix."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

import pytest

from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.task_mix_section import TaskMix, task_mix

MakeRun = Callable[..., Path]


def mix_of(sweep_dir: Path) -> TaskMix:
    return task_mix(load_sweep(sweep_dir).arms)


def retarget(job: Path, target: Mapping[str, float]) -> None:
    manifest = json.loads((job / "manifest.json").read_text())
    (job / "manifest.json").write_text(json.dumps({**manifest, "target": target}))


def remix(job: Path, mixes: list[Mapping[str, float]]) -> None:
    """Replace the training mix of each round of a job."""
    lines = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    for line, mix in zip(lines[1:], mixes, strict=True):
        for name in [name for name in line if name.startswith("mix/")]:
            del line[name]
        line.update({f"mix/task/{task}": share for task, share in mix.items()})
    (job / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_share_is_the_mean_over_rounds_and_seeds(ablation: Path) -> None:
    expected = fmean(
        json.loads(line).get("mix/task/Math", 0.0)
        for seed in (1, 2, 3)
        for line in (ablation / f"arm-tapir_seed-{seed}" / "metrics.jsonl").read_text().splitlines()[1:]
    )
    (group,) = mix_of(ablation).targets
    assert group.arms[0].label == "tapir"
    assert group.arms[0].shares["Math"] == pytest.approx(expected)
    assert group.target["Math"] == 0.125
    assert sum(group.arms[0].shares.values()) == pytest.approx(1)


def test_round_without_a_task_type_counts_as_zero(fake_run: MakeRun) -> None:
    job = fake_run(name="sweep/one", size=40)
    remix(job, [{"Math": 0.3, "Writing": 0.7}, {"Writing": 1.0}, {"Writing": 1.0}])
    (group,) = mix_of(job.parent).targets
    assert group.arms[0].shares["Math"] == pytest.approx(0.1)
    assert mix_of(job.parent).columns[0] == "Math"  # the boosted ones first


def test_arms_are_grouped_by_target(ablation: Path) -> None:
    for seed in (1, 2, 3):
        retarget(ablation / f"arm-natural_mix_seed-{seed}", {"Math": 0.05, "Writing": 0.95})
    targets = {frozenset(arm.label for arm in group.arms): group.target["Math"] for group in mix_of(ablation).targets}
    assert targets == {
        frozenset({"tapir", "fixed_alpha"}): 0.125,
        frozenset({"natural_mix"}): 0.05,
    }
    page = render_page(load_sweep(ablation))
    assert "target of the 2 arms below" in page
    assert "target of natural_mix" in page


def test_rare_task_types_share_a_column(fake_run: MakeRun) -> None:
    job = fake_run(name="sweep/one", size=40)
    retarget(job, {"Math": 0.998, "Art": 0.001, "Law": 0.001})
    remix(job, [{"Math": 0.996, "Art": 0.003, "Law": 0.001}] * 3)
    mix = mix_of(job.parent)
    assert mix.columns == ("Math", "2 rare types")
    assert mix.targets[0].target["2 rare types"] == pytest.approx(0.002)
    assert mix.targets[0].arms[0].shares["2 rare types"] == pytest.approx(0.004)


def test_type_that_is_common_in_one_arm_has_a_column(fake_run: MakeRun) -> None:
    job = fake_run(name="sweep/one", size=40)
    retarget(job, {"Math": 0.999, "Law": 0.001})
    remix(job, [{"Math": 0.9, "Law": 0.05, "Art": 0.05}] * 3)
    assert set(mix_of(job.parent).columns) == {"Math", "Law", "Art"}


def test_arms_without_a_mix_have_a_reason(fake_run: MakeRun, ablation: Path) -> None:
    fake_run(name="sweep/arm-vanilla_sft_seed-1", arm="vanilla_sft", seed=1, rounds=0, size=40)
    for seed in (1, 2, 3):
        (ablation / f"arm-fixed_alpha_seed-{seed}" / "manifest.json").unlink()
        remix(ablation / f"arm-natural_mix_seed-{seed}", [{}] * 3)
    mix = mix_of(ablation)
    assert mix.skipped == {
        "vanilla_sft": "no rounds: trained on the seed data only",
        "fixed_alpha": "no finished job",
        "natural_mix": "no mix in its metrics",
    }
    assert "vanilla_sft: no rounds" in render_page(load_sweep(ablation))
