"""A key in any leaf of the configuration is refused before a file is written, and is never repeated."""

from typing import get_args, get_origin

import pytest
from composing import compose_raw
from omegaconf import OmegaConf

from tapir_exp.config import SCHEMA, parse, to_yaml
from tapir_exp.config.compose import _one_line
from tapir_exp.config.problems import describe
from tapir_exp.config.secrets import check_overrides, check_secrets
from tapir_exp.config.validate import _check_models
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.secrets import HIDDEN, find_secret_words, has_secret, known_secrets, redact_secrets

KEY = "q7Zk_planted_Wv93xT"
"""It looks like no provider's key, so only its variable gives it away."""
WHOLE = to_yaml(parse(compose_raw()))


def text_leaves() -> list[tuple[str, tuple[object, object]]]:
    """Return every leaf that can hold text, with two values that hold the key: for a mapping, as a value and a name."""
    leaves: list[tuple[str, tuple[object, object]]] = []
    for key, known in SCHEMA.keys.items():
        parts = {get_origin(part) or part for part in (known.hint, *get_args(known.hint))}
        if dict in parts and "target_distribution" not in key:
            leaves.append((key, ({"a": [{"b": f"x{KEY}"}]}, {KEY: 1})))
        elif list in parts and str in get_args(known.hint):
            leaves.append((key, (["serve", KEY], [f"x{KEY}"])))
        elif str in parts and dict not in parts:
            leaves.append((key, (f"x{KEY}y", KEY)))
    return leaves


def problems_of(key: str, value: object) -> tuple[str, ...]:
    return tuple(describe(problem, "test") for problem in check_secrets({key: value}))


@pytest.mark.parametrize("chosen", [0, 1], ids=["value", "name"])
def test_known_key_is_refused_in_every_leaf(monkeypatch: pytest.MonkeyPatch, chosen: int) -> None:
    monkeypatch.setenv("PLANTED_API_KEY", f"{KEY}\n")
    cfg, leaves = OmegaConf.create(WHOLE), text_leaves()
    assert len(leaves) > 50
    for key, values in leaves:
        OmegaConf.update(cfg, key, values[chosen], force_add=True, merge=False)
    with pytest.raises(ConfigError) as caught:
        parse(cfg)  # type: ignore[arg-type]
    found = [line for line in caught.value.problems if HIDDEN in line]
    missing = [key for key, _ in leaves if not any(line.startswith(key) for line in found)]
    assert missing == []
    assert KEY not in str(caught.value)


def test_variable_named_by_the_configuration_holds_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ODD_VARIABLE", KEY)
    cfg = compose_raw("teacher.llm.api_key_env=MY_ODD_VARIABLE", f"student.system_prompt={KEY}")
    with pytest.raises(ConfigError, match=r"student\.system_prompt \(value not shown\)"):
        parse(cfg)


@pytest.mark.parametrize(
    "text",
    [
        "sk-abcdefghijklmnop1234",
        "sk-proj-abcdefghijklmnop1234",
        "hf_abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP",
        "AIzaSyA-abcdefghijklmnopqrstuvwx",
        "Authorization: Bearer abcdefghijklmnop",
        "https://me:word@host/v1",
        "https://:word@host/v1",
        "https://host/v1?key=abcd1234",
        "https://host/v1?x=1&api-key=abcd1234",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_text_that_looks_like_a_key_is_found_and_redacted(text: str) -> None:
    for key in ("student.system_prompt", "logger.entity", "trainer.remote_shell"):
        assert any(key in line for line in problems_of(key, f"x {text} y"))
    assert has_secret(text)
    assert HIDDEN in redact_secrets(f"a {text} b", ())
    assert not has_secret(redact_secrets(f"a {text} b", ()))


@pytest.mark.parametrize(
    "text",
    [
        "You know scikit-learn (sk-learn) and hf_transfer.",
        "http://localhost:8000/v1",
        "https://host/v1?page=2",
        "openai/gpt-4o",
        "Qwen/Qwen1.5-1.8B-Chat",
        "me@example.org",
        "Bearer of news",
        "Give the keys of a dict; a token is a word.",
    ],
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert not has_secret(text)
    assert redact_secrets(text, ()) == text


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["llama-server", "--api-key", "abc", "--port", "{port}"], [2]),
        (["vllm", "serve", "--api-key=abc"], [2]),
        (["x", "--hf-token", "abc", "--token", "def"], [2, 4]),
        (["x", "--tokenizer", "a", "--max-num-batched-tokens", "9", "--api-key-file", "f", "--api-key"], []),
        (["x", "--api-key", "--verbose"], []),
    ],
)
def test_option_that_takes_a_key_is_found(words: list[str], found: list[int]) -> None:
    assert find_secret_words(words) == found
    for key in ("teacher.llm.server.command", "student.vllm.extra_args"):
        lines = problems_of(key, words) if found else ()
        assert [line.partition(" ")[0] for line in lines if HIDDEN in line] == [f"{key}.{index}" for index in found]
        if "server" in key:
            assert all("LLAMA_API_KEY" in line for line in lines if HIDDEN in line)


def test_known_secrets_are_values_of_key_variables() -> None:
    environment = {
        "OPENAI_API_KEY": " abcdefghijkl\n",
        "HF_TOKEN": "mnopqrstuvwxyz",
        "LOCAL_API_KEY": "none",
        "TOKENIZERS_PARALLELISM": "falsefalsefalse",
        "HOME": "/home/somebody",
        "ODD": "odd-odd-odd-odd",
    }
    assert known_secrets((), environment) == ("mnopqrstuvwxyz", "abcdefghijkl")
    assert known_secrets(["ODD"], environment) == ("odd-odd-odd-odd", "mnopqrstuvwxyz", "abcdefghijkl")


def test_overrides_of_hydra_itself_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_API_KEY", KEY)
    lines = [
        "hydra.job.env_set.OPENAI_API_KEY=abc",
        f"hydra.run.dir=out/{KEY}",
        "hydra.run.dir=out",
        "hydra/launcher=x",
    ]
    found = list(check_overrides(lines))
    assert [problem.key for problem in found] == ["hydra.job.env_set.OPENAI_API_KEY", "hydra.run.dir"]
    assert not any(KEY in f"{problem}" for problem in found)


def test_message_of_a_failed_composition_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_API_KEY", KEY)
    assert KEY not in _one_line(f"mismatched input {KEY} in https://a:b@c")
    assert "a:b" not in _one_line("https://a:b@c")


@pytest.mark.parametrize(
    "base",
    [
        "''",
        "localhost:8000/v1",
        "ftp://x/v1",
        "http://",
        "https:///v1",
        "//host/v1",
        "http://h:99999/v1",
        "http://a b/v1",
    ],
)
def test_address_without_scheme_or_host_is_refused(base: str) -> None:
    (problem,) = _check_models({"teacher.llm.api_base": base.strip("'")})
    assert "https://" in problem.expected
