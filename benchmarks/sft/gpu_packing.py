"""Compare packed rows on a GPU with each row alone, for variable-length flash attention in bfloat16 and float32.

`python benchmarks/sft/gpu_packing.py` prints the largest difference of the logits. For comparison, it prints the
difference between two attention kernels of transformers, which is the rounding to expect.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tapir_exp.student.packing import pack_attention, packed_hidden, row_bounds

LENGTHS = (700, 1, 30, 512, 129)
SHAPE = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}


@torch.no_grad()
def main() -> None:
    """Print the differences of both precisions."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, num_key_value_heads=4, **SHAPE)).cuda().eval()
    rows = [torch.randint(1000, (length,), device="cuda") for length in LENGTHS]
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        alone = {}
        for kernel in ("eager", "sdpa"):
            model.set_attn_implementation(kernel)
            alone[kernel] = torch.cat([model(row[None]).logits[0] for row in rows]).float()
        bounds = row_bounds(LENGTHS)
        bounds = bounds._replace(starts=bounds.starts.cuda(), positions=bounds.positions.cuda())
        hidden = packed_hidden(pack_attention(model).get_decoder(), torch.cat(rows), bounds)
        packed = model.lm_head(hidden).float()
        rounding = (alone["eager"] - alone["sdpa"]).abs().max().item()
        print(dtype, "packed:", (packed - alone["sdpa"]).abs().max().item(), "rounding:", rounding)


if __name__ == "__main__":
    main()
