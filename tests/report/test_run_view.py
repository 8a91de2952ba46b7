"""The view of a run: tolerant where an arm lacks something, strict everywhere else."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.report.run_samples import lineages, samples
from tapir_exp.report.run_view import RunView, by_interest, spend_by_role

MakeRun = Callable[..., Path]


def drop(run_dir: Path, name: str) -> None:
    """Take an artifact out of the manifest."""
    path = run_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["artifacts"] = [entry for entry in manifest["artifacts"] if entry["name"] != name]
    path.write_text(json.dumps(manifest))


def test_a_whole_run_is_read(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    assert [r.number for r in run.rounds] == [0, 1, 2, 3]
    assert [r.alpha for r in run.rounds] == [None, 0.3, 0.5, 0.7]
    assert len(run.seeds) == len(run.rounds[0].verdicts) == 240
    assert run.rounds[0].unscored == 1
    assert len(run.rounds[0].gaps) == 239
    assert not run.rounds[3].verdicts
    assert run.config["curriculum"]["delta"] == 2.0
    assert run.metrics[-1]["round"] == 3


def test_hard_means_above_the_threshold_not_at_it(fake_run: MakeRun) -> None:
    r = RunView.load(fake_run()).rounds[0]
    assert r.hard(2.0) == sum(gap > 2.0 for gap in r.gaps)
    at = sorted(r.gaps)[-1]
    assert r.hard(at) == 0


def test_a_plain_fit_needs_no_rounds(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run(arm="vanilla_sft", rounds=0))
    assert len(run.rounds) == 1
    assert not run.labels
    assert samples(run) == []
    assert lineages(run) == []


def test_a_run_may_have_no_benchmark(fake_run: MakeRun) -> None:
    assert not RunView.load(fake_run(benchmark=False)).rounds[0].benchmark


@pytest.mark.parametrize(
    "name",
    [
        "seeds",
        "task_labels",
        "teacher_responses",
        "student-3",
        "student_responses-2",
        "verdicts-0",
        "plan-2",
        "train_mix-1",
        "benchmark-2",
    ],
)
def test_what_its_kind_of_run_makes_must_be_named(fake_run: MakeRun, name: str) -> None:
    run_dir = fake_run()
    drop(run_dir, name)
    with pytest.raises(StoreError, match=name):
        RunView.load(run_dir)


def test_an_artifact_gone_from_the_store_is_an_error(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    shutil.rmtree(run_dir.parent.parent / "store" / "mix")
    with pytest.raises(StoreError, match="No artifact mix/"):
        RunView.load(run_dir)


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "config.yaml"])
def test_an_unfinished_run_is_an_error_that_says_what_is_missing(fake_run: MakeRun, name: str) -> None:
    run_dir = fake_run()
    (run_dir / name).unlink()
    with pytest.raises(StoreError, match=name):
        RunView.load(run_dir)


def test_one_sample_per_task_type_the_boosted_first(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    chosen = samples(run)
    tasks = [sample.task for sample in chosen]
    assert tasks == by_interest({task for label in run.labels.values() if (task := label.task)})
    assert set(tasks[:4]) == set(BOOSTED)


def test_samples_show_everybodys_words(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    sample = next(s for s in samples(run) if s.stages == 2)
    assert sample.before == run.rounds[0].answers[sample.id].text
    assert sample.teacher == run.responses[sample.id].text
    assert sample.refined_round is not None
    assert sample.refined == run.rounds[sample.refined_round].mix[sample.id].response
    assert sample.after_round is not None
    assert sample.after_round > 0
    assert sample.after == run.rounds[sample.after_round].answers[sample.id].text
    last = max(r.number for r in run.rounds if sample.id in r.answers)
    assert sample.after_round == last
    assert sample.judged[0].round == 0


def test_samples_do_not_look_at_the_outcome(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    turned = replace(run.rounds[0], verdicts=dict(reversed(list(run.rounds[0].verdicts.items()))))
    again = replace(run, rounds=(turned, *run.rounds[1:]))
    assert [s.id for s in samples(again)] == [s.id for s in samples(run)]


def test_a_row_is_not_passed_over_for_an_unusable_answer(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    mute = {key: answer.model_copy(update={"text": None}) for key, answer in run.rounds[2].answers.items()}
    first = samples(run)[0].id
    half = {**run.rounds[2].answers, first: mute.get(first, run.rounds[0].answers[first])}
    again = replace(run, rounds=(*run.rounds[:2], replace(run.rounds[2], answers=half), run.rounds[3]))
    assert samples(again)[0].id == first


def test_a_trail_leads_from_a_seed_to_the_last_round(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    for trail in lineages(run):
        kinds = [station.kind for station in trail.stations]
        assert kinds[0] == "seed"
        assert trail.stations[0].row in run.seeds
        assert "expansion" in kinds
        assert "trained" in kinds
        rounds = [station.round for station in trail.stations]
        assert rounds == sorted(rounds)
        created_in_round = next(r.expansions[trail.id] for r in run.rounds if trail.id in r.expansions)
        before = [station.row for station in trail.stations if station.row != trail.id]
        assert before[-1] in created_in_round.parents


def test_task_types_come_from_everywhere(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    bare = replace(run, labels={}, rounds=run.rounds[:1])
    assert TaskType.MATH in bare.tasks
    assert TaskType.LAW not in run.tasks
    assert run.tasks[:4] == list(BOOSTED)


def test_spend_adds_up_and_unpriced_is_not_free(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    spent = {row.role: row for row in spend_by_role(run.artifacts.values())}
    assert spent["classifier"].usd is None
    judged = sum(len(r.verdicts) for r in run.rounds)
    assert spent["judge"].calls == 2 * judged
    assert spent["judge"].usd == pytest.approx(3 * 0.52)
    assert spent["judge"].prompt_tokens == 180 * 2 * judged
