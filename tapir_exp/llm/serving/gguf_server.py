"""Serves a GGUF file by the OpenAI protocol, on this machine's loopback alone: `python -m tapir_exp.llm.serving.gguf_server`.

The server is llama.cpp's, as the package xllamacpp (extra `local`) carries it.
"""

import argparse
import importlib
import os
import sys
import time
from typing import Any

SLOTS = 4
"""Requests answered at once; on a CPU a batch of four costs little more than one."""
CONTEXT = 3072
"""Tokens of each of them, prompt and reply."""


def main() -> None:
    """Serve until the process is ended."""
    options = _parser().parse_args()
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError:
        sys.exit("The package xllamacpp is missing: make local, or pip install -c constraints.txt -e '.[local]'")
    server = xllamacpp.Server(_parameters(xllamacpp, options))  # it serves from threads of its own
    print(f"{options.model} at {server.listening_address}", flush=True)  # noqa: T201 - this is the log
    while True:
        time.sleep(3600)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tapir_exp.llm.serving.gguf_server", description=__doc__)
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--threads", type=int, default=0, help="0: every core this process may use")
    parser.add_argument("--slots", type=int, default=SLOTS, help="requests answered at once")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens of each, prompt and reply")
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
