"""Tests of the paper tables: matching with published rows, links, and reasons for missing cells."""

import csv
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from evaluations_dir import LLAMA, EvaluationsDir

from tapir_exp.commands.report import main as report
from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
from tapir_exp.core.markup import escape_latex
from tapir_exp.report.paper_cells import CELLS, cell_ours, cell_published
from tapir_exp.report.paper_tables import build_table, to_csv
from tapir_exp.report.published import PublishedTable, load_tables
from tapir_exp.report.sweep.plan_file import SweepPlan
from tapir_exp.report.sweep.variants import NO_VARIANT, Variant
from tapir_exp.report.templates import render


@pytest.fixture
def published() -> PublishedTable:
    return load_tables()["alpaca_eval_2"]


def row_of(evaluations: EvaluationsDir, published: PublishedTable, label: str) -> dict[str, Any]:
    table = build_table("t", published, evaluations.load())
    (row,) = [row for row in table.rows if row.label == label]
    return {cell.column: cell for cell in row.cells}


def test_evaluation_is_in_its_published_row_with_its_error(
    evaluations: EvaluationsDir, published: PublishedTable
) -> None:
    evaluations.add(
        "one", [0.0, 20.0], length_controlled_winrate=None, without={"length_controlled_winrate": "no gamed file"}
    )
    cells = row_of(evaluations, published, "LLaMA2-7B with TAPIR")
    assert cell_published(cells["win_rate"]) == "7.80 (P)"
    assert cell_ours(cells["win_rate"].ours) == "10.00 ± 0.80"
    assert cells["win_rate"].ours.links == ("../one/evaluation.json",)
    assert cells["win_rate"].ours.runs == ("../../runs/one/manifest.json",)
    assert cells["win_rate"].ours.error_over == "instructions"
    assert cell_published(cells["length_controlled_winrate"]) == "?"
    assert cells["length_controlled_winrate"].ours.missing_reason == "no gamed file"


