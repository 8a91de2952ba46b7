"""Estimate the calls and the cost of a run before its first call: an expected value and a bound for every stage.

Every assumption is a constant in `request_sizes`, `round_counts`, `stage_costs` or `wall_time`, and ours.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

from tapir_exp.config import ClassifierKind, Config, Difficulty, GapRows, JudgedStudent, LLMConfig, Suite
from tapir_exp.config.lab_parts import LAB_PREFIX
from tapir_exp.distillation.judge.requests import presentation_orders
from tapir_exp.evals.labelled_pairs import read_pairs
from tapir_exp.lab.world import WORLDS
from tapir_exp.pipeline.local_checks import used_models
from tapir_exp.pipeline.request_sizes import (
    COMPLAINT_TOKENS,
    RATING_TOKENS,
    VERDICT_TOKENS,
    Assumptions,
    RequestKind,
    RequestSize,
    RequestSizes,
    SeedStatistics,
)
from tapir_exp.pipeline.round_counts import Count, PoolShape, RoundCounts, assumed_pool, count_rounds, exactly
from tapir_exp.pipeline.stage_costs import StageEstimate, call_stage, fit_stage, generation_stage
from tapir_exp.pipeline.suite_sizes import evaluated_rounds, suite_sizes
from tapir_exp.student.training.schedule import annealing_budget, round_schedule

CHECKS = "checks"
"""Stage of the calls before the first one, in the spend and in the plan."""


def estimate_run(
    config: Config, seeds: SeedStatistics, pool: PoolShape | None = None, assumed: Assumptions | None = None
) -> list[StageEstimate]:
    """Return every stage of a run that calls a chat model, fits a student or lets it respond, in order.

    Args:
        config: The configuration, with every size as a number.
        seeds: Lengths of the seeds.
        pool: Composition of the seeds, if it is known.
        assumed: Assumptions; by default those of a run without a probe.
    """
    estimator = _Estimator(config, seeds, pool or assumed_pool(config), assumed or Assumptions())
    stages = [*estimator.before_the_rounds()]
    for number, counts in enumerate(estimator.rounds, 1):
        stages += estimator.round(number, counts)
    return stages


def estimate_suites(config: Config, response: float, number: int | None, share: str) -> Iterator[StageEstimate]:
    """Estimate the suites of one student: its responses, and the calls of the judges.

    Args:
        config: The whole configuration.
        response: Mean tokens of a response of the student.
        number: Round of the student; None for `tapir evaluate`.
        share: Text that is equal for two jobs with the same student.
    """
    share = f"{share} {_share(config.evals)}"
    end = "" if number is None else f"-{number}"
    for suite in suite_sizes(config, response):
        if suite.generated:
            yield generation_stage(config, f"{suite.responses}{end}", suite.generated, suite.most_generated, share)
        if suite.judge is not None and suite.calls:
            size = RequestSize(RequestKind.SUITE, suite.prompt, suite.completion, suite.most_prompt, suite.limit)
            llm = suite.judge.llm
            yield call_stage(
                f"{suite.verdicts}{end}", "judge", llm, exactly(suite.calls), size, f"{share} {_share(llm)}"
            )


class _Estimator:
    """Estimates the stages of one run.

    Attributes:
        rounds: Rows and calls of each round.
    """

    def __init__(self, config: Config, seeds: SeedStatistics, pool: PoolShape, assumed: Assumptions) -> None:
        self.rounds = count_rounds(config, seeds.seeds, pool, assumed)
        self._config, self._seeds, self._assumed = config, seeds, assumed
        self._sizes = RequestSizes(config, seeds, assumed)
        self._whole = _share(config)
        self._seed_fit = _share(config.seeds, config.student, config.sft, config.trainer, config.seed, config.lab)

    def before_the_rounds(self) -> Iterator[StageEstimate]:
        """Estimate the stages on the seeds."""
        config, seeds, student = self._config, self._seeds, self._seed_fit
        yield from self._checks()
        asked, responses = self._sizes.responses(), _share(config.seeds, config.teacher)
        if seeds.unanswered:
            # The same completions serve `teacher_responses`.
            yield self._teacher("seeds_with_responses", exactly(seeds.unanswered), asked, responses)
        if held_out := config.evals.held_out_size:
            share = _share(config.seeds, config.teacher, held_out)
            size = self._sizes.responses(held_out=True)
            yield self._teacher("held_out_teacher_responses", exactly(held_out), size, share)
            yield self._responses("base_responses", exactly(held_out), self._sizes.student, student)
        row = seeds.instruction + seeds.response
        yield fit_stage(config, "student-0", config.sft.seed_stage, exactly(seeds.seeds), row, student)
        yield from self._evaluation(0, f"{student} {_share(config.judge, held_out)}", student)
        if config.curriculum.rounds == 0:
            return
        count = exactly(seeds.seeds)
        yield from self._labels("task_labels", count, self._sizes.label(), _share(config.seeds, config.classifier))
        yield self._teacher("teacher_responses", exactly(seeds.seeds - seeds.unanswered), asked, responses)
        yield from self._judge_check(responses)
        share = f"{student} {responses} {_share(config.judge)}"
        yield from self._scores("-0", count, share, seeds=True, refined=False)

    def round(self, number: int, counts: RoundCounts) -> Iterator[StageEstimate]:
        """Estimate a round."""
        config, curriculum = self._config, self._config.curriculum
        share = f"{number} {self._whole}"
        yield from self._expansions(number, counts, share)
        fresh = curriculum.gap_rows is GapRows.fresh
        if fresh:
            yield from self._scores(f"-{number}", counts.measured, share, seeds=False, refined=False, prefix="fresh_")
        if curriculum.refine:
            yield self._teacher(f"train_mix-{number}", counts.refined, self._sizes.refinement(), share)
        # Every earlier mix may be replayed; an upper bound, since a row of two mixes is trained once.
        replayed = (number - 1) * round(curriculum.replay * curriculum.round_rows)
        rows = Count(counts.mix.expected + replayed, counts.mix.most + replayed)
        yield fit_stage(config, f"student-{number}", config.sft.round_stage, rows, self._sizes.row, share)
        schedule = round_schedule(config.sft, number, curriculum.rounds)
        if config.sft.judged_student is JudgedStudent.annealed and schedule.end_rate > 0:
            branch = annealing_budget(config.sft)
            yield fit_stage(config, f"judged_student-{number}", branch, rows, self._sizes.row, share)
        yield from self._evaluation(number, share, share)
        if number < curriculum.rounds and (not fresh or curriculum.report_trained_gaps):
            yield from self._scores(f"-{number}", counts.mix, share, seeds=False, refined=curriculum.refine)

    def _checks(self) -> Iterator[StageEstimate]:
        """Estimate the token that each endpoint is asked for before the first call."""
        size = RequestSize(RequestKind.ENDPOINT, 5, 1, 2 * COMPLAINT_TOKENS, 1)
        for role, llm in asked_endpoints(self._config):
            estimate = call_stage(CHECKS, role, llm, exactly(1), size, self._whole)
            most = replace(estimate.most, calls=1.0)
            yield replace(estimate, most=most)

    def _judge_check(self, share: str) -> Iterator[StageEstimate]:
        """Estimate the check of the judge inside the run."""
        judge = self._config.judge
        if not judge.check:
            return
        pairs, texts = min(judge.check, self._seeds.seeds), None
        if judge.check_pairs is not None:
            known = read_pairs(Path(judge.check_pairs), judge.check)
            pairs, texts = len(known), [f"{pair.instruction}{pair.first}{pair.second}" for pair in known]
        share = f"{share} {_share(judge, self._config.seed)}"
        yield from self._verdicts(
            "judge_check", exactly(pairs), share, lambda llm: self._sizes.judge_check(llm, texts), seeds=False
        )

    def _expansions(self, number: int, counts: RoundCounts, share: str) -> Iterator[StageEstimate]:
        """Estimate the calls that write, classify and rate the new rows of a round."""
        config, stage = self._config, f"expansions-{number}"
        yield self._teacher(stage, counts.calls, self._sizes.expansion(counts.pairs), share)
        yield from self._labels(stage, counts.labelled, self._sizes.label(seeds=False), share)
        if config.teacher.max_complexity_gap is not None:
            size = self._sizes.rating(seeds=False, tokens=RATING_TOKENS)
            yield call_stage(stage, "judge", config.judge.llm, counts.rated, size, share, self._assumed)

    def _labels(self, stage: str, rows: Count, size: RequestSize, share: str) -> Iterator[StageEstimate]:
        """Estimate the classifier's calls; a trained classifier makes none."""
        classifier = self._config.classifier
        if classifier.kind is ClassifierKind.llm:
            yield call_stage(stage, "classifier", classifier.llm, rows, size, share, self._assumed)

    def _scores(
        self, end: str, rows: Count, share: str, *, seeds: bool, refined: bool, prefix: str = ""
    ) -> Iterator[StageEstimate]:
        """Estimate the responses of a student, their verdicts, and what the configured difficulty needs beyond them."""
        curriculum, judge = self._config.curriculum, self._config.judge
        # With fresh gaps, the student of the round before responds.
        first = end in ("-0", "-1") if prefix else end == "-0"
        length = self._sizes.student if first else self._sizes.trained
        yield self._responses(f"{prefix}student_responses{end}", rows, length, share)

        def size(llm: LLMConfig) -> RequestSize:
            return self._sizes.verdict(llm, seeds=seeds, refined=refined)

        yield from self._verdicts(f"{prefix}verdicts{end}", rows, share, size, seeds=seeds)
        if curriculum.difficulty is Difficulty.eps:
            drawn = rows * curriculum.rollouts.num_samples
            share = f"{share} {_share(curriculum.rollouts, self._config.seed)}"
            yield self._responses(f"{prefix}rollouts{end}", drawn, length, share)
            yield from self._verdicts(f"{prefix}rollout_verdicts{end}", drawn, share, size, seeds=seeds, notes=False)
        if curriculum.difficulty is Difficulty.judge_rated:
            rating = self._sizes.rating(seeds=seeds, tokens=VERDICT_TOKENS)
            yield call_stage(f"{prefix}ratings{end}", "judge", judge.llm, rows, rating, share, self._assumed)

    def _evaluation(self, number: int, held_out: str, student: str) -> Iterator[StageEstimate]:
        """Estimate the lab benchmark, the comparison with the predecessor, and the suites of a student."""
        config = self._config
        length = self._sizes.trained if number else self._sizes.student
        if problems := config.evals.problems_per_level:
            cells = sum(len(family.levels) for family in WORLDS[config.lab.world].families)
            share = f"{student} {_share(problems, config.lab)}"
            yield self._responses(f"benchmark-{number}", exactly(problems * cells), length, share)
        if rows := config.evals.held_out_size:
            yield self._responses(f"held_out_student_responses-{number}", exactly(rows), length, held_out)
            yield from self._verdicts(
                f"held_out_verdicts-{number}",
                exactly(rows),
                held_out,
                lambda llm: self._sizes.verdict(llm, seeds=False, refined=bool(number), students=2),
                seeds=False,
            )
        if number in evaluated_rounds(config):
            # The problems of the lab are those of its benchmark.
            others: list[Suite] = [suite for suite in config.evals.suites if suite is not Suite.lab]
            part = replace(config, evals=replace(config.evals, suites=others))
            yield from estimate_suites(part, length, number, student)

    def _teacher(self, stage: str, calls: Count, size: RequestSize, share: str) -> StageEstimate:
        return call_stage(stage, "teacher", self._config.teacher.llm, calls, size, share, self._assumed)

    def _verdicts(
        self,
        stage: str,
        rows: Count,
        share: str,
        size: Callable[[LLMConfig], RequestSize],
        *,
        seeds: bool,
        notes: bool = True,
    ) -> Iterator[StageEstimate]:
        """Estimate the verdicts on rows by every judge, and what each of them writes about the instructions before.

        Args:
            stage: Name of the stage.
            rows: Number of rows.
            share: As in `StageEstimate`.
            size: Returns the size of a request to a judge.
            seeds: Whether the rows are the seeds.
            notes: Whether notes are written; else those of another stage are cached.
        """
        judge = self._config.judge
        for llm in judge.models:
            of_judge = f"{share} {_share(llm)}"
            calls = rows * (len(presentation_orders(judge)) * judge.samples)
            yield call_stage(stage, "judge", llm, calls, size(llm), of_judge, self._assumed)
            # With `reference`, rows of the dataset need no response of the judge.
            written = (judge.metrics, judge.own_reference and not (judge.reference and seeds))
            for metrics, is_written in zip((True, False), written, strict=True):
                if is_written:
                    of_note = Count(rows.expected * notes, rows.most)
                    note = self._sizes.note(llm, seeds=seeds, metrics=metrics)
                    yield call_stage(stage, "judge", llm, of_note, note, f"{of_judge} {metrics}", self._assumed)

    def _responses(self, stage: str, rows: Count, length: float, share: str) -> StageEstimate:
        most = rows.most * self._config.student.max_new_tokens
        return generation_stage(self._config, stage, rows.expected * length, most, share)


def asked_endpoints(config: Config) -> Iterator[tuple[str, LLMConfig]]:
    """Yield role and settings of each endpoint that a run asks for one token."""
    seen = set()
    for role, llm in used_models(config):
        key = repr((llm.model, llm.api_base, llm.api_key_env, llm.use_litellm, llm.extra_params))
        if not llm.model.startswith(LAB_PREFIX) and not llm.server.command and key not in seen:
            seen.add(key)
            yield role, llm


def _share(*sections: object) -> str:
    """Return a text that is equal for two jobs with equal sections, which then share the stage."""
    plain = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in sections]
    return repr(plain)
