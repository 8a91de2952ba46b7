"""Seeds from the lab and from Alpaca files: what is taken, what is left out, and what is refused."""

import json
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes import ScriptedChat

from tapir_exp import stages
from tapir_exp.bench import Bench
from tapir_exp.config import Config, SeedsConfig, SeedSource
from tapir_exp.errors import SeedError
from tapir_exp.lab.oracle import lab_digest
from tapir_exp.lab.world import is_held_out, natural_problems, recognise
from tapir_exp.llm.books import Books
from tapir_exp.records import Example, Origin, example_id
from tapir_exp.seeds import Seeds, load_seeds, source_digest
from tapir_exp.store import Artifact, Store


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets are cached within the test and nothing is asked of the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def row(instruction: Any, output: Any = "done", **more: Any) -> dict[str, Any]:
    return {"instruction": instruction, "output": output, **more}


def rows(count: int) -> list[dict[str, Any]]:
    return [row(f"task {n}") for n in range(count)]


def from_file(tmp_path: Path, content: list[dict[str, Any]] | str, **settings: Any) -> Seeds:
    text = content if isinstance(content, str) else "".join(json.dumps(one) + "\n" for one in content)
    path = tmp_path / "seeds.jsonl"
    path.write_text(text, encoding="utf-8")
    return load_seeds(SeedsConfig(source=SeedSource.file, path=str(path), **settings))


def pairs(seeds: Seeds) -> list[tuple[str, str]]:
    return [(seed.instruction, seed.response) for seed in seeds.examples]


def test_an_input_follows_the_instruction(tmp_path: Path) -> None:
    content = [
        row("Sort these.", "1 2 3", input="3 1 2"),
        row("Tell a joke.", "No.", input=""),
        row("Sing.", "La.", input=None),
        row("Wait.", "Done.", input=" \n"),
    ]
    assert pairs(from_file(tmp_path, content)) == [
        ("Sort these.\n\n3 1 2", "1 2 3"),
        ("Tell a joke.", "No."),
        ("Sing.", "La."),
        ("Wait.", "Done."),
    ]


def test_a_json_list_is_read_as_json_lines_are(tmp_path: Path) -> None:
    content = [row("Grüße 你好", "ja"), row("b", "c", input="d")]
    assert pairs(from_file(tmp_path, json.dumps(content))) == [("Grüße 你好", "ja"), ("b\n\nd", "c")]


def test_a_seed_is_an_example_of_round_0_with_the_id_of_its_instruction(tmp_path: Path) -> None:
    (seed,) = from_file(tmp_path, [row(" a ", " b ", input=" c ")]).examples
    assert (seed.instruction, seed.response) == ("a\n\nc", "b")
    assert seed.id == example_id("a\n\nc")
    assert (seed.origin, seed.parents, seed.round) == (Origin.SEED, (), 0)


def test_a_repeated_instruction_is_taken_once_with_its_first_response(tmp_path: Path) -> None:
    seeds = from_file(tmp_path, [row("a", "first"), row("b"), row(" a ", "second"), row("a", "third", input="i")])
    assert pairs(seeds) == [("a", "first"), ("b", "done"), ("a\n\ni", "third")]
    assert (seeds.repeated, seeds.unusable) == (1, 0)


@pytest.mark.parametrize(
    "bad",
    [row("", "x"), row("a", ""), row(None, "x"), row("a", None), row(" ", "x"), row("", "x", input="only this")],
)
def test_a_few_unusable_rows_are_left_out_and_counted(tmp_path: Path, bad: dict[str, Any]) -> None:
    seeds = from_file(tmp_path, [*rows(19), bad])  # 5 %
    assert len(seeds.examples) == 19
    assert (seeds.repeated, seeds.unusable) == (0, 1)


@pytest.mark.parametrize("good", [18, 1, 0])
def test_too_many_unusable_rows_are_refused(tmp_path: Path, good: int) -> None:
    with pytest.raises(SeedError, match=f"1 of {good + 1} seed rows have no instruction or no response"):
        from_file(tmp_path, [*rows(good), row("", "x")])


@pytest.mark.parametrize("output", [4, ["a", "b"], {"text": "a"}])
def test_a_response_that_is_no_text_is_none(tmp_path: Path, output: Any) -> None:
    with pytest.raises(SeedError, match="2 of 2 seed rows"):
        from_file(tmp_path, [row("a", output), row("b", output)])


