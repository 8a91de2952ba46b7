"""Our evaluations beside the published figures: what is matched, what links where, and why a cell is missing."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from assets import asset

from tapir_exp.commands.report import main as report
from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
from tapir_exp.core.manifest import entry_of
from tapir_exp.core.store import Store
from tapir_exp.report.arm_comparison import compare_arms
from tapir_exp.report.evaluations import EvaluationResult
from tapir_exp.report.paper_tables import build_table, cell_ours, cell_published, load_evaluations, tex
from tapir_exp.report.published import Figure, PublishedTable, Status, load_table, load_tables

LLAMA = "meta-llama/Llama-2-7b-hf"
OFFICIAL = "openai/gpt-4-1106-preview"


class Shelf:
    """A directory of evaluations and the store that they share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")

    def put(
        self,
        name: str,
        wins: list[float],
        *,
        arm: str | None = "tapir",
        seed: int | None = 0,
        model: str = LLAMA,
        judge: str = OFFICIAL,
        **figures: Any,
    ) -> Path:
        """An evaluation on AlpacaEval with so many per cent on each instruction."""

        def make(directory: Path) -> dict[str, Any]:
            rows = [{"instruction": f"i{n}", "preference": 1 + share / 100} for n, share in enumerate(wins)]
            (directory / "annotations.json").write_text(json.dumps(rows))
            return {"win_rate": sum(wins) / len(wins), "standard_error": 0.8, **figures}

        entry = entry_of("alpaca-suite", 0, self.store.produce("alpaca-suite", {"name": name}, make))
        directory = self.root / "evaluations" / name
        directory.mkdir(parents=True)
        Evaluation(
            student=name,
            model=model,
            experiment="llama" if arm else None,
            arm=arm,
            seed=seed,
            run=f"../../runs/{name}" if arm else None,
            judge=judge,
            store="../../store",
            suites={"alpaca_eval": "alpaca-suite"},
            artifacts=(entry,),
        ).write(directory)
        return directory

    def measured(self) -> list[EvaluationResult]:
        directory = self.root / "evaluations"
        return load_evaluations(directory, directory / "paper")[0]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def published() -> PublishedTable:
    return load_tables()["alpaca_eval_2"]


def row_of(shelf: Shelf, published: PublishedTable, label: str) -> dict[str, Any]:
    table = build_table("t", published, shelf.measured())
    (line,) = [line for line in table.lines if line.label == label]
    return {cell.column: cell for cell in line.cells}


def test_every_table_is_one_and_the_paper_s_figures_have_their_status() -> None:
    tables = load_tables()
    assert set(tables) == {"alpaca_eval_2", "qwen1_5_alpaca_eval_2", "mt_bench", "ablations", "lab"}
    figures = {row.label: row.figures for row in tables["alpaca_eval_2"].rows}
    assert figures["LLaMA2-7B with TAPIR"]["win_rate"] == Figure(value=7.8, status=Status.PRIMARY)
    assert figures["LLaMA2-7B with TAPIR, single round"]["win_rate"].status is Status.DERIVED
    assert figures["LLaMA2-7B with TAPIR"]["length_controlled_winrate"].status is Status.UNKNOWN


