"""What a run spends stays within the bounds of its plan, whatever the settings and the replies."""

import random
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from composing import compose_config
from standins import write_alpaca, write_mt_bench
from unreliable import UnreliableProvider, stand_in_students

from tapir_exp.config import (
    AlpacaEvalConfig,
    ClassifierConfig,
    Config,
    CurriculumConfig,
    Difficulty,
    EvalsConfig,
    GapRows,
    JudgeConfig,
    JudgeProtocol,
    LLMConfig,
    MTBenchConfig,
    RolloutConfig,
    Suite,
    TeacherConfig,
)
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Example
from tapir_exp.core.store import Store
from tapir_exp.distillation.classifier.llm import LLMClassifier
from tapir_exp.llm import client
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import Spend, SpendScope
from tapir_exp.pipeline.estimate import estimate_run
from tapir_exp.pipeline.request_sizes import Assumptions, seed_statistics
from tapir_exp.pipeline.stage_costs import Amounts, StageEstimate
from tapir_exp.pipeline.wall_time import stage_seconds
from tapir_exp.pipeline.workspace import Workspace
from tapir_exp.tapir import distill

FAST, SLOW = 3, 20


@pytest.fixture(scope="module")
def base() -> Config:
    return compose_config("debug=tiny", "evals.problems_per_level=0")


def random_model(name: str, rng: random.Random) -> LLMConfig:
    """Return a model with a price, and with random settings of its calls."""
    return LLMConfig(
        model=f"openai/{name}",
        api_base="http://127.0.0.1:9/v1",
        concurrency=rng.choice([1, 4]),
        max_attempts=rng.randint(1, 3),
        reasoning_tokens=rng.choice([0, 0, 20]),
        usd_per_million_input=1.0,
        usd_per_million_output=rng.choice([1.0, 7.0]),
    )


def random_judge(rng: random.Random) -> JudgeConfig:
    """Return a judge with random settings of its calls."""
    return JudgeConfig(
        llm=random_model("judge", rng),
        protocol=rng.choice([JudgeProtocol.pair_scores, JudgeProtocol.single_score]),
        swap_positions=rng.random() < 0.5,
        reference=rng.random() < 0.3,
        own_reference=rng.random() < 0.2,
        metrics=rng.random() < 0.2,
        max_tokens=rng.choice([12, 40]),
        notes_max_tokens=20,
        check=rng.choice([0, 4]),
        max_failure_rate=1.0,
        max_unusable_responses=1.0,
    )


def random_config(base: Config, rng: random.Random, folder: Path) -> Config:
    """Return the base with random settings of everything that a plan counts."""

    fresh = rng.random() < 0.4
    curriculum = CurriculumConfig(
        rounds=rng.choice([1, 1, 2]),
        rows_per_round=rng.randint(3, 12),
        difficulty=rng.choice([Difficulty.mfd, Difficulty.mfd, Difficulty.eps, Difficulty.judge_rated]),
        alpha=rng.random(),
        new_share=rng.choice([None, None, 0.7]),
        max_new_rows=rng.choice([None, None, 5]),
        gap_rows=GapRows.fresh if fresh else GapRows.trained,
        fresh_surplus=rng.choice([0.0, 0.5]) if fresh else 0.0,
        drop_easy_expansions=fresh and rng.random() < 0.5,
        report_trained_gaps=fresh and rng.random() < 0.5,
        refine=rng.random() < 0.7,
        rollouts=RolloutConfig(num_samples=2),
    )
    suites = [Suite.alpaca_eval, Suite.mt_bench] if rng.random() < 0.2 else []
    return replace(
        base,
        seed=rng.randint(0, 9),
        check_first_rows=False,
        seeds=replace(base.seeds, size=rng.randint(6, 16)),
        teacher=TeacherConfig(
            llm=random_model("teacher", rng),
            max_tokens=rng.choice([12, 60]),
            num_output_samples=rng.randint(1, 4),
            num_in_context_samples=rng.randint(1, 3),
            max_expansion_passes=rng.randint(1, 3),
            max_complexity_gap=rng.choice([None, 3.0]),
            max_failure_rate=1.0,
        ),
        judge=random_judge(rng),
        classifier=ClassifierConfig(llm=random_model("classifier", rng), max_tokens=8, max_failure_rate=1.0),
        curriculum=curriculum,
        task_mix=replace(base.task_mix, target_distribution=rng.choice([None, base.task_mix.target_distribution])),
        student=replace(base.student, max_new_tokens=rng.choice([4, 30])),
        evals=EvalsConfig(
            problems_per_level=0,
            held_out_size=rng.choice([0, 0, 3]),
            suites=suites,
            alpaca_eval=AlpacaEvalConfig(**write_alpaca(folder)),
            mt_bench=MTBenchConfig(**write_mt_bench(folder)),
        ),
    )


def run(config: Config, root: Path, rng: random.Random) -> tuple[dict[tuple[str, str], Spend], list[StageEstimate]]:
    """Run the method with an unreliable provider, and return what it spent and its plan."""
    bad = rng.choice([0.0, 0.2, 0.6])
    call_store = CallStore(root, SpendScope("test"), config.spend)

    def chat(llm: LLMConfig, role: str) -> Client:
        provider = UnreliableProvider(rng.randint(0, 99), bad, llm.reasoning_tokens)
        return Client(llm, role, call_store, transport=provider)

    try:
        ws = Workspace(
            config,
            Store(root),
            chat(config.teacher.llm, "teacher"),
            chat(config.judge.llm, "judge"),
            LLMClassifier(chat(config.classifier.llm, "classifier"), config.classifier),
            call_store.ledger,
        )
        # Too few rows may be left for a round; what was spent until then counts.
        with suppress(TapirError):
            distill(ws)
        spends: defaultdict[tuple[str, str], Spend] = defaultdict(Spend)
        for stage, roles in call_store.ledger.by_stage().items():
            for role, spend in roles.items():
                spends[re.sub(r"^pass\d+_", "", stage), role] += spend
        seeds = next(entry for entry in ws.entries if entry.stage == "seeds")
        rows = ws.store.open("seeds", seeds.key).rows(Example)
        return dict(spends), estimate_run(ws.config, seed_statistics(rows))
    finally:
        call_store.close()


def check_bounds(base: Config, seed: int, folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Compare a run of random settings with its plan; return its number of calls."""
    patch.setattr(client, "FIRST_WAIT_S", 0.0)
    stand_in_students(patch)
    rng = random.Random(seed)
    config = random_config(base, rng, folder)
    spent, planned = run(config, folder / "store", rng)
    most: defaultdict[tuple[str, str], Amounts] = defaultdict(Amounts)
    for stage in planned:
        most[stage.stage, stage.role] += stage.most
        assert stage.expected == stage.expected.within(stage.most), stage
        seconds = stage_seconds(config, stage, Assumptions())
        assert seconds.expected <= seconds.most, stage
    for key, spend in spent.items():
        bound = most[key]
        assert bound.usd is not None
        assert spend.usd is not None
        assert spend.calls <= bound.calls, (seed, key)
        assert spend.prompt_tokens <= bound.prompt_tokens, (seed, key)
        assert spend.completion_tokens <= bound.completion_tokens, (seed, key)
        assert spend.usd <= bound.usd + 1e-9, (seed, key)
    return sum(spend.calls for spend in spent.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FAST))
def test_spend_stays_within_the_bounds(
    base: Config, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_bounds(base, seed, tmp_path, monkeypatch) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FAST, SLOW))
def test_spend_stays_within_the_bounds_in_many_settings(
    base: Config, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_bounds(base, seed, tmp_path, monkeypatch)
