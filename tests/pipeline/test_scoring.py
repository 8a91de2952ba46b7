"""Every difficulty from its artifacts: what they hold, what they are keyed by, and what is left unscored."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from assets import ROOT
from fakes import ScriptedChat, said_to, tagged
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tapir_exp.commands.hydra_app import data_dir
from tapir_exp.config import Config, Difficulty, parse
from tapir_exp.core.records import Rating, ResponseLoss, Verdict, row_id_of_rollout
from tapir_exp.core.store import Artifact, Store
from tapir_exp.distillation.curriculum.difficulty import rollout_spread
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.lab.base_student import build_base_student
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.ledger import Ledger
from tapir_exp.pipeline.scoring import SCORES, DifficultyScores, ScoringInputs, score
from tapir_exp.pipeline.workspace import Workspace

MATCHES = [ResponsePair(str(n), f"Say {n}", "red " * (n + 1), "blue") for n in range(6)]
UNSCORED = "4"
"""The row whose instruction the judge refuses to score."""
TINY = [
    "lab.student.vocab_size=300",
    "lab.student.hidden_size=16",
    "lab.student.intermediate_size=24",
    "lab.student.num_layers=1",
    "lab.student.num_heads=2",
    "student.max_new_tokens=6",
    "judge.llm.concurrency=1",
    "judge.max_failure_rate=0.5",
]


def grade(text: str) -> int:
    return 1 + len(text) % 10


def say(request: ChatRequest) -> str:
    """A judge that counts letters, and refuses one row."""
    prompt = said_to(request)
    if f"Say {UNSCORED}" in prompt and "assistant_1" in prompt:
        return "I cannot say."
    shown = [text for place in (1, 2) for text in tagged(prompt, f"assistant_{place}")]
    return " ".join(str(grade(text)) for text in shown) if shown else str(grade(prompt))


class NoLedger:
    """A ledger for a ws on which nothing is spent."""

    def during(self, stage: str) -> "NoLedger":
        return self

    def __enter__(self) -> dict[str, object]:
        return {}

    def __exit__(self, *error: object) -> None:
        return None


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        yield parse(compose("config", TINY))


@pytest.fixture(scope="module")
def student(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("student")
    build_base_student(directory, config.lab.student, [f"{match.instruction} {match.teacher}" for match in MATCHES])
    return Artifact("student", "key of the student", directory, {}, {}, 0.0, reused=False)


def bench_of(
    config: Config, root: Path, how: Difficulty, *, beta: float = 1.0, reference: bool = False
) -> tuple[Workspace, ScriptedChat]:
    chat = ScriptedChat(say)
    plan = replace(config.curriculum, difficulty=how, rollouts=replace(config.curriculum.rollouts, beta=beta))
    changed = replace(config, curriculum=plan, judge=replace(config.judge, reference=reference))
    return Workspace(changed, Store(root), chat, chat, chat, cast(Ledger, NoLedger())), chat


def scored(
    config: Config, student: Artifact, root: Path, how: Difficulty
) -> tuple[DifficultyScores, dict[str, Artifact]]:
    ws, _ = bench_of(config, root, how)
    result = score(ws, ScoringInputs(1, student, MATCHES, ("answers", "mix")))
    return result, {entry.name: ws.store.open(entry.stage, entry.key) for entry in ws.entries}


@pytest.mark.parametrize(
    ("how", "names"),
    [
        (Difficulty.mfd, ["verdicts-1"]),
        (Difficulty.random, ["verdicts-1"]),
        (Difficulty.response_length, ["verdicts-1"]),
        (Difficulty.ifd, ["verdicts-1", "losses-1"]),
        (Difficulty.eps, ["verdicts-1", "rollouts-1", "rollout_verdicts-1"]),
        (Difficulty.judge_rated, ["verdicts-1", "ratings-1"]),
    ],
)
def test_a_score_makes_what_it_needs_and_is_keyed_by_it(
    config: Config, student: Artifact, tmp_path: Path, how: Difficulty, names: list[str]
) -> None:
    result, artifacts = scored(config, student, tmp_path, how)
    assert list(artifacts) == names
    assert result.keys == tuple(artifact.key for artifact in artifacts.values())
    again, reused = scored(config, student, tmp_path, how)
    assert again == result
    assert all(artifact.reused for artifact in reused.values())


def test_every_difficulty_has_its_way() -> None:
    assert set(SCORES) == set(Difficulty)


def test_gaps_are_the_judge_s_and_the_unscored_row_is_absent(config: Config, student: Artifact, tmp_path: Path) -> None:
    result, artifacts = scored(config, student, tmp_path, Difficulty.mfd)
    assert result.by_row == {m.id: grade(m.teacher) - grade(m.student) for m in MATCHES if m.id != UNSCORED}
    figures = artifacts["verdicts-1"].figures
    assert (figures["unscored"], figures["flips"]) == (1, 0)
    assert figures["diagnosis"]["unscored"] == pytest.approx(1 / 6)
    assert figures["diagnosis"]["position_bias"] == 0


def test_a_judge_with_references_tells_how_many_rows_had_one(config: Config, student: Artifact, tmp_path: Path) -> None:
    ws, chat = bench_of(config, tmp_path, Difficulty.mfd, reference=True)
    matches = [replace(MATCHES[0], reference="a model answer"), *MATCHES[1:]]
    score(ws, ScoringInputs(0, student, matches, ("answers",)))
    (entry,) = ws.entries
    assert ws.store.open(entry.stage, entry.key).figures["referenced"] == 1
    assert sum("a model answer" in said_to(request) for request in chat.requests) == 2


def test_ifd_is_of_the_teachers_responses(config: Config, student: Artifact, tmp_path: Path) -> None:
    result, artifacts = scored(config, student, tmp_path, Difficulty.ifd)
    losses = {row.id: row for row in artifacts["losses-1"].rows(ResponseLoss)}
    assert set(result.by_row) == {match.id for match in MATCHES}
    for row, value in result.by_row.items():
        assert losses[row].instructed
        assert losses[row].alone
        assert value == losses[row].instructed / losses[row].alone
    assert losses["5"].tokens > losses["0"].tokens


def test_eps_is_the_spread_of_the_students_scores(config: Config, student: Artifact, tmp_path: Path) -> None:
    result, artifacts = scored(config, student, tmp_path, Difficulty.eps)
    rewards: dict[str, list[float]] = {}
    for verdict in artifacts["rollout_verdicts-1"].rows(Verdict):
        if verdict.student is not None:
            rewards.setdefault(row_id_of_rollout(verdict.id), []).append(verdict.student)
    assert set(result.by_row) == {match.id for match in MATCHES if match.id != UNSCORED}
    assert result.by_row == {row: rollout_spread(given, 1.0) for row, given in rewards.items()}
    assert all(len(given) == 4 for given in rewards.values())
    assert any(result.by_row.values())


def test_another_beta_reads_the_same_rollouts_otherwise(config: Config, student: Artifact, tmp_path: Path) -> None:
    asked = ScoringInputs(1, student, MATCHES, ("answers", "mix"))
    results = [score(bench_of(config, tmp_path, Difficulty.eps, beta=beta)[0], asked) for beta in (0.5, 5.0)]
    assert results[0].keys == results[1].keys
    assert results[0].by_row != results[1].by_row


def test_ratings_are_of_instructions_and_length_is_of_responses(
    config: Config, student: Artifact, tmp_path: Path
) -> None:
    rated, artifacts = scored(config, student, tmp_path, Difficulty.judge_rated)
    assert rated.by_row == {row.id: row.complexity for row in artifacts["ratings-1"].rows(Rating)}
    assert set(rated.by_row) == {match.id for match in MATCHES}
    long, _ = scored(config, student, tmp_path, Difficulty.response_length)
    assert long.by_row == {match.id: float(len(match.teacher)) for match in MATCHES}


def test_a_rating_that_failed_leaves_the_row_unscored(config: Config, student: Artifact, tmp_path: Path) -> None:
    ws, chat = bench_of(config, tmp_path, Difficulty.judge_rated)
    chat._script = lambda request: "Hm." if "Say 2" in said_to(request) and "Rate" in said_to(request) else say(request)
    result = score(ws, ScoringInputs(1, student, MATCHES, ("answers", "mix")))
    assert set(result.by_row) == {match.id for match in MATCHES} - {"2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        *(f"curriculum.difficulty={how.name}" for how in (Difficulty.ifd, Difficulty.eps, Difficulty.judge_rated)),
        "judge.protocol=single_score",
        "judge.protocol=pair_logprobs",
    ],
)
def test_the_whole_loop_runs_on_any_difficulty_and_protocol(choice: str, tmp_path: Path) -> None:
    small = [
        "seeds.size=120",
        "curriculum.rows_per_round=60",
        "curriculum.rounds=2",
        "sft.seed_stage.max_tokens=6000",
        "sft.round_stage.max_tokens=3000",
        "sft.global_batch_size=8",
        "student.max_new_tokens=24",
        "evals.problems_per_level=1",
        "judge.reference=true",
        "logger=disabled",
    ]
    command = [sys.executable, "-m", "tapir_exp", choice, *small, f"outputs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "latest" / "report.html").is_file()