def test_the_leaderboard_figures_are_the_leaderboard_s() -> None:
    with asset("alpacaeval/published_leaderboard_ae2.csv").open(newline="") as lines:
        known = {
            (round(float(row["win_rate"]), 2), round(float(row["length_controlled_winrate"]), 2))
            for row in csv.DictReader(lines)
        }
    tables = load_tables()
    rows = [row for name in ("alpaca_eval_2", "qwen1_5_alpaca_eval_2") for row in tables[name].rows]
    pairs = [tuple(figure.value for figure in row.figures.values()) for row in rows]
    checked = [pair for pair in pairs if None not in pair]
    assert len(checked) == 17
    assert [pair for pair in checked if pair not in known] == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"figures": {"win_rate": {"value": 7.8, "status": "unknown"}}}, "an unknown figure has no value"),
        ({"figures": {"win_rate": {"value": None, "status": "P"}}}, "an unknown figure has no value"),
        ({"figures": {"speed": {"value": 1, "status": "P"}}}, "have no column"),
        ({"figures": {}, "colour": "red"}, "colour"),
    ],
)
def test_a_table_with_a_mistake_is_refused(change: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    row = {"label": "x", **change}
    table = {"title": "t", "suite": "s", "judge": None, "columns": {"win_rate": {"title": "w"}}, "rows": [row]}
    (tmp_path / "t.yaml").write_text(json.dumps(table))
    with pytest.raises(StoreError, match=wrong):
        load_table(tmp_path / "t.yaml")


def test_an_evaluation_stands_beside_its_row_with_its_error(shelf: Shelf, published: PublishedTable) -> None:
    shelf.put(
        "one", [0.0, 20.0], length_controlled_winrate=None, without={"length_controlled_winrate": "no gamed file"}
    )
    cells = row_of(shelf, published, "LLaMA2-7B with TAPIR")
    assert cell_published(cells["win_rate"]) == "7.80 (P)"
    assert cell_ours(cells["win_rate"].ours) == "10.00 ± 0.80"
    assert cells["win_rate"].ours.links == ("../one/evaluation.json",)
    assert cells["win_rate"].ours.runs == ("../../runs/one/manifest.json",)
    assert cells["win_rate"].ours.error_over == "instructions"
    assert cell_published(cells["length_controlled_winrate"]) == "?"
    assert cells["length_controlled_winrate"].ours.reason == "no gamed file"


def test_seeds_are_averaged_with_the_error_over_seeds(shelf: Shelf, published: PublishedTable) -> None:
    for seed, win in enumerate((6.0, 7.0, 8.0)):
        shelf.put(f"seed{seed}", [win], seed=seed)
    ours = row_of(shelf, published, "LLaMA2-7B with TAPIR")["win_rate"].ours
    assert cell_ours(ours) == "7.00 ± 0.58 (3 seeds)"
    assert ours.links == tuple(f"../seed{n}/evaluation.json" for n in range(3))
    assert ours.error_over == "seeds"


def test_a_missing_cell_says_why(shelf: Shelf, published: PublishedTable) -> None:
    shelf.put("other arm", [5.0], arm="lion")
    cells = row_of(shelf, published, "LLaMA2-7B with TAPIR")
    assert cells["win_rate"].ours.reason == f"no finished evaluation of {LLAMA}, arm tapir, on alpaca_eval"
    assert "not one of the models" in str(row_of(shelf, published, "GPT-4")["win_rate"].ours.reason)
    lion = row_of(shelf, published, "llama · lion (ours)")
    assert cell_published(lion["win_rate"]) == "–"
    assert lion["length_controlled_winrate"].ours.reason == "the evaluation does not have this figure"


def test_another_judge_is_marked_and_never_mixed(shelf: Shelf, published: PublishedTable) -> None:
    shelf.put("a", [50.0], judge="hosted_vllm/tiny", seed=1)
    assert cell_ours(row_of(shelf, published, "LLaMA2-7B with TAPIR")["win_rate"].ours).endswith("†")
    shelf.put("b", [10.0])
    assert cell_ours(row_of(shelf, published, "LLaMA2-7B with TAPIR")["win_rate"].ours) == "10.00 ± 0.80"
    assert cell_ours(row_of(shelf, published, "llama · tapir (ours)")["win_rate"].ours) == "50.00 ± 0.80†"


def test_seeds_that_two_strange_judges_judged_are_not_one_mean(shelf: Shelf, published: PublishedTable) -> None:
    shelf.put("a", [50.0], judge="hosted_vllm/tiny", seed=1)
    shelf.put("b", [10.0], judge="hosted_vllm/small", seed=2)
    assert row_of(shelf, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value == 50.0
    assert row_of(shelf, published, "llama · tapir (ours)")["win_rate"].ours.value == 10.0


def test_seeds_on_two_benchmarks_are_not_one_mean(shelf: Shelf, published: PublishedTable) -> None:
    shelf.put("a", [50.0], seed=1, benchmark="805 instructions")
    shelf.put("b", [10.0], seed=2, benchmark="12 instructions")
    assert row_of(shelf, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value == 50.0
    assert row_of(shelf, published, "llama · tapir (ours)")["win_rate"].ours.value == 10.0


def test_a_second_evaluation_of_a_seed_has_a_row_of_its_own(shelf: Shelf, published: PublishedTable) -> None:
    shelf.put("first", [10.0])
    shelf.put("second", [30.0])
    assert row_of(shelf, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value == 10.0
    assert row_of(shelf, published, "llama · tapir (ours)")["win_rate"].ours.value == 30.0


def test_a_model_as_it_is_stands_beside_its_own_row(shelf: Shelf, published: PublishedTable) -> None:
    shelf.put("chat", [5.0], model="meta-llama/Llama-2-7b-chat-hf", arm=None, seed=None)
    assert row_of(shelf, published, "LLaMA2-Chat 7B")["win_rate"].ours.value == 5.0
    assert row_of(shelf, published, "LLaMA2-7B with TAPIR")["win_rate"].ours.value is None


def test_arms_are_compared_by_seed_and_instruction(shelf: Shelf) -> None:
    for seed in (1, 2, 3):
        shelf.put(f"t{seed}", [float(10 * n + 10 + seed) for n in range(8)], seed=seed)
        shelf.put(f"v{seed}", [float(10 * n + 10 + seed - 4) for n in range(8)], seed=seed, arm="vanilla_sft")
        shelf.put(f"l{seed}", [float(10 * n + 10 + seed + (-1) ** n) for n in range(8)], seed=seed, arm="lion")
    rows = {row.arm: row for row in compare_arms("alpaca_eval", shelf.measured())}
    vanilla = rows["vanilla_sft"]
    assert vanilla.interval.mean == pytest.approx(-4)
    assert (vanilla.seeds, vanilla.instructions) == (3, 8)
    assert vanilla.p_instructions == pytest.approx(2 / 2**8)
    assert vanilla.p_instructions_holm == pytest.approx(2 * 2 / 2**8)
    assert (vanilla.p_seeds, vanilla.p_seeds_holm) == (0.25, 0.5)
    assert rows["lion"].p_instructions == 1.0
    assert rows["lion"].interval.low < 0 < rows["lion"].interval.high  # type: ignore[operator]


def test_nothing_is_compared_without_tapir_or_across_judges(shelf: Shelf) -> None:
    shelf.put("v", [1.0, 2.0], arm="vanilla_sft")
    shelf.put("t", [1.0, 2.0], judge="another")
    assert compare_arms("alpaca_eval", shelf.measured()) == []


def test_the_files_are_written_and_every_figure_links_to_a_manifest(shelf: Shelf) -> None:
    for seed in (1, 2):
        shelf.put(f"t{seed}", [5.0, 9.0], seed=seed)
        shelf.put(f"v{seed}", [2.0, 4.0], seed=seed, arm="vanilla_sft")
    evaluations = shelf.root / "evaluations"
    for name, config in (("begun", "evaluate"), ("a run", "config")):
        (evaluations / name / ".hydra").mkdir(parents=True)
        (evaluations / name / ".hydra/hydra.yaml").write_text(f"hydra:\n  job:\n    config_name: {config}\n")
    report(["--paper", str(evaluations)])
    folder = evaluations / "paper"
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
    assert "no finished evaluation of Qwen/Qwen1.5-7B-Chat, as it is, on alpaca_eval" in page
    assert not re.search(r"(src|href)=\"?https?:|@import|url\(", page)
    told = (folder / "ablations.md").read_text()
    ours = "7.00 ± 0.00 (2 seeds) [1](<../t1/evaluation.json>) [2](<../t2/evaluation.json>)"
    assert f"| TAPIR | 7.80 (P) | {ours} [run 1](<../../runs/t1/manifest.json>) " in told
    assert "| llama · vanilla_sft | 2 | 2 | -4.00 |" in told
    latex = (folder / "ablations.tex").read_text()
    assert r"\href{../t1/evaluation.json}{7.00 $\pm$ 0.00 (2 seeds)}" in latex
    with (folder / "ablations.csv").open(newline="") as lines:
        rows = {row["row"]: row for row in csv.DictReader(lines)}
    assert rows["TAPIR"]["evaluations"].split() == ["../t1/evaluation.json", "../t2/evaluation.json"]
    assert rows["Lion"]["why"] == f"no finished evaluation of {LLAMA}, arm lion, on alpaca_eval"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    report(["--paper", str(evaluations)])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_it_takes_to_tell_780_from_770_is_told(published: PublishedTable) -> None:
    told = build_table("t", published, []).plan
    assert told is not None
    assert "standard error of 1.17" in told
    assert "needs about 870,543 instructions" in told


def test_latex_s_characters_are_escaped() -> None:
    assert tex("50 % & a_b {x} ± †") == r"50 \% \& a\_b \{x\} $\pm$ $\dagger$"


def test_a_lost_artifact_is_an_error(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.put("one", [5.0])
    (shelf.root / "store").rename(shelf.root / "gone")
    with pytest.raises(StoreError, match="artifact alpaca-suite.* is not in"):
        report(["--paper", str(shelf.root / "evaluations")])
    with pytest.raises(StoreError, match="nowhere is not a directory"):
        report(["--paper", str(shelf.root / "nowhere")])
