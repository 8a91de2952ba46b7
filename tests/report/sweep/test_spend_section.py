"""Tests of the spend by arm: sums over jobs, and jobs without a readable spend report."""

from pathlib import Path

from pages import plain

from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.spend_report import SPEND_FILE, SpendReport
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.spend_section import ArmSpend, spend_by_arm

SPEND = Spend(calls=1000, cached=3, prompt_tokens=4000, completion_tokens=500, usd=1.25)


def write_spend(sweep_dir: Path, arm: str, *spends: Spend) -> None:
    """Write a spend report for the first seeds of an arm."""
    for seed, spend in enumerate(spends, start=1):
        report = SpendReport(stages={"task_labels": {"teacher": spend}}, scope=Spend(), faults=(), given_up=())
        (sweep_dir / f"arm-{arm}_seed-{seed}" / SPEND_FILE).write_text(report.model_dump_json())


def rows(sweep_dir: Path) -> dict[str, ArmSpend]:
    return {row.label: row for row in spend_by_arm(load_sweep(sweep_dir).arms)}


def test_spend_is_summed_over_jobs_and_over_arms(ablation: Path) -> None:
    write_spend(ablation, "tapir", SPEND, SPEND, Spend(calls=1, usd=0.5))
    write_spend(ablation, "natural_mix", SPEND, Spend(), Spend())
    by_arm = rows(ablation)
    expected = Spend(calls=2001, cached=6, prompt_tokens=8000, completion_tokens=1000, usd=3.0)
    assert by_arm["tapir"].spend == expected
    assert (by_arm["tapir"].reported, by_arm["tapir"].jobs, by_arm["tapir"].unreported) == (3, 3, ())
    assert by_arm["all arms"].spend == expected + SPEND
    assert (by_arm["all arms"].reported, by_arm["all arms"].jobs) == (6, 9)
    page = render_page(load_sweep(ablation))
    assert "<td>2\u202f001</td>" in page
    assert "tapir 3 of 3 2 001 6 8 000 1 000 $3.00" in plain(page)


def test_unknown_price_makes_the_sum_unknown(ablation: Path) -> None:
    write_spend(ablation, "tapir", SPEND, SPEND.model_copy(update={"usd": None}), SPEND)
    spend = rows(ablation)["tapir"].spend
    assert spend is not None
    assert (spend.calls, spend.usd) == (3000, None)
    page = plain(render_page(load_sweep(ablation)))
    assert "tapir 3 of 3 3 000 9 12 000 1 500 unknown" in page


def test_jobs_without_readable_spend_are_listed(ablation: Path) -> None:
    write_spend(ablation, "tapir", SPEND)
    (ablation / "arm-tapir_seed-2" / SPEND_FILE).write_text('{"stages": 3')
    by_arm = rows(ablation)
    assert by_arm["tapir"].spend == SPEND
    assert by_arm["tapir"].reported == 1
    assert by_arm["tapir"].unreported == ("spend.json cannot be read: seed 2", "no spend.json: seed 3")
    assert by_arm["natural_mix"].spend is None
    page = plain(render_page(load_sweep(ablation)))
    assert "no spend.json: seed 1, seed 2, seed 3" in page
    assert "natural_mix 0 of 3 – – – – unknown" in page


def test_spend_includes_unfinished_jobs(ablation: Path) -> None:
    write_spend(ablation, "tapir", SPEND, SPEND, SPEND)
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    spend = rows(ablation)["tapir"].spend
    assert spend is not None
    assert spend.calls == 3000
