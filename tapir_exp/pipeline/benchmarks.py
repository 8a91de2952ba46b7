"""Evaluation suites as cached artifacts; each ends in a directory with figures and the files of the official tool."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tapir_exp.config import JudgeConfig, Suite
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.file_names import file_name
from tapir_exp.core.records import BenchmarkResult, Response, example_id
from tapir_exp.core.store import Artifact, recipe_key, sha256_file, write_rows, write_text_atomic
from tapir_exp.core.stored_rows import UNFINISHED, RowLog
from tapir_exp.evals import alpaca_eval, alpaca_eval_files, ifeval, mt_bench, mt_bench_files
from tapir_exp.evals.alpaca_eval_files import Annotation, Output
from tapir_exp.evals.ifeval import IFEvalQuestion
from tapir_exp.evals.lab_benchmark import run_benchmark
from tapir_exp.evals.length_control import load_length_control_rows
from tapir_exp.evals.mt_bench_files import Dialogue, Judgment, MTBenchQuestion
from tapir_exp.evals.statistics import accuracy_by_task, macro_accuracy
from tapir_exp.lab.oracle import world_version
from tapir_exp.llm.chat import ChatModel, Message
from tapir_exp.pipeline.generation import response_figures
from tapir_exp.pipeline.subject import EvalQuestion, EvaluatedModel
from tapir_exp.pipeline.suite_sizes import asked_judge
from tapir_exp.pipeline.workspace import StageOutput, Workspace, template_recipe


def lab_suite(ws: Workspace, subject: EvaluatedModel) -> Artifact:
    """Evaluate on the held-out problems of the lab, graded by exact answer."""
    per_level, seed, world = ws.config.evals.problems_per_level, ws.config.lab.seed, ws.config.lab.world
    if not per_level:
        raise ConfigError(["evals.problems_per_level = 0: expected at least 1 for the lab's suite"])

    def make(directory: Path) -> Mapping[str, Any]:
        with RowLog(directory / UNFINISHED, Response) as kept:
            results = run_benchmark(
                per_level, seed, lambda prompts: subject.answer(prompts, "lab benchmark", kept), world
            )
        write_rows(directory / "results.jsonl", results)
        return {**lab_figures(results), "benchmark": recipe_key("lab", benchmark)}

    benchmark = {"problems_per_level": per_level, "seed": seed, "lab": world_version(world)}
    return ws.directory("lab-suite", subject.round, {"benchmark": benchmark, **_generation_recipe(subject)}, make)


def lab_suite_of_benchmark(ws: Workspace, subject: EvaluatedModel, benchmark: Artifact) -> Artifact:
    """Return the lab's suite of a student whose run has its benchmark already; nothing is generated."""
    problems = {"problems_per_level": ws.config.evals.problems_per_level, "seed": ws.config.lab.seed}
    key = recipe_key("lab", {**problems, "lab": world_version(ws.config.lab.world)})

    def make(directory: Path) -> Mapping[str, Any]:
        results = benchmark.rows(BenchmarkResult)
        write_rows(directory / "results.jsonl", results)
        return {**lab_figures(results), "benchmark": key}

    return ws.directory("lab-suite", subject.round, {"results": benchmark.key, "benchmark": key}, make)


def lab_figures(results: list[BenchmarkResult]) -> dict[str, Any]:
    """Return macro accuracy in per cent, its standard error, and the accuracy by task type."""
    macro = macro_accuracy(results)
    error = None if macro.error is None else 100 * macro.error
    by_task = {f"task/{task}": 100 * part.mean for task, part in accuracy_by_task(results).items()}
    return {"accuracy": 100 * macro.mean, "accuracy_error": error, "problems": macro.n, **by_task}


