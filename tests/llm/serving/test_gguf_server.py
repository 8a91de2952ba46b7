"""Parameters of the GGUF server; `test_real_weights.py` runs it."""

import sys
from types import SimpleNamespace

import pytest

from tapir_exp.llm.serving import gguf_server


def parameters(*arguments: str) -> SimpleNamespace:
    params = SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())
    options = gguf_server._parser().parse_args(["--model", "/w.gguf", "--port", "8123", *arguments])
    gguf_server._parameters(SimpleNamespace(CommonParams=lambda: params), options, 2, options.port)
    return params


def test_server_listens_on_loopback_only() -> None:
    params = parameters()
    assert params.hostnames == ["127.0.0.1"]
    assert params.port == 8123
    assert params.model.path == "/w.gguf"


def test_context_is_per_slot() -> None:
    params = parameters("--slots", "3", "--context", "1000")
    assert (params.n_parallel, params.n_ctx) == (3, 3000)
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 2


def test_missing_package_is_named_with_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr("sys.argv", ["gguf_server", "--model", "x", "--port", "1"])
    with pytest.raises(SystemExit, match=r"xllamacpp is missing: make local"):
        gguf_server.main()


@pytest.mark.parametrize(("earlier", "interval_s"), [((), 120.0), (("--earlier-threads", "1"), 240.0)])
def test_fallen_rate_replaces_the_process_and_keeps_the_interval(
    earlier: tuple[str, ...], interval_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is not stopped, and no second one starts: its end can wait for requests in flight for ever."""
    servers, started = [], []

    class Server:
        listening_address = "http://127.0.0.1:8123"

        def __init__(self, _: object) -> None:
            servers.append(self)

        def handle_completions(self, _: object) -> None:
            pass

        def handle_metrics(self) -> str:
            return ""

    def execv(program: str, arguments: list[str]) -> None:
        started.append((program, arguments, len(servers)))
        raise InterruptedError

    def params() -> SimpleNamespace:
        return SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())

    monkeypatch.setitem(sys.modules, "xllamacpp", SimpleNamespace(CommonParams=params, Server=Server))
    monkeypatch.setattr("sys.argv", ["gguf_server", "--model", "x", "--port", "1", *earlier])
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "gguf_server", "--port", "1"])
    monkeypatch.setattr(gguf_server, "choose_threads", lambda *_: 1)
    monkeypatch.setattr(gguf_server.RateWatch, "is_due", lambda *_: True)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("os.closerange", lambda *_: None)
    monkeypatch.setattr("os.execv", execv)
    with pytest.raises(InterruptedError):
        gguf_server.main()
    wanted = ["--earlier-threads", "1", "--earlier-interval-s", str(interval_s)]
    assert started == [(sys.executable, ["python", "-m", "gguf_server", "--port", "1", *wanted], 1)]
