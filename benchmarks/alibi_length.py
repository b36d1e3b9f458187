# SPDX-License-Identifier: Apache-2.0
"""Perplexity on rows longer than a model was trained on: ALiBi, rotary and learned positions, one small model each
on the same FASTA, judged at 1, 2, 4 and 8 times its length.

    .venv/bin/python benchmarks/alibi_length.py --data GENES.fasta --out alibi.md

Every judged token counts once at each length; with longer rows more of its record stands before it.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
AXIAL = ROOT / "build" / "bin" / "axial"
POSITIONS = ("alibi", "rotary", "learned")
TIMES = (1, 2, 4, 8)


def train(position, arguments, folder) -> float:
    """Train one model; return the seconds it took."""
    print(f"training: {position}", flush=True)
    settings = [
        f"model.position={position}", f"model.max_positions={arguments.length}",
        f"data.sequence_length={arguments.length}", f"train.steps={arguments.steps}",
        f"train.batch={arguments.tokens // arguments.length}",
        f"train.micro_batch={arguments.tokens // arguments.length}",
        "train.validate_every=0", "train.validate_rows=64", "train.checkpoint_every=0",
        "train.schedule.warmup_steps=20", "train.seed=1",
    ]  # fmt: skip
    command = [
        AXIAL,
        "train",
        ROOT / "recipes" / "genome_demo.yaml",
        "--data",
        arguments.data,
        "--out",
        folder,
    ]
    for setting in settings:
        command += ["--set", setting]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def judge(run, length) -> tuple[float, float] | None:
    """Perplexities of the model and of counting alone on rows of this length; None where it takes none so long."""
    report = run / f"eval_{length}.json"
    done = subprocess.run(
        [
            AXIAL, "eval", run, "--checkpoint", "last", "--sequence-length", str(length),
            "--batch", "4", "--max-order", "2", "--json", report,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        if "positions that the model has learned" not in done.stderr:
            raise RuntimeError(done.stderr)
        return None
    rows = {row["name"]: row["perplexity"] for row in json.loads(report.read_text())["rows"]}
    return rows["model"], rows["unigram"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="FASTA file")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row in training")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=2048, help="of a step")
    parser.add_argument("--out", help="Markdown table to write; none: to the terminal")
    arguments = parser.parse_args()
    head = " | ".join(f"{times * arguments.length} ({times}x)" for times in TIMES)
    lines = [f"| positions | {head} | seconds of training |", "|---" * (len(TIMES) + 2) + "|"]
    counting = float("nan")
    with tempfile.TemporaryDirectory() as folder:
        for position in POSITIONS:
            run = pathlib.Path(folder) / position
            seconds = train(position, arguments, run)
            cells = []
            for times in TIMES:
                judged = judge(run, times * arguments.length)
                cells.append("refused" if judged is None else f"{judged[0]:.2f}")
                if judged is not None:
                    counting = judged[1]
            lines.append(f"| {position} | {' | '.join(cells)} | {seconds:.0f} |")
    lines += ["", f"Perplexity per token of records that were held out; unigram: {counting:.2f}."]
    table = "\n".join(lines) + "\n"
    print(table)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(table)


if __name__ == "__main__":
    main()
