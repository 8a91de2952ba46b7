"""A small world that looks like a run: a store, a manifest, a config and metrics, written as the software does."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from omegaconf import OmegaConf

from tapir_exp.core.manifest import Entry, Manifest, entry_of
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
from tapir_exp.core.store import Store, write_rows
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.distillation.judge.diagnostics import Lengths, diagnose_judge
from tapir_exp.evals.statistics import accuracy_by_task, macro_accuracy

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
TARGET = {task: 0.125 if task in BOOSTED else 0.5 / 6 for task in TASKS}
NASTY = "<script>alert('x')</script> & \"quotes\""


@dataclass
class FakeRun:
    """Writes one run directory; `rounds=0` is the plain fit on the seeds."""

    outputs: Path
    name: str = "runs/lab"
    arm: str = "tapir"
    seed: int = 0
    rounds: int = 3
    size: int = 240
    benchmark: bool = True
    gain: float = 0.15
    held_out_instructions: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def write(self) -> Path:
        """The run's directory."""
        self.rng = Random(f"{self.arm}{self.seed}")
        self.run_dir = self.outputs / self.name
        self.run_dir.mkdir(parents=True)
        self.store = Store(self.outputs / "store")
        self.metrics: list[dict[str, Any]] = []
        self.tokens = 0
        seeds, tasks = self._seeds()
        self._student(0)
        if self.rounds:
            self._rounds(seeds, tasks)
        if self.held_out_instructions:
            self._held_out()
        self._finish()
        return self.run_dir

    def _seeds(self) -> tuple[list[Example], dict[str, TaskType]]:
        rng = Random(0)
        tasks = rng.choices(list(TASKS), list(TASKS.values()), k=self.size)
        texts = [
            f"{task}: pose number {i} of the natural kind, {NASTY if i < 3 else 'plainly'}."
            for i, task in enumerate(tasks)
        ]
        seeds = [Example(id=example_id(t), instruction=t, response=f"seed response {i}") for i, t in enumerate(texts)]
        self._put("seeds", seeds)
        return seeds, {seed.id: task for seed, task in zip(seeds, tasks, strict=True)}

    def _rounds(self, seeds: list[Example], tasks: dict[str, TaskType]) -> None:
        labels = [Label(id=s.id, task=tasks[s.id], raw=tasks[s.id]) for s in seeds]
        self._put("task_labels", labels, spend={"classifier": spend(len(seeds), None)})
        responses = [Response(id=s.id, text=f"The teacher's answer. {NASTY}\nAnswer: 42") for s in seeds]
        self._put("teacher_responses", responses, spend={"teacher": spend(len(seeds), 0.31)})
        gaps = self._judge(0, [s.id for s in seeds])
        pool = [row_of(s, tasks[s.id], gaps.get(s.id)) for s in seeds]
        for number in range(1, self.rounds + 1):
            mix = self._mix(number, pool)
            self._student(number, mix)
            if number < self.rounds:
                gaps = self._judge(number, [row.id for row in mix])
                known = {row.id: row for row in [*pool, *mix]}
                pool = [
                    row.model_copy(update={"difficulty": gaps.get(key, row.difficulty)}) for key, row in known.items()
                ]

    def _held_out(self) -> None:
        """So many instructions kept out; the later student is preferred by 0.75, and its losses fall by 0.5."""
        texts = [f"Kept out, number {i}. {NASTY}" for i in range(self.held_out_instructions)]
        rows = [Example(id=example_id(text), instruction=text, response="-") for text in texts]
        stages: dict[str, Sequence[Record]] = {"held_out": rows}
        for name in (
            "base_responses",
            "held_out_teacher_responses",
            *(f"held_out_student_responses-{n}" for n in range(self.rounds + 1)),
        ):
            stages[name] = [Response(id=row.id, text=f"{name} says {NASTY}") for row in rows]
        for number in range(self.rounds + 1):
            stages[f"held_out_verdicts-{number}"] = [
                Verdict(id=row.id, replies=(), teacher=3.0 - place, student=7.5 - place)
                for place, row in enumerate(rows)
            ]
            stages[f"held_out_losses-{number}"] = [
                ResponseLoss(id=row.id, instructed=2.0 - 0.5 * number + 0.1 * place, alone=3.0, tokens=10)
                for place, row in enumerate(rows)
            ]
        for name, made in stages.items():
            self._add(name, name, 0, lambda directory, made=made: {"rows": write_rows(directory / "rows.jsonl", made)})

    def _judge(self, number: int, ids: Sequence[str]) -> dict[str, float]:
        answers = [
            Response(id=i, text=f"S{number} says {self.rng.randrange(99)}", finished=k != 1) for k, i in enumerate(ids)
        ]
        self._put(f"student_responses-{number}", answers)
        verdicts = [self._verdict(i, number, unread=k == 5) for k, i in enumerate(ids)]
        lengths = {row: Lengths(40 + place % 7, 30) for place, row in enumerate(ids)}
        figures = {"unscored": 1, "diagnosis": asdict(diagnose_judge(verdicts, lengths))}
        self._put(f"verdicts-{number}", verdicts, spend={"judge": spend(2 * len(ids), 0.52)}, **figures)
        return {v.id: v.gap for v in verdicts if v.gap is not None}

    def _verdict(self, row: str, number: int, unread: bool) -> Verdict:
        true = max(0.0, self.rng.choice((0.3, 4.5 - number)) + self.rng.gauss(0, 1.1))
        replies = []
        for order in BOTH_ORDERS:
            lean = 0.5 if order is PresentationOrder.TEACHER_FIRST else -0.5
            teacher, student = 9.0, round(min(10, max(1, 9 - true - lean)) * 2) / 2
            replies.append(
                JudgeReply(order=order, teacher=teacher, student=student, raw=f"{teacher} {student}\nThe first {NASTY}")
            )
        if unread:
            replies[1] = JudgeReply(
                order=PresentationOrder.STUDENT_FIRST, teacher=None, student=None, raw="I cannot.", failure="no scores"
            )
            return Verdict(id=row, replies=tuple(replies), teacher=None, student=None)
        mean = sum(b.student or 0 for b in replies) / 2
        return Verdict(id=row, replies=tuple(replies), teacher=9.0, student=mean)

    def _mix(self, number: int, pool: list[TrainingExample]) -> list[TrainingExample]:
        drawn, born, quotas = [], [], []
        for task, share in TARGET.items():
            for part in Subset:
                wanted = round(share * self.size * 0.5)
                rows = [
                    r
                    for r in pool
                    if r.task is task and r.difficulty is not None and (r.difficulty > 2) == (part is Subset.HARD)
                ]
                taken = rows[-wanted:]
                ordered = wanted - len(taken)
                new = [self._expansion(task, part, number, i, rows or pool) for i in range(ordered - (ordered > 4))]
                drawn += [r.model_copy(update={"part": part}) for r in taken]
                born += new
                quotas.append(
                    Quota(task=task, subset=part, wanted=wanted, drawn=len(taken), ordered=ordered, filled=len(new))
                )
        self._put(
            f"expansions-{number}",
            born,
            spend={"teacher": spend(len(born) // 3, 0.7)},
            ordered=len(born),
            calls=9,
            proposed=round(len(born) * 1.3) + 1,
        )
        self._put(f"plan-{number}", quotas)
        mix = [
            r.model_copy(update={"response": f"Step by step.\n1. Look.\n2. Add.\n{r.response}\nAnswer: 42"})
            for r in (*drawn, *born)
        ]
        self._put(f"train_mix-{number}", mix, spend={"teacher": spend(len(mix), 0.9)})
        return mix

    def _expansion(
        self, task: TaskType, subset: Subset, number: int, i: int, parents: Sequence[TrainingExample]
    ) -> TrainingExample:
        text = f"{task}: a new one, number {i} of round {number} for the {subset} part."
        chosen = tuple(self.rng.choice(parents).id for _ in range(3))
        return TrainingExample(
            id=example_id(text),
            instruction=text,
            response="fresh",
            task=task,
            subset=subset,
            origin=Origin.EXPANSION,
            parents=chosen,
            created_in_round=number,
            difficulty=None,
        )

    def _student(self, number: int, mix: Sequence[TrainingExample] = ()) -> None:
        steps = 160 if number == 0 else 90
        rows = [self._step(number, i, steps) for i in range(1, steps + 1)]

        def make(directory: Path) -> dict[str, Any]:
            write_rows(directory / "training.jsonl", rows)
            return {"steps": steps, "tokens": rows[-1].tokens, "final_loss": rows[-1].loss}

        self._add(f"student-{number}", "student", number, make)
        self.tokens += rows[-1].tokens
        line: dict[str, Any] = {"round": number, "train/tokens": rows[-1].tokens, "train/tokens_total": self.tokens}
        line |= {f"mix/task/{task}": n / len(mix) for task, n in Counter(row.task for row in mix).items()}
        if self.benchmark:
            results = [self._result(task, level, i, number) for task in TASKS for level in (1, 2, 3) for i in range(12)]
            self._put(f"benchmark-{number}", results)
            overall = macro_accuracy(results)
            line |= {"benchmark/accuracy": overall.mean, "benchmark/accuracy_se": overall.error}
            line |= {f"benchmark/task/{task}": e.mean for task, e in accuracy_by_task(results).items()}
        self.metrics.append(line)

    def _step(self, number: int, i: int, steps: int) -> TrainingStep:
        base = (4.5 if number == 0 else 1.4 / number) * math.exp(-4 * i / steps) + 0.12
        hard = None if number == 0 or i % 7 == 0 else base * 1.5 * math.exp(self.rng.gauss(0, 0.2))
        rest = base * 0.8 * math.exp(self.rng.gauss(0, 0.2))
        loss = rest if hard is None else 0.4 * hard + 0.6 * rest
        return TrainingStep(
            step=i, tokens=2048 * i, loss=loss, loss_hard=hard, loss_rest=rest, learning_rate=1e-3, gradient_norm=1.0
        )

    def _result(self, task: TaskType, level: int, i: int, number: int) -> BenchmarkResult:
        chance = min(
            0.98, 0.75 - 0.3 * (task in BOOSTED) - 0.08 * level + number * (self.gain if task in BOOSTED else 0.07)
        )
        exact = self.rng.random() < chance
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

    def _put(self, name: str, rows: Sequence[Record], **figures: Any) -> None:
        stage, _, number = name.partition("-")

        def make(directory: Path) -> dict[str, Any]:
            return {"rows": write_rows(directory / "rows.jsonl", rows), **figures}

        self._add(name, stage, int(number or 0), make)

    def _add(self, name: str, stage: str, number: int, make: Callable[[Path], dict[str, Any]]) -> None:
        shared = name == "seeds" or (name == "student-0" and self.rounds > 0)
        recipe = {"name": name, "seed": self.seed, **({} if shared else {"arm": self.arm, **self.settings})}
        self.entries.append(entry_of(name, number, self.store.produce(stage, recipe, make)))

    def _finish(self) -> None:
        alphas = tuple(round(0.3 + 0.2 * i, 3) for i in range(self.rounds))
        config = OmegaConf.create(
            {
                "name": "lab",
                "arm": self.arm,
                "seed": self.seed,
                "tasks": {"name": "lab"},
                "teacher": {"llm": {"model": "openai/gpt-4o"}},
                "judge": {"llm": {"model": "anthropic/claude-x"}, "protocol": "pair_scores", "orders": "both"},
                "sft": {"learning_rate": 0.001},
                "curriculum": {
                    "rounds": self.rounds,
                    "difficulty": "mfd",
                    "delta": 2.0,
                    "hard_share": 0.21,
                    "alpha": 0.3,
                    "delta_alpha": 0.2,
                    "refine": True,
                },
            }
        )
        for key, value in self.settings.items():
            OmegaConf.update(config, key, value)
        (self.run_dir / "config.yaml").write_text(OmegaConf.to_yaml(config))
        (self.run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.metrics))
        Manifest(
            name="lab",
            arm=self.arm,
            seed=self.seed,
            store="/".join([*[".."] * len(Path(self.name).parts), "store"]),
            delta=2.0,
            alphas=alphas,
            target=TARGET if self.rounds else None,
            artifacts=tuple(self.entries),
        ).write(self.run_dir)


def spend(calls: int, usd: float | None) -> dict[str, Any]:
    """A line of the ledger."""
    return {
        "calls": calls,
        "cached": calls // 5,
        "prompt_tokens": 180 * calls,
        "completion_tokens": 60 * calls,
        "usd": usd,
    }


def row_of(seed: Example, task: TaskType, gap: float | None) -> TrainingExample:
    """A seed as the pool has it."""
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


MakeRun = Callable[..., Path]
ARMS = {"natural_mix": 0.05, "tapir": 0.16, "fixed_alpha": 0.15}
"""How fast the students of each arm of `ablation` learn."""


@pytest.fixture
def ablation(fake_run: MakeRun) -> Path:
    """Three arms, three seeds, in the order of the file system."""
    for arm, gain in ARMS.items():
        for seed in (1, 2, 3):
            run = fake_run(name=f"sweep/arm-{arm}_seed-{seed}", arm=arm, seed=seed, size=40, gain=gain)
    return run.parent


@pytest.fixture
def fake_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run below `tmp_path` and returns its directory; takes FakeRun's fields."""
    return lambda **changes: FakeRun(tmp_path / "outputs", **changes).write()
