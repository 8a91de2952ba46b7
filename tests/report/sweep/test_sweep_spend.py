"""The spend by arm: sums of what the jobs wrote down, and words for what they did not."""

from pathlib import Path

from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.spend_report import SPEND_FILE, SpendReport
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page
from tapir_exp.report.sweep.spend_section import ArmSpend, spend_by_arm

DEAR = Spend(calls=1000, cached=3, prompt_tokens=4000, completion_tokens=500, usd=1.25)


def wrote(sweep_dir: Path, arm: str, *spends: Spend) -> None:
    """Let the first seeds of an arm have spent this."""
    for seed, spend in enumerate(spends, start=1):
        spending = SpendReport(stages={"task_labels": {"teacher": spend}}, scope=Spend(), faults=(), given_up=())
        (sweep_dir / f"arm-{arm}_seed-{seed}" / SPEND_FILE).write_text(spending.model_dump_json())


def rows(sweep_dir: Path) -> dict[str, ArmSpend]:
    return {row.label: row for row in spend_by_arm(load_sweep(sweep_dir).arms)}


def test_an_arm_sums_its_jobs_and_the_last_row_all_arms(ablation: Path) -> None:
    wrote(ablation, "tapir", DEAR, DEAR, Spend(calls=1, usd=0.5))
    wrote(ablation, "natural_mix", DEAR, Spend(), Spend())
    found = rows(ablation)
    expected = Spend(calls=2001, cached=6, prompt_tokens=8000, completion_tokens=1000, usd=3.0)
    assert found["tapir"].spend == expected
    assert (found["tapir"].told, found["tapir"].jobs, found["tapir"].silent) == (3, 3, ())
    assert found["all together"].spend == expected + DEAR
    assert (found["all together"].told, found["all together"].jobs) == (6, 9)
    page = render_page(load_sweep(ablation))
    assert "<td>2\u202f001</td><td>6</td><td>8\u202f000</td><td>1\u202f000</td><td>$3.00</td>" in page


def test_an_unknown_price_makes_the_sum_unknown(ablation: Path) -> None:
    wrote(ablation, "tapir", DEAR, DEAR.model_copy(update={"usd": None}), DEAR)
    spend = rows(ablation)["tapir"].spend
    assert spend is not None
    assert (spend.calls, spend.usd) == (3000, None)
    assert "<td>3\u202f000</td><td>9</td><td>12\u202f000</td><td>1\u202f500</td><td>not known</td>" in render_page(
        load_sweep(ablation)
    )


def test_a_job_without_the_file_is_said_so_and_costs_nothing_it_did_not_tell(ablation: Path) -> None:
    wrote(ablation, "tapir", DEAR)
    (ablation / "arm-tapir_seed-2" / SPEND_FILE).write_text('{"stages": 3')
    found = rows(ablation)
    assert found["tapir"].spend == DEAR
    assert found["tapir"].told == 1
    assert found["tapir"].silent == ("spend.json cannot be read: seed 2", "no spend.json: seed 3")
    assert found["natural_mix"].spend is None
    page = render_page(load_sweep(ablation))
    assert "no spend.json: seed 1, seed 2, seed 3" in page
    assert "<td>0 of 3</td><td>–</td><td>–</td><td>–</td><td>–</td><td>not known</td>" in page


def test_what_an_unfinished_job_paid_was_paid(ablation: Path) -> None:
    wrote(ablation, "tapir", DEAR, DEAR, DEAR)
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    spend = rows(ablation)["tapir"].spend
    assert spend is not None
    assert spend.calls == 3000
