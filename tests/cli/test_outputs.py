# SPDX-License-Identifier: Apache-2.0
"""Where results go: never over their input, a run or someone's folder; to stdout where asked; FASTA that is FASTA."""

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fasta(text: str) -> list[str]:
    """Sequences of FASTA; fails where a line is neither a header of ours nor a line of symbols."""
    sequences = []
    for line in text.splitlines():
        if line.startswith(">"):
            assert re.fullmatch(r">generated_\d+ tokens=\d+ log_likelihood=-[\d.]+ stopped_by=\w+", line), (
                line
            )
            sequences.append("")
        else:
            assert re.fullmatch(r"[A-Z*-]+", line), line
            sequences[-1] += line
    return sequences


def test_demo_removes_only_its_own(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [ROOT / "tools" / "demo"],
        env={**os.environ, "DEMO_OUT": str(tmp_path), "DATA": "none.fasta"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "no demo made it" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
