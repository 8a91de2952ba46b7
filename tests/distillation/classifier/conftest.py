"""Small models and labelled rows for the classifiers: built here, from scratch."""

from pathlib import Path

import pytest

from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.dataset import LabelledText

SUBJECTS = {
    TaskType.MATH: ("Add", "Multiply", "Subtract", "Divide"),
    TaskType.WRITING: ("Compose", "Draft", "Narrate", "Tell"),
    TaskType.MUSIC: ("Hum", "Whistle", "Sing", "Drum"),
}
OBJECTS = ("the red one", "the blue one", "the green one", "the large one", "the small one", "both of them")
"""Shared by the rows of every type, so that only the verb decides the type."""


@pytest.fixture(scope="session")
def rows() -> list[LabelledText]:
    """Return 72 instructions of three types that differ by their verbs."""
    return [
        LabelledText(f"{verb} {thing} now", task)
        for task, verbs in SUBJECTS.items()
        for verb in verbs
        for thing in OBJECTS
    ]


@pytest.fixture(scope="session")
def deberta_base(tmp_path_factory: pytest.TempPathFactory, rows: list[LabelledText]) -> Path:
    """Write a DeBERTa-v2 with random weights in the hub's format of v3: safetensors, sentencepiece tokenizer."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="the extra `local` is not installed")
    import torch
    from transformers import DebertaV2Config, DebertaV2Model

    directory = tmp_path_factory.mktemp("deberta")
    text = directory / "text.txt"
    text.write_text("\n".join(row.text for row in rows))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(directory / "spm"),
        vocab_size=90,
        pad_id=0,
        pad_piece="[PAD]",
        bos_id=1,
        bos_piece="[CLS]",
        eos_id=2,
        eos_piece="[SEP]",
        unk_id=3,
        unk_piece="[UNK]",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    config = DebertaV2Config(
        vocab_size=128,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DebertaV2Model(config).save_pretrained(str(directory))
    text.unlink()
    return directory
