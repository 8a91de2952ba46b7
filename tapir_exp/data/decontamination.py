"""Decontamination: what shares too long runs of words with a benchmark's question never reaches the student."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapir_exp.config import DecontaminationConfig
from tapir_exp.core.errors import SourceError
from tapir_exp.core.text import split_words
from tapir_exp.data.readers import RawRow, read_file, read_hub, sha256_source

Gram = tuple[str, ...]
SHORTEST_RUN = 5
"""Words of the shortest question that is looked for within an instruction: shorter ones are everyday phrases."""


@dataclass(frozen=True)
class HubBenchmark:
    """Where a benchmark's questions are on the hub.

    files: address of the data where the dataset itself is a script, which `datasets` runs no more.
    """

    name: str
    files: str | None = None


HUB = {
    "alpaca_eval": HubBenchmark("tatsu-lab/alpaca_eval", "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json"),
    "mt_bench": HubBenchmark("HuggingFaceH4/mt_bench_prompts"),
}
"""The benchmarks known by name; `validate` lists the same names."""
FIELDS = ("turns", "prompt", "question", "instruction")
"""Where the rows of a benchmark have their question, or its turns."""


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A turn of a benchmark's question, by the number of its row, from 1."""

    benchmark: str
    row: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """A question that a text gives away: the share of its words in shared runs, and the longest run."""

    question: BenchmarkQuestion
    overlap: float
    shared: str

    def __str__(self) -> str:
        """The leak in words."""
        where = f"{self.question.benchmark}, row {self.question.row}"
        return f"{self.overlap:.0%} of {where}: {self.shared}"


class Benchmarks:
    """The questions of the benchmarks, indexed by their n-grams.

    A text leaks a question where runs of `config.ngram` words and more that both have cover `config.overlap` of the
    question. A question of fewer words leaks where an instruction holds all of it in a row, and one of fewer than
    five where an instruction consists of it.
    """

    def __init__(self, questions: Sequence[BenchmarkQuestion], config: DecontaminationConfig) -> None:
        self._questions = questions
        self._overlap = config.overlap_threshold
        self._ngram = config.ngram_size
        self._whole: dict[Gram, int] = {}
        self._grams: defaultdict[int, defaultdict[Gram, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for number, question in enumerate(questions):
            self._whole.setdefault(question.words, number)
            size = min(config.ngram_size, len(question.words))
            if size >= min(SHORTEST_RUN, config.ngram_size):
                for start, gram in enumerate(_grams_of(question.words, size)):
                    self._grams[size][gram].append((number, start))

    def __len__(self) -> int:
        """How many questions, each turn for itself."""
        return len(self._questions)

    def find_leak(self, instruction: str, response: str) -> Leak | None:
        """The question that a pair gives away most of, if any."""
        if not self._questions:
            return None
        asked = split_words(instruction)
        if (number := self._whole.get(tuple(asked))) is not None:
            return self._leak(number, set(range(len(asked))))
        words = [*asked, *split_words(response)]
        covered: defaultdict[int, set[int]] = defaultdict(set)
        for size, index in self._grams.items():
            for gram in index.keys() & _grams_of(words if size == self._ngram else asked, size):
                for number, start in index[gram]:
                    covered[number].update(range(start, start + size))
        leaks = (self._leak(number, places) for number, places in sorted(covered.items()))
        return max((leak for leak in leaks if leak.overlap >= self._overlap), key=_overlap_of, default=None)

    def _leak(self, number: int, places: set[int]) -> Leak:
        question = self._questions[number]
        shared = " ".join(question.words[place] for place in max(_runs(places), key=len))
        return Leak(question, len(places) / len(question.words), shared)


def load_benchmarks(config: DecontaminationConfig) -> Benchmarks:
    """The configured benchmarks. Raises SourceError where one cannot be had: nothing goes unchecked in silence."""
    questions = [question for name in config.benchmarks for question in _questions_of(name)]
    return Benchmarks(questions, config)


def benchmarks_recipe(config: DecontaminationConfig) -> dict[str, Any]:
    """What tells two decontaminations apart: settings, and the bytes of files; a hub benchmark has a name alone."""
    files = {name: sha256_source(Path(name)) for name in config.benchmarks if name not in HUB}
    return {**asdict(config), "benchmarks": [files.get(name, name) for name in config.benchmarks]}


def _questions_of(name: str) -> Iterator[BenchmarkQuestion]:
    for row in _rows_of(name):
        if row.fields is None:
            raise SourceError(f"Row {row.number} of the benchmark {name} cannot be read: {row.failure}.")
        for text in _turns_of(row.fields, name, row.number):
            if words := tuple(split_words(text)):
                yield BenchmarkQuestion(Path(name).name, row.number, words)


def _rows_of(name: str) -> Iterator[RawRow]:
    if name not in HUB:
        return read_file(Path(name))
    try:
        return read_hub(HUB[name].name, "train", HUB[name].files)
    except SourceError as error:
        raise SourceError(
            f"{error}\nNothing can be checked against {name}. Name a file of its questions in its place in "
            "seeds.decontamination.benchmarks, or run unchecked with seeds.decontamination.benchmarks=[]."
        ) from error


def _turns_of(fields: Mapping[str, Any], name: str, number: int) -> Sequence[str]:
    found = next((fields[field] for field in FIELDS if fields.get(field)), None)
    turns = [found] if isinstance(found, str) else found
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise SourceError(f"Row {number} of the benchmark {name} has no question: none of {', '.join(FIELDS)} is text.")
    return turns


def _grams_of(words: Sequence[str], size: int) -> Iterator[Gram]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def _overlap_of(leak: Leak) -> float:
    return leak.overlap


def _runs(places: set[int]) -> list[list[int]]:
    """Places that follow each other, together."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
