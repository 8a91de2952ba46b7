"""Every difficulty score: its artifacts, their keys, and the rows without a score."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from assets import ROOT
from fakes import ScriptedChat, prompt_of, tagged
from preloaded import run_preloaded
from workspaces import open_test_workspace

from tapir_exp.config import Config, Difficulty, LLMConfig, PanelConfig, PanelMemberConfig, PanelScore
from tapir_exp.core.records import Example, Rating, Response, ResponseLoss, TrainingExample, Verdict, row_id_of_rollout
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import rollout_spread
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.distillation.judge.score import split_panel
from tapir_exp.lab.base_student import build_base_student
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.panel import Member, Panel
from tapir_exp.pipeline.measures import ScoringInputs, verdicts, verdicts_recipe
from tapir_exp.pipeline.scoring import SCORES, DifficultyScores, score, score_on_mix, score_on_seeds
from tapir_exp.pipeline.workspace import StageOutput, Workspace

PAIRS = [ResponsePair(str(n), f"Say {n}", "red " * (n + 1), "blue") for n in range(6)]
UNSCORED = "4"
"""The row on which no reply of the judge can be parsed."""
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


def judge(request: ChatRequest) -> str:
    """Grade by the number of letters; one row gets an unreadable reply."""
    prompt = prompt_of(request)
    if f"Say {UNSCORED}" in prompt and "assistant_1" in prompt:
        return "I cannot say."
    shown = [text for number in (1, 2) for text in tagged(prompt, f"assistant_{number}")]
    return " ".join(str(grade(text)) for text in shown) if shown else str(grade(prompt))


@pytest.fixture(scope="module")
def config(compose_config: Callable[..., Config]) -> Config:
    return compose_config(*TINY)


@pytest.fixture(scope="module")
def student(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("student")
    build_base_student(directory, config.lab.student, [f"{pair.instruction} {pair.response_a}" for pair in PAIRS])
    return Artifact("student", "key of the student", directory, {}, {}, 0.0, reused=False)


@contextmanager
def open_scoring(
    config: Config,
    root: Path,
    difficulty: Difficulty,
    *,
    beta: float = 1.0,
    reference: bool = False,
    script: Callable[[ChatRequest], str] = judge,
) -> Iterator[tuple[Workspace, ScriptedChat]]:
    chat = ScriptedChat(script)
    rollouts = replace(config.curriculum.rollouts, beta=beta)
    curriculum = replace(config.curriculum, difficulty=difficulty, rollouts=rollouts)
    changed = replace(config, curriculum=curriculum, judge=replace(config.judge, reference=reference))
    with open_test_workspace(changed, root, judge=chat) as ws:
        yield ws, chat


def run_score(
    config: Config, student: Artifact, root: Path, difficulty: Difficulty
) -> tuple[DifficultyScores, dict[str, Artifact]]:
    with open_scoring(config, root, difficulty) as (ws, _):
        scores = score(ws, ScoringInputs(1, student, PAIRS, ("responses", "mix")))
        return scores, {entry.name: ws.store.open(entry.stage, entry.key) for entry in ws.entries}


@pytest.mark.parametrize(
    ("difficulty", "names"),
    [
        (Difficulty.mfd, ["verdicts-1"]),
        (Difficulty.random, ["verdicts-1"]),
        (Difficulty.response_length, ["verdicts-1"]),
        (Difficulty.ifd, ["verdicts-1", "losses-1"]),
        (Difficulty.eps, ["verdicts-1", "rollouts-1", "rollout_verdicts-1"]),
        (Difficulty.judge_rated, ["verdicts-1", "ratings-1"]),
    ],
)
def test_score_makes_its_artifacts_and_is_keyed_by_them(
    config: Config, student: Artifact, tmp_path: Path, difficulty: Difficulty, names: list[str]
) -> None:
    scores, artifacts = run_score(config, student, tmp_path, difficulty)
    assert list(artifacts) == names
    assert scores.keys == tuple(artifact.key for artifact in artifacts.values())
    again, reused = run_score(config, student, tmp_path, difficulty)
    assert again == scores
    assert all(artifact.reused for artifact in reused.values())


def test_scores_has_a_function_for_every_difficulty() -> None:
    assert set(SCORES) == set(Difficulty)


def test_score_mfd_is_the_gap_without_unscored_rows(config: Config, student: Artifact, tmp_path: Path) -> None:
    scores, artifacts = run_score(config, student, tmp_path, Difficulty.mfd)
    assert scores.by_row == {p.id: grade(p.response_a) - grade(p.response_b) for p in PAIRS if p.id != UNSCORED}
    figures = artifacts["verdicts-1"].figures
    assert (figures["unscored"], figures["flips"]) == (1, 0)
    assert figures["diagnosis"]["unscored"] == pytest.approx(1 / 6)
    assert figures["diagnosis"]["position_bias"] == 0


def test_score_counts_the_references_shown(config: Config, student: Artifact, tmp_path: Path) -> None:
    pairs = [replace(PAIRS[0], reference="a model answer"), *PAIRS[1:]]
    with open_scoring(config, tmp_path, Difficulty.mfd, reference=True) as (ws, chat):
        score(ws, ScoringInputs(0, student, pairs, ("responses",)))
        (entry,) = ws.entries
        assert ws.store.open(entry.stage, entry.key).figures["referenced"] == 1
    assert sum("a model answer" in prompt_of(request) for request in chat.requests) == 2


def test_score_ifd_is_of_the_teacher_responses(config: Config, student: Artifact, tmp_path: Path) -> None:
    scores, artifacts = run_score(config, student, tmp_path, Difficulty.ifd)
    losses = {row.id: row for row in artifacts["losses-1"].rows(ResponseLoss)}
    assert set(scores.by_row) == {pair.id for pair in PAIRS}
    for row_id, value in scores.by_row.items():
        loss = losses[row_id]
        assert loss.instructed
        assert loss.alone
        assert value == loss.instructed / loss.alone
    assert losses["5"].tokens > losses["0"].tokens


def test_score_eps_is_the_spread_of_rollout_scores(config: Config, student: Artifact, tmp_path: Path) -> None:
    scores, artifacts = run_score(config, student, tmp_path, Difficulty.eps)
    rewards: dict[str, list[float]] = {}
    for verdict in artifacts["rollout_verdicts-1"].rows(Verdict):
        if verdict.student is not None:
            rewards.setdefault(row_id_of_rollout(verdict.id), []).append(verdict.student)
    assert set(scores.by_row) == {pair.id for pair in PAIRS if pair.id != UNSCORED}
    assert scores.by_row == {row_id: rollout_spread(of_row, 1.0) for row_id, of_row in rewards.items()}
    assert all(len(of_row) == 4 for of_row in rewards.values())
    assert any(scores.by_row.values())


def test_score_eps_another_beta_reuses_the_rollouts(config: Config, student: Artifact, tmp_path: Path) -> None:
    results = []
    for beta in (0.5, 5.0):
        with open_scoring(config, tmp_path, Difficulty.eps, beta=beta) as (ws, _):
            results.append(score(ws, ScoringInputs(1, student, PAIRS, ("responses", "mix"))))
    assert results[0].keys == results[1].keys
    assert results[0].by_row != results[1].by_row


def test_score_rating_and_length_are_those_of_the_rows(config: Config, student: Artifact, tmp_path: Path) -> None:
    """Ratings are of the instructions, lengths of the teacher's responses."""
    rated, artifacts = run_score(config, student, tmp_path, Difficulty.judge_rated)
    assert rated.by_row == {row.id: row.complexity for row in artifacts["ratings-1"].rows(Rating)}
    assert set(rated.by_row) == {pair.id for pair in PAIRS}
    lengths, _ = run_score(config, student, tmp_path, Difficulty.response_length)
    assert lengths.by_row == {pair.id: float(len(pair.response_a)) for pair in PAIRS}