def alpaca_suite(ws: Workspace, subject: EvaluatedModel) -> Artifact:
    """Evaluate on AlpacaEval 2.0; writes model_outputs.json, annotations.json and leaderboard.csv."""
    config = ws.config.evals.alpaca_eval
    template = alpaca_eval_files.load_template(config.prompt)
    length_control_rows = (
        None if config.length_control_data is None else load_length_control_rows(Path(config.length_control_data))
    )
    reference = _alpaca_reference(ws)
    outputs = _alpaca_outputs(ws, subject, reference)
    annotations = _alpaca_annotations(ws, subject, reference, outputs, template)
    # Two runs may share a student, and so its outputs and annotations, which have the name of the first.
    name = {} if config.outputs else {"generator": subject.name}

    def make(directory: Path) -> Mapping[str, Any]:
        written = [row.model_copy(update=name) for row in outputs.rows(Output)]
        rows = [
            row.model_copy(update={f"{key}_2": text for key, text in name.items()})
            for row in annotations.rows(Annotation)
        ]
        indices = {row.instruction: index for index, row in enumerate(reference.rows(Output))}
        figures = alpaca_eval.figures(rows, indices, length_control_rows)
        write_text_atomic(directory / "model_outputs.json", alpaca_eval_files.to_json(written))
        write_text_atomic(directory / "annotations.json", alpaca_eval_files.to_json(rows))
        write_text_atomic(directory / "leaderboard.csv", alpaca_eval.to_leaderboard(rows[0].generator_2, figures))
        without = {"length_controlled_winrate": figures.omission_reason} if figures.omission_reason else {}
        benchmark = recipe_key("alpaca_eval", {"reference": reference.key, "annotator": rows[0].annotator})
        return {**figures.as_metrics(), "without": without, "benchmark": benchmark}

    recipe = {
        "annotations": annotations.key,
        "reference": reference.key,
        "gamed": _file_digest(config.length_control_data),
        **name,
    }
    return ws.directory("alpaca-suite", subject.round, recipe, make)


def _alpaca_reference(ws: Workspace) -> Artifact:
    path = ws.config.evals.alpaca_eval.reference

    def make() -> StageOutput:
        rows = alpaca_eval_files.load_hub_reference() if path is None else alpaca_eval_files.load_outputs(Path(path))
        return StageOutput(rows, {})

    return ws.rows("alpaca-reference", None, {"file": _file_digest(path) or alpaca_eval_files.HUB}, make)


def _alpaca_outputs(ws: Workspace, subject: EvaluatedModel, reference: Artifact) -> Artifact:
    """Return the outputs to judge: those of a file, or generated ones; an unusable response is an empty text."""
    config, seed = ws.config.evals.alpaca_eval, ws.config.evals.seed
    path, subject = config.outputs, subject.limited(config.max_new_tokens)

    def make(kept: RowLog[Response]) -> StageOutput:
        if path is not None:
            return StageOutput(alpaca_eval_files.load_outputs(Path(path)), {})
        references = reference.rows(Output)
        dialogues = [
            EvalQuestion(example_id(row.instruction), (row.instruction,), config.temperature) for row in references
        ]
        label = f"{subject.name}: AlpacaEval"
        responses = [turn for (turn,) in subject.converse(dialogues, seed, label, kept)]
        rows = [
            row.model_copy(update={"output": answer.text or "", "generator": subject.name})
            for row, answer in zip(references, responses, strict=True)
        ]
        return StageOutput(rows, response_figures(responses))

    recipe: dict[str, Any] = {"file": _file_digest(path)}
    if path is None:
        how = {"temperature": config.temperature, "seed": seed}
        recipe = {"reference": reference.key, **how, **_generation_recipe(subject)}
    return ws.logged_rows("alpaca-outputs", subject.round, recipe, Response, make)


