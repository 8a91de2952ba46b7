"""Every stage as an artifact: what it is made from, which is its key, and how it is made."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tapir_exp import expansion, teacher
from tapir_exp.bench import Bench, Product, generation_recipe, role_recipe
from tapir_exp.config import BudgetConfig, LabStudentConfig, Method, SeedSource, StudentConfig
from tapir_exp.console import say_warning
from tapir_exp.decontamination import benchmarks_recipe, load_benchmarks
from tapir_exp.errors import TapirError
from tapir_exp.evals.lab import run_benchmark
from tapir_exp.judge.hearing import Hear, Listen, unheard
from tapir_exp.judge.judging import rate_complexity
from tapir_exp.lab.oracle import lab_digest
from tapir_exp.lab.world import even_problems
from tapir_exp.local.weights import find_weights, is_gguf
from tapir_exp.novelty import Novelty
from tapir_exp.pool import Pool
from tapir_exp.prompts import load_prompt, style_of
from tapir_exp.provenance import Ancestor, Data, Place, Provenance, kept_figures, settings_of, write_provenance
from tapir_exp.records import (
    Answer,
    Example,
    Origin,
    Part,
    TrainingExample,
)
from tapir_exp.schedule import Candidate, RoundPlan
from tapir_exp.seeds.gather import gather_seeds, source_digest
from tapir_exp.store import ROWS, Artifact, recipe_key
from tapir_exp.taxonomy import TaskType

LAB_STUDENT = "lab"
CORPUS_PER_CELL = 100
"""Problems of each family and level on which the base student's tokenizer is trained."""


def seeds(bench: Bench) -> Artifact:
    """D: the seed instructions with the responses that their dataset has. Rows: Example."""
    config = bench.config.seeds
    if not config.decontamination.benchmarks and config.source is not SeedSource.lab:
        say_warning("Neither seeds nor expansions are checked for leaks: seeds.decontamination.benchmarks is empty.")

    def make(directory: Path) -> Mapping[str, Any]:
        return gather_seeds(config, load_benchmarks(config.decontamination), directory).figures

    recipe = {
        "seeds": asdict(config),
        "source": source_digest(config),
        "decontamination": benchmarks_recipe(config.decontamination),
    }
    return bench.directory("seeds", None, recipe, make)


def labels(bench: Bench, seeds: Artifact) -> Artifact:
    """The task type of every seed. Rows: Label."""

    def make() -> Product:
        rows = bench.labeller.label(seeds.rows(Example), "typing the seeds")
        return Product(rows, {"unlabelled": sum(row.task is None for row in rows)})

    return bench.rows("labels", None, {"seeds": seeds.key, **bench.labeller.recipe()}, make)


def responses(bench: Bench, seeds: Artifact) -> Artifact:
    """The teacher's own response to every seed. Rows: Answer."""

    def make() -> Product:
        rows = teacher.answer(seeds.rows(Example), bench.teacher, bench.config.teacher, "the teacher answers the seeds")
        return Product(rows, {"failed": sum(row.text is None for row in rows)})

    return bench.rows("responses", None, {"seeds": seeds.key, "teacher": _teacher_recipe(bench)}, make)


def base_student(bench: Bench) -> Artifact:
    """The untrained student of the lab, an ordinary Hugging Face directory."""
    from tapir_exp.lab.base_student import build_base_student

    config = bench.config.lab.student

    def make(directory: Path) -> Mapping[str, Any]:
        build_base_student(directory, config, lab_corpus(config))
        return {}

    return bench.directory("base-student", None, {"student": asdict(config), "lab": lab_digest()}, make)


def unpacked_student(bench: Bench) -> Artifact:
    """The student of a GGUF file, turned into an ordinary Hugging Face directory once."""
    weights = find_weights(bench.config.student.model)

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.local.convert import convert

        convert(weights.path, directory)
        return {}

    return bench.directory("base-student", None, {"gguf": weights.sha256}, make)


