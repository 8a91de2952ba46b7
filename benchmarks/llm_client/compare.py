"""Compare our client with raw aiohttp, litellm and AsyncOpenAI, interleaved in one run: medians and ratios.

    python benchmarks/llm_client/compare.py

A server on the loopback interface responds after 50 ms. Every measurement is a fresh process.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent


@contextmanager
def server(latency_ms: float = 50, per_minute: int = 0) -> Iterator[str]:
    """Run the server in a separate process, and yield its base address."""
    command = [sys.executable, str(HERE / "server.py"), f"--latency-ms={latency_ms}", f"--per-minute={per_minute}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


def run_client(name: str, base: str, prompts: int, in_flight: int) -> dict[str, float]:
    """Measure one client in a fresh process."""
    command = [sys.executable, str(HERE / "client.py"), name, base, f"--prompts={prompts}", f"--in-flight={in_flight}"]
    figures: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return figures


def main() -> None:
    """Print a Markdown table."""
    sys.path.insert(0, str(HERE))
    from client import CLIENTS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=64)
    args = parser.parse_args()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
    with server() as base:
        for _ in range(args.rounds):
            for name in CLIENTS:
                seen[name].append(run_client(name, base, args.prompts, args.in_flight))
    limit = median(row["per_s"] for row in next(iter(seen.values())))
    print("| client | correct responses | requests/s | of the limit | CPU ms per request | MB beyond warm-up |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, rows in seen.items():
        medians = {key: median(row[key] for row in rows) for key in rows[0]}
        print(
            f"| {name} | {medians['correct']:.0f} | {medians['per_s']:.0f} | {medians['per_s'] / limit:.2f} "
            f"| {medians['cpu_ms']:.2f} | {medians['extra_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
