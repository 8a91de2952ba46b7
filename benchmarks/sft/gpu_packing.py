"""Packed rows on a GPU against each row alone: flash attention over rows of various lengths, in bfloat16 and float32.

`python benchmarks/sft/gpu_packing.py` prints the largest difference of the logits, and that between two kernels of
transformers' own for the same rows, which is the rounding to expect.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tapir_exp.student.packing import pack_attention, packed_hidden, row_bounds

LENGTHS = (700, 1, 30, 512, 129)
SHAPE = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}


@torch.no_grad()
def main() -> None:
    """Compare and print."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, num_key_value_heads=4, **SHAPE)).cuda().eval()
    rows = [torch.randint(1000, (length,), device="cuda") for length in LENGTHS]
    for kind in (torch.float32, torch.bfloat16):
        model.to(kind)
        alone = {}
        for kernel in ("eager", "sdpa"):
            model.set_attn_implementation(kernel)
            alone[kernel] = torch.cat([model(row[None]).logits[0] for row in rows]).float()
        bounds = row_bounds(LENGTHS)
        bounds = bounds._replace(starts=bounds.starts.cuda(), positions=bounds.positions.cuda())
        hidden = packed_hidden(pack_attention(model).get_decoder(), torch.cat(rows), bounds)
        packed = model.lm_head(hidden).float()
        rounding = (alone["eager"] - alone["sdpa"]).abs().max().item()
        print(kind, "packed:", (packed - alone["sdpa"]).abs().max().item(), "rounding:", rounding)


if __name__ == "__main__":
    main()