def lab_corpus(config: LabStudentConfig) -> Iterator[str]:
    """The texts on which the base student's tokenizer is trained."""
    for problem in even_problems(CORPUS_PER_CELL, config.seed):
        yield from (problem.instruction, problem.terse, problem.refined)


@dataclass(frozen=True)
class Start:
    """The student from which a fit goes on.

    path: directory or hub id. named: what provenance calls it. base: the model before any fit of ours. beside: the
    path of a base in the store as an adapter sees it; None where an adapter names its base as the configuration does.
    """

    path: Path
    named: Ancestor
    base: Ancestor
    beside: str | None = None


def base_model(bench: Bench) -> tuple[Start, dict[str, Any]]:
    """The student before any fit of ours, and what tells it from others."""
    config = bench.config.student
    base: dict[str, Any] = {"model": config.model, "revision": config.revision}
    named = _configured(config)
    start = Start(Path(config.model), named, named)
    if config.model == LAB_STUDENT or is_gguf(config.model):
        built = base_student(bench) if config.model == LAB_STUDENT else unpacked_student(bench)
        named = Ancestor(place=Place.STORE, name=built.name)
        start, base = Start(built.path, named, named, built.beside), {"model": built.key}
    return start, base


def first_student(bench: Bench, seeds: Artifact, start: Start, base: Mapping[str, Any]) -> Artifact:
    """S_0: the base model fine-tuned on the seeds with their own responses."""
    rows = [_seed_row(seed) for seed in seeds.rows(Example)]
    return _finetune(bench, 0, start, rows, seeds, None, bench.config.sft.start, {"rows": seeds.key, **base})


def next_student(bench: Bench, round_number: int, student: Artifact, mix: Artifact, alpha: float) -> Artifact:
    """S_r: the student fine-tuned on the round's mix with the alpha-weighted loss."""
    recipe = {"rows": mix.key, "parent": student.key, "alpha": alpha}
    known = Provenance.load(student.path)
    base = known.base if known else _configured(bench.config.student)
    start = Start(student.path, Ancestor(place=Place.STORE, name=student.name), base)
    rows = mix.rows(TrainingExample)
    return _finetune(bench, round_number, start, rows, mix, alpha, bench.config.sft.round, recipe)


def _configured(student: StudentConfig) -> Ancestor:
    place = Place.DIRECTORY if Path(student.model).is_dir() else Place.HUB
    return Ancestor(place=place, name=student.model, revision=student.revision)


def answers(bench: Bench, round_number: int, student: Artifact, asked: Artifact, listen: Listen = unheard) -> Artifact:
    """What the student says to the instructions of `asked`: the seeds, or a round's mix. Rows: Answer.

    listen: lets the answers be written, and hears each of them as soon as it is finished.
    """
    row_type: type[Example] | type[TrainingExample] = Example if asked.stage == "seeds" else TrainingExample

    def make() -> Product:
        prompts = [(row.id, row.instruction) for row in asked.rows(row_type)]
        rows = listen(lambda hear: _answer(bench, student, prompts, f"S_{round_number} answers", hear))
        cut, empty = sum(not row.finished for row in rows), sum(row.text is None for row in rows)
        return Product(rows, {"cut": cut, "empty": empty})

    return bench.rows("answers", round_number, _answers_recipe(bench, student, asked), make, asks=False)


def answers_key(bench: Bench, student: Artifact, asked: Artifact) -> str:
    """The key that those answers have, or will have."""
    return recipe_key("answers", _answers_recipe(bench, student, asked))


