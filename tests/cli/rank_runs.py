# SPDX-License-Identifier: Apache-2.0
"""Runs over processes of this machine, for tests: their commands, curves and processes."""

import json
import pathlib
import shutil
import sys

import pytest

STEPS = 6


def options(**settings) -> list[str]:
    known = {
        "train.steps": STEPS,
        "train.checkpoint_every": 2,
        "train.validate_every": 3,
        "train.log_every": 1,
        "train.threads": 1,
        "train.precision": "fp64",
    }
    known.update({key.replace("__", "."): value for key, value in settings.items()})
    return [word for key, value in known.items() for word in ("--set", f"{key}={value}")]


def command(program, recipe, genes, run, *more, **settings) -> list[str]:
    return [
        str(program), "train", str(recipe), "--data", str(genes), "--out", str(run), *options(**settings),
        *map(str, more),
    ]  # fmt: skip


def losses(run: pathlib.Path) -> list[tuple[str, int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["kind"], row["step"], row["loss"]) for row in rows]


def assert_same_curve(one: pathlib.Path, many: pathlib.Path):
    expected, got = losses(one), losses(many)
    assert [row[:2] for row in got] == [row[:2] for row in expected]
    assert [row[2] for row in got] == pytest.approx([row[2] for row in expected], rel=1e-9)


def torchrun_of(axial_command: list[str], ranks: int) -> list[str]:
    torchrun = shutil.which("torchrun", path=pathlib.Path(sys.executable).parent)
    if torchrun is None:
        pytest.skip("torchrun is not beside this Python")
    return [torchrun, "--standalone", "--no-python", "--nproc-per-node", str(ranks), *axial_command]


def processes_of(run: pathlib.Path) -> dict[int, int]:
    """Rank -> pid of the processes that train in this folder."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if str(run).encode() not in (folder / "cmdline").read_bytes():
                continue
            variables = dict(
                entry.split(b"=", 1)
                for entry in (folder / "environ").read_bytes().split(b"\0")
                if b"=" in entry
            )
        except (OSError, ValueError):
            continue
        found[int(variables.get(b"RANK", b"-1"))] = int(folder.name)
    return found
