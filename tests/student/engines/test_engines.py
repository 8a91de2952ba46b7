"""Every engine against transformers' own greedy generation, prompt by prompt."""

import builtins
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from assets import SUPPORT
from rich.console import Console
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tapir_exp.config import EngineKind, Precision, StudentConfig, VllmConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.serving.server import ManagedServer, ServerError, ServerSpec
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines import base as engines
from tapir_exp.student.engines import vllm
from tapir_exp.student.engines.base import Continuation, Engine
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.hf import TransformersEngine
from tapir_exp.student.engines.sampling import SamplingParams

SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS, rope_parameters=rope(100.0))),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **HEADS, rope_parameters=rope(10000.0))),
}
ENGINES = tuple(EngineKind)
FAKE_VLLM = SUPPORT / "fake_vllm.py"
LIMIT = 12


def rope(theta: float) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default"}


@pytest.fixture(scope="module")
def ends(chat: Chat) -> list[int]:
    """Many tokens that end a turn, so that random weights end anywhere."""
    return [chat.end, *range(100, 130)]


@pytest.fixture(scope="module", params=list(MODELS))
def random_student(
    request: pytest.FixtureRequest, chat: Chat, ends: list[int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    torch.manual_seed(3)
    model, directory = MODELS[request.param](), tmp_path_factory.mktemp(request.param)
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=chat.pad)  # type: ignore[no-untyped-call]
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(directory)
    chat.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Prompts of ragged lengths, out of order."""
    return [[130 + (7 * n + 11 * place) % 160 for place in range(1 + (5 * n) % 13)] for n in range(14)]


@pytest.fixture(scope="module")
def expected(random_student: Path, prompts: list[list[int]], ends: list[int], chat: Chat) -> list[Continuation]:
    """What transformers' own generation says, one prompt at a time; written down for the fake of vLLM."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(random_student))
    found, told = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": LIMIT, "do_sample": False, "eos_token_id": ends, "pad_token_id": chat.pad}
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()
        finished = whole[-1] in ends
        found.append(Continuation(tuple(whole[:-1] if finished else whole), finished))
        told.append((prompt, whole))
    (random_student / "answers.json").write_text(json.dumps(told))
    return found


def student_of(kind: EngineKind, batch: int = 5, fault: str = "none", folder: Path = Path()) -> StudentConfig:
    server = VllmConfig(
        executable=["{python}", str(FAKE_VLLM)],
        extra_args=[f"--fault={fault}", f"--folder={folder}"],
        concurrency=batch,
        startup_timeout_s=60,
        timeout_s=30,
    )
    return StudentConfig(model="x", engine=kind, generation_batch_size=batch, vllm=server)


@contextmanager
def opened(kind: EngineKind, directory: Path, chat: Chat, batch: int = 5) -> Iterator[Engine]:
    with open_engine(directory, chat, student_of(kind, batch)) as engine:
        yield engine


def in_order(engine: Engine, prompts: Sequence[Sequence[int]], limit: int = LIMIT) -> list[Continuation]:
    found = dict(engine.generate(prompts, limit))
    return [found[place] for place in range(len(prompts))]


def test_the_answers_end_anywhere_and_at_several_tokens(
    random_student: Path, expected: list[Continuation], prompts: list[list[int]], ends: list[int]
) -> None:
    """Else the tests below would show little."""
    assert len({len(written.tokens) for written in expected}) > 4
    assert {written.finished for written in expected} == {True, False}
    model: Any = AutoModelForCausalLM.from_pretrained(str(random_student))
    stops = {
        int(model(torch.tensor([[*prompt, *written.tokens]])).logits[0, -1].argmax())
        for prompt, written in zip(prompts, expected, strict=True)
        if written.finished
    }
    assert stops <= set(ends)
    assert len(stops) > 1


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("batch", [1, 5, 14])
def test_any_batch_writes_what_transformers_writes_alone(
    kind: EngineKind,
    batch: int,
    random_student: Path,
    chat: Chat,
    prompts: list[list[int]],
    expected: list[Continuation],
) -> None:
    with opened(kind, random_student, chat, batch) as engine:
        assert in_order(engine, prompts) == expected


@pytest.mark.parametrize("kind", ENGINES)
def test_limits_count_the_end_of_turn(
    kind: EngineKind, random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation]
) -> None:
    place = next(place for place, written in enumerate(expected) if written.finished and written.tokens)
    tokens = expected[place].tokens
    with opened(kind, random_student, chat) as engine:
        assert in_order(engine, [prompts[place]], len(tokens)) == [Continuation(tokens, finished=False)]
        assert in_order(engine, [prompts[place]], len(tokens) + 1) == [Continuation(tokens, finished=True)]
        assert in_order(engine, [], LIMIT) == []


def test_what_is_finished_does_not_wait_for_the_rest_of_its_batch(
    random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation]
) -> None:
    with opened(EngineKind.transformers, random_student, chat, len(prompts)) as engine:
        lengths = [len(written.tokens) + written.finished for _, written in engine.generate(prompts, LIMIT)]
    assert lengths == sorted(lengths)