def _alpaca_annotations(
    ws: Workspace, subject: EvaluatedModel, reference: Artifact, outputs: Artifact, template: Sequence[Message]
) -> Artifact:
    config, (judge, chat) = ws.config.evals.alpaca_eval, _judge(ws, Suite.alpaca_eval)
    annotator = config.annotator or alpaca_eval.annotator_name(judge.llm.model)

    def make() -> StageOutput:
        pairs = alpaca_eval.pair_outputs(reference.rows(Output), outputs.rows(Output))
        rows = alpaca_eval.annotate(
            pairs,
            template,
            alpaca_eval_files.load_annotations(Path(config.annotations)) if config.annotations else [],
            annotator,
            chat if ws.config.evals.ask_judge else None,
            concurrency=judge.llm.most_in_flight,
            max_failure_rate=judge.max_failure_rate,
        )
        draws = sum(pair.is_identical for pair in pairs)
        return StageOutput(rows, {"failed": sum(row.preference is None for row in rows), "identical": draws})

    recipe = {
        "reference": reference.key,
        "outputs": outputs.key,
        "annotator": annotator,
        "judge": chat.identity(),
        "prompt": [part.model_dump() for part in template],
        "known": _file_digest(config.annotations),
        **_asked(ws),
    }
    return ws.rows("alpaca-annotations", subject.round, recipe, make)


def mt_suite(ws: Workspace, subject: EvaluatedModel) -> Artifact:
    """Evaluate on MT-Bench; writes FastChat's files of questions, answers and judgments."""
    config, (judge, _) = ws.config.evals.mt_bench, _judge(ws, Suite.mt_bench)
    questions = mt_bench_files.load_questions(config.questions)
    references = mt_bench_files.load_references(config.references)
    prompts = mt_bench_files.load_judge_prompts(config.judge_prompts)
    model = mt_bench_files.read_model_id(Path(config.answers)) if config.answers else subject.name
    name = judge.llm.model.rpartition("/")[2]
    # Names that come from outside become files only after all judgments are paid for, so each is one safe component.
    answer_file, judgment_file = (
        f"model_answer/{file_name(model)}.jsonl",
        f"model_judgment/{file_name(name)}_single.jsonl",
    )
    answers = _mt_answers(ws, subject, questions)
    dialogues = {row.question_id: row for row in answers.rows(Dialogue)}
    requests = mt_bench.build_grading_requests(questions, dialogues, references, prompts)
    judgments = _mt_judgments(ws, subject, answers, requests, model, name)

    def make(directory: Path) -> Mapping[str, Any]:
        # Two runs may share a student, and so its judgments, which have the name of the first.
        rows = [row.model_copy(update={"model": model}) for row in judgments.rows(Judgment)]
        write_rows(directory / "question.jsonl", questions)
        for file, lines in (
            (answer_file, mt_bench_files.to_answer_lines(model, [*dialogues.values()])),
            (judgment_file, mt_bench_files.to_judgment_lines(rows)),
        ):
            (directory / file).parent.mkdir(exist_ok=True)
            write_text_atomic(directory / file, lines)
        return {**mt_bench.figures(rows, questions).as_metrics(), "benchmark": recipe_key("mt_bench", benchmark)}

    benchmark = {"questions": [row.model_dump() for row in questions]}
    recipe = {"judgments": judgments.key, "model": model, **benchmark}
    return ws.directory("mt-suite", subject.round, recipe, make)


def _mt_answers(ws: Workspace, subject: EvaluatedModel, questions: list[MTBenchQuestion]) -> Artifact:
    config, seed = ws.config.evals.mt_bench, ws.config.evals.seed
    subject = subject.limited(config.max_new_tokens)

    def make(kept: RowLog[Response]) -> StageOutput:
        if config.answers is not None:
            return StageOutput(mt_bench_files.load_dialogues(Path(config.answers)).values(), {})
        dialogues = [EvalQuestion(str(row.question_id), row.turns, row.temperature) for row in questions]
        responses = subject.converse(dialogues, seed, f"{subject.name}: MT-Bench", kept)
        rows = [
            Dialogue(question_id=row.question_id, turns=tuple(answer.text or "" for answer in answers))
            for row, answers in zip(questions, responses, strict=True)
        ]
        return StageOutput(rows, response_figures([answer for answers in responses for answer in answers]))

    recipe: dict[str, Any] = {"file": _file_digest(config.answers)}
    if config.answers is None:
        turns = [[row.question_id, row.turns, row.temperature] for row in questions]
        recipe = {"questions": turns, "seed": seed, **_generation_recipe(subject)}
    return ws.logged_rows("mt-answers", subject.round, recipe, Response, make)


