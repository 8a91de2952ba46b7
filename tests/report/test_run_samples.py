"""Sample rows and lineages of a run: selected by id, never by outcome."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tapir_exp.core.records import Label
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.report.run_samples import lineages, samples
from tapir_exp.report.run_view import RunView, boosted_first

MakeRun = Callable[..., Path]


def test_samples_has_one_per_task_type_boosted_first(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    tasks = [sample.task for sample in samples(run)]
    assert tasks == boosted_first({task for label in run.labels.values() if (task := label.task)})
    assert set(tasks[:4]) == set(BOOSTED)


def test_samples_leave_out_types_that_only_mislabelling_produced(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    wrong, right = sorted(run.rounds[0].verdicts)[:2]
    labels = {**run.labels, wrong: Label(id=wrong, task=TaskType.LAW, raw=""), right: run.labels[right]}
    tasks = {sample.task for sample in samples(replace(run, labels=labels))}
    assert TaskType.LAW not in tasks
    assert {task for task, share in (run.manifest.target or {}).items() if share} <= tasks


def test_samples_show_the_texts_of_student_and_teacher(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    sample = next(s for s in samples(run) if s.stages == 2)
    assert sample.before == run.rounds[0].responses[sample.id].text
    assert sample.teacher == run.teacher_responses[sample.id].text
    assert sample.refined_round is not None
    assert sample.refined == run.rounds[sample.refined_round].mix[sample.id].response
    assert sample.after_round is not None
    assert sample.after_round > 0
    assert sample.after == run.rounds[sample.after_round].responses[sample.id].text
    last = max(r.number for r in run.rounds if sample.id in r.responses)
    assert sample.after_round == last
    assert sample.verdicts[0].round == 0


def test_samples_do_not_depend_on_the_order_of_verdicts(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    reversed_verdicts = dict(reversed(list(run.rounds[0].verdicts.items())))
    again = replace(run, rounds=(replace(run.rounds[0], verdicts=reversed_verdicts), *run.rounds[1:]))
    assert [s.id for s in samples(again)] == [s.id for s in samples(run)]


def test_samples_keep_a_row_with_an_unusable_response(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    unusable = {key: response.model_copy(update={"text": None}) for key, response in run.rounds[2].responses.items()}
    first = samples(run)[0].id
    changed = {**run.rounds[2].responses, first: unusable.get(first, run.rounds[0].responses[first])}
    again = replace(run, rounds=(*run.rounds[:2], replace(run.rounds[2], responses=changed), run.rounds[3]))
    assert samples(again)[0].id == first


def test_lineages_lead_from_a_seed_to_the_last_round(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    assert lineages(run)
    for lineage in lineages(run):
        kinds = [step.kind for step in lineage.steps]
        assert kinds[0] == "seed"
        assert lineage.steps[0].row_id in run.seeds
        assert "expansion" in kinds
        assert "trained" in kinds
        rounds = [step.round for step in lineage.steps]
        assert rounds == sorted(rounds)
        expansion = next(r.expansions[lineage.id] for r in run.rounds if lineage.id in r.expansions)
        ancestors = [step.row_id for step in lineage.steps if step.row_id != lineage.id]
        assert ancestors[-1] in expansion.parents
