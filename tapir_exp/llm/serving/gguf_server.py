"""OpenAI-compatible server of a GGUF file on the loopback interface: `python -m tapir_exp.llm.serving.gguf_server`.

It is the server of llama.cpp, which the package xllamacpp (extra `local`) contains. The number of threads is measured
at the start, and again when the rate falls. The process then starts again: requests in flight fail, and clients repeat
them.
"""

import argparse
import importlib
import os
import sys
import time
from typing import Any

from tapir_exp.llm.serving.thread_choice import (
    LEAST_INTERVAL_S,
    LOOK_INTERVAL_S,
    RateWatch,
    choose_threads,
    read_counters,
)

SLOTS = 4
"""Concurrent requests; on a CPU a batch of four costs little more than one request."""
CONTEXT = 3072
"""Tokens per request, prompt plus completion."""
MEASURED_TOKENS = 8
"""Tokens that a measurement generates with each number of threads."""
LOWEST_OWN_FILE = 3
"""Lowest number of a file that this process has opened; below are input, output and errors."""
PROMPT = {"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True}


def main() -> None:
    """Serve until the process is stopped."""
    options = _parser().parse_args()
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError:
        sys.exit("The package xllamacpp is missing: make local, or pip install -c constraints.txt -e '.[local]'")
    cores = len(os.sched_getaffinity(0))
    threads = options.threads or _measure(xllamacpp, options, cores)
    server = _serve(xllamacpp, options, threads)
    watch = RateWatch(cores, options.earlier_threads or threads, interval_s=options.earlier_interval_s)
    if options.earlier_threads:
        watch.note_measured(threads, time.monotonic())
    while True:
        time.sleep(LOOK_INTERVAL_S)
        if not options.threads and watch.is_due(read_counters(str(server.handle_metrics())), time.monotonic()):
            _restart(watch)


def _restart(watch: RateWatch) -> None:
    """Replace this process by a new one, which measures again.

    The end of a server waits for requests in flight, and with some of them for ever.
    """
    sys.stdout.flush()
    os.closerange(LOWEST_OWN_FILE, os.sysconf("SC_OPEN_MAX"))  # the port, above all
    earlier = ["--earlier-threads", str(watch.threads), "--earlier-interval-s", str(watch.interval_s)]
    os.execv(sys.executable, [*sys.orig_argv, *earlier])  # of an option that is given twice, the last one counts


def _serve(xllamacpp: Any, options: argparse.Namespace, threads: int) -> Any:
    """Start the server, which runs in other threads until it is deleted."""
    server = xllamacpp.Server(_parameters(xllamacpp, options, threads, options.port))
    _log(f"{options.model} at {server.listening_address}, threads: {threads}")
    return server


def _measure(xllamacpp: Any, options: argparse.Namespace, cores: int) -> int:
    """Return the number of threads with which a short text is generated fastest."""

    def rate_of(threads: int) -> float:
        # At another port, so that it gets no requests.
        server = xllamacpp.Server(_parameters(xllamacpp, options, threads, 0))
        rate = 0.0
        for tokens in (1, 2, MEASURED_TOKENS):
            started = time.monotonic()
            server.handle_completions({**PROMPT, "n_predict": tokens, "max_tokens": tokens})
            rate = tokens / (time.monotonic() - started)
            # The first one includes reading the file; a hopeless number of threads would take a minute for the rest.
            if tokens > 1 and rate < max(rates, default=0.0) / 4:
                break
        rates.append(rate)
        _log(f"threads: {threads}: {rate:.1f} tokens a second")
        return rate

    rates: list[float] = []
    return choose_threads(rate_of, cores)


def _log(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the output of this process is a log


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tapir_exp.llm.serving.gguf_server", description=__doc__)
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--threads", type=int, default=0, help="threads; 0 for as many as a measurement finds best")
    parser.add_argument("--earlier-threads", type=int, default=0, help="threads before a restart; 0 at the first start")
    parser.add_argument("--earlier-interval-s", type=float, default=LEAST_INTERVAL_S, help="RateWatch.interval_s then")
    parser.add_argument("--slots", type=int, default=SLOTS, help="concurrent requests")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens per request, prompt plus completion")
    return parser


def _parameters(xllamacpp: Any, options: argparse.Namespace, threads: int, port: int) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.slots * options.context
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.endpoint_metrics = True
    parameters.warmup = False
    parameters.ui = False
    parameters.offline = True
    return parameters


if __name__ == "__main__":
    main()
