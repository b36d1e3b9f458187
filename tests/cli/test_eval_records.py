# SPDX-License-Identifier: Apache-2.0
"""`axial eval` judges what a run held out: never, without a word, what it was trained on."""

import json
import shutil

import pytest
from random_genes import write_genes

QUICK = ["--max-order", "2", "--threads", "1"]
TRAIN = ["--set", "train.steps=4", "--set", "train.threads=1"]


@pytest.fixture(scope="module")
def split_run(tmp_path_factory, axial, test_recipe):
    """A run that held out a tenth of its records, and its FASTA."""
    folder = tmp_path_factory.mktemp("split")
    fasta = write_genes(folder / "a.fasta", count=80)
    axial("train", test_recipe, "--data", fasta, "--out", folder / "run", *TRAIN)
    return folder / "run", fasta


@pytest.fixture(scope="module")
def given_run(tmp_path_factory, axial, test_recipe):
    """A run with validation_files, its FASTA and the validating one."""
    folder = tmp_path_factory.mktemp("given")
    fasta = write_genes(folder / "a.fasta", count=60, seed=1)
    held_out = write_genes(folder / "v.fasta", count=7, seed=2)
    files = f"data.validation_files=[{held_out}]"
    axial("train", test_recipe, "--data", fasta, "--out", folder / "run", "--set", files, *TRAIN)
    return folder / "run", fasta, held_out


def judged(axial, tmp_path, *arguments):
    out = tmp_path / "eval.json"
    done = axial("eval", *arguments, *QUICK, "--json", out)
    return json.loads(out.read_text())["tokens"], done.stderr


def codons(fasta) -> int:
    lines = fasta.read_text().splitlines()
    return sum(len(line) // 3 + 1 for line in lines[1::2])


def test_a_checkpoint_folder_with_a_slash_is_of_its_run(axial, split_run, tmp_path):
    run, _ = split_run
    own, said = judged(axial, tmp_path, run)
    assert "trained on" not in said
    for spelling in [f"{run}/", f"{run}/checkpoints/step_00000004", f"{run}/checkpoints/step_00000004/"]:
        assert judged(axial, tmp_path, spelling)[0] == own


def test_validation_files_stay_when_data_are_named(axial, given_run, tmp_path):
    run, fasta, held_out = given_run
    own, _ = judged(axial, tmp_path, run)
    assert own == codons(held_out)
    tokens, said = judged(axial, tmp_path, run, "--data", fasta)
    assert tokens == own and "trained on" not in said
    other = write_genes(tmp_path / "other.fasta", count=30, seed=5)
    tokens, said = judged(axial, tmp_path, run, "--data", other)
    assert tokens == own and "validation_files" in said
    tokens, said = judged(axial, tmp_path, run, "--validation-data", other)
    assert tokens == codons(other) and "not checked" in said


def test_a_larger_share_than_the_runs_is_refused(axial, split_run, tmp_path):
    run, fasta = split_run
    for data in [[], ["--data", fasta]]:
        done = axial("eval", run, *data, "--validation-fraction", "0.9", *QUICK, check=False)
        assert done.returncode == 1 and "trained on" in done.stderr and "0.1" in done.stderr
    _, said = judged(axial, tmp_path, run, "--validation-fraction", "0.05")
    assert "trained on" not in said
    more = tmp_path / "more.fasta"
    more.write_text(fasta.read_text() + write_genes(tmp_path / "x.fasta", count=30, seed=6).read_text())
    _, said = judged(axial, tmp_path, run, "--data", more)  # a record keeps its side
    assert "trained on" not in said
    _, said = judged(axial, tmp_path, run, "--data", more, "--validation-fraction", "0.5")
    assert "trained on" in said and "not checked" in said


def test_a_checkpoint_without_its_run_is_not_judged_on_what_it_learned(axial, split_run, tmp_path):
    run, fasta = split_run
    own, _ = judged(axial, tmp_path, run)
    alone = tmp_path / "alone"
    shutil.copytree(run / "checkpoints/step_00000004", alone)
    done = axial("eval", alone, "--data", fasta, "--validation-fraction", "0.9", *QUICK, check=False)
    assert done.returncode != 0 and "trained on the same records, split otherwise" in done.stderr
    tokens, said = judged(axial, tmp_path, alone, "--data", fasta, "--validation-fraction", "0.1")
    assert tokens == own and "trained on" not in said
    other = write_genes(tmp_path / "other.fasta", count=30, seed=5)
    assert "not checked" in judged(axial, tmp_path, alone, "--data", other)[1]
    axial("export", run, "--out", tmp_path / "hf")
    assert (
        "does not say what it was trained on" in judged(axial, tmp_path, tmp_path / "hf", "--data", fasta)[1]
    )


def test_the_curve_shows_baselines_of_the_run_alone(axial, split_run, tmp_path):
    run, _ = split_run
    axial("eval", run, *QUICK)
    before = (run / "loss.svg").read_bytes()
    other = write_genes(tmp_path / "other.fasta", count=30, seed=5)
    assert "curve:" not in axial("eval", run, "--validation-data", other, *QUICK).stdout
    assert (run / "loss.svg").read_bytes() == before
    (run / "loss.svg").unlink()
    (run / "loss.svg").mkdir()  # as good as a read-only folder, for root too
    done = axial("eval", run, *QUICK, "--json", tmp_path / "e.json")
    assert "keeps its old baselines" in done.stderr and (tmp_path / "e.json").exists()
    (run / "loss.svg").rmdir()
