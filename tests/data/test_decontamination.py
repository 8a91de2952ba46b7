"""Planted leaks are found with their question and the shared words; similar texts are not leaks."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from assets import asset

from tapir_exp.config import DecontaminationConfig
from tapir_exp.config.validate import BENCHMARKS
from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow
from tapir_exp.data import decontamination
from tapir_exp.data.decontamination import HUB, Benchmarks, benchmarks_recipe, load_benchmarks

QUESTION = "Describe an imaginary bicycle tour across the frozen lakes of a distant moon, naming five quiet craters."
SHORT = "Why is the sky not green?"
TINY = "Say hello."


def load(tmp_path: Path, questions: Sequence[object] = (QUESTION, SHORT, TINY), ngram: int = 8) -> Benchmarks:
    path = tmp_path / "ws.jsonl"
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    return load_benchmarks(DecontaminationConfig(benchmarks=[str(path)], ngram_size=ngram))


def leak_of(tmp_path: Path, instruction: str, response: str = "Well.") -> str | None:
    leak = load(tmp_path).find_leak(instruction, response)
    return None if leak is None else str(leak)


@pytest.mark.parametrize(
    ("instruction", "response"),
    [
        (QUESTION, "Well."),
        (QUESTION.upper().replace(",", ""), "Well."),
        (f"Please do this.\n\n{QUESTION}", "Well."),
        ("Which task would you set?", f"I would set: {QUESTION}"),
    ],
)
def test_find_leak_returns_row_and_words(tmp_path: Path, instruction: str, response: str) -> None:
    leak = load(tmp_path).find_leak(instruction, response)
    assert leak is not None
    assert (leak.question.benchmark, leak.question.row_number, leak.overlap) == ("ws.jsonl", 1, 1.0)
    assert leak.shared.startswith("describe an imaginary bicycle tour across the frozen")


def test_find_leak_needs_half_of_a_question(tmp_path: Path) -> None:
    words = QUESTION.split()  # 17
    assert leak_of(tmp_path, " ".join(words[:9])) == (
        "53% of ws.jsonl, row 1: describe an imaginary bicycle tour across the frozen lakes"
    )
    assert leak_of(tmp_path, " ".join(words[:8])) is None  # 8 of 17
    assert leak_of(tmp_path, " ".join(words[:7]) + " the " + " ".join(words[8:14])) is None


def test_find_leak_adds_up_separate_runs(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(40)]
    benchmark = load(tmp_path, [" ".join(words)])
    leak = benchmark.find_leak(" ".join([*words[30:], "x", *words[2:14]]), "")
    assert leak is not None
    assert leak.overlap == (10 + 12) / 40
    assert leak.shared == " ".join(words[2:14])
    assert benchmark.find_leak(" ".join(words[2:21]), "") is None  # 19 of 40


@pytest.mark.parametrize(
    ("instruction", "response", "row"),
    [
        ("why is the sky NOT green", "", 2),
        ("Answer briefly: why is the sky not green?", "", 2),
        ("Ask me something.", SHORT, None),
        ("Why is the sky green?", "", None),
        ("say hello", "", 3),
        ("Please say hello.", "", None),
    ],
)
def test_short_question_leaks_by_instruction_alone(
    tmp_path: Path, instruction: str, response: str, row: int | None
) -> None:
    leak = load(tmp_path).find_leak(instruction, response)
    assert (leak and leak.question.row_number) == row


def test_find_leak_returns_the_largest_overlap(tmp_path: Path) -> None:
    shared = "one two three four five six seven eight"
    benchmark = load(tmp_path, [f"{shared} nine ten", shared, f"{shared} nine"])
    leak = benchmark.find_leak(f"zero {shared}", "")
    assert leak is not None
    assert (leak.question.row_number, leak.overlap) == (2, 1.0)


@pytest.mark.parametrize(
    "row",
    [
        {"turns": ["First turn?", QUESTION]},
        {"prompt": [QUESTION, ""]},
        {"instruction": QUESTION, "output": "no question"},
        {"question": QUESTION},
    ],
)
def test_load_benchmarks_reads_every_format(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "ws.json"
    path.write_text(json.dumps([row]))
    benchmarks = load_benchmarks(DecontaminationConfig(benchmarks=[str(path)]))
    assert len(benchmarks) == (2 if "turns" in row else 1)
    assert benchmarks.find_leak(QUESTION, "") is not None


@pytest.mark.parametrize("row", ['{"text": "what?"}', '{"question": 3}', '{"turns": [1]}', "{"])
def test_load_benchmarks_without_question_fails(tmp_path: Path, row: str) -> None:
    path = tmp_path / "ws.jsonl"
    path.write_text('{"question": "What is it?"}\n' + row)
    with pytest.raises(SourceError, match=r"Row 2 of the benchmark .*ws\.jsonl"):
        load_benchmarks(DecontaminationConfig(benchmarks=[str(path)]))


def test_find_leak_without_benchmarks_returns_none() -> None:
    benchmarks = load_benchmarks(DecontaminationConfig(benchmarks=[]))
    assert len(benchmarks) == 0
    assert benchmarks.find_leak(QUESTION, "") is None


def test_unavailable_benchmark_fails_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"Decontamination needs mt_bench.*benchmarks=\[\]"):
        load_benchmarks(DecontaminationConfig(benchmarks=["mt_bench"]))


def test_known_benchmarks_are_read_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def read_hub(*arguments: object) -> list[RawRow]:
        calls.append(arguments)
        return [RawRow(1, {"prompt": [QUESTION]})]

    monkeypatch.setattr(decontamination, "read_hub", read_hub)
    assert len(load_benchmarks(DecontaminationConfig())) == 2
    assert calls == [
        ("tatsu-lab/alpaca_eval", "train", "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json"),
        ("HuggingFaceH4/mt_bench_prompts", "train", None),
    ]


def test_configuration_lists_the_same_benchmarks() -> None:
    assert tuple(HUB) == BENCHMARKS


def test_benchmarks_recipe_follows_file_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ws.jsonl"
    config = DecontaminationConfig(benchmarks=["alpaca_eval", str(path)])
    recipes = []
    for text in ("a", "b", "a"):
        path.write_text(text)
        recipes.append(benchmarks_recipe(config))
    assert recipes[0] == recipes[2] != recipes[1]
    assert recipes[0]["benchmarks"][0] == "alpaca_eval"


def test_every_real_question_is_a_leak() -> None:
    files = [asset("alpacaeval/eval_set_805.jsonl"), asset("mtbench/question.jsonl")]
    benchmarks = load_benchmarks(DecontaminationConfig(benchmarks=[str(path) for path in files]))
    assert len(benchmarks) == 805 + 2 * 80
    for line in files[0].read_text().splitlines():
        assert benchmarks.find_leak(json.loads(line)["instruction"], "") is not None
    for line in files[1].read_text().splitlines():
        for turn in json.loads(line)["turns"]:
            assert benchmarks.find_leak(turn, "") is not None
