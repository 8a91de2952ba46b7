"""Compare our client with raw aiohttp, litellm and AsyncOpenAI, interleaved in one run: medians and ratios.

    python benchmarks/llm_client/compare.py
    python benchmarks/llm_client/compare.py --grid --rounds 3

A server on the loopback interface responds after 50 ms. Every measurement is a fresh process. `--grid` measures raw
aiohttp, our client and litellm at several latencies and numbers of calls in flight.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.request import urlopen

sys.path.append(str(Path(__file__).parents[1]))
from local_endpoint import serving

HERE = Path(__file__).parent
LITELLM_PROMPTS = 400
"""Most prompts of litellm in the grid: those of a second or two."""
Figures = dict[str, float]


@contextmanager
def server(latency_ms: float = 50, per_minute: int = 0) -> Iterator[str]:
    """Run the server in a separate process, and yield its base address."""
    with serving(HERE / "server.py", f"--latency-ms={latency_ms}", f"--per-minute={per_minute}") as address:
        yield f"{address}/v1"


def run_client(name: str, base: str, prompts: int, in_flight: int) -> Figures:
    """Measure one client in a fresh process."""
    command = [sys.executable, str(HERE / "client.py"), name, base, f"--prompts={prompts}", f"--in-flight={in_flight}"]
    figures: Figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with urlopen(base.replace("/v1", "/count")) as response:
        figures["most"] = json.load(response)["most_in_flight"]
    return figures


def print_table(rounds: int, prompts: int, in_flight: int) -> None:
    """Print all clients at 50 ms."""
    sys.path.insert(0, str(HERE))
    from client import CLIENTS

    seen: dict[str, list[Figures]] = {name: [] for name in CLIENTS}
    with server() as base:
        for _ in range(rounds):
            for name in CLIENTS:
                seen[name].append(run_client(name, base, prompts, in_flight))
    limit = median(row["per_s"] for row in next(iter(seen.values())))
    print("| client | correct responses | requests/s | of the limit | CPU ms per request | MB beyond warm-up |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, rows in seen.items():
        medians = {key: median(row[key] for row in rows) for key in rows[0]}
        print(
            f"| {name} | {medians['correct']:.0f} | {medians['per_s']:.0f} | {medians['per_s'] / limit:.2f} "
            f"| {medians['cpu_ms']:.2f} | {medians['extra_mb']:.0f} |"
        )


def print_grid(rounds: int, prompts: int, latencies_ms: Sequence[float], in_flights: Sequence[int]) -> None:
    """Print raw aiohttp, our client and litellm by latency and calls in flight."""
    litellm_prompts = min(prompts, LITELLM_PROMPTS)
    clients = {
        "raw aiohttp (the limit)": prompts,
        "raw aiohttp on uvloop": prompts,
        "ours, direct": prompts,
        "litellm.acompletion openai/": litellm_prompts,
    }
    print("| latency | in flight | raw aiohttp/s | on uvloop/s | ours/s | litellm/s | ours / raw | ours / on uvloop |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for latency_ms in latencies_ms:
        for in_flight in in_flights:
            seen: dict[str, list[Figures]] = {name: [] for name in clients}
            with server(latency_ms) as base:
                for _ in range(rounds):
                    for name, count in clients.items():
                        figures = run_client(name, base, count, in_flight)
                        assert figures["correct"] == count, (name, figures)
                        assert figures["most"] <= in_flight, (name, figures)
                        seen[name].append(figures)
            raw, on_uvloop, ours, litellm = (median(row["per_s"] for row in rows) for rows in seen.values())
            print(
                f"| {latency_ms:g} ms | {in_flight} | {raw:.0f} | {on_uvloop:.0f} | {ours:.0f} | {litellm:.0f} "
                f"| **{ours / raw:.2f}** | {ours / on_uvloop:.2f} |",
                flush=True,
            )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, help="1000 without it; 3000 with --grid")
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--latencies-ms", type=float, nargs="+", default=[5, 20, 50])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[16, 64, 256])
    args = parser.parse_args()
    if args.grid:
        print_grid(args.rounds, args.prompts or 3000, args.latencies_ms, args.in_flight)
    else:
        print_table(args.rounds, args.prompts or 1000, args.in_flight[0] if len(args.in_flight) == 1 else 64)


if __name__ == "__main__":
    main()