def _mt_judgments(
    ws: Workspace,
    subject: EvaluatedModel,
    answers: Artifact,
    requests: list[mt_bench.GradingRequest],
    model: str,
    judge_name: str,
) -> Artifact:
    judge, chat = _judge(ws, Suite.mt_bench)
    path = ws.config.evals.mt_bench.judgments

    def make() -> StageOutput:
        rows = mt_bench.grade(
            requests,
            model,
            mt_bench_files.load_judgments(Path(path)) if path else [],
            judge_name,
            chat if ws.config.evals.ask_judge else None,
            concurrency=judge.llm.most_in_flight,
            max_failure_rate=judge.max_failure_rate,
        )
        return StageOutput(rows, {"unparsed": sum(row.score == mt_bench.UNPARSED for row in rows)})

    recipe = {
        "answers": answers.key,
        # Known judgments are those of a model of this name.
        **({"model": model} if path else {}),
        "judge": chat.identity(),
        "prompts": [[request.prompt.system_prompt, request.user_prompt] for request in requests],
        "known": _file_digest(path),
        **_asked(ws),
    }
    return ws.rows("mt-judgments", subject.round, recipe, make)


def ifeval_suite(ws: Workspace, subject: EvaluatedModel) -> Artifact:
    """Evaluate on IFEval: greedy responses, verified by the programs of lm_eval."""
    path = ws.config.evals.ifeval.questions
    subject = subject.limited(ws.config.evals.ifeval.max_new_tokens)
    checker = ifeval.load_checker()
    ifeval.check_language_data()
    questions = ifeval.load_questions(path)
    # An artifact of its own: a failed check, or another version of lm_eval, must not cost the responses.
    answers = _ifeval_answers(ws, subject, questions)

    def make(directory: Path) -> Mapping[str, Any]:
        responses = answers.rows(Response)
        rows = [ifeval.check(row, answer.text or "", checker) for row, answer in zip(questions, responses, strict=True)]
        write_rows(directory / "results.jsonl", rows)
        return {**ifeval.figures(rows), **response_figures(responses), "benchmark": recipe_key("ifeval", benchmark)}

    benchmark = {"questions": [row.model_dump() for row in questions], "checks": checker.version}
    return ws.directory("ifeval-suite", subject.round, {**benchmark, "answers": answers.key}, make)


def _ifeval_answers(ws: Workspace, subject: EvaluatedModel, questions: Sequence[IFEvalQuestion]) -> Artifact:
    prompts = [(example_id(row.prompt), row.prompt) for row in questions]

    def make(kept: RowLog[Response]) -> StageOutput:
        responses = subject.answer(prompts, f"{subject.name}: IFEval", kept)
        return StageOutput(responses, response_figures(responses))

    recipe = {"prompts": prompts, **_generation_recipe(subject)}
    return ws.logged_rows("ifeval-answers", subject.round, recipe, Response, make)


SUITES: Mapping[Suite, Callable[[Workspace, EvaluatedModel], Artifact]] = {
    Suite.lab: lab_suite,
    Suite.alpaca_eval: alpaca_suite,
    Suite.mt_bench: mt_suite,
    Suite.ifeval: ifeval_suite,
}


def _generation_recipe(subject: EvaluatedModel) -> dict[str, Any]:
    """Return what determines the responses, apart from the questions."""
    student = subject.student
    limits = {"max_length": student.max_length, "max_new_tokens": student.max_new_tokens}
    how = {"template": template_recipe(student), "precision": student.precision, **limits}
    return {"subject": dict(subject.identity), "generation": how}


def _judge(ws: Workspace, suite: Suite) -> tuple[JudgeConfig, ChatModel]:
    """Return the settings of the judge of a suite, and the judge."""
    return asked_judge(ws.config, suite), ws.suite_judges.get(suite, ws.judge)


def _asked(ws: Workspace) -> dict[str, bool]:
    """Return the part of the recipe of judgments that marks that no judge was asked; empty if one was."""
    return {} if ws.config.evals.ask_judge else {"asked": False}


def _file_digest(path: str | None) -> str | None:
    return None if path is None else sha256_file(Path(path))