def test_score_failed_rating_leaves_the_row_unscored(config: Config, student: Artifact, tmp_path: Path) -> None:
    def script(request: ChatRequest) -> str:
        return "Hm." if "Say 2" in prompt_of(request) and "Rate" in prompt_of(request) else judge(request)

    with open_scoring(config, tmp_path, Difficulty.judge_rated, script=script) as (ws, _):
        scores = score(ws, ScoringInputs(1, student, PAIRS, ("responses", "mix")))
    assert set(scores.by_row) == {pair.id for pair in PAIRS} - {"2"}


def test_score_on_seeds_and_mix_show_their_references(config: Config, student: Artifact, tmp_path: Path) -> None:
    """On seeds the reference is the data set's response; on a mix only rows that were seeds have one."""
    seeds = [Example(id=str(n), instruction=f"Say {n}", response=f"the reference {n}") for n in range(3)]
    responses = [Response(id=str(n), text=text) for n, text in enumerate(["Zero.", None, "Two."])]
    mix = [TrainingExample.model_validate({**MIX_ROW, "id": str(n), "instruction": f"Say {n}"}) for n in (0, 9)]
    with open_scoring(config, tmp_path, Difficulty.mfd, reference=True) as (ws, chat):
        stored = {
            name: ws.rows(name, None, {}, lambda rows=rows: StageOutput(rows, {}))
            for name, rows in {"seeds": seeds, "teacher_responses": responses, "train_mix": mix}.items()
        }
        on_seeds = score_on_seeds(ws, student, stored["seeds"], stored["teacher_responses"])
        assert set(on_seeds.by_row) == {"0", "2"}
        assert shown_references(chat) == {"the reference 0", "the reference 2"}
        chat.requests.clear()
        on_mix = score_on_mix(ws, 1, student, stored["train_mix"], {seed.id: seed.response for seed in seeds})
        assert set(on_mix.by_row) == {"0", "9"}
        assert shown_references(chat) == {"the reference 0"}


MIX_ROW = {
    "response": "Refined.",
    "task": "Math",
    "subset": "hard",
    "origin": "seed",
    "parents": (),
    "created_in_round": 0,
    "difficulty": 3.0,
}


