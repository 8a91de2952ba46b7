"""The search of a sweep: its best trial, which settings matter, and what a better figure costs."""

from pathlib import Path

from tapir_exp.report.charts.scatter_chart import Mark, scatter
from tapir_exp.report.sweep.search_file import SearchFile, TrialLine

UNITS = {"USD": "cost of the trial, USD", "calls": "paid calls of the trial", "seconds": "seconds of the trial"}


def load_search(sweep_dir: Path) -> SearchFile | None:
    """Return the search of a sweep; None if it is none."""
    return SearchFile.load(sweep_dir)


def draw_front(search: SearchFile | None) -> str:
    """Draw the figures over the costs with their Pareto front; empty without two trials."""
    if search is None:
        return ""
    front = search.front
    priced = [(trial, cost) for trial in search.complete if (cost := search.cost_of(trial)) is not None]
    if len(priced) < 2:
        return ""
    marks = [Mark(cost, trial.value or 0.0, f"{trial.number}" if trial in front else "", trial in front)
             for trial, cost in priced]  # fmt: skip
    better = "larger" if search.larger_is_better else "smaller"
    title = f"Pareto front: no trial has a {better} {search.figure} for less"
    described = "; ".join(f"trial {trial.number}: {trial.value:.4g}, {search.cost_of(trial):g}" for trial in front)
    return scatter(marks, (UNITS[search.cost], search.figure), title, f"On the front: {described}")


def draw_course(search: SearchFile | None) -> str:
    """Draw the figure of each trial by its number; empty without two trials."""
    if search is None or len(search.complete) < 2:
        return ""
    best: list[TrialLine] = []
    for trial in search.complete:
        best += [trial] if not best or search.merit(trial) > search.merit(best[-1]) else []
    marks = [Mark(t.number, t.value, "", strong=t in best, faint=t.state == "pruned")
             for t in search.trials if t.value is not None]  # fmt: skip
    described = "; ".join(f"trial {trial.number}: {trial.value:.4g}" for trial in best)
    title = f"{search.figure} by trial; the line joins the best so far"
    return scatter(marks, ("trial", search.figure), title, f"Best so far: {described}", height=240)