def test_seeds_are_averaged_with_the_error_over_seeds(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    for seed, win in enumerate((6.0, 7.0, 8.0)):
        evaluations.add(f"seed{seed}", [win], seed=seed)
    ours = row_of(evaluations, published, "LLaMA2-7B with TAPIR")["win_rate"].ours
    assert cell_ours(ours) == "7.00 ± 0.58 (3 seeds)"
    assert ours.links == tuple(f"../seed{n}/evaluation.json" for n in range(3))
    assert ours.error_over == "seeds"


def test_missing_cell_has_a_reason(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    evaluations.add("other arm", [5.0], arm="lion")
    cells = row_of(evaluations, published, "LLaMA2-7B with TAPIR")
    assert cells["win_rate"].ours.missing_reason == f"no finished evaluation of {LLAMA}, arm tapir, on alpaca_eval"
    assert "not a model that this framework can train" in str(
        row_of(evaluations, published, "GPT-4")["win_rate"].ours.missing_reason
    )
    lion = row_of(evaluations, published, "llama · lion (ours)")
    assert cell_published(lion["win_rate"]) == "–"
    assert lion["length_controlled_winrate"].ours.missing_reason == "the evaluation does not have this figure"


def test_result_of_another_judge_is_marked_and_not_mixed(
    evaluations: EvaluationsDir, published: PublishedTable
) -> None:
    evaluations.add("a", [50.0], judge="hosted_vllm/tiny", seed=1)
    assert cell_ours(row_of(evaluations, published, "LLaMA2-7B with TAPIR")["win_rate"].ours).endswith("†")
    evaluations.add("b", [10.0])
    assert cell_ours(row_of(evaluations, published, "LLaMA2-7B with TAPIR")["win_rate"].ours) == "10.00 ± 0.80"
    assert cell_ours(row_of(evaluations, published, "llama · tapir (ours)")["win_rate"].ours) == "50.00 ± 0.80†"


def test_seeds_with_different_judges_are_not_averaged(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    evaluations.add("a", [50.0], judge="hosted_vllm/tiny", seed=1)
    evaluations.add("b", [10.0], judge="hosted_vllm/small", seed=2)
    assert row_of(evaluations, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value == 50.0
    assert row_of(evaluations, published, "llama · tapir (ours)")["win_rate"].ours.value == 10.0


def test_seeds_with_different_benchmarks_are_not_averaged(
    evaluations: EvaluationsDir, published: PublishedTable
) -> None:
    evaluations.add("a", [50.0], seed=1, benchmark="805 instructions")
    evaluations.add("b", [10.0], seed=2, benchmark="12 instructions")
    assert row_of(evaluations, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value == 50.0
    assert row_of(evaluations, published, "llama · tapir (ours)")["win_rate"].ours.value == 10.0


def test_second_evaluation_of_a_seed_has_a_separate_row(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    evaluations.add("first", [10.0])
    evaluations.add("second", [30.0])
    assert row_of(evaluations, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value == 10.0
    assert row_of(evaluations, published, "llama · tapir (ours)")["win_rate"].ours.value == 30.0


def test_original_model_is_in_its_published_row(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    evaluations.add("chat", [5.0], model="meta-llama/Llama-2-7b-chat-hf", arm=None, seed=None)
    assert row_of(evaluations, published, "LLaMA2-Chat 7B")["win_rate"].ours.value == 5.0
    assert row_of(evaluations, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value is None


def test_given_outputs_are_in_their_published_row(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    evaluations.add("vicuna-7b-v1.5", [4.0], arm=None, seed=None, model=None)
    evaluations.add("mine", [5.0], arm=None, seed=None, model=None)
    assert row_of(evaluations, published, "Vicuna 7B v1.5")["win_rate"].ours.value == 4.0
    assert row_of(evaluations, published, "mine (ours)")["win_rate"].ours.value == 5.0


def test_every_alias_is_in_one_row_only(published: PublishedTable) -> None:
    aliases = [name for row in published.rows for name in row.aliases]
    assert len(aliases) == len(set(aliases)) == 14


def test_ablation_table_has_no_models_from_elsewhere(evaluations: EvaluationsDir) -> None:
    evaluations.add("mine", [5.0], arm=None, seed=None, model=None)
    evaluations.add("s0", [6.0], arm="new_arm")
    labels = [row.label for row in build_table("t", load_tables()["ablations"], evaluations.load()).rows]
    assert "llama · new_arm (ours)" in labels
    assert "mine (ours)" not in labels


def test_missing_outputs_are_marked_with_both_figures(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    figures = {"length_controlled_winrate": 14.96, "length_controlled_winrate_by_row": 17.73, "missing_outputs": 1}
    evaluations.add("alpaca-7b", [4.0], arm=None, seed=None, model=None, **figures)
    table = build_table("t", published, evaluations.load())
    cells = row_of(evaluations, published, "Alpaca 7B")
    assert cell_ours(cells["length_controlled_winrate"].ours) == "14.96‡"
    note = "no output for 1 instructions; with difficulties by row number, as published: 17.73 (length-controlled, %)"
    assert table.incomplete == [f"Alpaca 7B: {note}"]
    for kind, mark in (("md", "‡"), ("tex", r"$\ddagger$"), ("html", "‡")):
        text = render(
            f"paper.{kind}.jinja", table=table, tables=[table], evaluations=[], unfinished=[], rounds=[], cell=CELLS
        )
        assert f"14.96{mark}" in text
        assert "17.73" in text


def test_written_tables_link_to_manifests(evaluations: EvaluationsDir) -> None:
    for seed in (1, 2):
        evaluations.add(f"t{seed}", [5.0, 9.0], seed=seed)
        evaluations.add(f"v{seed}", [2.0, 4.0], seed=seed, arm="vanilla_sft")
    directory = evaluations.root / "evaluations"
    for name, config in (("begun", "evaluate"), ("a run", "config")):
        (directory / name / ".hydra").mkdir(parents=True)
        (directory / name / ".hydra/hydra.yaml").write_text(f"hydra:\n  job:\n    config_name: {config}\n")
    report(["--paper", str(directory)])
    folder = directory / "paper"
    assert {path.suffix for path in folder.iterdir()} == {".md", ".tex", ".csv", ".html"}
    page = (folder / "index.html").read_text()
    links = set(re.findall(r'href="([^"#]+)"', page))
    names = ("t1", "t2", "v1", "v2")
    evaluated, trained = (
        {f"../{name}/{EVALUATION}" for name in names},
        {f"../../runs/{name}/manifest.json" for name in names},
    )
    assert links == evaluated | trained
    assert all((folder / link).is_file() for link in evaluated)
    assert "<li>begun</li>" in page
    assert "a run" not in page
    assert "no finished evaluation of the original Qwen/Qwen1.5-7B-Chat on alpaca_eval" in page
    assert not re.search(r"(src|href)=\"?https?:|@import|url\(", page)
    markdown = (folder / "ablations.md").read_text()
    ours = "7.00 ± 0.00 (2 seeds) [1](<../t1/evaluation.json>) [2](<../t2/evaluation.json>)"
    assert f"| TAPIR | 7.80 (P) | {ours} [run 1](<../../runs/t1/manifest.json>) " in markdown
    assert "| llama · vanilla_sft | 2 | 2 | -4.00 |" in markdown
    latex = (folder / "ablations.tex").read_text()
    assert r"\href{../t1/evaluation.json}{7.00 $\pm$ 0.00 (2 seeds)}" in latex
    with (folder / "ablations.csv").open(newline="") as lines:
        rows = {row["row"]: row for row in csv.DictReader(lines)}
    assert rows["TAPIR"]["evaluations"].split() == ["../t1/evaluation.json", "../t2/evaluation.json"]
    assert rows["Lion"]["why"] == f"no finished evaluation of {LLAMA}, arm lion, on alpaca_eval"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    report(["--paper", str(directory)])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_plan_describes_the_power_of_780_vs_770(published: PublishedTable) -> None:
    plan = build_table("t", published, []).plan
    assert plan is not None
    assert "standard error of 1.17" in plan
    assert "requires about 870,543 instructions" in plan


def test_tex_escapes_special_characters() -> None:
    assert escape_latex("50 % & a_b {x} ± †") == r"50 \% \& a\_b \{x\} $\pm$ $\dagger$"


def test_missing_artifact_or_directory_is_an_error(evaluations: EvaluationsDir) -> None:
    evaluations.add("one", [5.0])
    (evaluations.root / "store").rename(evaluations.root / "gone")
    with pytest.raises(StoreError, match=r"artifact alpaca-suite.* is not in"):
        report(["--paper", str(evaluations.root / "evaluations")])
    with pytest.raises(StoreError, match="nowhere is not a directory"):
        report(["--paper", str(evaluations.root / "nowhere")])


def test_foreign_names_are_text_in_every_table(evaluations: EvaluationsDir, published: PublishedTable) -> None:
    evil = "=a|b\\input{x} <b> [l](u) \x1b[2J"
    evaluations.add("e", [5.0], arm=evil)
    table = build_table("t", published, evaluations.load())
    assert "\x1b" not in to_csv(table)
    for kind, shown in (("md", r"llama · =a\|b\\input"), ("tex", r"llama · =a\textbar{}b\textbackslash{}input\{x\}")):
        text = render(f"paper.{kind}.jinja", table=table, cell=CELLS)
        assert shown in text
        assert "\x1b" not in text


def test_variants_of_a_sweep_are_rows_and_arms_of_their_own(
    evaluations: EvaluationsDir, published: PublishedTable
) -> None:
    for seed in (1, 2):
        evaluations.add(f"base{seed}", [5.0, 9.0], seed=seed)
        evaluations.add(f"a-low{seed}", [2.0, 4.0], seed=seed)  # before the baseline, by its path
    low = Variant(("curriculum.delta=1",), ("curriculum.delta=1",))
    results = [
        replace(result, variant=low if result.evaluation.student.startswith("a-low") else NO_VARIANT)
        for result in evaluations.load()
    ]
    table = build_table("t", published, results)
    rows = {row.label: row.cells[0].ours for row in table.rows}
    assert (rows["LLaMA2-7B with TAPIR"].value, rows["LLaMA2-7B with TAPIR"].seeds) == (7.0, 2)
    assert rows["llama · tapir · curriculum.delta=1 (ours)"].value == 3.0
    assert [(row.arm, round(row.interval.mean, 9)) for row in table.comparisons] == [("tapir curriculum.delta=1", -4.0)]


def test_tables_of_a_sweep_leave_out_what_it_did_not_measure(evaluations: EvaluationsDir) -> None:
    evaluations.add("one", [5.0])
    directory = evaluations.root / "evaluations"
    report(["--paper", str(directory)])
    assert (directory / "paper/mt_bench.md").is_file()
    SweepPlan().write(directory)
    report(["--paper", str(directory)])
    assert {path.stem for path in (directory / "paper").glob("*.md")} == {"alpaca_eval_2", "ablations"}


def test_figures_by_round_are_written_for_students_of_every_round(
    evaluations: EvaluationsDir, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, win in enumerate((3.0, 4.0, 6.0)):
        path = evaluations.add(f"s{number}", [win])
        Evaluation.load(path).model_copy(update={"round": number, "last": number == 2}).write(path)
    directory = evaluations.root / "evaluations"
    report(["--paper", "--json", str(directory)])
    cells = json.loads(capsys.readouterr().out)["cells"]
    (ours,) = [cell for cell in cells if (cell["table"], cell["row"]) == ("ablations", "TAPIR")]
    assert (ours["ours"], ours["published"], ours["seeds"]) == (6.0, 7.8, 1.0)
    with (directory / "paper/rounds.csv").open(newline="") as lines:
        assert [(row["round"], row["mean"]) for row in csv.DictReader(lines)] == [
            ("0", "3.0"),
            ("1", "4.0"),
            ("2", "6.0"),
        ]
    assert '<th scope="col">S_2</th>' in (directory / "paper/index.html").read_text()
