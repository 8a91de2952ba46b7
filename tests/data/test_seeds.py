"""Seeds from the lab and from files: which rows are kept, which are dropped with a reason, what is refused."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from assets import asset
from fakes import ScriptedChat

from tapir_exp.config import Config, DecontaminationConfig, SeedsConfig, SeedSource
from tapir_exp.core.errors import SeedError, SourceError
from tapir_exp.core.records import DroppedRow, Example, Origin, example_id
from tapir_exp.core.store import DROPPED, ROWS, Artifact, Store, read_rows
from tapir_exp.data.decontamination import load_benchmarks
from tapir_exp.data.seeds import gather_seeds, load_seeds, source_digest
from tapir_exp.lab.oracle import LAB_VERSION
from tapir_exp.lab.world import is_held_out, natural_problems, recognise
from tapir_exp.llm.call_store import CallStore
from tapir_exp.pipeline import data
from tapir_exp.pipeline.workspace import Workspace

UNCHECKED = DecontaminationConfig(benchmarks=[])
LONG = "write a short poem about the rain in spring for a child of seven years"


class Gathered:
    """The seeds, dropped rows and files that `gather_seeds` wrote."""

    def __init__(self, config: SeedsConfig, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.figures = gather_seeds(config, load_benchmarks(config.decontamination), directory).figures
        self.examples = read_rows(directory / ROWS, Example)
        self.dropped = read_rows(directory / DROPPED, DroppedRow)
        self.files = sorted(path.name for path in directory.iterdir())

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(seed.instruction, seed.response) for seed in self.examples]

    @property
    def reasons(self) -> list[tuple[int, str, str]]:
        return [(one.row, str(one.reason), one.detail) for one in self.dropped]


def row(instruction: Any, output: Any = "done", **more: Any) -> dict[str, Any]:
    return {"instruction": instruction, "output": output, **more}


def rows(count: int) -> list[dict[str, Any]]:
    return [row(f"task {n}") for n in range(count)]


def file_config(path: Path, **settings: Any) -> SeedsConfig:
    return SeedsConfig(**{"source": SeedSource.file, "path": str(path), "decontamination": UNCHECKED, **settings})


def from_file(tmp_path: Path, content: Sequence[dict[str, Any] | str], **settings: Any) -> Gathered:
    path = tmp_path / "seeds.jsonl"
    lines = (one if isinstance(one, str) else json.dumps(one) for one in content)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Gathered(file_config(path, **settings), tmp_path / "seeds")


def test_seed_is_an_example_of_round_0(tmp_path: Path) -> None:
    (seed,) = from_file(tmp_path, [row(" a ", " b ", input=" c ")]).examples
    assert (seed.instruction, seed.response) == ("a\n\nc", "b")
    assert seed.id == example_id("a\n\nc")
    assert (seed.origin, seed.parents, seed.round) == (Origin.SEED, (), 0)


def test_repeated_instruction_keeps_first_response(tmp_path: Path) -> None:
    seeds = from_file(tmp_path, [row("a", "first"), row("b"), row(" a ", "second"), row("a", "third", input="i")])
    assert seeds.pairs == [("a", "first"), ("b", "done"), ("a\n\ni", "third")]
    assert seeds.reasons == [(3, "repeated", "the instruction of row 1")]


def test_bad_row_is_dropped_with_number_and_reason(tmp_path: Path) -> None:
    seeds = from_file(
        tmp_path, [*rows(30), '{"instruction": ', row("a", ""), "[]", *rows(40)[30:]], max_failure_rate=0.1
    )
    assert len(seeds.examples) == 40
    assert seeds.reasons == [
        (31, "unusable", "not valid JSON: Expecting value at column 16"),
        (32, "unusable", "no response"),
        (33, "unusable", "not a JSON object: []"),
    ]
    assert {one.source for one in seeds.dropped} == {str(tmp_path / "seeds.jsonl")}
    assert (seeds.figures["read"], seeds.figures["rows"], seeds.figures["unusable"]) == (43, 40, 3)


def test_failure_summary_counts_kinds_with_first_row(tmp_path: Path) -> None:
    """Bad bytes differ in their positions, so they are counted as one kind, with the first row as an example."""
    path = tmp_path / "seeds.jsonl"
    lines = [json.dumps(row("a")), *(json.dumps(row(f"café {n}"), ensure_ascii=False) for n in range(3))]
    path.write_bytes("\n".join(lines).encode("cp1252"))
    first = r"\(first: row 2, byte 0xe9 at position \d+ of the file; .*1252.*\)"
    message = rf"3 of 4 rows .*\n +3  instruction is not valid UTF-8 {first}\n"
    with pytest.raises(SeedError, match=message):
        Gathered(file_config(path), tmp_path / "seeds")


@pytest.mark.parametrize(
    ("text", "column"),
    [(json.dumps(row("a\ud83d")), "instruction"), ('{"instruction": "b", "output": "\\ud83d"}', "output")],
)
def test_lone_surrogate_is_dropped_with_reason(tmp_path: Path, text: str, column: str) -> None:
    seeds = from_file(tmp_path, [*rows(3), text], max_failure_rate=0.5)
    reason = rf"{column} is text that UTF-8 cannot hold: the lone surrogate \ud83d"
    assert seeds.reasons == [(4, "unusable", reason)]
    assert len(seeds.examples) == 3


@pytest.mark.parametrize(
    "value",
    ["1" * 30, "1" * 5000, "[" * 5000 + "]" * 5000, '{"a": ' * 5000 + "1" + "}" * 5000, '"\\ud83d"', "NaN", "1e999"],
)
def test_column_that_nobody_asks_for_may_hold_anything(tmp_path: Path, value: str) -> None:
    text = f'{{"id": {value}, "instruction": "a", "output": "b", "input": NaN}}'
    assert from_file(tmp_path, [text]).pairs == [("a", "b")]
    path = tmp_path / "list.json"
    path.write_text(f"[{text}]")
    assert Gathered(file_config(path), tmp_path / "list").pairs == [("a", "b")]


@pytest.mark.parametrize(("good", "allowed"), [(19, 0.05), (1, 0.5), (3, 0.25)])
def test_bad_rows_up_to_max_failure_rate_are_allowed(tmp_path: Path, good: int, allowed: float) -> None:
    assert len(from_file(tmp_path, [*rows(good), row("", "x")], max_failure_rate=allowed).examples) == good


@pytest.mark.parametrize(("good", "allowed"), [(18, 0.05), (0, 0.05), (0, 1.0), (1, 0.0)])
def test_bad_rows_above_max_failure_rate_fail(tmp_path: Path, good: int, allowed: float) -> None:
    with pytest.raises(SeedError, match=rf"1 of {good + 1} rows of .*seeds\.jsonl are unusable(.|\n)*1  no instr"):
        from_file(tmp_path, [*rows(good), row("", "x")], max_failure_rate=allowed)


def test_near_duplicate_is_dropped_with_its_row(tmp_path: Path) -> None:
    content = [row("task 0"), row(LONG), row(LONG + " now"), row(LONG + " now")]
    seeds = from_file(tmp_path, content)
    assert [pair[0] for pair in seeds.pairs] == ["task 0", LONG]
    assert seeds.reasons == [
        (4, "repeated", "the instruction of row 3"),
        (3, "near duplicate", "similarity 0.93 with row 2"),
    ]
    assert len(from_file(tmp_path, content, dedup_threshold=0.95).examples) == 3
    assert len(from_file(tmp_path, content, dedup_threshold=None).examples) == 3


def test_planted_leak_is_dropped_with_shared_words(tmp_path: Path) -> None:
    question = "Which of the nine planets that I drew on this card is the largest one?"
    ws = tmp_path / "ws.jsonl"
    ws.write_text(json.dumps({"instruction": question}))
    content = [*rows(2), row("Answer this.", input=question), row("Ask me something.", question)]
    seeds = from_file(tmp_path, content, decontamination=DecontaminationConfig(benchmarks=[str(ws)]))
    assert [pair[0] for pair in seeds.pairs] == ["task 0", "task 1"]
    detail = "100% of ws.jsonl, row 1: which of the nine planets that i drew on this card is the largest one"
    assert seeds.reasons == [(3, "contaminated", detail), (4, "contaminated", detail)]
    assert seeds.figures["contaminated"] == 2


def test_contaminated_is_none_if_nothing_is_checked(tmp_path: Path) -> None:
    assert from_file(tmp_path, rows(2)).figures["contaminated"] is None


def test_size_clean_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    content = [*rows(50), *rows(50)]
    drawn = [from_file(tmp_path, content, size=10, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0].pairs == drawn[1].pairs != drawn[2].pairs
    assert all(len(set(one.pairs)) == 10 for one in drawn)
    assert (drawn[0].figures["undrawn"], drawn[0].figures["repeated"]) == (40, 50)


@pytest.mark.parametrize("size", [None, 5, 9])
def test_size_of_whole_file_keeps_every_row_in_order(tmp_path: Path, size: int | None) -> None:
    assert from_file(tmp_path, rows(5), size=size).pairs == [(f"task {n}", "done") for n in range(5)]


def test_figures_count_every_row_once(tmp_path: Path) -> None:
    figures = from_file(tmp_path, [*rows(30), *rows(5), row(""), row(LONG), row(LONG + " now")], size=9).figures
    assert figures == {
        "rows": 9,
        "read": 38,
        "unusable": 1,
        "repeated": 5,
        "near_duplicates": 1,
        "contaminated": None,
        "undrawn": 22,
    }


def test_load_seeds_gives_the_same_seeds(tmp_path: Path) -> None:
    seeds = from_file(tmp_path, [*rows(9), *rows(3), row(LONG)])
    assert load_seeds(file_config(tmp_path / "seeds.jsonl")) == seeds.examples


def test_source_without_a_clean_row_fails(tmp_path: Path) -> None:
    ws = tmp_path / "ws.jsonl"
    ws.write_text(json.dumps({"question": LONG}))
    guard = DecontaminationConfig(benchmarks=[str(ws)])
    with pytest.raises(SeedError, match=r"No row of .*seeds\.jsonl is left; the reasons are in .*dropped\.jsonl"):
        from_file(tmp_path, [row(LONG)], decontamination=guard)


def test_gather_seeds_leaves_no_temporary_files(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    for name in ("pairs.arrow", DROPPED, ROWS + ".partial"):
        (tmp_path / "seeds" / name).write_text("half of it")
    assert from_file(tmp_path, rows(3)).files == [DROPPED, ROWS]


@pytest.mark.parametrize("path", ["no/such.jsonl", None])
def test_missing_file_fails_with_its_name(tmp_path: Path, path: str | None) -> None:
    config = SeedsConfig(source=SeedSource.file, path=path, decontamination=UNCHECKED)
    for call in (lambda: Gathered(config, tmp_path), lambda: source_digest(config)):
        with pytest.raises(SourceError, match=f"There is no file {path}"):
            call()


def test_lab_seeds_are_natural_problems(tmp_path: Path) -> None:
    config = SeedsConfig(
        source=SeedSource.lab, size=60, seed=3, dedup_threshold=None, decontamination=UNCHECKED, max_failure_rate=0.0
    )
    seeds = Gathered(config, tmp_path)
    assert seeds.pairs == [(problem.instruction, problem.terse) for _, problem in natural_problems(60, 3)]
    assert seeds.reasons == []
    results = [recognise(seed.instruction) for seed in seeds.examples]
    assert not any(result is None or is_held_out(result[1]) for result in results)


def test_hub_source_is_read_by_name_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        calls.append((name, split))
        return datasets.Dataset.from_list([row("a", input="b", text="Below is an instruction ..."), row("c", input="")])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = SeedsConfig(source=SeedSource.hub, path="tatsu-lab/alpaca", decontamination=UNCHECKED)
    assert Gathered(config, tmp_path).pairs == [("a\n\nb", "done"), ("c", "done")]
    assert calls == [("tatsu-lab/alpaca", "train")]


def test_lab_source_needs_a_size(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"set seeds\.size"):
        Gathered(SeedsConfig(source=SeedSource.lab, decontamination=UNCHECKED), tmp_path)


def test_source_digest_follows_file_bytes(tmp_path: Path) -> None:
    path, copy = tmp_path / "seeds.jsonl", tmp_path / "copy.jsonl"
    path.write_bytes(b'{"instruction": "a", "output": "b"}\n')
    copy.write_bytes(path.read_bytes())
    before = source_digest(file_config(path))
    assert before == sha256(path.read_bytes()).hexdigest() == source_digest(file_config(copy, size=3, seed=4))
    path.write_bytes(b'{"instruction": "a", "output": "c"}\n')  # same size, perhaps the same second
    assert source_digest(file_config(path)) != before == source_digest(file_config(copy))


def test_source_digest_of_lab_and_hub() -> None:
    assert source_digest(SeedsConfig(source=SeedSource.lab, size=5)) == LAB_VERSION
    assert source_digest(SeedsConfig(source=SeedSource.hub, path="no/such")) == "hub"


def workspace_of(config: SeedsConfig, tmp_path: Path, call_store: CallStore) -> Workspace:
    unused = ScriptedChat([])
    return Workspace(
        cast(Config, SimpleNamespace(seeds=config, student=SimpleNamespace(model="tiny"))),
        Store(tmp_path / "store"),
        unused,
        unused,
        unused,
        call_store.ledger,
    )


def test_artifact_is_reused_for_the_same_file_bytes(tmp_path: Path, call_store: CallStore) -> None:
    path = tmp_path / "seeds.jsonl"

    def artifact(output: str) -> Artifact:
        path.write_text(json.dumps(row("a", output)))
        return data.load_seeds(workspace_of(file_config(path), tmp_path, call_store))

    first, edited, again = artifact("b"), artifact("c"), artifact("b")
    assert first.key == again.key != edited.key
    assert [one.rows(Example)[0].response for one in (first, edited, again)] == ["b", "c", "b"]
    assert set(first.files) == {ROWS, DROPPED}


def test_unchecked_file_gives_a_warning_but_lab_none(
    tmp_path: Path, call_store: CallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(data, "print_warning", warnings.append)
    (tmp_path / "seeds.jsonl").write_text(json.dumps(row("a")))
    data.load_seeds(workspace_of(file_config(tmp_path / "seeds.jsonl"), tmp_path, call_store))
    assert ["checked for leaks" in text for text in warnings] == [True]
    lab = SeedsConfig(source=SeedSource.lab, size=5, dedup_threshold=None, decontamination=UNCHECKED)
    data.load_seeds(workspace_of(lab, tmp_path, call_store))
    assert len(warnings) == 1


def test_real_alpaca_sample_has_known_figures(tmp_path: Path) -> None:
    files = [str(asset("alpacaeval/eval_set_805.jsonl")), str(asset("mtbench/question.jsonl"))]
    guard = DecontaminationConfig(benchmarks=files)
    seeds = Gathered(file_config(asset("seeds/alpaca_random_9229.json"), decontamination=guard), tmp_path / "seeds")
    assert seeds.figures == {
        "rows": 9219,
        "read": 9229,
        "unusable": 4,
        "repeated": 0,
        "near_duplicates": 2,
        "contaminated": 4,
        "undrawn": 0,
    }
