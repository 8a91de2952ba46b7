"""Reject a configuration that holds a secret in any leaf: it is written to disk, to W&B and to model cards."""

from collections.abc import Iterable, Iterator

from tapir_exp.config.problems import Problem, Values, is_env_name, is_secret_name, is_secret_value
from tapir_exp.core.secrets import HIDDEN, find_secret_words, has_secret, known_secrets

NOT_SHOWN = f" {HIDDEN}"
EXPECTED = (
    "no secret: the configuration is written to disk, to W&B and to model cards. Put the key into an environment "
    "variable "
)


def secrets_of(values: Values) -> tuple[str, ...]:
    """Return the values of key variables, those that the configuration names included."""
    return known_secrets(name for key, name in values.items() if key.endswith(".api_key_env") and is_env_name(name))


def check_secrets(values: Values) -> Iterator[Problem]:
    """Yield a problem for every leaf that holds the value of a key variable, or text that looks like a key."""
    known = secrets_of(values)
    for key, value in values.items():
        if key.endswith(".api_key_env") and value is not None and not is_env_name(value):
            expected = (
                "the NAME of an environment variable, in capitals, such as OPENAI_API_KEY; a key never goes into the "
                "configuration, which is written to disk"
            )
            yield Problem(key, NOT_SHOWN, expected)
        else:
            yield from _find_secrets(key, value, known)


def check_overrides(overrides: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for every override of Hydra itself that holds a secret; Hydra writes overrides to disk."""
    known = known_secrets()
    for line in overrides:
        key, _, value = line.lstrip("+~").partition("=")
        if value and (has_secret(line, known) or is_secret_name(key)):
            yield Problem(key, NOT_SHOWN, f"{EXPECTED}before `tapir` starts")


def _find_secrets(key: str, value: object, known: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for every secret in a value, which may be nested; dict keys are searched as well."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            if isinstance(name, str) and has_secret(name, known):
                yield Problem(key, NOT_SHOWN, _expected(key))
            else:
                yield from _find_secrets(f"{key}.{name}", inner, known)
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            for index in find_secret_words(value):
                if not has_secret(value[index], known):
                    yield Problem(f"{key}.{index}", NOT_SHOWN, _expected(key))
        return
    if not isinstance(value, str):
        # A number under a name such as api_key is a mistake, too; a bool such as `token: true` asks for a stored one.
        if ".extra_params." in key and is_secret_name(key):
            yield Problem(key, NOT_SHOWN, _expected(key))
        return
    strict = ".extra_params" in key or key.endswith(".api_base")
    if has_secret(value, known) or (strict and (is_secret_value(value) or (is_secret_name(key) and value))):
        yield Problem(key, NOT_SHOWN, _expected(key))


def _expected(key: str) -> str:
    role = key.partition(".llm.")[0]
    if ".server." in key:
        return (
            f"{EXPECTED}and its name into {role}.llm.api_key_env. A server inherits the environment: llama-server "
            "reads LLAMA_API_KEY, and vLLM reads VLLM_API_KEY"
        )
    if ".llm." in key:
        return f"{EXPECTED}and its name into {role}.llm.api_key_env"
    return f"{EXPECTED}and remove it here"