def shown_references(chat: ScriptedChat) -> set[str]:
    return {text for request in chat.requests for text in tagged(prompt_of(request), "reference")}


PANEL = " ".join(
    [
        *("judge=panel", "llm@judge.llm=lab", "judge.panel.second.llm.api_key_env=null"),
        *(
            word
            for role, noise in (("judge", 1.0), ("judge.panel.second", 2.0))
            for word in (
                f"{role}.llm.model=lab/judge",
                f"+{role}.llm.extra_params.noise={noise}",
                f"+{role}.llm.extra_params.position_bias=0.0",
            )
        ),
    ]
)
"""Two judges of the lab, one of them with more noise."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        *(f"curriculum.difficulty={how.name}" for how in (Difficulty.ifd, Difficulty.eps, Difficulty.judge_rated)),
        "judge.protocol=single_score judge.samples=2 judge.temperature=0.5",
        "judge.protocol=pair_expected judge.metrics=true judge.own_reference=true",
        pytest.param(f"judge.protocol=pair_logprobs {PANEL}", id="panel"),
    ],
)
def test_run_with_any_difficulty_and_protocol_finishes(choice: str, tmp_path: Path) -> None:
    overrides = [
        "seeds.size=60",
        "curriculum.rows_per_round=30",
        "curriculum.rounds=2",
        "sft.seed_stage.max_tokens=3000",
        "sft.round_stage.max_tokens=2000",
        "sft.global_batch_size=8",
        "student.max_new_tokens=24",
        "evals.problems_per_level=1",
        "judge.reference=true",
        "logger=disabled",
    ]
    done = run_preloaded([*choice.split(), *overrides, f"outputs={tmp_path}"], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "latest" / "report.html").is_file()


def test_verdicts_recipe_of_earlier_settings_is_unchanged(config: Config, tmp_path: Path) -> None:
    """Settings that came later are no part of the key unless they change the requests."""
    with open_test_workspace(config, tmp_path, judge=ScriptedChat(judge)) as ws:
        before = {"model", "protocol", "swap_positions", "reference", "temperature", "max_tokens"}
        assert verdicts_recipe(ws, ())["judge"].keys() == before


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({"metrics": True}, {"metrics", "notes_max_tokens"}),
        ({"own_reference": True}, {"own_reference", "notes_max_tokens"}),
        ({"samples": 2}, {"samples"}),
        ({"top_logprobs": 5}, {"top_logprobs"}),
        ({"panel": PanelConfig(PanelMemberConfig(LLMConfig(model="x/y")), combine=PanelScore.median)}, {"combine"}),
        ({"panel": PanelConfig(combine=PanelScore.median)}, set()),
        ({"notes_max_tokens": 9}, set()),
    ],
)
def test_verdicts_recipe_has_what_changes_the_verdicts(
    config: Config, tmp_path: Path, changes: dict[str, object], added: set[str]
) -> None:
    changed = replace(config, judge=replace(config.judge, **changes))
    with (
        open_test_workspace(config, tmp_path, judge=ScriptedChat(judge)) as plain,
        open_test_workspace(changed, tmp_path / "b", judge=ScriptedChat(judge)) as ws,
    ):
        recipes = [verdicts_recipe(each, ())["judge"] for each in (plain, ws)]
    assert recipes[1].keys() - recipes[0].keys() == added


def test_verdicts_with_notes_are_made_after_the_responses(config: Config, student: Artifact, tmp_path: Path) -> None:
    noted = replace(config, judge=replace(config.judge, metrics=True))
    chat = ScriptedChat(lambda request: "Is it red?" if "what to check" in prompt_of(request) else judge(request))
    with open_test_workspace(noted, tmp_path, judge=chat) as ws:
        rows = verdicts(ws, ScoringInputs(1, student, PAIRS, ("responses", "mix"))).rows(Verdict)
    assert [verdict.gap is None for verdict in rows] == [pair.id == UNSCORED for pair in PAIRS]
    assert len(chat.requests) == len(PAIRS) * 3 + 2  # the replies to the unscored row are requested again
    assert all(tagged(prompt_of(request), "metrics") == ["Is it red?"] for request in chat.requests[len(PAIRS) :])


def test_verdicts_of_a_panel_keep_each_judge(config: Config, student: Artifact, tmp_path: Path) -> None:
    second = PanelMemberConfig(LLMConfig(model="x/second", concurrency=1))
    both = replace(config, judge=replace(config.judge, panel=PanelConfig(second)))
    panel = Panel([Member(ScriptedChat(judge), 1), Member(ScriptedChat(lambda request: "2 2"), 1)])
    with open_test_workspace(both, tmp_path, judge=panel) as ws:
        rows = verdicts(ws, ScoringInputs(1, student, PAIRS, ("responses", "mix"))).rows(Verdict)
    assert [reply.judge for reply in rows[0].replies] == ["judge", "judge", "second", "second"]
    assert rows[0].gap == (grade(PAIRS[0].response_a) - grade("blue")) / 2
    assert split_panel(rows[0])["second"].gap == 0
