# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments, also while saving: the run goes on and ends with the same bits."""

import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

KILLS = int(os.environ.get("AXIAL_KILLS", "4"))
STEPS = 30


# Files without a name: a kill leaves nothing of them.
OFFLOADED = [
    "parallel.zero=3", "train.offload_parameters=file", "train.offload_optimizer=file",
    "train.recompute_group=1", "train.offload_checkpoints=file",
]  # fmt: skip


def command(program, recipe, genes, run, settings=()) -> list[str]:
    extra = [word for setting in settings for word in ("--set", setting)]
    return [
        str(program), "train", str(recipe), "--data", str(genes), "--out", str(run),
        "--set", f"train.steps={STEPS}", "--set", "train.checkpoint_every=2", *extra,
    ]  # fmt: skip


def final_weights(run: pathlib.Path) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step_{STEPS:08d}"
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("settings", [[], OFFLOADED], ids=["resident", "offloaded"])
def test_killed_runs_end_like_an_uninterrupted_one(axial_program, test_recipe, genes, tmp_path, settings):
    whole = tmp_path / "whole"
    start = time.monotonic()
    subprocess.run(command(axial_program, test_recipe, genes, whole), check=True, capture_output=True)
    lasted = time.monotonic() - start

    rng = random.Random(KILLS)
    broken = tmp_path / "broken"
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(
            command(axial_program, test_recipe, genes, broken, settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        # Moments spread over start-up, training and saving; a run that finished first is begun anew.
        try:
            process.wait(timeout=rng.uniform(0.05, max(0.4, lasted * 0.6)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        error = process.stderr.read().decode()
        assert process.returncode == 0, error
        assert final_weights(broken) == final_weights(whole)
        broken = tmp_path / f"broken{kills}"
    done = subprocess.run(
        command(axial_program, test_recipe, genes, broken, settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    weights = final_weights(whole)
    assert weights and final_weights(broken) == weights
    assert not list(broken.rglob("*.tmp*")), "half-written files are left"


@pytest.mark.parametrize("sign,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_polite_signals_save_and_leave(axial_program, test_recipe, genes, tmp_path, sign, code):
    run = tmp_path / "run"
    arguments = command(axial_program, test_recipe, genes, run)
    arguments += ["--set", "train.steps=100000", "--set", "train.checkpoint_every=100000"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 200):
        time.sleep(0.05)
    process.send_signal(sign)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error.decode()
    assert list((run / "checkpoints").glob("step_*")), error.decode()
