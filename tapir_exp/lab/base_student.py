"""Build the lab's base student from a seed: a small, untrained Llama with a tokenizer for this world."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from tapir_exp.config import LabStudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.store import write_text_atomic

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LIMIT = 3_000_000
"""Largest number of parameters of a lab student."""
POSITIONS = 2048
"""Longest conversation in tokens."""
ROPE_THETA = 100.0
"""Base of the rotary positions: lab conversations have some sixty tokens, not thousands. In the trial of NOTES.md, this
alone halved the loss."""
INITIAL_SPREAD = 0.08
"""Standard deviation of the initial weights, near 1/sqrt(hidden_size). The usual 0.02 suits wide models and starts too
slowly here."""
BOS, PAD, END, SYSTEM, USER, ASSISTANT = "<|bos|>", "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_base_student(directory: Path, config: LabStudentConfig, corpus: Iterable[str]) -> None:
    """Train the tokenizer, draw the weights, and save both as a Hugging Face directory.

    The same arguments give the same bytes.

    Args:
        directory: directory of the files.
        config: architecture and seed.
        corpus: texts that the tokenizer is trained on.

    Raises:
        ConfigError: the model exceeds 3M parameters, `hidden_size` is not a multiple of twice `num_heads`, or the
            vocabulary is too small for all bytes.
    """
    tokenizer = build_base_tokenizer(directory, config, corpus)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _draw_model(config, tokenizer).save_pretrained(str(directory))
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((directory / name).read_text())
        settings.pop("transformers_version", None)  # the bytes must not depend on the installed version
        write_text_atomic(directory / name, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def build_base_tokenizer(directory: Path, config: LabStudentConfig, corpus: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train the tokenizer alone, and save it; see `build_base_student`."""
    _validate(config)
    tokenizer = _train_tokenizer(corpus, config.vocab_size)
    tokenizer.save_pretrained(str(directory))
    return tokenizer


def _validate(config: LabStudentConfig) -> None:
    problems = []
    if config.hidden_size % (2 * config.num_heads):
        problems.append(
            f"lab.student.hidden_size: {config.hidden_size} is not a multiple of 2 x num_heads = {2 * config.num_heads}"
        )
    smallest = len(pre_tokenizers.ByteLevel.alphabet()) + 6
    if config.vocab_size < smallest:
        problems.append(
            f"lab.student.vocab_size: {config.vocab_size} is too small; bytes and control tokens need {smallest}"
        )
    if (parameters := count_parameters(config)) > LIMIT:
        problems.append(f"lab.student: {parameters} parameters; a lab student has at most {LIMIT}")
    if problems:
        raise ConfigError(problems)


def count_parameters(config: LabStudentConfig) -> int:
    """Return the number of weights of a Llama, with tied embeddings counted once."""
    block = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size + 2 * config.hidden_size
    return config.vocab_size * config.hidden_size + config.num_layers * block + config.hidden_size


def _train_tokenizer(corpus: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which each digit is a token, so that arithmetic can be learned digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _draw_model(config: LabStudentConfig, tokenizer: PreTrainedTokenizerBase) -> "LlamaForCausalLM":
    # Imported here: the classes of models take seconds to load, and a tokenizer needs none.
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    architecture = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=INITIAL_SPREAD,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # The draws leave the global generator as it was.
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(architecture)
