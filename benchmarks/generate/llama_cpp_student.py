"""The benchmark's student in llama.cpp: GGUF in float32, behind the in-process server of xllamacpp."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp
from gguf import GGUFWriter, TokenType
from safetensors.numpy import load_file
from task import END, LIMIT, LONGEST, PAD

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""llama.cpp's names of the parts of a layer."""
MODEL_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
"""llama.cpp's names of the parts outside the layers."""


class LlamaCpp:
    """A server with one thread that generates `streams` prompts at once."""

    def __init__(self, student: Path, streams: int) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(write_gguf(student))
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.n_parallel, params.n_ctx = streams, streams * (LONGEST + LIMIT)
        params.verbosity, params.warmup, params.ui = -1, False, False
        # The defaults of these two use float16 in parts, which changes a quarter of the responses.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads_http = streams + 1
        self._server = xllamacpp.Server(params)
        self._streams = streams

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens of each response, in order."""
        with ThreadPoolExecutor(self._streams) as pool:
            return list(pool.map(self._respond, prompts))

    def _respond(self, prompt: Sequence[int]) -> list[int]:
        request = {"prompt": list(prompt), "max_tokens": LIMIT, "temperature": 0.0, "top_k": 1, "cache_prompt": False}
        reply: Any = self._server.handle_completions(request)["choices"][0]
        words = reply["text"].split("w")[1:]
        return [*map(int, words), *([END] if reply["finish_reason"] == "stop" else [])]


def write_gguf(student: Path) -> Path:
    """Write the student as GGUF into its directory; queries and keys get the order of llama.cpp's rotary embedding."""
    config = json.loads((student / "config.json").read_text())
    path, heads = student / "student.gguf", config["num_attention_heads"]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    _add_vocabulary(writer, config["vocab_size"])
    for name, weights in load_file(student / "model.safetensors").items():
        tensor = _interleaved(weights, heads) if name.endswith(("q_proj.weight", "k_proj.weight")) else weights
        writer.add_tensor(f"{_gguf_name(name.removesuffix('.weight'))}.weight", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: GGUFWriter, count: int) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"w{number}" for number in range(count)])
    writer.add_token_scores([0.0] * count)
    writer.add_token_types([TokenType.CONTROL if number in (PAD, END) else TokenType.NORMAL for number in range(count)])
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(False)


def _gguf_name(name: str) -> str:
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER_NAMES[part]}"


def _interleaved(weights: Any, heads: int) -> Any:
    """Interleave the halves of each head: llama.cpp rotates neighbouring rows, transformers rotates halves."""
    rows, width = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)
