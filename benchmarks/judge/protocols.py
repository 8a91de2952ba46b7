"""Which protocol makes a local judge better, and at what cost? Every protocol on the same labelled pairs.

    python benchmarks/judge/protocols.py measure --pairs dataset.json --limits 25,100 --output-dir DIR \\
        judge=qwen2_5_coder_1_5b_local
    python benchmarks/judge/protocols.py summary --pairs dataset.json --output-dir DIR

The first pairs are judged under every protocol, then more of them. So a measurement that is stopped compares all
protocols on the same pairs. Completions are cached: the same command continues. The times are those of new calls, with
the start of the server; CPU time includes the server, which runs on one thread.

A right verdict counts 1, a tie 1/2, a wrong or missing one 0. The summary gives the difference from the baseline on the
pairs that both have judged, with a 95 % t interval. It also gives the p-value of the exact sign-flip test, corrected
for the number of protocols by Holm's method.
"""

import argparse
import json
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tapir_exp.commands.judge_check_job import FIGURES, CheckJob, run_job
from tapir_exp.evals.judge_agreement import JudgedPair, measure_judge
from tapir_exp.evals.statistics import holm, lattice_flip_p, paired_difference

COMMAND = '["{python}",-m,tapir_exp.llm.serving.gguf_server,--model,"{weights}",--port,"{port}",--threads,"1"]'
COMMON = (f"judge.llm.server.command={COMMAND}", "judge.llm.timeout_s=3600")
BASELINE = "pair_logprobs"
SCORES = ("judge.protocol=pair_scores", "judge.max_tokens=24")
LOGPROBS = ("judge.protocol=pair_logprobs", "judge.max_tokens=1")
PROTOCOLS: Mapping[str, Sequence[str]] = {
    BASELINE: LOGPROBS,
    "single_expected": ("judge.protocol=single_expected", "judge.max_tokens=1"),
    "pair_expected": ("judge.protocol=pair_expected", "judge.max_tokens=4"),
    "pair_scores": SCORES,
    "single_score": ("judge.protocol=single_score", "judge.max_tokens=24"),
    "pair_logprobs, metrics": (*LOGPROBS, "judge.metrics=true", "judge.notes_max_tokens=128"),
    "pair_logprobs, own reference": (*LOGPROBS, "judge.own_reference=true", "judge.notes_max_tokens=256"),
    "pair_scores, 4 samples": (*SCORES, "judge.samples=4", "judge.temperature=0.7"),
}
"""The cheapest protocols first."""
RUNS = "runs.jsonl"
JUDGED = "judged.json"


def measure(
    pairs: Path, limits: Sequence[int], names: Sequence[str], directory: Path, overrides: Sequence[str]
) -> None:
    """Judge the first pairs under every protocol, and append a line with figures and times for each."""
    directory.mkdir(parents=True, exist_ok=True)
    for limit in limits:
        for name in names:
            folder = directory / name.replace(", ", "-").replace(" ", "_")
            settings = (*overrides, *PROTOCOLS[name], *COMMON, f"outputs={directory / 'outputs'}")
            before, started = _cpu_seconds(), time.monotonic()
            (check,) = run_job(CheckJob(pairs, limit, (), 2.0, folder, settings))
            spend = json.loads((folder / FIGURES).read_text())["judges"][check.name]["spend"]
            line = {
                "protocol": name,
                "limit": limit,
                "calls": spend["calls"],
                "calls_of_all": check.calls,
                "wall_s": time.monotonic() - started,
                "cpu_s": _cpu_seconds() - before,
                "prompt_tokens": spend["prompt_tokens"],
                "completion_tokens": spend["completion_tokens"],
            }
            with (directory / RUNS).open("a") as runs:
                runs.write(json.dumps(line) + "\n")
            rows = [[pair.label, *pair.leads, *pair.lengths, pair.alone, pair.failed] for pair in check.judged]
            (folder / JUDGED).write_text(json.dumps(rows) + "\n")


