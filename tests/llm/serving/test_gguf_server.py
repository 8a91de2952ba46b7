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
