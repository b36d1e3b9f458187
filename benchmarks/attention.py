# SPDX-License-Identifier: Apache-2.0
"""Attention with biases beside eager torch and SDPA, in one run, forward and with all five gradients.

The sides take turns, so that a drift of the machine's speed meets all. Figures are the best of the rounds. Torch is
measured with its own allocator and, in a second process, with THP_MEM_ALLOC_ENABLE=1: its better one counts. The
matrix products of both directions are set against the machine's fp32 sgemm of the same run.

    python benchmarks/attention.py [--rounds 5] [--threads 2] [--case NAME] [--json FILE]
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build" / "python"))

# name: B, N, L, H, D
CASES = {
    "msa row 128 x 256, 8 x 32": (1, 128, 256, 8, 32),
    "msa row 64 x 384, 8 x 32": (1, 64, 384, 8, 32),
    "triangle 256, 4 x 32": (1, 256, 256, 4, 32),
    "extra msa 256 x 256, 8 x 8": (1, 256, 256, 8, 8),
    "template 128, 4 x 16": (1, 128, 128, 4, 16),
    "af3 single 384, 16 x 24": (1, 1, 384, 16, 24),
    "af3 diffusion 4 x 384, 16 x 48": (4, 1, 384, 16, 48),
}


def eager(q, k, v, bias1, bias2):
    """Softmax over stored logits."""
    import torch

    q, k, v = (t.transpose(-2, -3) for t in (q, k, v))
    logits = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)) + bias1 + bias2
    return torch.matmul(logits.softmax(-1), v).transpose(-2, -3)


def sdpa(q, k, v, bias1, bias2):
    """torch's fused attention, the biases summed into its mask."""
    import torch

    q, k, v = (t.transpose(-2, -3) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias1 + bias2)
    return out.transpose(-2, -3)


def axial_attention(q, k, v, bias1, bias2):
    """Ours."""
    import axial

    return axial.evoformer_attention(q, k, v, [bias1, bias2])


SIDES = {"eager": eager, "sdpa": sdpa, "axial": axial_attention}


def seconds_of(case: str, sides: list[str], rounds: int) -> dict:
    """Best seconds of each side: forward without gradient, forward and backward."""
    import torch

    B, N, L, H, D = CASES[case]
    inputs = [torch.randn(B, N, L, H, D, requires_grad=True) for _ in range(3)]
    inputs += [torch.randn(B, N, 1, 1, L, requires_grad=True), torch.randn(B, 1, H, L, L, requires_grad=True)]
    gradient = torch.randn(B, N, L, H, D)
    best = {side: {"forward": float("inf"), "both": float("inf")} for side in sides}
    for i in range(rounds + 1):  # the first warms up
        for side in sides:
            begin = time.perf_counter()
            with torch.no_grad():
                SIDES[side](*inputs)
            forward = time.perf_counter() - begin
            begin = time.perf_counter()
            torch.autograd.grad(SIDES[side](*inputs), inputs, gradient)
            both = time.perf_counter() - begin
            if i > 0:
                best[side]["forward"] = min(best[side]["forward"], forward)
                best[side]["both"] = min(best[side]["both"], both)
    return best


def sgemm_flops() -> float:
    """FLOP/s of torch's largest fp32 product here: what attention's own products could reach at most."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(6):
        begin = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - begin)
    return 2 * 2048**3 / best


def worker(case: str, sides: list[str], rounds: int, threads: int) -> None:
    """Run in a process of its own; the result is the last line, as JSON."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    result = {"sgemm": sgemm_flops(), "seconds": seconds_of(case, sides, rounds)}
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def run_worker(case: str, sides: list[str], args: argparse.Namespace, **environment: str) -> dict:
    command = [sys.executable, __file__, "--worker", ",".join(sides), "--case", case]
    command += ["--rounds", str(args.rounds), "--threads", str(args.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: str, args: argparse.Namespace) -> dict:
    """One row of the table."""
    plain = run_worker(case, list(SIDES), args)
    huge_pages = run_worker(case, ["eager", "sdpa"], args, THP_MEM_ALLOC_ENABLE="1")
    best = plain["seconds"]
    for side in ("eager", "sdpa"):
        for what in ("forward", "both"):
            best[side][what] = min(best[side][what], huge_pages["seconds"][side][what])
    B, N, L, H, D = CASES[case]
    flops = 4 * B * N * H * L * L * D
    ours = best["axial"]
    return {
        "case": case,
        "seconds": best,
        "sgemm_gflops": plain["sgemm"] / 1e9,
        "forward_share": flops / ours["forward"] / plain["sgemm"],
        "backward_share": 2.5 * flops / (ours["both"] - ours["forward"]) / plain["sgemm"],
        "peak_mib": {side: run_worker(case, [side], args)["peak_mib"] for side in SIDES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.case, args.worker.split(","), args.rounds, args.threads)
    print("| case | forward ms | x eager | x sdpa | of sgemm | both ms | x eager | x sdpa | backward of sgemm "
          "| peak MiB eager, sdpa, axial |")  # fmt: skip
    print("|" + "---|" * 10)
    rows = []
    for case in [args.case] if args.case else CASES:
        row = measure(case, args)
        rows.append(row)
        s, ours = row["seconds"], row["seconds"]["axial"]
        ratios = {w: [s[side][w] / ours[w] for side in ("eager", "sdpa")] for w in ("forward", "both")}
        print(f"| {case} | {ours['forward'] * 1e3:.1f} | {ratios['forward'][0]:.1f} | {ratios['forward'][1]:.1f} "
              f"| {row['forward_share']:.0%} | {ours['both'] * 1e3:.1f} | {ratios['both'][0]:.1f} "
              f"| {ratios['both'][1]:.1f} | {row['backward_share']:.0%} "
              f"| {', '.join(f'{v:.0f}' for v in row['peak_mib'].values())} |", flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
