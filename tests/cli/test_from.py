# SPDX-License-Identifier: Apache-2.0
"""axial train --from: a new run starts from the weights of another model; a run that is there goes on."""

import json
import shutil

import pytest

ONE_STEP = ("--set", "train.steps=1", "--set", "train.schedule.warmup_steps=0")
STANDING_STILL = (*ONE_STEP, "--set", "train.optimizer.learning_rate=1e-30")


@pytest.fixture
def start(axial, test_recipe, trained):
    """Train a step from a model, and score with the result."""

    def run(source, out, *more, check=True):
        return axial(
            "train", test_recipe, "--data", trained[1], "--out", out, "--from", source, *more, check=check
        )

    return run


def first_loss(run) -> float:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(row["loss"] for row in rows if row["kind"] == "train")


@pytest.mark.parametrize(
    "mesh",
    [
        (),
        ("--ranks", "2", "--set", "parallel.pipe=2"),
        ("--ranks", "2", "--set", "parallel.zero=3"),
        ("--ranks", "2", "--set", "parallel.tensor=2"),
    ],
    ids=lambda m: m[-1] if m else "one",
)
def test_the_weights_are_those_of_the_source(
    axial, start, trained, exported, other_genes, scored, read_scores, tmp_path, mesh
):
    """A run that does not move scores as its source: a run folder, and what was exported of it."""
    for name, source in (("run", trained[0]), ("hf", exported)):
        done = start(source, tmp_path / name, *STANDING_STILL, *mesh)
        assert f"'{source}" in done.stdout and "starting from" in done.stdout
        axial("score", tmp_path / name, "--data", other_genes, "--out", tmp_path / "s.tsv")
        for (_, _, expected), (_, _, got) in zip(
            read_scores(scored), read_scores(tmp_path / "s.tsv"), strict=True
        ):
            assert got == pytest.approx(expected, rel=1e-6)


def test_learning_goes_on_from_there(start, trained, tmp_path):
    start(trained[0], tmp_path / "tuned", "--set", "train.steps=3")
    assert first_loss(tmp_path / "tuned") < first_loss(trained[0]) - 0.1


def test_a_run_that_is_there_goes_on_without_its_origin(start, trained, exported, tmp_path):
    run, source = tmp_path / "run", tmp_path / "source"
    shutil.copytree(exported, source)
    start(source, run, *ONE_STEP)
    shutil.rmtree(source)
    done = start(source, run, "--set", "train.steps=2", "--set", "train.schedule.warmup_steps=0")
    assert "going on after step 1" in done.stdout and "starting from" not in done.stdout
    assert "--from is left alone" in done.stderr


def test_a_run_may_start_again_from_itself(axial, start, trained, other_genes, scored, read_scores, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    done = start(run, run, "--overwrite", *STANDING_STILL)
    assert "starting from" in done.stdout
    axial("score", run, "--data", other_genes, "--out", tmp_path / "s.tsv")
    expected, got = read_scores(scored), read_scores(tmp_path / "s.tsv")
    assert [row[2] for row in got] == pytest.approx([row[2] for row in expected], rel=1e-6)


def test_what_only_training_reads_may_differ(start, exported, tmp_path):
    done = start(exported, tmp_path / "run", *ONE_STEP, "--set", "model.residual_dropout=0.1",
                 "--set", "model.init_std=0.5")  # fmt: skip
    assert "starting from" in done.stdout


def test_another_architecture_tokenizer_or_nothing_is_refused(start, trained, tmp_path):
    cases = [
        (trained[0], ("--set", "model.num_layers=3"), "num_layers: 2, 3"),
        (
            trained[0],
            ("--set", "data.tokenizer.kind=nucleotide", "--set", "model.vocab_size=69"),
            "tokenizer",
        ),
        (tmp_path / "nothing", (), "does not exist"),
    ]
    for source, more, message in cases:
        done = start(source, tmp_path / "run", *more, check=False)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert not (tmp_path / "run").exists()
