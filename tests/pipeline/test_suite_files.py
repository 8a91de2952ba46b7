"""What a suite lacks is known before anything is generated or paid for."""

from dataclasses import replace
from pathlib import Path

import pytest
from standins import write_alpaca, write_mt_bench

from tapir_exp.config import AlpacaEvalConfig, EvalsConfig, IFEvalConfig, MTBenchConfig, Suite
from tapir_exp.evals import ifeval
from tapir_exp.pipeline.suite_files import find_missing, hub_data

BARE = EvalsConfig()


def test_complete_suites_lack_nothing(tmp_path: Path) -> None:
    files = EvalsConfig(
        alpaca_eval=AlpacaEvalConfig(**write_alpaca(tmp_path)), mt_bench=MTBenchConfig(**write_mt_bench(tmp_path))
    )
    suites = (Suite.alpaca_eval, Suite.mt_bench, Suite.lab)
    assert [find_missing(files, suite) for suite in suites] == ["", "", ""]
    assert list(hub_data(files, suites)) == []


@pytest.mark.parametrize(
    ("suite", "words"),
    [(Suite.alpaca_eval, "evals.alpaca_eval.prompt"), (Suite.mt_bench, "MT-Bench's")],
    ids=["alpaca_eval", "mt_bench"],
)
def test_missing_file_is_named_with_its_setting(suite: Suite, words: str, tmp_path: Path) -> None:
    files = replace(
        BARE,
        alpaca_eval=replace(BARE.alpaca_eval, prompt=str(tmp_path / "none")),
        mt_bench=replace(BARE.mt_bench, judge_prompts=None),
    )
    assert words in find_missing(files, suite)


def test_ifeval_lacks_its_package_or_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_exp.pipeline.suite_files.find_spec", lambda name: None)
    assert "pip install 'tapir-exp[ifeval]'" in find_missing(BARE, Suite.ifeval)


def test_questions_of_the_hub_are_named() -> None:
    assert list(hub_data(BARE, list(Suite))) == [("alpaca_eval", "tatsu-lab/alpaca_eval"), ("ifeval", ifeval.HUB)]
    assert list(hub_data(replace(BARE, ifeval=IFEvalConfig(questions="q.jsonl")), [Suite.ifeval])) == []
