# SPDX-License-Identifier: Apache-2.0
"""Training over processes of this machine: the curve of one rank on any mesh, by --ranks and by torchrun; inference;
what is refused; traces. Ranks that are lost: test_lost_ranks.py."""

import json
import os
import pathlib
import subprocess

import pytest
from random_genes import write_genes
from rank_runs import assert_same_curve, command, torchrun_of


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
