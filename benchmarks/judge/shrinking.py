"""Does shrinking the gaps by the judge's noise select a better hard set? A simulation with judges like the lab's.

    python benchmarks/judge/shrinking.py --rows 400 --repeats 200 --plot shrinking.svg

Half of the rows have the true gap 0, as in rows that teacher and student both answer right. The others have one from 1
to 9, evenly. The judge adds normal noise to each score, in both orders, and a bias for the first position. It writes
whole scores from 1 to 10. Three rules select rows with a true gap above delta = 2: the gap, its lower bound, and the
bound of the shrunk gap. Precision and recall are means over the repeats. At equal size, every rule selects as many rows
as the gap does, so only the order of the rows counts.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from random import Random
from statistics import NormalDist, fmean

from tapir_exp.core.records import BOTH_ORDERS, JudgeReply, Verdict
from tapir_exp.core.store import write_text_atomic
from tapir_exp.distillation.judge.noise import estimate_noise, expected_false_rows, shrunk_gaps
from tapir_exp.distillation.judge.score import build_verdict
from tapir_exp.report.charts.line_chart import Point, Series, lines
from tapir_exp.report.sweep.page import standalone_svg

DELTA, CONFIDENCE = 2.0, 0.8
NOISES = (0.5, 1.0, 2.0, 4.0)
RULES = ("gap", "lower_bound", "posterior")


def simulate(rows: int, noise: float, bias: float, r: Random) -> tuple[dict[str, float], list[Verdict]]:
    """Return true gaps by row id, and the verdicts of a judge."""
    true, verdicts = {}, []
    for number in range(rows):
        gap = 0 if r.random() < 0.5 else r.randint(1, 9)
        teacher = r.randint(gap + 1, 10)
        true[str(number)] = float(gap)
        replies = []
        for order in BOTH_ORDERS:
            first = {"teacher": bias, "student": 0.0} if order is BOTH_ORDERS[0] else {"teacher": 0.0, "student": bias}
            scores = {
                owner: float(min(10, max(1, round(score + first[owner] + r.gauss(0, noise)))))
                for owner, score in (("teacher", teacher), ("student", teacher - gap))
            }
            replies.append(JudgeReply(order=order, raw="", **scores))
        verdicts.append(build_verdict(str(number), replies))
    return true, verdicts


def scores_of(verdicts: list[Verdict], rule: str) -> dict[str, float]:
    """Return what a rule compares with delta, by row id."""
    if rule == "gap":
        return {verdict.id: verdict.gap for verdict in verdicts if verdict.gap is not None}
    return shrunk_gaps(verdicts, NormalDist().inv_cdf(CONFIDENCE), shrink=rule == "posterior")


def measure(rows: int, repeats: int, noise: float, bias: float) -> dict[str, Mapping[str, float]]:
    """Return precision, recall and size of the hard set of each rule, and the noise share that is predicted."""
    found: dict[str, list[tuple[float, float, float, float]]] = {rule: [] for rule in RULES}
    predicted = []
    for repeat in range(repeats):
        true, verdicts = simulate(rows, noise, bias, Random(f"{noise} {bias} {repeat}"))
        hard = {row for row, gap in true.items() if gap > DELTA}
        estimate = estimate_noise(verdicts)
        assert estimate is not None
        chosen, false = expected_false_rows(verdicts, estimate, DELTA)
        predicted.append(false / chosen)
        size = sum(score > DELTA for score in scores_of(verdicts, "gap").values())
        for rule in RULES:
            scores = scores_of(verdicts, rule)
            selected = {row for row, score in scores.items() if score > DELTA}
            best = set(sorted(scores, key=lambda row: -scores[row])[:size])
            precision = len(selected & hard) / max(1, len(selected))
            found[rule].append(
                (precision, len(selected & hard) / len(hard), len(selected) / rows, len(best & hard) / max(1, size))
            )
    names = ("precision", "recall", "size", "precision_at_equal_size")
    means = {
        rule: dict(zip(names, map(fmean, zip(*values, strict=True)), strict=True)) for rule, values in found.items()
    }
    means["gap"]["predicted_noise"] = fmean(predicted)
    return means


def main() -> None:
    """Print the table, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    print(
        "| noise | bias | rule | hard set, % | precision, % | recall, % | precision at equal size, % | "
        "predicted noise, % |"
    )
    print("|--:|--:|---|--:|--:|--:|--:|--:|")
    points: dict[str, list[Point]] = {rule: [] for rule in RULES}
    for bias in (0.0, 2.0):
        for index, noise in enumerate(NOISES):
            for rule, m in measure(arguments.rows, arguments.repeats, noise, bias).items():
                shares = [m["size"], m["precision"], m["recall"], m["precision_at_equal_size"]]
                noise_share = f"{100 * m['predicted_noise']:.1f}" if "predicted_noise" in m else ""
                cells = " | ".join(f"{100 * share:.1f}" for share in shares)
                print(f"| {noise:g} | {bias:g} | {rule} | {cells} | {noise_share} |", flush=True)
                if bias == 0:
                    points[rule].append(Point(index, m["precision"]))
    if arguments.plot:
        tones = ("quiet", "warm", "accent")
        series = [Series(rule, tuple(points[rule]), tone) for rule, tone in zip(RULES, tones, strict=True)]
        ticks = [f"noise {noise:g}" for noise in NOISES]
        title = "Share of the hard set that is truly above δ, %"
        write_text_atomic(arguments.plot, standalone_svg(lines(series, ticks, title, title, width=640)))


if __name__ == "__main__":
    main()
