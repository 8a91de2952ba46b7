"""Take a million seeds through labels, responses, judging, a plan and new rows, and print time and memory of each step.

`python benchmarks/paper_scale/million.py [--rows 1000000] [--mix 2000] [--folder DIR]`

Teacher, judge, classifier and student are functions of this process, so no network and no database is measured; the
stages are those of a run. What is per seed is done for all rows. The rows of a round are bounded by `--mix`.
"""

import argparse
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from endpoint import reply
from varied_seeds import seed_rows

from tapir_exp.api import compose
from tapir_exp.core.records import Example, Response, example_id
from tapir_exp.core.store import Artifact, Store
from tapir_exp.core.stored_rows import in_order
from tapir_exp.distillation.classifier.llm import LLMClassifier
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.failures import CallError
from tapir_exp.llm.ledger import Spend, SpendScope
from tapir_exp.pipeline.workspace import StageOutput, Workspace
from tapir_exp.student import generate


class InProcessModel:
    """A chat model that replies at once, with the replies of the endpoint."""

    def identity(self) -> dict[str, Any]:
        """Return its name."""
        return {"model": "in process"}

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest]) -> AsyncIterator[None]:
        """Open nothing."""
        yield

    @contextmanager
    def reopened(self, stage: str) -> Iterator[tuple["InProcessModel", Mapping[str, Spend]]]:
        """Return the same model."""
        yield self, {}

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """Return 0: there is no cache."""
        return 0

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """Raise the error: no request may fail."""
        raise error

    async def complete(self, request: ChatRequest) -> Completion:
        """Reply to the last message."""
        text = reply(request.messages[-1].content, request.sample or 0)
        return Completion(text=text, finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1, usd=None))


def respond_at_once(
    directory: Path,
    prompts: Sequence[tuple[str, str]],
    student: object,
    label: str,
    on_response: Callable[[Response], None] | None,
    kept: MutableMapping[int, Response],
) -> Sequence[Response]:
    """Stand in for `generate_responses`: the response is the instruction's first half."""
    for index, (row_id, instruction) in enumerate(prompts):
        kept[index] = Response(id=row_id, text=instruction[: len(instruction) // 2])
        if on_response is not None:
            on_response(kept[index])
    return in_order(kept, len(prompts))


@contextmanager
def measured(name: str, rows: int) -> Iterator[None]:
    """Print the seconds of a step, and the peak of memory so far."""
    wall, cpu = time.monotonic(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(
        f"  {name:30s} {wall:8.1f} s wall {cpu:8.1f} s CPU {1e6 * cpu / rows:8.1f} us a row {peak:8.0f} MB", flush=True
    )


def run_stages(ws: Workspace, count: int, mix: int) -> None:
    """Make every stage up to the new rows of round 1."""
    # Imported here, after the stand-in for the student is set.
    from tapir_exp import tapir
    from tapir_exp.pipeline import data
    from tapir_exp.pipeline.data import ExpansionInputs

    def seeds() -> StageOutput:
        rows = (
            Example(id=example_id(row["instruction"]), instruction=row["instruction"], response=row["output"])
            for row in seed_rows(count)
        )
        return StageOutput(rows, {})

    with measured("seeds", count):
        drawn = ws.rows("seeds", None, {"rows": count}, seeds)
    with measured("labels", count):
        data.classify_seeds(ws, drawn)
    with measured("teacher's responses", count):
        data.teacher_responses(ws, drawn)
    student = Artifact("student", "S_0", Path("nowhere"), {}, {}, 0.0, reused=False)
    with measured("student's, verdicts, pool", count):
        state = tapir.score_seeds(ws, drawn, student, frozenset())
    pool = state.pool
    with measured("hard set and plan", count):
        settings = tapir.PlanSettings.for_round(1, state.target, ws.config.curriculum, ws.config.seed)
        hard = tapir.choose_hard(pool.difficulties, ws.config.curriculum, ws.config.seed)
        plan = tapir.plan_round(pool.candidates(hard, guided=True), settings)
    with measured(f"new rows ({sum(request.count for request in plan.requests)} requested)", count):
        new = tapir.write_new_rows(ws, student, plan, ExpansionInputs(pool, settings, frozenset()))
    filled = tapir.fill_plan(plan, new.rows)
    with measured("mix", count):
        data.record_plan(ws, 1, filled, new.recipe)
        data.build_mix(ws, 1, filled, new.recipe, pool)


def main() -> None:
    """Run the stages on varied seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--mix", type=int, default=2_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    generate.generate_responses = respond_at_once  # type: ignore[assignment]
    sizes = [f"curriculum.rows_per_round={arguments.mix}", "curriculum.new_share=0.5", "task_mix=tapir"]
    checks = ["judge.max_unusable_responses=1", "judge.check=0", "seeds.decontamination.benchmarks=[]"]
    config = compose([*sizes, *checks, "allow_lab_parts=true", "classifier.kind=llm"])
    model = InProcessModel()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=arguments.folder) as folder:
        call_store = CallStore(Path(folder), SpendScope("run"), config.spend)
        classifier = LLMClassifier(model, config.classifier)
        print(f"{arguments.rows} seeds")
        ws = Workspace(config, Store(Path(folder)), model, model, classifier, call_store.ledger)
        run_stages(ws, arguments.rows, arguments.mix)
        call_store.close()


if __name__ == "__main__":
    main()