def expansions(bench: Bench, round_number: int, pool: Pool, plan: RoundPlan, choice: Mapping[str, Any]) -> Artifact:
    """What the teacher wrote for the orders of a plan; responses unrefined. Rows: TrainingExample.

    choice: the settings that, with the pool, determine the plan.
    """
    config = bench.config.teacher

    def make() -> Product:
        growth = expansion.grow(
            plan.orders,
            _gate(bench, pool),
            config,
            bench.config.seed,
            round_number,
            lambda asked: teacher.expand(asked, bench.teacher, config, "the teacher expands"),
        )
        return Product(growth.rows, growth.figures, growth.left_out)

    recipe = {
        "pool": list(pool.keys),
        "plan": choice,
        "teacher": _teacher_recipe(bench),
        "prompt": load_prompt("expand").text,
        "decontamination": benchmarks_recipe(bench.config.seeds.decontamination),
        **bench.labeller.recipe(),
    }
    if bench.kept_out:
        recipe |= {"kept out": sorted(bench.kept_out)}
    if config.similar_within is not None:
        judge_recipe = role_recipe(bench.judge, bench.config.judge)
        recipe |= {"judge": judge_recipe, "complexity prompt": load_prompt("judge/complexity").text}
    return bench.rows("expansions", round_number, recipe, make)


def plan(bench: Bench, round_number: int, planned: RoundPlan, expansions: Artifact) -> Artifact:
    """The plan of a round beside what became of it. Rows: Quota."""

    def make() -> Product:
        filled = Counter((row.task, row.part) for row in expansions.rows(TrainingExample))
        rows = [quota.model_copy(update={"filled": filled[quota.task, quota.part]}) for quota in planned.quotas]
        unfilled = sum(row.ordered - row.filled for row in rows)
        return Product(rows, {"drawn": sum(row.drawn for row in rows), "unfilled": unfilled})

    return bench.rows("plan", round_number, {"expansions": expansions.key}, make)


def mix(bench: Bench, round_number: int, planned: RoundPlan, expansions: Artifact, pool: Pool) -> Artifact:
    """The round's training rows, drawn and new, refined for their task types. Rows: TrainingExample.

    Raises TapirError where none is left.
    """
    refining = bench.config.curriculum.refine

    def make() -> Product:
        rows = [_drawn_row(candidate) for candidate in planned.drawn] + expansions.rows(TrainingExample)
        refined = _refined(bench, rows) if refining else rows
        if not refined:
            ordered, drawn = sum(order.count for order in planned.orders), len(planned.drawn)
            raise TapirError(
                f"Round {round_number} has nothing to train on: {drawn} rows were drawn, {len(rows) - drawn} of "
                f"{ordered} ordered ones written, and {len(rows)} lost in refinement; spend.json holds the teacher's "
                "words. Raise curriculum.rows, teacher.waves or teacher.max_tokens, or take another teacher."
            )
        hard = sum(row.part is Part.HARD for row in refined)
        return Product(refined, {"hard": hard, "failed": len(rows) - len(refined)})

    recipe: dict[str, Any] = {"expansions": expansions.key, "pool": list(pool.keys), "refine": refining}
    if refining:
        styles = {task: style_of(task).text for task in TaskType}
        prompts = {"refine": load_prompt("refine").text, "styles": styles}
        recipe |= {"teacher": _teacher_recipe(bench), "prompts": prompts}
        if bench.config.teacher.bare_refinements:
            recipe |= {"read": "bare"}
    return bench.rows("mix", round_number, recipe, make)


def benchmark(bench: Bench, round_number: int, student: Artifact) -> Artifact:
    """The student on the lab's held-out problems. Rows: BenchmarkResult."""
    config, seed = bench.config.evals, bench.config.lab.seed

    def make() -> Product:
        label = f"S_{round_number} takes the benchmark"
        rows = run_benchmark(config.per_cell, seed, lambda prompts: _answer(bench, student, prompts, label))
        return Product(rows, {"exact": fmean(row.exact for row in rows)})

    recipe = {
        "student": student.key,
        "benchmark": {"per_cell": config.per_cell, "seed": seed, "lab": lab_digest()},
        "generation": generation_recipe(bench.config.student),
    }
    return bench.rows("benchmark", round_number, recipe, make)