def summarise(directory: Path) -> str:
    """Return a Markdown table of all protocols on the pairs that they have judged."""
    judged = {}
    for name in PROTOCOLS:
        path = directory / name.replace(", ", "-").replace(" ", "_") / JUDGED
        if path.is_file():
            rows = json.loads(path.read_text())
            judged[name] = [JudgedPair(r[0], (r[1], r[2]), (r[3], r[4]), alone=r[5], failed=r[6]) for r in rows]
    base = [points_of(pair) for pair in judged[BASELINE]]
    differences = {
        name: [own - other for own, other in zip(map(points_of, pairs), base, strict=False)]
        for name, pairs in judged.items()
        if name != BASELINE
    }
    corrected = holm({name: lattice_flip_p(values, 0.5) for name, values in differences.items()})
    times = _times(directory)
    head = "| protocol | pairs | right, % | tie | wrong | unscored | both orders alike, % | κ | difference, points "
    lines = [head + "| p (Holm) | calls a pair | s a pair, CPU | wall |", "|---|" + "--:|" * 12]
    for name, pairs in judged.items():
        a = measure_judge(pairs, 2.0)
        shown = [
            name,
            a.rows,
            f"{100 * a.right.mean:.0f} ({100 * (a.right.low or 0):.0f}–{100 * (a.right.high or 0):.0f})",
        ]
        shown += [f"{100 * share.mean:.0f}" for share in (a.ties, a.wrong, a.unscored)]
        shown.append("–" if a.consistent is None else f"{100 * a.consistent.mean:.0f}")
        shown.append("–" if a.kappa is None else f"{a.kappa.mean:.2f} ({a.kappa.low:.2f}–{a.kappa.high:.2f})")
        if name == BASELINE:
            shown += ["", ""]
        else:
            n = len(differences[name])
            d = paired_difference([points_of(pair) for pair in pairs[:n]], base[:n])
            shown += [f"{100 * d.mean:+.1f} ({100 * (d.low or 0):+.1f} to {100 * (d.high or 0):+.1f})"]
            shown += [f"{corrected[name]:.2f}"]
        calls, cpu, wall = times.get(name, (0.0, 0.0, 0.0))
        shown += [f"{calls:.1f}", f"{calls * cpu:.1f}", f"{calls * wall:.1f}"]
        lines.append("| " + " | ".join(map(str, shown)) + " |")
    return "\n".join(lines) + "\n"


def points_of(pair: JudgedPair) -> float:
    """Return 1 for a right verdict, 1/2 for a tie, and 0 for a wrong or missing one."""
    return {pair.label: 1.0, 0: 0.5}.get(pair.verdict, 0.0) if pair.verdict is not None else 0.0


def _times(directory: Path) -> dict[str, tuple[float, float, float]]:
    """Return calls per pair, and CPU and wall seconds per new call, by protocol."""
    found: dict[str, list[dict[str, float]]] = {}
    for line in (directory / RUNS).read_text().splitlines():
        row = json.loads(line)
        if row["calls"]:
            found.setdefault(row["protocol"], []).append(row)
    times = {}
    for name, rows in found.items():
        calls = sum(row["calls"] for row in rows)
        each = rows[-1]["calls_of_all"] / rows[-1]["limit"]
        times[name] = each, sum(row["cpu_s"] for row in rows) / calls, sum(row["wall_s"] for row in rows) / calls
    return times


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of the servers that it has stopped."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Measure protocols, or print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["measure", "summary"])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--limits", default="100", help="numbers of pairs, such as 25,100")
    parser.add_argument("--protocols", default="; ".join(PROTOCOLS), help="names, separated by semicolons")
    parser.add_argument("--output-dir", type=Path, required=True)
    flags, overrides = parser.parse_known_args()
    if flags.what == "measure":
        names = [name.strip() for name in flags.protocols.split(";")]
        measure(flags.pairs, [int(limit) for limit in flags.limits.split(",")], names, flags.output_dir, overrides)
    print(summarise(flags.output_dir))


if __name__ == "__main__":
    main()
