# SPDX-License-Identifier: Apache-2.0
"""Rows longer than a model was trained on, and tables of positions that grow, by the program itself."""

import json

import pytest
from random_genes import write_genes

LENGTH = 64


@pytest.fixture(scope="module")
def genes_file(tmp_path_factory):
    return write_genes(tmp_path_factory.mktemp("positions") / "genes.fasta", count=60)


@pytest.fixture(scope="module")
def runs(axial, test_recipe, genes_file, tmp_path_factory):
    """A run of three steps for each kind of position."""
    folder = tmp_path_factory.mktemp("runs")
    for position in ("alibi", "rotary", "learned"):
        axial("train", test_recipe, "--data", genes_file, "--out", folder / position, *settings(position))
    return folder


def settings(position, max_positions=LENGTH, steps=3):
    keys = {
        "model.position": position,
        "model.max_positions": max_positions,
        "data.sequence_length": LENGTH,
        "train.steps": steps,
        "train.schedule.kind": "constant",
        "train.schedule.warmup_steps": 0,
    }
    return [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("position", ["alibi", "rotary"])
def test_longer_rows_are_judged(axial, runs, genes_file, tmp_path, position):
    def judged(*more):
        out = tmp_path / "eval.json"
        done = axial("eval", runs / position, "--max-order", 2, "--json", out, *more)
        return done, json.loads(out.read_text())

    done, short = judged()
    assert "longer than" not in done.stderr
    done, long = judged("--sequence-length", 4 * LENGTH)
    assert long["tokens"] == short["tokens"]
    assert ("longer than the 64 that the model was made for" in done.stderr) == (position == "rotary")
    scores = tmp_path / "scores.tsv"
    axial("score", runs / position, "--data", genes_file, "--out", scores, "--window", 4 * LENGTH)


def test_learned_positions_end(axial, runs, genes_file, tmp_path):
    said = "expected at most the 64 positions that the model has learned"
    done = axial("eval", runs / "learned", "--sequence-length", 2 * LENGTH, check=False)
    assert done.returncode != 0 and said in done.stderr
    done = axial(
        "score", runs / "learned", "--data", genes_file, "--out", tmp_path / "s.tsv", "--window", 65,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0 and said in done.stderr


def test_a_run_goes_on_with_more_positions(axial, test_recipe, runs, genes_file):
    """On two ranks that share the table, and never with fewer."""
    run = runs / "learned"
    ranks = ["--ranks", 2, "--set", "parallel.ring=2"]
    command = ["train", test_recipe, "--data", genes_file, "--out", run]
    done = axial(*command, *settings("learned", max_positions=2 * LENGTH, steps=4), *ranks)
    assert "'embed.positions.weight' grows from 64 to 128 rows" in done.stdout + done.stderr
    done = axial(*command, *settings("learned", steps=5), check=False)
    assert done.returncode != 0 and "was 128; expected at least as much, got 64" in done.stderr


def test_a_run_starts_from_fewer_positions(axial, test_recipe, runs, genes_file, tmp_path):
    done = axial(
        "train", test_recipe, "--data", genes_file, "--out", tmp_path / "run", "--from",
        runs / "learned" / "checkpoints" / "step_00000003",
        *settings("learned", max_positions=3 * LENGTH, steps=1),
    )  # fmt: skip
    assert "'embed.positions.weight' grows from 64 to 192 rows" in done.stdout + done.stderr
