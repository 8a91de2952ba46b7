"""The check of the judge inside a run: before its first verdict, on pairs with a known better answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tapir_exp.config import Config, JudgeConfig
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import JudgeRejected
from tapir_exp.core.records import Example, Response
from tapir_exp.core.store import Artifact
from tapir_exp.core.stored_rows import LazySequence
from tapir_exp.distillation.judge.check import check_verdicts, judge_pairs
from tapir_exp.distillation.judge.parse import PARSER_VERSION
from tapir_exp.distillation.judge.requests import judge_prompts
from tapir_exp.evals.judge_agreement import JudgeAgreement
from tapir_exp.evals.labelled_pairs import FIRST, SECOND, TIE, LabelledPair, pair_key, read_pairs
from tapir_exp.evals.statistics import Interval
from tapir_exp.lab.world import recognise
from tapir_exp.pipeline.workspace import StageOutput, Workspace, role_recipe

STAGE = "judge_check"
MIN_WORDS = 8
"""Words below which a response is too short to be cut to a clearly worse one."""

Spoil = Callable[[str, str], str]
"""Returns a worse response, from a response and the response to another instruction."""
SPOILT: dict[str, Spoil] = {
    "cut": lambda text, other: " ".join(text.split()[: len(text.split()) // 3]),
    "of another instruction": lambda text, other: other,
    "the same": lambda text, other: text,
}
"""Copies that a response is compared with. The last one is as good, so it shows ties and the position bias."""


def check_judge(ws: Workspace, seeds: Artifact, teacher_responses: Artifact) -> Artifact | None:
    """Check the judge on `judge.check` pairs; None without a check, or without a pair to check it on. Rows: Verdict.

    Raises:
        JudgeRejected: If its accuracy is below `judge.check_min_accuracy`, and `judge.check_stop` is set.
        EvaluationError: If the file of labelled pairs cannot be read.
    """
    config = ws.config.judge
    if not config.check:
        return None
    pairs = find_pairs(ws.config, seeds.stored_rows(Example), teacher_responses.stored_rows(Response))
    if not any(pair.label != TIE for pair in pairs):
        print_warning("judge.check: there is no pair to check the judge on; set judge.check_pairs to a file of pairs.")
        return None

    def make() -> StageOutput:
        verdicts, _ = judge_pairs(pairs, ws.judge, config, f"judge-check: {len(pairs)} pairs")
        check = check_verdicts("judge", pairs, verdicts, ws.config.curriculum.delta)
        same = [verdict.gap == 0 for pair, verdict in zip(pairs, verdicts, strict=True) if pair.first == pair.second]
        return StageOutput(
            verdicts, {**figures_of(check.agreement), "ties_with_itself": sum(same) / len(same) if same else None}
        )

    recipe = {
        "pairs": [(pair_key(pair), pair.label) for pair in pairs],
        "judge": role_recipe(ws.judge, config),
        "prompts": judge_prompts(config),
        "reader": PARSER_VERSION,
        "delta": ws.config.curriculum.delta,
    }
    artifact = ws.rows(STAGE, None, recipe, make)
    # The threshold is no part of the key, so another one applies to the same verdicts.
    if artifact.figures["right"] < config.check_min_accuracy:
        _reject(artifact.figures, config)
    return artifact


def find_pairs(config: Config, seeds: Sequence[Example], responses: Iterable[Response]) -> list[LabelledPair]:
    """Return the pairs of a check: the user's, the lab's, or those of the teacher's responses and spoilt copies."""
    count = config.judge.check
    if config.judge.check_pairs is not None:
        return read_pairs(Path(config.judge.check_pairs), count)
    texts = {response.id: response.text for response in responses}
    answered = [index for index, seed in enumerate(seeds) if texts.get(seed.id)]
    rows = LazySequence(len(answered), lambda number: ((seed := seeds[answered[number]]), texts[seed.id] or ""))
    drawn = Random(f"judge check {config.seed}").sample(rows, min(count, len(rows)))
    lab = [pair for seed, _ in drawn if (pair := _lab_pair(seed)) is not None]
    return lab or spoilt_pairs(drawn)


def spoilt_pairs(rows: Sequence[tuple[Example, str]]) -> list[LabelledPair]:
    """Return every response beside a copy: cut, of another instruction, or the same; the better one changes sides."""
    pairs = []
    for number, (seed, text) in enumerate(rows):
        kind = list(SPOILT)[number % len(SPOILT)]
        # A short response cannot be cut to a clearly worse one.
        if kind == "cut" and len(text.split()) < MIN_WORDS:
            kind = "of another instruction"
        other = SPOILT[kind](text, rows[number - 1][1])
        label = TIE if other == text else FIRST if number // len(SPOILT) % 2 == 0 else SECOND
        first, second = (other, text) if label == SECOND else (text, other)
        pairs.append(LabelledPair(seed.id, seed.instruction, first, second, label, seed.response, kind))
    return pairs


def _lab_pair(seed: Example) -> LabelledPair | None:
    """Return a right and a wrong response to a problem of the lab by its grader; None for any other instruction."""
    if (known := recognise(seed.instruction)) is None:
        return None
    family, problem = known
    good, bad = problem.refined, problem.slip
    if family.grade(problem, good).score <= family.grade(problem, bad).score:
        return None
    # Half of the pairs show the right response first, by the id.
    if int(seed.id, 16) % 2:
        return LabelledPair(seed.id, seed.instruction, bad, good, SECOND, problem.terse, "lab")
    return LabelledPair(seed.id, seed.instruction, good, bad, FIRST, problem.terse, "lab")


def figures_of(agreement: JudgeAgreement) -> dict[str, float | None]:
    """Return the figures of a check for the sidecar, the metrics and the report."""

    def mean(interval: Interval | None) -> float | None:
        return None if interval is None else interval.mean

    return {
        "pairs": agreement.rows,
        "right": agreement.right.mean,
        "right_low": agreement.right.low,
        "right_high": agreement.right.high,
        "ties": agreement.ties.mean,
        "wrong": agreement.wrong.mean,
        "unscored": agreement.unscored.mean,
        "right_above_delta": mean(agreement.above_delta),
        "both_orders_alike": mean(agreement.consistent),
        "position_bias": mean(agreement.position_bias),
        "longer_wins": mean(agreement.longer_wins),
        "kappa": mean(agreement.kappa),
    }


def _reject(figures: Mapping[str, Any], config: JudgeConfig) -> None:
    shares = ", ".join(f"{name} {figures[name]:.0%}" for name in ("ties", "wrong", "unscored"))
    problem = (
        f"The judge {config.llm.model} is right on {figures['right']:.0%} of {figures['pairs']} pairs with a known "
        f"better answer ({shares}); judge.check_min_accuracy = {config.check_min_accuracy:g} is expected. The hard set "
        "rests on its verdicts: choose another judge or protocol (`tapir judge-check` compares them)"
    )
    if config.check_stop:
        raise JudgeRejected(f"{problem}, or set judge.check_stop=false.")
    print_warning(f"{problem}.")