def test_padding_does_not_shift_positions(chat: Chat) -> None:
    """GPT-2 learns a vector for every position, so it notices what rotary embeddings forgive."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    engine = TransformersEngine(GPT2LMHeadModel(shape).eval(), frozenset({chat.end}), chat.pad, 3)  # type: ignore[no-untyped-call]
    prompts = chat.encode_prompts(["Say red", "Say red green blue black white red", "Say blue 17"])
    assert in_order(engine, prompts, 8) == [in_order(engine, [prompt], 8)[0] for prompt in prompts]


@pytest.mark.parametrize("kind", [EngineKind.ctranslate2, EngineKind.vllm])
def test_sampled_answers_go_to_transformers_and_the_terminal_says_so(
    kind: EngineKind, random_student: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = StringIO()
    monkeypatch.setattr(engines, "console", Console(file=said, width=100, highlight=False))
    student = student_of(kind)
    with open_engine(random_student, chat, student, sampled=True) as engine:
        assert isinstance(engine, TransformersEngine)
    assert f"sampled answers are written by transformers, not {kind.value}" in said.getvalue()
    with open_engine(random_student, chat, student) as engine, pytest.raises(ConfigError, match="sampled answers"):
        list(engine.generate([[130]], 2, [SamplingParams(1.0, 0)]))


def test_ctranslate2_refuses_what_it_cannot_do_exactly(random_student: Path, chat: Chat, tmp_path: Path) -> None:
    half = replace(student_of(EngineKind.ctranslate2), precision=Precision.bfloat16)
    with pytest.raises(ConfigError, match="bfloat16"), open_engine(random_student, chat, half):
        pass
    shape = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match="type gpt2"), opened(EngineKind.ctranslate2, tmp_path, chat):
        pass


def test_ctranslate2_refuses_another_rotary_embedding(random_student: Path, chat: Chat, tmp_path: Path) -> None:
    for path in random_student.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["rope_parameters"] = {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="linear"), opened(EngineKind.ctranslate2, tmp_path, chat):
        pass


def test_ctranslate2_that_is_not_installed_is_named_with_the_remedy(
    random_student: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "ctranslate2":
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with (
        pytest.raises(ConfigError, match=r"tapir-exp\[fast\]"),
        opened(EngineKind.ctranslate2, random_student, chat),
    ):
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[ManagedServer]:
    """Every server that is opened."""
    opened_servers: list[ManagedServer] = []

    class Known(ManagedServer):
        def __init__(self, service: ServerSpec) -> None:
            super().__init__(service)
            opened_servers.append(self)

    monkeypatch.setattr(vllm, "ManagedServer", Known)
    return opened_servers


def test_the_server_is_gone_after_each_stage(
    random_student: Path,
    chat: Chat,
    prompts: list[list[int]],
    expected: list[Continuation],
    servers: list[ManagedServer],
) -> None:
    with opened(EngineKind.vllm, random_student, chat) as engine:
        places = [place for place, _ in engine.generate(prompts, LIMIT)]
        assert servers[0].alive
    assert not servers[0].alive
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", int(servers[0].base.rpartition(":")[2])), 1).close()
    assert sorted(places) == list(range(len(prompts)))


def test_a_server_that_dies_half_way_is_started_again_once(
    random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation], tmp_path: Path
) -> None:
    student = student_of(EngineKind.vllm, 2, "dies-once", tmp_path)
    with open_engine(random_student, chat, student) as engine:
        assert in_order(engine, prompts) == expected
    assert (tmp_path / "died").exists()


def test_a_server_that_dies_again_ends_the_stage_with_its_last_words(
    random_student: Path,
    chat: Chat,
    prompts: list[list[int]],
    expected: list[Continuation],
    servers: list[ManagedServer],
) -> None:
    student = student_of(EngineKind.vllm, 2, "dies")
    with (
        pytest.raises(ServerError, match=r"died with status 3(.|\n)*CUDA out of memory"),
        open_engine(random_student, chat, student) as engine,
    ):
        in_order(engine, prompts)
    assert not servers[0].alive


def test_a_server_that_never_gets_healthy_is_given_up_in_time(
    random_student: Path, chat: Chat, servers: list[ManagedServer]
) -> None:
    student = student_of(EngineKind.vllm, 2, "deaf")
    short = replace(student, vllm=replace(student.vllm, startup_timeout_s=1.5))
    with (
        pytest.raises(ServerError, match=r"within 1.5 s(.|\n)*loading the weights"),
        open_engine(random_student, chat, short),
    ):
        pass
    assert not servers[0].alive


@pytest.mark.parametrize(("fault", "words"), [("refuses", "too long for me"), ("untold", "without token ids")])
def test_what_the_server_cannot_do_is_an_error(
    fault: str, words: str, random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation]
) -> None:
    with (
        pytest.raises(ServerError, match=words),
        open_engine(random_student, chat, student_of(EngineKind.vllm, 2, fault)) as engine,
    ):
        in_order(engine, prompts)
