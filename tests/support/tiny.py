"""Tiny base models of the students' architectures, with random weights."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama_base(directory: Path) -> Path:
    """Save a model like LLaMA-2: the tokenizer adds a BOS, there is no padding token, and embeddings are not tied."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(save_tokenizer(directory, "<s>", "</s>", []))
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **SIZES)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def qwen_base(directory: Path) -> Path:
    """Save a model like a Qwen1.5 base: <|endoftext|> is both EOS and padding, though <|im_end|> is a token."""
    extra = ["<|im_start|>", "<|im_end|>"]
    saved = save_tokenizer(directory, None, "<|endoftext|>", extra, pad="<|endoftext|>")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(saved)
    end = tokenizer.eos_token_id
    config = Qwen2Config(
        vocab_size=len(tokenizer), eos_token_id=end, pad_token_id=end, bos_token_id=end, num_key_value_heads=2, **SIZES
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(directory)
    return directory


def hub_cache(cache: Path, name: str, files: Path, commit: str) -> None:
    """Write a model as huggingface_hub caches a download of it."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in files.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)


def save_tokenizer(directory: Path, bos: str | None, eos: str, extra: list[str], pad: str | None = None) -> Path:
    """Save a byte-level tokenizer with these control tokens; if there is a BOS, it adds one before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    controls = [*([bos] if bos else []), eos, *extra]
    trainer = trainers.BpeTrainer(special_tokens=controls, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["some words"], trainer)
    if bos:  # the default of LLaMA-2's tokenizer
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad
    )
    fast.save_pretrained(str(directory))
    return directory
