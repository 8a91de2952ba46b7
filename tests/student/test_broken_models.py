"""Broken model directories: one sentence with what is wrong and the remedy, never random weights or a traceback."""

# ruff: noqa: E501  # one case a line
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from planted import build_smallest, change_json
from safetensors.torch import load_file, save_file

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.student import template_rendering
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.loading import load_model

STUDENT = StudentConfig(model="x", max_length=128)
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
TOKENIZER_CONFIG, TEMPLATE, INDEX = "tokenizer_config.json", "chat_template.jinja", "model.safetensors.index.json"
Damage = Callable[[Path], object]


@pytest.fixture(scope="session")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the smallest whole model; each test damages a copy of it."""
    return build_smallest(tmp_path_factory.mktemp("smallest"))


def config(**changes: object) -> Damage:
    return lambda directory: change_json(directory / CONFIG, **changes)


def text(name: str, content: str) -> Damage:
    return lambda directory: (directory / name).write_text(content)


def remove(*names: str) -> Damage:
    return lambda directory: [(directory / name).unlink() for name in names]


def cut(name: str, size: int) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[:size])

    return damage


def drop_tensor(part: str) -> Damage:
    def damage(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        kept = {name: tensor for name, tensor in tensors.items() if part not in name}
        assert len(kept) < len(tensors)
        save_file(kept, directory / WEIGHTS, {"format": "pt"})

    return damage


def reshape(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def fill(name: str, value: float, count: int | None = None) -> Damage:
    """Overwrite the first values of a tensor, or all of them."""

    def damage(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        tensors[name].view(-1)[:count] = value
        save_file(tensors, directory / WEIGHTS, {"format": "pt"})

    return damage


def shard(weight_map: Callable[[dict[str, str]], object]) -> Damage:
    """Move the weights into one shard with an index, which the function changes."""

    def damage(directory: Path) -> None:
        names = dict.fromkeys(load_file(directory / WEIGHTS), "model-00001-of-00001.safetensors")
        (directory / WEIGHTS).rename(directory / "model-00001-of-00001.safetensors")
        (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map(names)}))

    return damage


MODELS: dict[str, tuple[Damage, str]] = {
    "no config": (remove(CONFIG), "no config.json"),
    "empty config": (text(CONFIG, ""), "not JSON"),
    "config is a list": (text(CONFIG, "[]"), "holds no settings"),
    "config is cut": (cut(CONFIG, 50), "not JSON"),
    "config is nested": (text(CONFIG, "[" * 100_000), "not JSON"),
    "config is binary": (lambda d: (d / CONFIG).write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "no model type": (config(model_type=None), "no model_type"),
    "unknown model type": (config(model_type="tapirus"), "tapirus"),
    "more layers": (config(num_hidden_layers=3), "num_hidden_layers = 3, but the weights have 2 layers"),
    "fewer layers": (config(num_hidden_layers=1), "num_hidden_layers = 1, but the weights have 2 layers"),
    "billions of layers": (config(num_hidden_layers=10**9), "the weights have 2 layers"),
    "huge number of layers": (config(num_hidden_layers=2**63), "expected a whole number"),
    "no layers": (config(num_hidden_layers=0), "expected a whole number"),
    "layers are text": (config(num_hidden_layers="two"), "expected a whole number"),
    "layers are a fraction": (config(num_hidden_layers=2.5), "expected a whole number"),
    "larger vocabulary": (config(vocab_size=301), "vocab_size = 301"),
    "smaller vocabulary": (config(vocab_size=299), "vocab_size = 299"),
    "negative vocabulary": (config(vocab_size=-1), "expected a whole number"),
    "other width": (config(hidden_size=64), "cannot be loaded"),
    "heads do not divide": (config(num_attention_heads=5, num_key_value_heads=3, head_dim=None), "cannot be loaded"),
    "other inner width": (config(intermediate_size=47), "cannot be loaded"),
    "unknown activation": (config(hidden_act="tapirelu"), "cannot be loaded"),
    "odd rope": (config(rope_parameters={"rope_type": "x" * 999}), "cannot be loaded"),
    "code of the hub": (config(attn_implementation="evil/kernel"), "never run"),
    "hidden code of the hub": (config(_attn_implementation="evil/kernel:f"), "never run"),
    "no weights": (remove(WEIGHTS), "no safetensors"),
    "empty weights": (text(WEIGHTS, ""), "cut off or is no safetensors"),
    "weights without a header": (cut(WEIGHTS, 100), "cut off or is no safetensors"),
    "weights are cut": (cut(WEIGHTS, -1), "its header promises"),
    "weights have a tail": (lambda d: (d / WEIGHTS).open("ab").write(b"x"), "its header promises"),
    "weights are a page": (text(WEIGHTS, "<html>Sign in</html>"), "cut off or is no safetensors"),
    "weights are a pointer": (text(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), "no safetensors"),
    "damaged header": (lambda d: (d / WEIGHTS).write_bytes((9).to_bytes(8, "little") + b'{"a": [1}'), "damaged header"),
    "header of numbers": (lambda d: (d / WEIGHTS).write_bytes((8).to_bytes(8, "little") + b'{"a": 1}'), "damaged header"),
    "one tensor missing": (drop_tensor("layers.1.mlp.up_proj"), "layers.1.mlp.up_proj.weight, which would be random"),
    "norm missing": (drop_tensor("model.norm"), "model.norm.weight, which would be random"),
    "layer missing": (drop_tensor("layers.1."), "the weights have 1 layers"),
    "embeddings missing": (drop_tensor("embed_tokens"), "would be random"),
    "wrong shape": (reshape, "cannot be loaded"),
    "all weights are NaN": (fill("model.embed_tokens.weight", math.nan), "holds NaN or infinity in model.embed_tokens"),
    "one weight is NaN": (fill("model.layers.1.mlp.up_proj.weight", math.nan, 1), "NaN or infinity in model.layers.1.mlp"),
    "weights are infinite": (fill("model.norm.weight", math.inf), "holds NaN or infinity in model.norm.weight"),
    "one weight is minus infinity": (fill("model.norm.weight", -math.inf, 1), "NaN or infinity in model.norm.weight"),
    "index without files": (shard(lambda names: dict.fromkeys(names, "model-00002-of-00002.safetensors")), "has no model-0"),
    "index names a tensor more": (shard(lambda names: {**names, "x": next(iter(names.values()))}), "no tensor x"),
    "index leads outside": (shard(lambda names: dict.fromkeys(names, "../../x.safetensors")), "next to it"),
    "index names a pickle": (shard(lambda names: dict.fromkeys(names, "x.bin")), "next to it"),
    "index has no map": (shard(lambda names: []), "no weight_map"),
    "index has an empty map": (shard(lambda names: {}), "no weight_map"),
    "damaged generation settings": (text("generation_config.json", "{"), "not JSON"),
}  # fmt: skip
LOOP = "{% for m in messages %}{{ m.content }}{% endfor %}"
CHATS: dict[str, tuple[Damage, str]] = {
    "no tokenizer": (remove(TOKENIZER, TOKENIZER_CONFIG), "cannot be loaded"),
    "no tokenizer file": (remove(TOKENIZER), "cannot be loaded"),
    "empty tokenizer": (text(TOKENIZER, "{}"), "cannot be loaded"),
    "tokenizer is cut": (cut(TOKENIZER, 200), "cannot be loaded"),
    "tokenizer settings are a list": (text(TOKENIZER_CONFIG, "[]"), "cannot be loaded"),
    "more tokens than embeddings": (config(vocab_size=20), "the model embeds only 20"),
    "no template": (remove(TEMPLATE), "has no template"),
    "syntax": (text(TEMPLATE, "{% for %}"), "cannot be used"),
    "raises": (text(TEMPLATE, "{{ raise_exception('no\x1b[2J') }}"), "no"),
    "undefined": (text(TEMPLATE, "{{ a.b.c }}"), "'a' is undefined"),
    "divides by zero": (text(TEMPLATE, "{{ 1 / 0 }}"), "division by zero"),
    "python": (text(TEMPLATE, "{{ ''.__class__.__mro__ }}"), "unsafe"),
    "nested loops": (text(TEMPLATE, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"), "steps"),
    "loops in the prompt only": (text(TEMPLATE, LOOP + "{% if add_generation_prompt %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"), "steps"),
    "recursive macro": (text(TEMPLATE, "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}"), "recursion"),
    "repetition": (text(TEMPLATE, "{{ 'a' * 10000000000 }}"), "repeats a value"),
    "repetition of a list": (text(TEMPLATE, "{{ [0] * 10000000000 }}"), "repeats a value"),
    "power": (text(TEMPLATE, "{{ 10 ** 10 ** 10 }}"), "as an argument"),
    "large power": (text(TEMPLATE, "{{ 9 ** 99999 }}"), "power"),
    "width": (text(TEMPLATE, "{{ 'a' | center(10000000000) }}"), "as an argument"),
    "method width": (text(TEMPLATE, "{{ 'a'.ljust(10000000000) }}"), "as an argument"),
    "percent width": (text(TEMPLATE, "{{ '%10000000000d' % 1 }}"), "not supported"),
    "format width": (text(TEMPLATE, "{{ '{:>10000000000}'.format(1) }}"), "width of millions"),
    "format filter": (text(TEMPLATE, "{{ '%10000000000d' | format(1) }}"), "width of millions"),
    "doubling": (text(TEMPLATE, "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}{{ ns.x }}"), "characters"),
    "doubling without output": (text(TEMPLATE, "{% set ns = namespace(x='ab') %}{% for i in range(24) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}"), "characters"),
    "doubling by plus": (text(TEMPLATE, "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"), "characters"),
    "doubling by blocks": (text(TEMPLATE, "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}{{ ns.x }}"), "characters"),
    "replacements": (text(TEMPLATE, "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}"), "millions of characters"),
    "join": (text(TEMPLATE, "{% set x = 'a' * 1000000 %}{{ range(99999) | join(x) }}"), "millions of characters"),
    "lazy join": (text(TEMPLATE, "{% set x = 'a' * 1000000 %}{{ range(99999) | map('string') | join(x) }}"), "millions"),
    "gigabytes": (text(TEMPLATE, "{% set x = 'a' * 9000000 %}{% for i in range(999) %}{{ x }}{% endfor %}"), "characters"),
    "large template": (text(TEMPLATE, "a" * 1_000_001), "more than 1000000 characters"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_broken_model_is_one_sentence(smallest: Path, tmp_path: Path, case: str) -> None:
    check(smallest, tmp_path, *MODELS[case], lambda directory: load_model(directory, STUDENT))


@pytest.mark.slow
@pytest.mark.parametrize("case", CHATS)
def test_broken_chat_is_one_sentence(
    smallest: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A slow machine reaches the bound in seconds before the one in steps.
    monkeypatch.setattr(template_rendering, "MAX_SECONDS", 120)
    check(smallest, tmp_path, *CHATS[case], lambda directory: load_chat(directory, STUDENT))


def test_slow_template_is_one_sentence(smallest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_rendering, "MAX_SECONDS", 0)
    damage, _ = CHATS["nested loops"]
    check(smallest, tmp_path, damage, "it takes longer than 0 s", lambda directory: load_chat(directory, STUDENT))


def check(smallest: Path, tmp_path: Path, damage: Damage, words: str, load: Callable[[Path], object]) -> None:
    directory = tmp_path / "model"
    shutil.copytree(smallest, directory)
    damage(directory)
    with pytest.raises(ConfigError) as caught:
        load(directory)
    (problem,) = caught.value.problems
    assert words.lower() in problem.lower()
    assert len(problem.splitlines()) == 1
    assert len(problem) < 700


def test_whole_model_loads(smallest: Path) -> None:
    load_model(smallest, STUDENT)
    assert load_chat(smallest, STUDENT).encode_prompts(["Name jars."])


@pytest.mark.parametrize("template", ["chatml", "llama2"])
def test_rendering_within_bounds_is_that_of_transformers(smallest: Path, template: str) -> None:
    from tapir_exp.config import ChatTemplate
    from tapir_exp.student.chat_template import read_template
    from tapir_exp.student.template_rendering import render_messages

    tokenizer = load_chat(smallest, STUDENT).tokenizer
    for text_of in (tokenizer.chat_template, read_template(ChatTemplate[template]), TOUR):
        tokenizer.chat_template = text_of
        for messages in ([{"role": "user", "content": " a\n"}], [{"role": r, "content": r} for r in ROLES]):
            for prompt in (False, True):
                theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
                assert render_messages(tokenizer, messages, add_generation_prompt=prompt) == theirs


ROLES = ("system", "user", "assistant", "user")
TOUR = """\
{%- macro show(m, n=2) -%}<{{ m.role | upper }}>{{ m['content'] | trim }}{{ caller() if caller else '' }}{%- endmacro -%}
{%- set ns = namespace(last='', count=0) -%}
{% for m in messages if m.content %}
  {%- if loop.first and m.role == 'system' %}{% continue %}{% endif %}
  {%- set ns.last = ns.last ~ m.role + '|' %}{% set ns.count = ns.count + 1 %}
{{ show(m) }}{% generation %}{{ m.content.split('s')[0] }}{% endgeneration %}
{% else %}none{% endfor %}
{%- set block %}{{ ns.last }}{{ ns.count % 2 }}{% endset -%}
{{ block }}{{ messages | tojson }}{{ messages | map(attribute='role') | join(', ') }}{{ eos_token }}{{ '-' * 3 }}
{%- for k, v in {'a': [1, 2]}.items() %}{{ k }}{% for x in v %}{{ x * 2 ** 2 }}{{ loop.index }}{% endfor %}{% endfor %}
{%- if add_generation_prompt %}<{{ "%s" | format('A') }}>{% endif %}{% call show(messages[0]) %}!{% endcall %}
"""