def _finetune(
    bench: Bench,
    round_number: int,
    start: Start,
    rows: Sequence[TrainingExample],
    data: Artifact,
    alpha: float | None,
    budget: BudgetConfig,
    recipe: Mapping[str, Any],
) -> Artifact:
    config = bench.config
    student, trainer, seed = config.student, config.trainer, config.seed

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.student.data import TrainingRow
        from tapir_exp.student.load import Base
        from tapir_exp.student.train import finetune

        label, base = f"training S_{round_number}", None if start.beside is None else Base(start.beside)
        taught = [TrainingRow(row.instruction, row.response, row.part) for row in rows]
        figures = asdict(
            finetune(start.path, taught, alpha, config.sft, budget, student, trainer, seed, directory, label, base)
        )
        write_provenance(directory, provenance(figures))
        return figures

    def provenance(figures: Mapping[str, Any]) -> Provenance:
        return Provenance(
            artifact=f"student/{recipe_key('student', recipe)}",
            base=start.base,
            parent=start.named,
            data=Data(artifact=data.name, sha256=data.files[ROWS]),
            method=config.sft.method,
            alpha=alpha,
            seed=seed,
            precision=student.precision,
            settings=settings_of(student, trainer, config.sft, budget, alpha),
            figures=kept_figures(figures),
        )

    sft = {name: value for name, value in asdict(config.sft).items() if name not in ("start", "round")}
    recipe = {
        **recipe,
        "sft": sft,
        "budget": asdict(budget),
        "template": [student.chat_template, student.system_prompt, student.max_length],
        "precision": [student.precision, trainer.precision],
        "seed": seed,
        **({} if config.sft.method is Method.full else {"product": "adapter"}),  # earlier versions merged it
    }
    return bench.directory("student", round_number, recipe, make)


def _answers_recipe(bench: Bench, student: Artifact, asked: Artifact) -> dict[str, Any]:
    return {"student": student.key, "asked": asked.key, "generation": generation_recipe(bench.config.student)}


def _answer(
    bench: Bench, student: Artifact, prompts: Sequence[tuple[str, str]], label: str, hear: Hear | None = None
) -> list[Answer]:
    from tapir_exp.student.generate import answer_all

    return answer_all(student.path, prompts, bench.config.student, label, hear)


def _gate(bench: Bench, pool: Pool) -> expansion.Gate:
    """What a new pair must pass before it becomes a row."""
    return expansion.Gate(
        Novelty(bench.config.teacher.novelty, sorted(pool.seen | bench.kept_out)),
        load_benchmarks(bench.config.seeds.decontamination),
        lambda fresh: bench.labeller.label(fresh, "typing what is new"),
        lambda fresh: _rated(bench, fresh),
    )


def _rated(bench: Bench, examples: Sequence[Example]) -> list[float | None]:
    """How complex the judge calls each instruction, from 1 to 10; None where it gave no rating."""
    asked = [(example.id, example.instruction) for example in examples]
    ratings = rate_complexity(asked, bench.judge, bench.config.judge, "rating what is new")
    return [rating.complexity for rating in ratings]


def _refined(bench: Bench, rows: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The rows with refined responses; a row whose refinement failed is left out."""
    drafts = [teacher.Draft(row.id, row.task, row.instruction, row.response) for row in rows if row.task is not None]
    written = teacher.refine(drafts, bench.teacher, bench.config.teacher, "the teacher refines")
    texts = {answer.id: answer.text for answer in written if answer.text is not None}
    return [row.model_copy(update={"response": texts[row.id]}) for row in rows if row.id in texts]


def _seed_row(seed: Example) -> TrainingExample:
    return TrainingExample(
        id=seed.id,
        instruction=seed.instruction,
        response=seed.response,
        task=None,
        part=Part.REST,
        origin=Origin.SEED,
        parents=(),
        born=0,
        gap=None,
    )


def _drawn_row(candidate: Candidate) -> TrainingExample:
    example = candidate.example
    return TrainingExample(
        id=example.id,
        instruction=example.instruction,
        response=example.response,
        task=candidate.task,
        part=candidate.part,
        origin=example.origin,
        parents=example.parents,
        born=example.round,
        gap=candidate.difficulty,
    )


def _teacher_recipe(bench: Bench) -> dict[str, Any]:
    return role_recipe(bench.teacher, bench.config.teacher)
