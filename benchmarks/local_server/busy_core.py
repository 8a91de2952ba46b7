"""Compare a local llama.cpp server on an idle machine with one beside a busy core, in turn: medians and their ratio.

    tapir weights smollm2_135m
    python benchmarks/local_server/busy_core.py

The server measures its threads at each start, as in a run. It gets 24 requests of 64 tokens, four at once.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from urllib.error import URLError
from urllib.request import Request, urlopen

from tapir_exp.llm.serving.weights import find_weights

REQUESTS, AT_ONCE, TOKENS = 24, 4, 64


@contextmanager
def running(*command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Python command in another process, yield the process, and end it after the block."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def server(weights: str) -> Iterator[str]:
    """Serve a GGUF file, and yield its address once it replies. Raises SystemExit if the server ends before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = ("-m", "tapir_exp.llm.serving.gguf_server", "--model", weights, "--port", str(port))
    with running(*command) as process:
        while not replies(address):
            if process.poll() is not None:
                raise SystemExit(
                    f"the server ended with {process.returncode}; run python {' '.join(command)} for the reason"
                )
            time.sleep(0.2)
        yield address


def replies(address: str) -> bool:
    """Return whether a server is ready."""
    try:
        with urlopen(f"{address}/health", timeout=2):
            return True
    except (URLError, TimeoutError, ConnectionError):
        return False


def seconds(weights: str) -> float:
    """Return the wall time of all requests to a new server."""

    def ask(number: int) -> None:
        message = {"role": "user", "content": f"Tell a story about the number {number}."}
        body = {"model": "m", "messages": [message], "max_tokens": TOKENS, "temperature": 0}
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)) as response:
            response.read()

    with server(weights) as address, ThreadPoolExecutor(AT_ONCE) as pool:
        started = time.perf_counter()
        list(pool.map(ask, range(REQUESTS)))
        return time.perf_counter() - started


def main() -> None:
    """Print the wall times and the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    weights = str(find_weights("smollm2_135m").path)
    idle, busy = [], []
    for _ in range(rounds):
        idle.append(seconds(weights))
        with running("-c", "while True: pass"):
            busy.append(seconds(weights))
    print("idle, s:", *(f"{wall:.1f}" for wall in idle))
    print("beside a busy core, s:", *(f"{wall:.1f}" for wall in busy))
    print(f"ratio of the medians: {median(busy) / median(idle):.2f}")


if __name__ == "__main__":
    main()
