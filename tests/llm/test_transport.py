"""What every transport shares: no key in a kept reply, further headers, and placeholders of a server's command."""

from pathlib import Path

import pytest

from tapir_exp.config import LLMConfig, ServerConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.secrets import HIDDEN
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Message, TokenLogprob
from tapir_exp.llm.client import Client
from tapir_exp.llm.endpoint_checks import endpoint_problems
from tapir_exp.llm.litellm_transport import LitellmTransport
from tapir_exp.llm.openai_transport import HttpTransport, extra_headers
from tapir_exp.llm.serving.pool import ServerPool
from tapir_exp.llm.serving.server import ServerSpec
from tapir_exp.llm.transport import RawCompletion, hide_key

KEY = "q7Zk_planted_Wv93xT"
REQUEST = ChatRequest(messages=(Message(role="user", content="Hello"),), max_tokens=5, temperature=0.0)


def test_reply_that_repeats_the_key_is_redacted() -> None:
    logprobs = ((TokenLogprob(token=KEY, logprob=0.0),),)
    reply = RawCompletion(f"The key is {KEY}.", "stop", 1, 1, logprobs, f"Say {KEY}?")
    kept = hide_key(reply, KEY)
    assert (kept.text, kept.reasoning) == (f"The key is {HIDDEN}.", f"Say {HIDDEN}?")
    assert KEY not in str(kept)
    for other in (None, "none", "another-long-key"):
        assert hide_key(reply, other) is reply


@pytest.mark.parametrize(("value", "key"), [(f"{KEY}\n", KEY), (f" {KEY}\r\n", KEY), ("\n", None), ("", None)])
def test_white_space_around_a_key_is_stripped(
    call_store: CallStore, monkeypatch: pytest.MonkeyPatch, value: str, key: str | None
) -> None:
    monkeypatch.setenv("PLANTED_KEY", value)
    client = Client(LLMConfig(model="openai/x", api_key_env="PLANTED_KEY"), "teacher", call_store)
    assert client._api_key() == key
    problems = endpoint_problems(client._config, client._api_key(), is_served=False)
    assert any("PLANTED_KEY" in problem for problem in problems) is (key is None)


def test_extra_headers_are_headers_on_both_paths() -> None:
    headers = {"X-Team": "tapir", "X-Number": 3}
    config = LLMConfig(model="openai/x", extra_params={"extra_headers": headers, "top_p": 0.5})
    assert extra_headers(config) == {"X-Team": "tapir", "X-Number": "3"}
    body = HttpTransport(config, None).body_of(REQUEST)
    assert "extra_headers" not in body
    assert body["top_p"] == 0.5
    assert LitellmTransport(config, None)._arguments(REQUEST)["extra_headers"] == headers


@pytest.mark.parametrize("headers", ["X: y", {"X": "a\r\nInjected: b"}, {"X\n": "a"}])
def test_headers_of_several_lines_are_refused(headers: object) -> None:
    with pytest.raises(ConfigError, match=r"extra_params\.extra_headers"):
        extra_headers(LLMConfig(model="openai/x", extra_params={"extra_headers": headers}))


def test_port_in_a_file_name_stays(tmp_path: Path) -> None:
    weights = tmp_path / "model-{port}-{python}.gguf"
    config = ServerConfig(command=["serve", "{weights}", "--port={port}"])
    server = ServerPool(tmp_path).open(config, weights, "teacher")
    assert server._spec.arguments(81) == ["serve", str(weights), "--port=81"]
    assert ServerSpec("x", ("a{port}b{port}",), tmp_path).arguments(7) == ["a7b7"]