@pytest.mark.parametrize(
    ("content", "lacking"),
    [([{"prompt": "a", "output": "b"}], "['instruction']"), ([{"a": 1}], "['instruction', 'output']")],
)
def test_rows_of_another_format_are_refused(tmp_path: Path, content: list[dict[str, Any]], lacking: str) -> None:
    with pytest.raises(SeedError) as caught:
        from_file(tmp_path, content)
    assert str(caught.value).startswith(f"Row 1 of the seeds lacks {lacking}")


@pytest.mark.parametrize("content", ['{"instruction": "a", ', "", '"hello"'], ids=["cut", "empty", "no rows"])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: str) -> None:
    with pytest.raises(SeedError, match=r"seeds\.jsonl cannot be read"):
        from_file(tmp_path, content)


@pytest.mark.parametrize("path", ["no/such.jsonl", "", None])
def test_a_file_that_is_not_there_is_refused_by_name(path: str | None) -> None:
    with pytest.raises(SeedError, match=f"There is no seed file {path}; set seeds.path"):
        load_seeds(SeedsConfig(source=SeedSource.file, path=path))


def test_a_hub_dataset_that_cannot_be_had_is_refused_by_name() -> None:
    with pytest.raises(SeedError, match=r"The seeds no/such cannot be read.*[Oo]ffline"):
        load_seeds(SeedsConfig(source=SeedSource.hub, path="no/such"))


def test_so_many_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    drawn = [pairs(from_file(tmp_path, rows(50), size=10, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(one)) == 10 for one in drawn)
    assert set(drawn[0]) != set(drawn[2])


@pytest.mark.parametrize("size", [None, 5, 9])
def test_a_size_that_covers_the_file_takes_every_row_in_its_order(tmp_path: Path, size: int | None) -> None:
    assert pairs(from_file(tmp_path, rows(5), size=size)) == [(f"task {n}", "done") for n in range(5)]


def test_the_labs_seeds_are_its_natural_problems_with_terse_responses() -> None:
    seeds = load_seeds(SeedsConfig(source=SeedSource.lab, size=60, seed=3))
    assert pairs(seeds) == [(problem.instruction, problem.terse) for _, problem in natural_problems(60, 3)]
    assert (seeds.repeated, seeds.unusable) == (0, 0)
    found = [recognise(seed.instruction) for seed in seeds.examples]
    assert not any(known is None or is_held_out(known[1]) for known in found)


def test_the_labs_seeds_need_a_size() -> None:
    with pytest.raises(SeedError, match=r"set seeds\.size"):
        load_seeds(SeedsConfig(source=SeedSource.lab))


def digest_of(path: Path, **settings: Any) -> str:
    return source_digest(SeedsConfig(source=SeedSource.file, path=str(path), **settings))


def test_an_edited_file_is_another_source(tmp_path: Path) -> None:
    path, copy = tmp_path / "seeds.jsonl", tmp_path / "copy.jsonl"
    path.write_bytes(b'{"instruction": "a", "output": "b"}\n')
    copy.write_bytes(path.read_bytes())
    before = digest_of(path)
    assert before == sha256(path.read_bytes()).hexdigest() == digest_of(copy, size=3, seed=4)
    path.write_bytes(b'{"instruction": "a", "output": "c"}\n')  # as long, and perhaps within the same second
    assert digest_of(path) != before == digest_of(copy)


@pytest.mark.parametrize("path", ["no/such.jsonl", "", None])
def test_the_source_of_a_file_that_is_not_there_is_refused_by_name(path: str | None) -> None:
    with pytest.raises(SeedError, match=f"There is no seed file {path}; set seeds.path"):
        source_digest(SeedsConfig(source=SeedSource.file, path=path))


def test_the_labs_source_is_its_code_and_the_hubs_its_name_alone() -> None:
    assert source_digest(SeedsConfig(source=SeedSource.lab, size=5)) == lab_digest()
    assert source_digest(SeedsConfig(source=SeedSource.hub, path="no/such")) == "hub"


def test_the_artifact_of_an_edited_file_is_another_and_comes_back_with_the_old_bytes(
    tmp_path: Path, books: Books
) -> None:
    path = tmp_path / "seeds.jsonl"
    config = cast(Config, SimpleNamespace(seeds=SeedsConfig(source=SeedSource.file, path=str(path))))
    nobody = ScriptedChat([])

    def artifact(output: str) -> Artifact:
        path.write_text(json.dumps(row("a", output)))
        return stages.seeds(Bench(config, Store(tmp_path / "store"), nobody, nobody, nobody, books.ledger))

    first, edited, again = artifact("b"), artifact("c"), artifact("b")
    assert first.key == again.key != edited.key
    assert [one.rows(Example)[0].response for one in (first, edited, again)] == ["b", "c", "b"]
