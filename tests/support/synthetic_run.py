"""Synthetic runs for tests of reports: rows are drawn, everything else is written by the code of a real run.

Artifacts are written by a workspace, spend by its ledger, figures and metrics by the code that computes them in a run.
A test compares the artifacts and metrics of a synthetic run with those of a real one.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf
from workspaces import open_test_workspace

from tapir_exp.config import Config
from tapir_exp.config.root import to_yaml
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import (
    BOTH_ORDERS,
    BenchmarkResult,
    Example,
    JudgeReply,
    Label,
    Origin,
    PresentationOrder,
    Quota,
    Record,
    Response,
    ResponseLoss,
    Subset,
    TrainingExample,
    TrainingStep,
    Verdict,
    example_id,
)
from tapir_exp.core.store import ROWS, Artifact, write_rows
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.data.seeds import SeedReport
from tapir_exp.distillation.curriculum.difficulty import scored_gaps
from tapir_exp.distillation.curriculum.filling import fill_plan
from tapir_exp.distillation.curriculum.sampling import GenerationRequest, RoundPlan, alpha_for_round
from tapir_exp.distillation.expansion import ExpansionResult
from tapir_exp.distillation.judge.diagnostics import Lengths, diagnose_judge
from tapir_exp.llm.chat import Usage
from tapir_exp.pipeline.data import record_plan
from tapir_exp.pipeline.workspace import StageOutput, Workspace
from tapir_exp.report.metrics import run_metrics
from tapir_exp.report.run_view import CONFIG, METRICS, TRAINING

TASKS = {
    TaskType.MATH: 0.05,
    TaskType.REASONING: 0.04,
    TaskType.CODE_GENERATION: 0.03,
    TaskType.CODE_DEBUG: 0.02,
    TaskType.WRITING: 0.26,
    TaskType.COMMON_SENSE: 0.18,
    TaskType.COMPLEX_FORMAT: 0.12,
    TaskType.MULTILINGUAL: 0.1,
    TaskType.GRAMMAR: 0.1,
    TaskType.ROLEPLAY: 0.1,
}
"""Natural share of each task type."""
TARGET = {task: 0.125 if task in BOOSTED else 0.5 / 6 for task in TASKS}
MARKUP = "<script>alert('x')</script> & \"quotes\""
"""Part of many texts of models: a report must escape it."""
DELTA, ALPHA, DELTA_ALPHA = 2.0, 0.3, 0.2
SETTINGS = {
    "teacher.llm.model": "openai/gpt-4o",
    "judge.llm.model": "anthropic/claude-x",
    "curriculum.delta": DELTA,
    "curriculum.alpha": ALPHA,
    "curriculum.delta_alpha": DELTA_ALPHA,
}
TOKENS_PER_STEP = 2048


@dataclass
class SyntheticRun:
    """Writes the directory of one run, and its artifacts into a store next to it.

    Attributes:
        outputs: Root of the runs and of the store.
        base: Configuration of the run, before `settings`.
        name: Path of the run directory below `outputs`.
        arm: Variant of the method.
        seed: Seed of the run.
        rounds: Rounds; 0 for the baseline that is only fine-tuned on the seeds.
        size: Number of seeds.
        benchmark: Whether the run has a benchmark.
        gain: Gain in accuracy per round on the boosted task types.
        held_out_instructions: Number of held-out instructions. The judge prefers each student to its predecessor by
            0.75, and its losses are lower by 0.5.
        settings: Configuration keys and values; they also enter the recipes of the artifacts.
    """

    outputs: Path
    base: Config
    name: str = "runs/lab"
    arm: str = "tapir"
    seed: int = 0
    rounds: int = 3
    size: int = 240
    benchmark: bool = True
    gain: float = 0.15
    held_out_instructions: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self) -> Path:
        """Write the run and return its directory."""
        self.rng = Random(f"{self.arm}{self.seed}")
        run_dir = self.outputs / self.name
        run_dir.mkdir(parents=True)
        with open_test_workspace(self.base, self.outputs / "store") as self.ws:
            seeds, tasks = self._seeds()
            self.ws.directory("base_student", None, self._recipe("base_student"), lambda directory: {})
            self._student(0)
            if self.rounds:
                self._rounds(seeds, tasks)
            if self.held_out_instructions:
                self._held_out()
            self._finish(run_dir, self.ws)
        return run_dir

    def _seeds(self) -> tuple[list[Example], dict[str, TaskType]]:
        rng = Random(0)  # the same for all runs: seeds are a shared artifact
        tasks = rng.choices(list(TASKS), list(TASKS.values()), k=self.size)
        texts = [f"{task}: seed instruction {i}, {MARKUP if i < 3 else 'plain'}." for i, task in enumerate(tasks)]
        seeds = [Example(id=example_id(t), instruction=t, response=f"seed response {i}") for i, t in enumerate(texts)]
        report = SeedReport(read=self.size, rows=self.size, undrawn=0, dropped=Counter(), checked=False)

        def make(directory: Path) -> Mapping[str, Any]:
            write_rows(directory / ROWS, seeds)
            return report.figures

        self.ws.directory("seeds", None, self._recipe("seeds"), make)
        return seeds, {seed.id: task for seed, task in zip(seeds, tasks, strict=True)}

    def _rounds(self, seeds: list[Example], tasks: dict[str, TaskType]) -> None:
        labels = [Label(id=s.id, task=tasks[s.id], raw=tasks[s.id]) for s in seeds]
        self._rows("task_labels", None, labels, {"unlabelled": 0}, self._calls("classifier", len(seeds), None))
        responses = [Response(id=s.id, text=f"The teacher's response. {MARKUP}\nAnswer: 42") for s in seeds]
        self._rows("teacher_responses", None, responses, {"failed": 0}, self._calls("teacher", len(seeds), 0.31))
        gaps = self._judge(0, [s.id for s in seeds])
        pool = [seed_row(s, tasks[s.id], gaps.get(s.id)) for s in seeds]
        for number in range(1, self.rounds + 1):
            mix = self._mix(number, pool)
            self._student(number)
            if number < self.rounds:
                gaps = self._judge(number, [row.id for row in mix])
                known = {row.id: row for row in [*pool, *mix]}
                pool = [
                    row.model_copy(update={"difficulty": gaps.get(key, row.difficulty)}) for key, row in known.items()
                ]

    def _held_out(self) -> None:
        texts = [f"Held-out instruction {i}. {MARKUP}" for i in range(self.held_out_instructions)]
        rows = [Example(id=example_id(text), instruction=text, response="-") for text in texts]
        self._rows("held_out", None, rows)
        students = [("held_out_student_responses", number) for number in range(self.rounds + 1)]
        for stage, round_number in (("held_out_teacher_responses", None), ("base_responses", None), *students):
            text = f"{stage} of round {round_number}: {MARKUP}"
            self._rows(stage, round_number, [Response(id=row.id, text=text) for row in rows])
        for number in range(self.rounds + 1):
            verdicts = [
                Verdict(id=row.id, replies=(), teacher=3.0 - index, student=7.5 - index)
                for index, row in enumerate(rows)
            ]
            losses = [
                ResponseLoss(id=row.id, instructed=2.0 - 0.5 * number + 0.1 * index, alone=3.0, tokens=10)
                for index, row in enumerate(rows)
            ]
            self._rows("held_out_verdicts", number, verdicts)
            self._rows("held_out_losses", number, losses)

    def _judge(self, number: int, ids: Sequence[str]) -> dict[str, float]:
        """Judge S_number. The response to the second row is cut, the verdict on the sixth cannot be read."""
        responses = [
            Response(id=row_id, text=f"S{number} responds {self.rng.randrange(99)}", finished=index != 1)
            for index, row_id in enumerate(ids)
        ]
        self._rows("student_responses", number, responses, {"cut": 1, "empty": 0})
        verdicts = [self._verdict(row_id, number, unreadable=index == 5) for index, row_id in enumerate(ids)]
        diagnosis = diagnose_judge(verdicts, {row_id: Lengths(40 + i % 7, 30) for i, row_id in enumerate(ids)})
        gaps = scored_gaps(verdicts)
        figures = {
            "unscored": len(verdicts) - len(gaps),
            "mean_gap": fmean(gaps.values()),
            "flips": diagnosis.flips,
            "diagnosis": asdict(diagnosis),
        }
        self._rows("verdicts", number, verdicts, figures, self._calls("judge", 2 * len(ids), 0.52))
        return gaps

    def _verdict(self, row_id: str, number: int, unreadable: bool) -> Verdict:
        true_gap = max(0.0, self.rng.choice((0.3, 4.5 - number)) + self.rng.gauss(0, 1.1))
        replies = []
        for order in BOTH_ORDERS:
            bias = 0.5 if order is PresentationOrder.TEACHER_FIRST else -0.5
            teacher, student = 9.0, round(min(10, max(1, 9 - true_gap - bias)) * 2) / 2
            raw = f"{teacher} {student}\nThe first {MARKUP}"
            replies.append(JudgeReply(order=order, teacher=teacher, student=student, raw=raw))
        if unreadable:
            second = PresentationOrder.STUDENT_FIRST
            replies[1] = JudgeReply(order=second, teacher=None, student=None, raw="I cannot.", failure="no scores")
            return Verdict(id=row_id, replies=tuple(replies), teacher=None, student=None)
        mean = sum(reply.student or 0 for reply in replies) / 2
        return Verdict(id=row_id, replies=tuple(replies), teacher=9.0, student=mean)

    def _mix(self, number: int, pool: list[TrainingExample]) -> list[TrainingExample]:
        drawn, quotas = [], []
        expanded: dict[GenerationRequest, list[TrainingExample]] = {}
        for task, share in TARGET.items():
            for subset in Subset:
                wanted = round(share * self.size * 0.5)
                rows = [
                    row
                    for row in pool
                    if row.task is task
                    and row.difficulty is not None
                    and (row.difficulty > DELTA) == (subset is Subset.HARD)
                ]
                chosen = rows[-wanted:]
                missing = wanted - len(chosen)
                # A large request stays one row short, so that every round has unfilled quotas.
                request = GenerationRequest(task, subset, missing, ())
                expanded[request] = [
                    self._expansion(task, subset, number, i, rows or pool) for i in range(missing - (missing > 4))
                ]
                drawn += [row.model_copy(update={"subset": subset}) for row in chosen]
                quotas.append(
                    Quota(task=task, subset=subset, wanted=wanted, drawn=len(chosen), ordered=missing, filled=0)
                )
        expansions = self._expansions(number, expanded)
        filled = fill_plan(RoundPlan((), (), tuple(quotas)), expansions.rows(TrainingExample))
        record_plan(self.ws, number, filled, {"expansions": expansions.key})
        mix = [
            row.model_copy(update={"response": f"Step by step.\n1. Look.\n2. Add.\n{row.response}\nAnswer: 42"})
            for row in (*drawn, *expansions.rows(TrainingExample))
        ]
        figures = {"hard": sum(row.subset is Subset.HARD for row in mix), "failed": 0}
        self._rows("train_mix", number, mix, figures, self._calls("teacher", len(mix), 0.9))
        return mix

    def _expansions(self, number: int, accepted: dict[GenerationRequest, list[TrainingExample]]) -> Artifact:
        result = ExpansionResult(accepted, checked=False, calls=9)
        result.proposed = round(len(result.rows) * 1.3) + 1
        calls = self._calls("teacher", len(result.rows) // 3, 0.7)
        return self._rows("expansions", number, result.rows, result.figures, calls)

    def _expansion(
        self, task: TaskType, subset: Subset, number: int, i: int, parents: Sequence[TrainingExample]
    ) -> TrainingExample:
        text = f"{task}: new instruction {i} of round {number}, {subset} subset."
        return TrainingExample(
            id=example_id(text),
            instruction=text,
            response="a new response",
            task=task,
            subset=subset,
            origin=Origin.EXPANSION,
            parents=tuple(self.rng.choice(parents).id for _ in range(3)),
            created_in_round=number,
            difficulty=None,
        )

    def _student(self, number: int) -> None:
        count = 160 if number == 0 else 90
        steps = [self._step(number, i, count) for i in range(1, count + 1)]
        figures = {
            "steps": count,
            "tokens": steps[-1].tokens,
            "supervised_tokens": steps[-1].tokens // 2,
            "rows": self.size,
            "truncated": 0,
            "dropped": 0,
            "final_loss": steps[-1].loss,
            "tokens_per_second": 1.0,
        }

        def make(directory: Path) -> Mapping[str, Any]:
            write_rows(directory / TRAINING, steps)
            return figures

        self.ws.directory("student", number, self._recipe("student", number), make)
        if self.benchmark:
            results = [self._result(task, level, i, number) for task in TASKS for level in (1, 2, 3) for i in range(12)]
            self._rows("benchmark", number, results, {"exact": fmean(result.exact for result in results)})

    def _step(self, number: int, i: int, count: int) -> TrainingStep:
        base = (4.5 if number == 0 else 1.4 / number) * math.exp(-4 * i / count) + 0.12
        hard = None if number == 0 or i % 7 == 0 else base * 1.5 * math.exp(self.rng.gauss(0, 0.2))
        rest = base * 0.8 * math.exp(self.rng.gauss(0, 0.2))
        return TrainingStep(
            step=i,
            tokens=TOKENS_PER_STEP * i,
            loss=rest if hard is None else 0.4 * hard + 0.6 * rest,
            loss_hard=hard,
            loss_rest=rest,
            learning_rate=1e-3,
            gradient_norm=1.0,
        )

    def _result(self, task: TaskType, level: int, i: int, number: int) -> BenchmarkResult:
        gain = self.gain if task in BOOSTED else 0.07
        exact = self.rng.random() < min(0.98, 0.75 - 0.3 * (task in BOOSTED) - 0.08 * level + number * gain)
        return BenchmarkResult(
            family=f"family of {task}",
            task=task,
            level=level,
            instruction=f"{task} {level} {i}",
            expected="42",
            response="42" if exact else "41",
            exact=exact,
            score=10 if exact else 3,
        )

    def _rows(
        self,
        stage: str,
        round_number: int | None,
        rows: Sequence[Record],
        figures: Mapping[str, Any] | None = None,
        calls: Callable[[], None] = lambda: None,
    ) -> Artifact:
        def make() -> StageOutput:
            calls()
            return StageOutput(rows, figures or {})

        return self.ws.rows(stage, round_number, self._recipe(stage, round_number), make)

    def _calls(self, role: str, count: int, usd: float | None) -> Callable[[], None]:
        """Return a function that records `count` paid calls, of `usd` in all, and a fifth as many cached ones."""
        price = usd if usd is None or not count else usd / count
        usage = Usage(prompt_tokens=180, completion_tokens=60, usd=price)

        def record() -> None:
            for index in range(count):
                self.ws.ledger.record_paid(role, usage)
                if index % 5 == 4:
                    self.ws.ledger.record_cached(role)

        return record

    def _recipe(self, stage: str, round_number: int | None = None) -> dict[str, Any]:
        # As in a real sweep, arms of one seed share the seeds and S_0. The baseline trains S_0 longer.
        shared = stage in ("seeds", "base_student") or (stage == "student" and not round_number and self.rounds > 0)
        recipe: dict[str, Any] = {"size": self.size, "round": round_number, "seed": self.seed}
        return recipe if shared else {**recipe, "arm": self.arm, **self.settings}

    def _finish(self, run_dir: Path, ws: Workspace) -> None:
        config = OmegaConf.create(to_yaml(self.base))
        run_settings = {"arm": self.arm, "seed": self.seed, "curriculum.rounds": self.rounds}
        for key, value in {**SETTINGS, **run_settings, **self.settings}.items():
            OmegaConf.update(config, key, value)
        (run_dir / CONFIG).write_text(OmegaConf.to_yaml(config))
        manifest = Manifest(
            name=self.base.name,
            arm=self.arm,
            seed=self.seed,
            store="/".join([*[".."] * len(Path(self.name).parts), "store"]),
            delta=DELTA,
            alphas=tuple(round(alpha_for_round(n, ALPHA, DELTA_ALPHA), 3) for n in range(1, self.rounds + 1)),
            target=TARGET if self.rounds else None,
            artifacts=tuple(ws.entries),
        )
        manifest.write(run_dir)
        metrics = run_metrics(manifest, manifest.open(run_dir))
        (run_dir / METRICS).write_text("".join(json.dumps(row) + "\n" for row in metrics))


def seed_row(seed: Example, task: TaskType, gap: float | None) -> TrainingExample:
    """Return a seed as a row of the pool."""
    return TrainingExample(
        id=seed.id,
        instruction=seed.instruction,
        response=seed.response,
        task=task,
        subset=Subset.REST,
        origin=Origin.SEED,
        parents=(),
        created_in_round=0,
        difficulty=gap,
    )
