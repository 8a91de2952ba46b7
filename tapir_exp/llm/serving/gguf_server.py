"""OpenAI-compatible server of a GGUF file on the loopback interface: `python -m tapir_exp.llm.serving.gguf_server`.

It is the server of llama.cpp, which the package xllamacpp (extra `local`) contains.
"""

import argparse
import importlib
import os
import sys
import time
from typing import Any

SLOTS = 4
"""Concurrent requests; on a CPU a batch of four costs little more than one request."""
CONTEXT = 3072
"""Tokens per request, prompt plus completion."""


def main() -> None:
    """Serve until the process is stopped."""
    options = _parser().parse_args()
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError:
        sys.exit("The package xllamacpp is missing: make local, or pip install -c constraints.txt -e '.[local]'")
    server = xllamacpp.Server(_parameters(xllamacpp, options))  # starts its own threads
    print(f"{options.model} at {server.listening_address}", flush=True)  # noqa: T201 - this is the log
    while True:
        time.sleep(3600)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tapir_exp.llm.serving.gguf_server", description=__doc__)
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--threads", type=int, default=0, help="threads; 0 for every core that this process may use")
    parser.add_argument("--slots", type=int, default=SLOTS, help="concurrent requests")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens per request, prompt plus completion")
    return parser


def _parameters(xllamacpp: Any, options: argparse.Namespace) -> Any:
    parameters = xllamacpp.CommonParams()
    threads = options.threads or len(os.sched_getaffinity(0))
    parameters.model.path = options.model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = options.port
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.slots * options.context
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.ui = False
    parameters.offline = True
    return parameters


if __name__ == "__main__":
    main()
