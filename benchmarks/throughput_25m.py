# SPDX-License-Identifier: Apache-2.0
"""Compare training throughput of the 25M genome model with transformers, side by side in one run.

Both sides train on full rows with AdamW, clipping and fp32 on the same number of threads. The two take
turns, so that a drift of the machine's speed meets both. Figures are medians over all rounds. At the end
axial's own profile says where its time goes.

    python benchmarks/throughput_25m.py [--rounds 3] [--steps 8] [--json FILE]
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = [(4, 512), (1, 2048)]
WARMUP = 3


def write_long_genes(path: pathlib.Path, length: int, rows: int) -> None:
    """Write records that fill one row each (length codons with their start token), so rows are alike."""
    rng = random.Random(0)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    with open(path, "w") as out:
        for i in range(rows):
            out.write(f">r{i}\n{''.join(rng.choices(codons, k=length - 1))}\n")


def axial_run(
    rows: int, length: int, steps: int, threads: int, folder: pathlib.Path, profile: int = 0
) -> tuple[list[float], str]:
    """Seconds per step of `axial train recipes/genome_25m.yaml`, warm-up left out, and what it printed."""
    fasta = folder / f"rows_{length}.fasta"
    if not fasta.exists():
        write_long_genes(fasta, length, 64)
    settings = {
        "train.steps": steps + WARMUP,
        "train.batch": rows,
        "train.micro_batch": rows,
        "train.validate_every": 0,
        "train.checkpoint_every": 0,
        "data.cache": "none",
        "train.log_every": 1,
        "train.threads": threads,
        "data.sequence_length": length,
        "data.split.validation_fraction": 0,
        "data.tokenizer.eos": "false",
    }
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [ROOT / "build/bin/axial", "train", ROOT / "recipes/genome_25m.yaml", "--data", fasta]
        command += ["--out", pathlib.Path(out) / "run", "--profile", profile]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
        lines = (pathlib.Path(out) / "run/metrics.jsonl").read_text().splitlines()
    ends = [r["seconds"] for r in map(json.loads, lines) if r["kind"] == "train"]
    return [after - before for before, after in zip([0.0, *ends], ends)][WARMUP:], done.stdout


def axial_profile(rows: int, length: int, steps: int, threads: int, folder: pathlib.Path) -> str:
    """The table of `axial train --profile`."""
    printed = axial_run(rows, length, steps, threads, folder, profile=steps)[1]
    return printed[printed.index("profile of") :].split("\n\n")[0]


def transformers_seconds(rows: int, length: int, steps: int, threads: int) -> list[float]:
    """Seconds per step of the same model in transformers."""
    command = [sys.executable, ROOT / "benchmarks/transformers_step.py"]
    command += [
        "--rows",
        rows,
        "--length",
        length,
        "--steps",
        steps,
        "--warmup",
        WARMUP,
        "--threads",
        threads,
    ]
    done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    results = []
    print("| batch x length | transformers tokens/s | axial tokens/s | ratio |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for rows, length in SHAPES:
            ours, theirs = [], []
            for _ in range(options.rounds):
                theirs += transformers_seconds(rows, length, options.steps, options.threads)
                ours += axial_run(rows, length, options.steps, options.threads, pathlib.Path(folder))[0]
            tokens = rows * length
            row = {
                "rows": rows,
                "length": length,
                "transformers_tokens_per_second": tokens / statistics.median(theirs),
                "axial_tokens_per_second": tokens / statistics.median(ours),
                "ratio": statistics.median(theirs) / statistics.median(ours),
                "transformers_seconds": theirs,
                "axial_seconds": ours,
            }
            results.append(row)
            print(
                f"| {rows} x {length} | {row['transformers_tokens_per_second']:.0f} "
                f"| {row['axial_tokens_per_second']:.0f} | {row['ratio']:.2f} |",
                flush=True,
            )
        for row in results:
            rows, length = row["rows"], row["length"]
            row["profile"] = axial_profile(rows, length, options.steps, options.threads, pathlib.Path(folder))
            print(f"\n{rows} x {length}, {row['profile']}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
