# SPDX-License-Identifier: Apache-2.0
"""One curve for any number of ranks: the demo's model on FASTA, trained by one rank and by meshes of 2 and 4,
also under torchrun.

    .venv/bin/python benchmarks/ranks_curve.py --data GENES.fasta --picture ranks.svg --out ranks.md

Writes a table of the largest difference between losses, and one picture of all curves.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNS = {
    "1 rank": [],
    "2 ranks: data, ZeRO 3": ["--ranks", "2", "--set", "parallel.zero=3"],
    "2 ranks: ring": ["--ranks", "2", "--set", "parallel.ring=2"],
    "2 ranks: pipe, 1F1B": ["--ranks", "2", "--set", "parallel.pipe=2"],
    "4 ranks: data x tensor": ["--ranks", "4", "--set", "parallel.tensor=2"],
    "4 ranks: ulysses x ring, ZeRO 2": [
        "--ranks", "4", "--set", "parallel.ring=2", "--set", "parallel.ulysses=2", "--set", "parallel.zero=2",
    ],
    "4 ranks: pipe x tensor": ["--ranks", "4", "--set", "parallel.pipe=2", "--set", "parallel.tensor=2"],
    "2 ranks under torchrun: ZeRO 2": ["--set", "parallel.zero=2"],
}  # fmt: skip
TORCHRUN = [str(pathlib.Path(sys.executable).parent / "torchrun"), "--standalone", "--no-python"]


def train(name, more, arguments, folder) -> tuple[list[int], list[float], float]:
    """Steps, losses and seconds of one run."""
    print(f"training: {name}", flush=True)
    launcher = [*TORCHRUN, "--nproc-per-node", "2"] if "torchrun" in name else []
    command = [
        *launcher, str(ROOT / "build" / "bin" / "axial"), "train", str(ROOT / "recipes" / "genome_demo.yaml"),
        "--data", arguments.data, "--out", str(folder), "--set", f"train.steps={arguments.steps}",
        "--set", "train.log_every=1", "--set", "train.validate_every=0", "--set", "train.checkpoint_every=0",
        "--set", "train.validate_rows=64", "--set", "data.sequence_length=256",
        "--set", "train.schedule.warmup_steps=10", *more,
    ]  # fmt: skip
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    return [row["step"] for row in rows], [row["loss"] for row in rows], seconds


def draw(curves, path) -> None:
    """All curves in one picture, thinner ones on top of wider ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for i, (name, (steps, values, _)) in enumerate(curves.items()):
        axes.plot(steps, values, label=name, linewidth=8 - i)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per codon")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="FASTA file")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--picture", help="SVG to write")
    parser.add_argument("--out", help="Markdown table to write; none: to the terminal")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            name: train(name, more, arguments, pathlib.Path(folder) / str(i))
            for i, (name, more) in enumerate(RUNS.items())
        }
    first = curves["1 rank"][1]
    lines = ["| ranks | last loss | largest difference to 1 rank | seconds |", "|---|---|---|---|"]
    for name, (_, values, seconds) in curves.items():
        off = max(abs(a - b) for a, b in zip(values, first, strict=True))
        lines.append(f"| {name} | {values[-1]:.6f} | {off:.1e} | {seconds:.0f} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(table)
    if arguments.picture:
        draw(curves, arguments.picture)


if __name__ == "__main__":
    main()
