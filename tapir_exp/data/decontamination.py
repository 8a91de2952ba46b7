"""Decontamination: drop rows that share long runs of words with a question of a benchmark."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapir_exp.config import DecontaminationConfig
from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow
from tapir_exp.core.text import split_words
from tapir_exp.data.readers import read_file, read_hub, sha256_source

Gram = tuple[str, ...]
SHORTEST_RUN = 5
"""Words of the shortest question that is searched for within an instruction; shorter ones are everyday phrases."""


@dataclass(frozen=True)
class HubBenchmark:
    """The questions of a benchmark on the hub.

    Attributes:
        name: name of the dataset.
        files: address of the data if the dataset itself is a script, which `datasets` no longer runs.
    """

    name: str
    files: str | None = None


HUB = {
    "alpaca_eval": HubBenchmark("tatsu-lab/alpaca_eval", "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json"),
    "mt_bench": HubBenchmark("HuggingFaceH4/mt_bench_prompts"),
}
"""The benchmarks known by name; `validate` lists the same names."""
FIELDS = ("turns", "prompt", "question", "instruction")
"""Columns in which the rows of a benchmark have their question, or its turns; the first one that is set counts."""


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One turn of a benchmark's question.

    Attributes:
        benchmark: name of the benchmark or of its file.
        row_number: position of its row in the benchmark, from 1.
        words: the words of the turn, in lower case.
    """

    benchmark: str
    row_number: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """A question that a text reveals.

    Attributes:
        question: the question.
        overlap: share of its words that lie in shared runs, 0 to 1.
        shared: the longest shared run.
    """

    question: BenchmarkQuestion
    overlap: float
    shared: str

    def __str__(self) -> str:
        """Return the leak as text: overlap, row and shared run."""
        return f"{self.overlap:.0%} of {self.question.benchmark}, row {self.question.row_number}: {self.shared}"


class Benchmarks:
    """The questions of the benchmarks, indexed by their n-grams.

    A text leaks a question if shared runs of at least `config.ngram_size` words cover `config.overlap_threshold` of
    the question. Shorter questions have stricter rules. One with fewer words than an n-gram leaks if an instruction
    contains all of it in a row. One with fewer than five words leaks only if it is the whole instruction.

    Args:
        questions: the questions, each turn separately.
        config: the size of the n-grams and the threshold.
    """

    def __init__(self, questions: Sequence[BenchmarkQuestion], config: DecontaminationConfig) -> None:
        self._questions = questions
        self._overlap = config.overlap_threshold
        self._ngram = config.ngram_size
        self._whole: dict[Gram, int] = {}
        self._grams: defaultdict[int, defaultdict[Gram, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        # Each n-gram maps to all its occurrences: which question, and from which word on.
        for number, question in enumerate(questions):
            self._whole.setdefault(question.words, number)
            size = min(config.ngram_size, len(question.words))
            if size >= min(SHORTEST_RUN, config.ngram_size):
                for start, gram in enumerate(_ngrams(question.words, size)):
                    self._grams[size][gram].append((number, start))

    def __len__(self) -> int:
        """Return the number of questions, each turn counted separately."""
        return len(self._questions)

    def find_leak(self, instruction: str, response: str) -> Leak | None:
        """Return the question with the largest overlap with a pair; None if no overlap reaches the threshold."""
        if not self._questions:
            return None
        prompt = split_words(instruction)
        # An instruction that is a question, of any length, leaks it whole.
        if (number := self._whole.get(tuple(prompt))) is not None:
            return self._leak(number, set(range(len(prompt))))
        words = [*prompt, *split_words(response)]
        covered: defaultdict[int, set[int]] = defaultdict(set)
        for size, index in self._grams.items():
            # Questions shorter than an n-gram are searched for in the instruction alone: in a response, so few words
            # in a row are no evidence.
            for gram in index.keys() & _ngrams(words if size == self._ngram else prompt, size):
                for number, start in index[gram]:
                    covered[number].update(range(start, start + size))
        leaks = (self._leak(number, indices) for number, indices in sorted(covered.items()))
        return max((leak for leak in leaks if leak.overlap >= self._overlap), key=_overlap_of, default=None)

    def _leak(self, number: int, indices: set[int]) -> Leak:
        question = self._questions[number]
        shared = " ".join(question.words[index] for index in max(_runs(indices), key=len))
        return Leak(question, len(indices) / len(question.words), shared)


def load_benchmarks(config: DecontaminationConfig) -> Benchmarks:
    """Load the questions of the configured benchmarks.

    Raises:
        SourceError: a benchmark cannot be loaded. The run stops, since nothing may go unchecked without a notice.
    """
    questions = [question for name in config.benchmarks for question in _load_questions(name)]
    return Benchmarks(questions, config)


def benchmarks_recipe(config: DecontaminationConfig) -> dict[str, Any]:
    """Return what identifies a decontamination: the settings, digests of files, and names of hub benchmarks."""
    digests = {name: sha256_source(Path(name)) for name in config.benchmarks if name not in HUB}
    return {**asdict(config), "benchmarks": [digests.get(name, name) for name in config.benchmarks]}


def _load_questions(name: str) -> Iterator[BenchmarkQuestion]:
    for row in _read_benchmark(name):
        if row.fields is None:
            raise SourceError(f"Row {row.number} of the benchmark {name} cannot be read: {row.failure}.")
        for text in _turns_of(row.fields, name, row.number):
            if words := tuple(split_words(text)):
                yield BenchmarkQuestion(Path(name).name, row.number, words)


def _read_benchmark(name: str) -> Iterator[RawRow]:
    if name not in HUB:
        return read_file(Path(name))
    try:
        return read_hub(HUB[name].name, "train", HUB[name].files)
    except SourceError as error:
        raise SourceError(
            f"{error}\nDecontamination needs {name}. Replace it in seeds.decontamination.benchmarks by a file of its "
            "questions, or disable the check with seeds.decontamination.benchmarks=[]."
        ) from error


def _turns_of(fields: Mapping[str, Any], name: str, row_number: int) -> Sequence[str]:
    value = next((fields[field] for field in FIELDS if fields.get(field)), None)
    turns = [value] if isinstance(value, str) else value
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise SourceError(
            f"Row {row_number} of the benchmark {name} has no question: expected text, or a list of texts, in one of "
            f"{', '.join(FIELDS)}."
        )
    return turns


def _ngrams(words: Sequence[str], size: int) -> Iterator[Gram]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def _overlap_of(leak: Leak) -> float:
    return leak.overlap


def _runs(indices: set[int]) -> list[list[int]]:
    """Group indices that follow each other."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
