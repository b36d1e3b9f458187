# SPDX-License-Identifier: Apache-2.0
"""Attention with biases beside eager torch and SDPA, in one run: forward, and forward with all five gradients.

The sides take turns, so that a drift of the machine's speed meets all; figures are the best of the rounds. Every side
is measured with torch's allocator as it is and, in a second process, with THP_MEM_ALLOC_ENABLE=1 (huge pages): its
better one counts. The products of both directions are set against the machine's multiply-adds, measured before and after each case. Memory is
what forward and backward add to a process that holds the inputs.

    python benchmarks/attention.py [--rounds 10] [--threads 2] [--case NAME] [--dtype float32 | bfloat16]
                                   [--json FILE] [--picture FILE.svg]

needs the micro-benchmarks' program: `make bench-attention` builds it.
"""

import argparse
import json
import os
import pathlib
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


def resident_mib(peak: bool) -> float:
    """Resident memory of this process, now or at its highest."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def worker(case: str, sides: list[str], rounds: int, threads: int, dtype: str) -> None:
    """In a process of its own: best seconds of each side, and what they added to memory, as a line of JSON."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    B, N, L, H, D = CASES[case]
    options = {"requires_grad": True, "dtype": getattr(torch, dtype)}
    inputs = [torch.randn(B, N, L, H, D, **options) for _ in range(3)]
    inputs += [torch.randn(B, N, 1, 1, L, **options), torch.randn(B, 1, H, L, L, **options)]
    gradient = torch.randn(B, N, L, H, D, dtype=options["dtype"])
    small = [t[:, :1, :2] if i < 3 else t[:, :1, ..., :2] for i, t in enumerate(inputs)]
    for side in sides:  # what loads at the first call is no part of a case
        SIDES[side](*small[:4], small[4][..., :2, :]).sum().backward()
    before = resident_mib(peak=False)
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
            if i > 0 or rounds == 0:
                best[side]["forward"] = min(best[side]["forward"], forward)
                best[side]["both"] = min(best[side]["both"], both)
    print(json.dumps({"seconds": best, "added_mib": resident_mib(peak=True) - before}))


def run_worker(
    case: str, sides: list[str], rounds: int, threads: int, dtype: str, **environment: str
) -> dict:
    command = [sys.executable, __file__, "--worker", ",".join(sides), "--case", case, "--dtype", dtype]
    command += ["--rounds", str(rounds), "--threads", str(threads)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def multiply_adds(threads: int) -> float:
    """FLOP/s of fused multiply-adds on registers alone, on a power of two of threads."""
    program = ROOT / "build" / "release" / "bin" / "axial_kernels_benches"
    if not program.exists():
        sys.exit(f"{program} is missing: run `make bench-attention`")
    command = [program, f"--benchmark_filter=BM_FmaLoop/threads:{threads}/", "--benchmark_format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["benchmarks"][0]["flops"]


def results_mib(case: str, dtype: str) -> tuple[float, float]:
    """What any implementation must add (output, statistics, gradients), and one tensor of logits."""
    B, N, L, H, D = CASES[case]
    size = {"float32": 4, "bfloat16": 2}[dtype]
    results = size * (4 * B * N * L * H * D + B * N * L + B * H * L * L) + 4 * 2 * B * N * L * H
    return results / 2**20, size * B * N * H * L * L / 2**20


def measure(case: str, rounds: int, threads: int, dtype: str) -> dict:
    """One row of the table."""
    flops_before = multiply_adds(threads), multiply_adds(1)
    plain = run_worker(case, list(SIDES), rounds, threads, dtype)
    single = run_worker(case, ["axial"], rounds, 1, dtype)["seconds"]["axial"]
    huge_pages = run_worker(case, list(SIDES), rounds, threads, dtype, THP_MEM_ALLOC_ENABLE="1")
    single_huge = run_worker(case, ["axial"], rounds, 1, dtype, THP_MEM_ALLOC_ENABLE="1")
    single_huge = single_huge["seconds"]["axial"]
    single = {what: min(single[what], single_huge[what]) for what in single}
    peak, peak_single = (
        max(a, b) for a, b in zip(flops_before, (multiply_adds(threads), multiply_adds(1)), strict=True)
    )
    best = plain["seconds"]
    for side in SIDES:
        for what in ("forward", "both"):
            best[side][what] = min(best[side][what], huge_pages["seconds"][side][what])
    B, N, L, H, D = CASES[case]
    flops = 4 * B * N * H * L * L * D
    ours = best["axial"]
    results, logits = results_mib(case, dtype)
    return {
        "case": case,
        "dtype": dtype,
        "threads": threads,
        "seconds": best,
        "seconds_of_one_thread": single,
        "fma_gflops": peak / 1e9,
        "forward_share": flops / ours["forward"] / peak,
        "backward_share": 2.5 * flops / (ours["both"] - ours["forward"]) / peak,
        "scaling": single["both"] / ours["both"] / (peak / peak_single),
        "added_mib": {side: run_worker(case, [side], 0, threads, dtype)["added_mib"] for side in SIDES},
        "results_mib": results,
        "logits_mib": logits,
    }


COLUMNS = ["case", "forward ms", "x eager", "x SDPA", "of FMA", "both ms", "x eager", "x SDPA", "backward of FMA",
           "1 to N threads, of FMA's", "added MiB eager, SDPA, axial", "results, logits MiB"]  # fmt: skip


def row_text(row: dict) -> str:
    s, ours = row["seconds"], row["seconds"]["axial"]
    cells = [row["case"]]
    for what, share in (("forward", "forward_share"), ("both", "backward_share")):
        cells.append(f"{ours[what] * 1e3:.1f}")
        cells += [f"{s[side][what] / ours[what]:.1f}" for side in ("eager", "sdpa")]
        cells.append(f"{row[share]:.0%}")
    cells += [f"{row['scaling']:.2f}", ", ".join(f"{v:.0f}" for v in row["added_mib"].values())]
    cells.append(f"{row['results_mib']:.0f}, {row['logits_mib']:.0f}")
    return f"| {' | '.join(cells)} |"


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Bars of how many times faster than eager torch and SDPA."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, 2, figsize=(11, 0.6 * len(rows) + 1.5), sharey=True, layout="constrained"
    )
    for axis, what, title in zip(
        axes, ("forward", "both"), ("forward", "forward and all gradients"), strict=True
    ):
        for i, side in enumerate(("eager", "sdpa")):
            ratios = [row["seconds"][side][what] / row["seconds"]["axial"][what] for row in rows]
            places = [n + (i - 0.5) * 0.38 for n in range(len(rows))]
            bars = axis.barh(
                places, ratios, height=0.36, label={"eager": "eager torch", "sdpa": "SDPA"}[side]
            )
            axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(title)
        axis.set_xlabel("times as long as axial")
    axes[0].set_yticks(range(len(rows)), [row["case"] for row in rows])
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2, choices=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.case, args.worker.split(","), args.rounds, args.threads, args.dtype)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    rows = []
    cases = [args.case] if args.case else list(CASES)
    for number, case in enumerate(cases, 1):
        print(
            f"case {number} of {len(cases)}, half a minute or more each: {case}", file=sys.stderr, flush=True
        )
        rows.append(measure(case, args.rounds, args.threads, args.dtype))
        print(row_text(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.picture:
        draw(rows, args.picture)


if __name__ == "__main__":
    main()
