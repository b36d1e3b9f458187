# SPDX-License-Identifier: Apache-2.0
"""Rows of 131,072 nucleotides of real genomes on CPU: recipes/long/nucleotides_128k.yaml trained by 4 ranks, with rows of
several genomes (attention stays within each) and with a row that is one sequence, then one such sequence embedded.

    .venv/bin/python benchmarks/long_rows.py --data GENOMES.fasta.zst --out long_rows.md

Writes for each what the ranks' processes took at most (VmHWM), what a process takes without long rows, the plan's
peak, and what the logits of plain attention would need.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
AXIAL = ROOT / "build" / "release" / "bin" / "axial"
RECIPE = ROOT / "recipes" / "long" / "nucleotides_128k.yaml"
LENGTH, RANKS, HEADS = 131072, 4, 4
GIB = 2**30


def read_records(path: str) -> list[str]:
    """Sequences of a FASTA file, compressed or not."""
    text = (
        subprocess.run(["zstd", "-dc", path], check=True, capture_output=True, text=True).stdout
        if path.endswith(".zst")
        else pathlib.Path(path).read_text()
    )
    return ["".join(record.split("\n")[1:]) for record in text.split(">")[1:]]


def write_records(path: pathlib.Path, records: list[str]) -> pathlib.Path:
    path.write_text("".join(f">r{i}\n{record}\n" for i, record in enumerate(records)))
    return path


def descendants(root: int) -> list[int]:
    """Processes below a process, itself included."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def high_water(pid: int) -> int:
    """VmHWM of a process in bytes; 0 when it is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def run(command: list, name: str) -> tuple[float, list[int]]:
    """Seconds and the largest VmHWM of processes below the command, largest first."""
    print(f"running: {name}", flush=True)
    start, most = time.monotonic(), {}
    with subprocess.Popen([str(word) for word in command]) as process:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                for pid in descendants(process.pid):
                    most[pid] = max(most.get(pid, 0), high_water(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        over.set()
        watcher.join()
    if code != 0:
        raise RuntimeError(f"[long_rows] {name}; expected exit code 0, got {code}")
    return time.monotonic() - start, sorted(most.values(), reverse=True)


def planned(folder: pathlib.Path, more: list) -> int:
    """Bytes of tensors at the peak of a rank."""
    out = folder / "plan.json"
    command = [AXIAL, "plan", RECIPE, "--device", "h200", "--json", out, *more]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return max(role["peak_bytes"] for role in json.loads(out.read_text())["roles"])


def train(folder: pathlib.Path, data: pathlib.Path, name: str, more: list) -> tuple[float, int, list[float]]:
    """Seconds, VmHWM of the largest rank, losses."""
    out = folder / name
    command = [
        AXIAL,
        "train",
        RECIPE,
        "--data",
        data,
        "--out",
        out,
        "--ranks",
        RANKS,
        "--timeout",
        3600,
        *more,
    ]
    seconds, peaks = run(command, name)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return seconds, peaks[0], [row["loss"] for row in rows if row["kind"] == "train"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="FASTA file of genomes")
    parser.add_argument("--out", help="Markdown table to write; none: to the terminal")
    parser.add_argument("--cases", nargs="*", default=["several", "one", "embed"], help="which to run")
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    precision = ["--set", f"train.precision={arguments.precision}"]
    plain = HEADS * LENGTH * LENGTH * 4
    lines = [
        "| what | seconds | losses | VmHWM of the largest process, GiB | the same with rows of 256 | plan's peak, GiB "
        "| logits of plain attention in fp32, one block, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        genomes = read_records(arguments.data)
        several = write_records(folder / "several.fasta", genomes[:40])
        joined = ["".join(genomes[i : i + 6])[: LENGTH - 2] for i in range(0, 48, 6)]
        one = write_records(folder / "one.fasta", joined)
        short = ["--set", "data.sequence_length=256", "--set", "train.tile_tokens=64"]
        base = train(folder, several, "short", [*precision, *short])[1]
        plan = planned(folder, ["--world", RANKS, *precision])
        for case, data, what in (
            ("several", several, "4 ranks, rows of several genomes, 3 steps"),
            ("one", one, "4 ranks, rows of one sequence, 3 steps"),
        ):
            if case not in arguments.cases:
                continue
            seconds, peak, losses = train(folder, data, case, precision)
            lines.append(
                f"| {what} | {seconds:.0f} | {', '.join(f'{loss:.3f}' for loss in losses)} | {peak / GIB:.2f} | "
                f"{base / GIB:.2f} | {plan / GIB:.2f} | {plain / RANKS / GIB:.0f} a rank |"
            )
        if "embed" in arguments.cases:
            single = write_records(folder / "single.fasta", joined[:1])
            model = folder / ("several" if "several" in arguments.cases else "short")
            command = [AXIAL, "embed", model, "--data", single, "--out", folder / "e.npy", "--window", LENGTH]
            seconds, peaks = run(
                [
                    *command,
                    "--batch-tokens",
                    LENGTH,
                    "--checkpoint",
                    "last",
                    "--precision",
                    arguments.precision,
                ],
                "embed",
            )
            plan = planned(
                folder,
                [
                    "--for",
                    "embed",
                    "--batch-tokens",
                    LENGTH,
                    "--set",
                    "parallel.ring=1",
                    "--set",
                    "parallel.ulysses=1",
                    *precision,
                ],
            )
            lines.append(
                f"| embedding one sequence, one rank | {seconds:.0f} | | {peaks[0] / GIB:.2f} | | {plan / GIB:.2f} | "
                f"{plain / GIB:.0f} |"
            )
    table = "\n".join(lines) + "\n"
    if arguments.out:
        pathlib.Path(arguments.out).write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
