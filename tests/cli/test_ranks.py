# SPDX-License-Identifier: Apache-2.0
"""Training over processes of this machine: the curve of one rank on any mesh, by --ranks and by torchrun; ranks
that die or hang are named, none is left over, and the last checkpoint goes on."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from random_genes import write_genes

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


@pytest.fixture(scope="module")
def genes(tmp_path_factory) -> pathlib.Path:
    return write_genes(tmp_path_factory.mktemp("genes") / "genes.fasta")


@pytest.fixture(scope="module")
def one_rank(axial_program, test_recipe, genes, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("one") / "run"
    subprocess.run(command(axial_program, test_recipe, genes, run), check=True, capture_output=True)
    return run


@pytest.mark.parametrize(
    "ranks,mesh",
    [
        (2, {"parallel__zero": 3}),
        (2, {"parallel__ring": 2}),
        (4, {"parallel__tensor": 2, "parallel__sequence_regions": "true", "parallel__zero": 1}),
        (4, {"parallel__ulysses": 2, "train__recompute_group": 2}),
        (2, {"parallel__pipe": 2, "parallel__stages_per_rank": 2}),
        (4, {"parallel__pipe": 2, "parallel__tensor": 2, "parallel__pipe_schedule": "gpipe"}),
    ],
)
def test_any_mesh_trains_as_one_rank(axial_program, test_recipe, genes, one_rank, tmp_path, ranks, mesh):
    run = tmp_path / "run"
    done = subprocess.run(
        command(axial_program, test_recipe, genes, run, "--ranks", ranks, **mesh),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint:") == 1, "only the first rank tells"
    assert_same_curve(one_rank, run)


@pytest.mark.parametrize(
    "ranks,mesh",
    [
        (2, ["parallel.pipe=2"]),
        (4, ["parallel.tensor=2", "parallel.ring=2"]),
        (4, ["parallel.data=2", "parallel.ulysses=2"]),
    ],
)
def test_any_mesh_infers_as_one_rank(axial_program, genes, one_rank, tmp_path, ranks, mesh):
    def run(name: str, *arguments: str, out: str | None = None, **more: str):
        many = ["--ranks", str(ranks), *(word for axis in mesh for word in ("--set", axis))]
        for folder, extra in (("one", []), ("many", many)):
            where = ["--out", str(tmp_path / folder / out)] if out else []
            done = subprocess.run(
                [
                    str(axial_program), name, str(one_rank), "--precision", "fp64", "--threads", "1",
                    *arguments, *where, *extra,
                    *(str(word).format(folder=tmp_path / folder) for pair in more.items() for word in pair),
                ],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        return tmp_path / "one", tmp_path / "many"

    one, many = run("score", "--data", str(genes), out="scores.tsv")
    rows = [
        [line.split("\t") for line in (f / "scores.tsv").read_text().splitlines()[1:]] for f in (one, many)
    ]
    assert [row[:2] for row in rows[1]] == [row[:2] for row in rows[0]]
    assert [float(row[2]) for row in rows[1]] == pytest.approx([float(row[2]) for row in rows[0]], rel=1e-9)

    run("embed", "--data", str(genes), out="embeddings.npy")
    numpy = pytest.importorskip("numpy")
    expected, got = (numpy.load(f / "embeddings.npy") for f in (one, many))
    assert got.shape == expected.shape
    assert abs(got - expected).max() <= 1e-6
    ids = [(f / "embeddings.ids.txt").read_text() for f in (one, many)]
    assert ids[0] == ids[1]

    run("generate", "--count", "5", "--max-tokens", "20", "--batch", "2", out="genes.fasta")
    assert (many / "genes.fasta").read_text() == (one / "genes.fasta").read_text()

    run("eval", "--data", str(genes), **{"--json": "{folder}/eval.json"})
    tables = [json.loads((f / "eval.json").read_text())["rows"] for f in (one, many)]
    assert [row["name"] for row in tables[1]] == [row["name"] for row in tables[0]]
    for expected, got in zip(*tables, strict=True):
        assert got["nats"] == pytest.approx(expected["nats"], rel=1e-9)


def test_inference_on_ranks_takes_no_other_settings(axial_program, genes, one_rank, tmp_path):
    for setting, said in [
        ("train.steps=3", "train: unknown key; expected one of parallel"),
        ("parallel.tensor=3", "expected a divisor of 2 ranks, got 3"),
        ("parallel.tenser=2", "did you mean 'tensor'?"),
    ]:
        done = subprocess.run(
            [
                str(axial_program), "score", str(one_rank), "--data", str(genes), "--out",
                str(tmp_path / "s.tsv"), "--ranks", "2", "--set", setting,
            ],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode != 0
        assert said in done.stderr, done.stderr
        assert not (tmp_path / "s.tsv").exists()


def test_torchrun_starts_it_too(axial_program, test_recipe, genes, one_rank, tmp_path):
    run = tmp_path / "run"
    arguments = torchrun_of(command(axial_program, test_recipe, genes, run, parallel__zero=2), 2)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_curve(one_rank, run)


def torchrun_of(axial_command: list[str], ranks: int) -> list[str]:
    torchrun = shutil.which("torchrun", path=pathlib.Path(sys.executable).parent)
    if torchrun is None:
        pytest.skip("torchrun is not beside this Python")
    return [torchrun, "--standalone", "--no-python", "--nproc-per-node", str(ranks), *axial_command]


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


def test_wrong_arguments_fail_on_all_ranks_before_they_meet(axial_program, test_recipe, genes, tmp_path):
    run = tmp_path / "run"
    for settings, said in [
        ({"parallel__data": 3}, "expected the product of 2 ranks, got 3"),
        ({"parallel__pipe": 2, "parallel__stages_per_rank": 9}, "as many stages as the model has blocks"),
        ({"parallel__stages_per_rank": 2}, "and 1 without pipe, got 2"),
        ({"parallel__pipe_schedule": "2f2b"}, "gpipe"),
        ({"parallel__zero": 4}, "expected a stage of [0, 3], got 4"),
        ({"parallel__tenser": 2}, "did you mean 'tensor'?"),
    ]:
        done = subprocess.run(
            command(axial_program, test_recipe, genes, run, "--ranks", 2, **settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode != 0
        assert said in done.stderr, done.stderr
        assert not run.exists()


def test_ranks_beside_torchrun_are_refused(axial_program, test_recipe, genes, tmp_path):
    done = subprocess.run(
        command(axial_program, test_recipe, genes, tmp_path / "run", "--ranks", 2),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"RANK": "0", "WORLD_SIZE": "2"},
    )
    assert done.returncode != 0
    assert "--ranks 2 under torchrun" in done.stderr


def test_a_trace_shows_that_gathers_come_before_the_compute_they_serve(
    axial_program, test_recipe, genes, tmp_path
):
    run = tmp_path / "run"
    arguments = command(
        axial_program, test_recipe, genes, run, "--ranks", 2, "--trace", 1, parallel__zero=3,
        train__validate_every=0,
    )  # fmt: skip
    subprocess.run(arguments, check=True, capture_output=True)
    for rank in range(2):
        events = json.loads((run / f"trace_rank{rank}.json").read_text())["traceEvents"]
        done = [e for e in events if e["ph"] == "X"]

        def of(what, micro_batch=0, done=done):
            return [e for e in done if e["name"].startswith(f"{what} mb{micro_batch} g")]

        forwards, backwards, gathers = of("forward"), of("backward"), of("gather")
        assert len(forwards) > 2
        groups = len(forwards)

        def issued(group, after, gathers=gathers):
            """When a group is fetched from `after` on."""
            starts = [e["ts"] for e in gathers if e["name"].startswith(f"gather mb0 g{group} ")]
            return min(t for t in starts if t >= after)

        for group in range(groups - 1):  # the next one is on its way before this one ends
            assert issued(group + 1, 0) < forwards[group]["ts"] + forwards[group]["dur"]
        turn = backwards[0]["ts"]
        before_turn = forwards[-1]["ts"]
        fetched_again = 0
        for backward, group in zip(backwards[:-1], range(groups - 1, 0, -1), strict=True):
            assert backward["name"].startswith(f"backward mb0 g{group} ")
            if group - 1 < groups - 2:  # the last ones are still there at the turn
                assert issued(group - 1, before_turn) < backward["ts"] + backward["dur"]
                fetched_again += 1
        assert fetched_again > 1 and turn > before_turn
        assert {e["pid"] for e in events} == {rank}


def test_a_run_that_ends_before_its_trace_says_so(axial_program, test_recipe, genes, tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        command(axial_program, test_recipe, genes, run, "--trace", 100),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no trace: the run ended before step 102" in done.stderr
    assert not list(run.glob("trace_rank*.json"))
