# SPDX-License-Identifier: Apache-2.0
"""Train GPT-NeoX 25M in transformers (SDPA, fused AdamW) and print seconds per step as JSON.

The other side of benchmarks/throughput_25m.py: what a user would otherwise run.
"""

import argparse
import json
import time

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def build() -> GPTNeoXForCausalLM:
    """Build the 25M genome model of recipes/genome_25m.yaml as transformers does."""
    config = GPTNeoXConfig(
        vocab_size=69,
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        intermediate_size=2048,
        max_position_embeddings=2048,
        rotary_pct=0.25,
        hidden_act="gelu_fast",
        use_cache=False,
        attn_implementation="sdpa",
    )
    return GPTNeoXForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seconds = []
    for step in range(options.warmup + options.steps):
        tokens = torch.randint(5, 69, (options.rows, options.length))
        start = time.perf_counter()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if step >= options.warmup:
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "tokens": options.rows * options.length}))


if __name__ == "__main__":
    main()
