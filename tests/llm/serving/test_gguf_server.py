"""How the server of a GGUF file is set up; what it answers is shown on the real weights, where they are."""

import sys
from types import SimpleNamespace

import pytest

from tapir_exp.llm.serving import gguf_server


def parameters(*arguments: str) -> SimpleNamespace:
    made = SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())
    options = gguf_server._parser().parse_args(["--model", "/w.gguf", "--port", "8123", *arguments])
    gguf_server._parameters(SimpleNamespace(CommonParams=lambda: made), options)
    return made


def test_it_listens_on_the_loopback_alone() -> None:
    made = parameters()
    assert made.hostnames == ["127.0.0.1"]
    assert made.port == 8123
    assert made.model.path == "/w.gguf"


def test_every_slot_has_its_own_context() -> None:
    made = parameters("--slots", "3", "--context", "1000", "--threads", "2")
    assert (made.n_parallel, made.n_ctx) == (3, 3000)
    assert made.cpuparams.n_threads == made.cpuparams_batch.n_threads == 2


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr("sys.argv", ["gguf_server", "--model", "x", "--port", "1"])
    with pytest.raises(SystemExit, match=r"xllamacpp is missing: make local"):
        gguf_server.main()
