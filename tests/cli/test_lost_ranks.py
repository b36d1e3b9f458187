# SPDX-License-Identifier: Apache-2.0
"""Ranks that die, hang or never come are named, none is left over, and the last checkpoint goes on."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import time

import pytest
from random_genes import write_genes
from rank_runs import assert_same_curve, command, processes_of, torchrun_of


@pytest.fixture(scope="module")
def genes(tmp_path_factory) -> pathlib.Path:
    return write_genes(tmp_path_factory.mktemp("genes") / "genes.fasta")


@pytest.mark.parametrize(
    "sign,said",
    [
        (signal.SIGKILL, "rank 1"),
        # torchrun gives a stopped rank half a minute to end by itself.
        pytest.param(signal.SIGSTOP, "rank 1 gives no sign of life", marks=pytest.mark.slow),
    ],
)
def test_a_rank_lost_under_torchrun_ends_all(axial_program, test_recipe, genes, tmp_path, sign, said):
    run = tmp_path / "run"
    many = command(
        axial_program, test_recipe, genes, run, "--timeout", 3,
        parallel__zero=3, train__steps=100000, train__validate_every=0,
    )  # fmt: skip
    process = subprocess.Popen(
        torchrun_of(many, 2), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(run.glob("checkpoints/step_*"))) < 2:
        time.sleep(0.05)
    victim = [pid for rank, pid in processes_of(run).items() if rank == 1]
    os.kill(victim[0], sign)
    _, error = process.communicate(timeout=90)
    assert process.returncode != 0
    assert said in error, error
    assert not processes_of(run), "a process is left over"
    steps = sorted(int(path.name[5:]) for path in run.glob("checkpoints/step_*"))
    more = command(
        axial_program, test_recipe, genes, run, train__steps=steps[-1] + 2, train__validate_every=0
    )
    done = subprocess.run(more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on after step {steps[-1]:,}" in done.stdout


@pytest.mark.parametrize(
    "ranks,victim,sign,said",
    [
        (3, 0, signal.SIGKILL, "rank 0 was killed by signal 9"),
        (3, 2, signal.SIGKILL, "rank 2 was killed by signal 9"),
        (2, 1, signal.SIGSTOP, "rank 1 gives no sign of life"),
    ],
)
def test_a_lost_rank_is_named_and_the_run_goes_on(
    axial_program, test_recipe, genes, tmp_path, ranks, victim, sign, said
):
    run = tmp_path / "run"
    many = command(
        axial_program, test_recipe, genes, run, "--ranks", ranks, "--timeout", 3,
        parallel__zero=3, train__steps=100000, train__validate_every=0,
    )  # fmt: skip
    process = subprocess.Popen(many, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(run.glob("checkpoints/step_*"))) < 2:
        time.sleep(0.05)
    os.kill(processes_of(run)[victim], sign)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said in error, error
    assert " over '" in error and "cannot complete" in error, error  # axes, op and number of the call
    assert not processes_of(run), "a rank is left over"

    steps = sorted(int(path.name[5:]) for path in run.glob("checkpoints/step_*"))
    more = command(
        axial_program, test_recipe, genes, run, train__steps=steps[-1] + 2, train__validate_every=0
    )
    done = subprocess.run(more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on after step {steps[-1]:,}" in done.stdout


def test_kills_at_any_moment_lose_nothing(axial_program, test_recipe, genes, tmp_path):
    """A checkpoint after every step, so that most kills fall into one; every time another mesh goes on."""
    settings = {"train__steps": 60, "train__checkpoint_every": 1, "train__validate_every": 0}
    whole, run = tmp_path / "whole", tmp_path / "run"
    subprocess.run(
        command(axial_program, test_recipe, genes, whole, **settings), check=True, capture_output=True
    )
    meshes = [{"parallel__zero": 3}, {"parallel__pipe": 2}, {"parallel__tensor": 2, "parallel__zero": 1}]
    draw = random.Random(7)
    for kill in range(6):
        many = command(
            axial_program, test_recipe, genes, run, "--ranks", 2, "--timeout", 3,
            **settings, **meshes[kill % len(meshes)],
        )  # fmt: skip
        process = subprocess.Popen(many, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        newest = max((int(path.name[5:]) for path in run.glob("checkpoints/step_*")), default=0)
        while time.monotonic() < deadline and process.poll() is None:
            steps = [int(path.name[5:]) for path in run.glob("checkpoints/step_*")]
            if max(steps, default=0) > newest + 1:
                break
            time.sleep(0.01)
        time.sleep(draw.random() * 0.2)
        victim = processes_of(run).get(draw.randrange(2))
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
        _, error = process.communicate(timeout=60)
        assert process.returncode != 0, "the run ended before it was killed"
        assert "was killed by signal 9" in error, error
        assert not processes_of(run), "a rank is left over"
    done = subprocess.run(
        command(axial_program, test_recipe, genes, run, **settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same_curve(whole, run)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_lost_inside_of_a_checkpoint_costs_only_that_one(
    axial_program, test_recipe, genes, tmp_path, sign
):
    """Struck while the folder of a checkpoint is being written; what is left of it shows that it was."""
    settings = {"train__steps": 400, "train__checkpoint_every": 1, "train__validate_every": 0}
    run = tmp_path / "run"
    many = command(
        axial_program, test_recipe, genes, run, "--ranks", 2, "--timeout", 3, parallel__zero=3, **settings
    )
    struck = 0
    for attempt in range(12):
        newest = max((int(path.name[5:]) for path in run.glob("checkpoints/step_*")), default=0)
        process = subprocess.Popen(many, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not {0, 1} <= processes_of(run).keys():
            time.sleep(0.05)
        victims = processes_of(run)
        while time.monotonic() < deadline and process.poll() is None:
            steps = [int(path.name[5:]) for path in run.glob("checkpoints/step_*")]
            if max(steps, default=0) > newest and list(run.glob("checkpoints/.tmp-step_*")):
                break
        os.kill(victims[attempt % 2], sign)
        _, error = process.communicate(timeout=60)
        assert process.returncode != 0, "the run ended before it was struck"
        named = f"rank {attempt % 2}"
        assert f"{named} was killed by signal 9" in error or f"{named} gives no sign of life" in error, error
        assert not processes_of(run), "a rank is left over"
        struck += bool(list(run.glob("checkpoints/.tmp-step_*")))
        if struck == 2:
            break
    assert struck, "no attempt fell into a checkpoint"
    steps = sorted(int(path.name[5:]) for path in run.glob("checkpoints/step_*"))
    more = command(axial_program, test_recipe, genes, run, **(settings | {"train__steps": steps[-1] + 2}))
    done = subprocess.run(more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on after step {steps[-1]:,}" in done.stdout
    assert not list(run.glob("checkpoints/.tmp-step_*"))
    whole = tmp_path / "whole"
    alone = command(axial_program, test_recipe, genes, whole, **(settings | {"train__steps": steps[-1] + 2}))
    subprocess.run(alone, check=True, capture_output=True)
    assert_same_curve(whole, run)


def by_hand(arguments: list[str], rank: int, size: int, port: int) -> subprocess.Popen:
    """One rank as mpirun or SLURM would start it: the first one hosts the store."""
    variables = {
        "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | variables
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    "sign,said",
    [
        (signal.SIGKILL, "rank 0 is gone, and with it the store that it hosts"),
        (signal.SIGSTOP, "rank 0 gives no sign of life: the store that it hosts does not answer"),
    ],
)
def test_a_lost_rank_that_hosts_the_store_is_named(axial_program, test_recipe, genes, tmp_path, sign, said):
    run = tmp_path / "run"
    many = command(
        axial_program, test_recipe, genes, run, "--timeout", 4,
        parallel__zero=3, train__steps=100000, train__validate_every=0,
    )  # fmt: skip
    port = free_port()
    ranks = [by_hand(many, rank, 2, port) for rank in range(2)]
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(list(run.glob("checkpoints/step_*"))) < 1:
            time.sleep(0.05)
        os.kill(ranks[0].pid, sign)
        _, error = ranks[1].communicate(timeout=60)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ranks[1].returncode == 1
    assert said in error, error
    assert " over '" in error and "cannot complete" in error, error
    assert "Exception raised from" not in error and "frame #" not in error, error


def test_a_rank_that_never_comes_is_named(axial_program, test_recipe, genes, tmp_path):
    run = tmp_path / "run"
    many = command(axial_program, test_recipe, genes, run, "--timeout", 3)
    rank = by_hand(many, 0, 2, free_port())
    try:
        _, error = rank.communicate(timeout=60)
    finally:
        rank.kill()
    assert rank.returncode == 1
    assert "the meeting #1 of all ranks cannot take place at rank 0: rank 1 was never seen" in error, error
    assert not list(run.glob("checkpoints/step_*"))


def test_a_rank_stopped_while_they_meet_is_named(axial_program, test_recipe, genes, tmp_path):
    run = tmp_path / "run"
    many = command(axial_program, test_recipe, genes, run, "--ranks", 2, "--timeout", 3, train__steps=100000)
    process = subprocess.Popen(many, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and 1 not in processes_of(run):
        time.sleep(0.001)
    os.kill(processes_of(run)[1], signal.SIGSTOP)
    _, error = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "rank 1" in error and ("never seen" in error or "no sign of life" in error), error
    assert not processes_of(run), "a rank is left over"


def test_ctrl_z_stops_all_ranks_until_they_may_go_on(axial_program, test_recipe, genes, tmp_path):
    run = tmp_path / "run"
    many = command(
        axial_program, test_recipe, genes, run, "--ranks", 2, train__steps=100000, train__validate_every=0
    )
    process = subprocess.Popen(many, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def lines() -> int:
        path = run / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def wait_for_more_than(count: int):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and lines() <= count:
            time.sleep(0.05)
        assert lines() > count

    wait_for_more_than(3)
    process.send_signal(signal.SIGTSTP)
    time.sleep(1)
    stopped = lines()
    time.sleep(1.5)
    assert lines() == stopped, "ranks go on while their launcher is stopped"
    process.send_signal(signal.SIGCONT)
    wait_for_more_than(stopped)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert not processes_of(run)
