"""How much does the hard set gain under a noisy judge, and does a shrunk gap win some of it back? From finished runs.

    tapir --config-name lab_judge_noise
    python benchmarks/judge/noise_gain.py outputs/sweeps/lab_judge_noise --plot noise_gain.svg

The gain is the macro accuracy of the last student minus that of a random hard set with the same noise and training
seed. It is in points, as the mean over seeds with a 95 % t interval. Every rule is also compared with the plain gap.
The plot has the accuracies, with the seeds as dots.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tapir_exp.core.store import write_text_atomic
from tapir_exp.evals.statistics import Difference, paired_difference, t_interval
from tapir_exp.report.charts.dot_chart import Dot, dots
from tapir_exp.report.sweep.jobs import Job, find_jobs
from tapir_exp.report.sweep.page import standalone_svg

ACCURACY = "benchmark/accuracy"
RANDOM, GAP = "random", "gap"
RULES = (GAP, "posterior", "lower_bound")

Results = Mapping[tuple[float, str], Mapping[int, float]]
"""Accuracy in per cent by training seed, for each noise and rule."""


def load_results(directories: Sequence[Path]) -> Results:
    """Return the results of the finished jobs below some directories."""
    found: defaultdict[tuple[float, str], dict[int, float]] = defaultdict(dict)
    for job in (job for directory in directories for job in find_jobs(directory)):
        accuracy = job.final_metric(ACCURACY)
        if accuracy is not None and job.seed is not None:
            found[float(job.config["lab.judge_noise"]), rule_of(job)][job.seed] = 100 * accuracy
    return found


def rule_of(job: Job) -> str:
    """Return the rule that selects the hard set of a job."""
    is_random = job.config["curriculum.difficulty"] == RANDOM
    return RANDOM if is_random else str(job.config.get("curriculum.select_by", GAP))  # earlier versions had no choice


def difference(results: Results, noise: float, rule: str, base: str) -> Difference | None:
    """Return the paired difference of two rules in points; None without a common seed."""
    own, other = results.get((noise, rule), {}), results.get((noise, base), {})
    seeds = sorted(own.keys() & other.keys())
    return paired_difference([own[seed] for seed in seeds], [other[seed] for seed in seeds]) if seeds else None


def render(results: Results) -> str:
    """Return a Markdown table with a row for each noise and rule."""
    rows = ["| noise, points | rule | accuracy, % | seeds | gain over random | pairs | minus gap | pairs |"]
    rows.append("|--:|---|--:|--:|--:|--:|--:|--:|")
    for noise in sorted({noise for noise, _ in results}):
        for rule in (RANDOM, *RULES):
            if values := results.get((noise, rule)):
                gain = None if rule == RANDOM else difference(results, noise, rule, RANDOM)
                more = None if rule in (RANDOM, GAP) else difference(results, noise, rule, GAP)
                mean = t_interval(list(values.values())).mean
                cells = [f"{noise:g}", rule, f"{mean:.1f}", str(len(values)), *described(gain), *described(more)]
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def described(found: Difference | None) -> tuple[str, str]:
    """Return a difference with its interval, and its number of pairs."""
    if found is None:
        return "–", "–"
    interval = "" if found.low is None or found.high is None else f" ({found.low:+.1f} to {found.high:+.1f})"
    return f"{found.mean:+.1f}{interval}", str(found.n)


def draw(results: Results) -> str:
    """Return a plot of the accuracies, a row for each noise and rule, with the gain at its end."""
    rows = []
    for noise in sorted({noise for noise, _ in results}):
        for rule in (RANDOM, *RULES):
            if values := [value / 100 for value in results.get((noise, rule), {}).values()]:
                mean, gain = t_interval(values), difference(results, noise, rule, RANDOM)
                note = "random" if rule == RANDOM else described(gain)[0]
                label = f"noise {noise:g} · {rule}"
                rows.append(Dot(label, mean.mean, mean.low, mean.high, tuple(values), note, rule == RANDOM))
    title = "Macro accuracy by the judge's noise, and gain over a random hard set in points"
    return standalone_svg(dots(rows, title, "macro accuracy, % · dots: seeds · bar: 95 % t interval"))


def main() -> None:
    """Print the table, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", type=Path, help="sweeps, or directories of runs")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    results = load_results(options.directories)
    print(render(results))
    if options.plot:
        write_text_atomic(options.plot, draw(results))


if __name__ == "__main__":
    main()
