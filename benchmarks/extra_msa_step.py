# SPDX-License-Identifier: Apache-2.0
"""One training step of row attention over AlphaFold's extra MSA, whose stored logits would not fit this machine.

A block as in AlphaFold (Jumper et al., 2021, algorithm 7): LayerNorm, projections to heads, attention with the mask's
and the pair's biases, gate, output projection, residual; loss, backward, AdamW. 5120 sequences, 384 residues, 8 heads
of 8: the logits alone are 12 GB in bfloat16, 24 GB in float32, and training keeps at least two such tensors.

    python benchmarks/extra_msa_step.py [--sequences 5120] [--residues 384] [--steps 1] [--threads 2] [--json FILE]
"""

import argparse
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build" / "python"))

import torch  # noqa: E402
from attention import resident_mib  # noqa: E402

from axial import evoformer_attention  # noqa: E402

HEADS, WIDTH, MSA, PAIR = 8, 8, 64, 128


class RowAttentionWithPairBias(torch.nn.Module):
    """m [B, N, L, MSA], z [B, L, L, PAIR], mask [B, N, L] of zeros and ones -> [B, N, L, MSA]."""

    def __init__(self):
        super().__init__()
        self.norm_m, self.norm_z = torch.nn.LayerNorm(MSA), torch.nn.LayerNorm(PAIR)
        self.pair = torch.nn.Linear(PAIR, HEADS, bias=False)
        self.q, self.k, self.v = (torch.nn.Linear(MSA, HEADS * WIDTH, bias=False) for _ in range(3))
        self.gate, self.out = torch.nn.Linear(MSA, HEADS * WIDTH), torch.nn.Linear(HEADS * WIDTH, MSA)

    def forward(self, m, z, mask):
        x = self.norm_m(m)
        q, k, v = (layer(x).unflatten(-1, (HEADS, WIDTH)) for layer in (self.q, self.k, self.v))
        hidden = (1e9 * (mask - 1))[:, :, None, None, :]
        pair = self.pair(self.norm_z(z)).permute(0, 3, 1, 2)[:, None]
        out = evoformer_attention(q, k, v, [hidden, pair]).flatten(-2)
        return m + self.out(self.gate(x).sigmoid() * out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=5120)
    parser.add_argument("--residues", type=int, default=384)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    N, L = args.sequences, args.residues
    model = RowAttentionWithPairBias()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    m, target = torch.randn(1, N, L, MSA), torch.randn(1, N, L, MSA)
    z, mask = torch.randn(1, L, L, PAIR), (torch.rand(1, N, L) > 0.1).float()
    inputs = resident_mib(peak=False)
    seconds, losses = [], []
    print(
        f"{args.steps} step(s) over {N} sequences x {L} residues, at full size about 20 s each on two cores",
        flush=True,
    )
    for step in range(args.steps):
        begin = time.perf_counter()
        loss = torch.nn.functional.mse_loss(model(m, z, mask), target)
        forward = time.perf_counter() - begin
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        losses.append(loss.item())
        print(f"step {step + 1} of {args.steps}: loss {losses[-1]:.5f}, forward {forward:.1f} s, "
              f"step {seconds[-1]:.1f} s", flush=True)  # fmt: skip
    logits = N * HEADS * L * L * 4 / 2**20
    result = {
        "sequences": N, "residues": L, "threads": args.threads, "seconds": seconds, "losses": losses,
        "inputs_mib": inputs, "peak_mib": resident_mib(peak=True), "one_logits_tensor_mib": logits,
        "activation_mib": N * L * MSA * 4 / 2**20,
    }  # fmt: skip
    print(f"peak {result['peak_mib']:.0f} MiB, of which {inputs:.0f} before the step; an activation [B, N, L, {MSA}] is "
          f"{result['activation_mib']:.0f} MiB; logits and probabilities in float32 would add {2 * logits:.0f} MiB")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
