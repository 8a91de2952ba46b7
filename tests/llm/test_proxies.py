"""Proxies of the environment: which URL goes through which, and that both transports use them."""

from collections.abc import Callable
from typing import Any

import pytest
from calls import one
from loopback import Server

from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.proxies import describe_address, environment_proxy

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets these variables of the environment and removes the others."""

    def set_proxies(**variables: str) -> None:
        for name in (*NAMES, *map(str.upper, NAMES)):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_proxies()
    return set_proxies


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "http://x.org/v1", None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://x.org/v1", "http://p:3128"),
        ({"HTTP_PROXY": "p:3128"}, "http://x.org/v1", "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128"}, "https://x.org/v1", None),
        ({"https_proxy": "http://q:1"}, "https://x.org/v1", "http://q:1"),
        ({"ALL_PROXY": "http://r:1"}, "https://x.org/v1", "http://r:1"),
        ({"ALL_PROXY": "http://r:1", "HTTPS_PROXY": "http://q:1"}, "https://x.org/v1", "http://q:1"),
        ({"ALL_PROXY": "http://r:1"}, "http://localhost:8000/v1", None),
        ({"ALL_PROXY": "http://r:1"}, "http://127.0.0.5:8000/v1", None),
        ({"ALL_PROXY": "http://r:1"}, "http://[::1]:8000/v1", None),
        ({"ALL_PROXY": "http://r:1", "NO_PROXY": "x.org"}, "http://x.org/v1", None),
        ({"ALL_PROXY": "http://r:1", "NO_PROXY": ".x.org, y"}, "http://a.x.org/v1", None),
        ({"ALL_PROXY": "http://r:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3/v1", None),
        ({"ALL_PROXY": "http://r:1", "NO_PROXY": "*"}, "http://x.org/v1", None),
        ({"ALL_PROXY": "http://r:1", "NO_PROXY": "org"}, "http://xorg/v1", "http://r:1"),
    ],
)
def test_proxy_of_url(proxies: Callable[..., None], variables: dict[str, str], url: str, proxy: str | None) -> None:
    proxies(**variables)
    assert environment_proxy(url) == proxy


@pytest.mark.parametrize("proxy", ["socks5://u:secret@p:1080", "http://u:secret@p:x", "http://"])
def test_unusable_proxy_is_named_without_password(proxies: Callable[..., None], proxy: str) -> None:
    proxies(HTTPS_PROXY=proxy)
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY or ALL_PROXY.*llm\.use_litellm=true.*add x\.org") as caught:
        environment_proxy("https://x.org/v1")
    assert "secret" not in str(caught.value)


def test_address_names_proxy_without_password(proxies: Callable[..., None]) -> None:
    proxies(HTTP_PROXY="http://u:secret@p:3128")
    assert describe_address("http://x.org/v1") == "http://x.org:80 through the proxy http://p:3128"


def test_call_goes_through_proxy(make: Any, server: Server, proxies: Callable[..., None]) -> None:
    """The server stands for the proxy: only it can reach a name that does not exist."""
    proxies(HTTP_PROXY=server.base.removesuffix("/v1"))
    assert one(make(api_base="http://models.invalid/v1"), "a").text == "re: a"


def test_loopback_is_never_proxied(make: Any, proxies: Callable[..., None]) -> None:
    proxies(HTTP_PROXY="http://127.0.0.1:9")
    assert one(make(), "a").text == "re: a"
