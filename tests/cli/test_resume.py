# SPDX-License-Identifier: Apache-2.0
"""What a second `axial train` into a run folder may change, and what a refused one leaves alone."""

import shutil

import pytest
from random_genes import write_genes

ONE_THREAD = ["--set", "train.threads=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, axial, test_recipe):
    """A run of 10 steps and its FASTA; tests work on copies."""
    folder = tmp_path_factory.mktemp("finished")
    fasta = write_genes(folder / "genes.fasta", count=60)
    axial(
        "train", test_recipe, "--data", fasta, "--out", folder / "run", "--set", "train.steps=10", *ONE_THREAD
    )
    return folder / "run", fasta


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def recipe_of(run) -> str:
    return (run / "recipe.yaml").read_text()


def train(axial, recipe, run, data, *extra, **kwargs):
    return axial("train", recipe, "--data", data, "--out", run, *ONE_THREAD, *extra, **kwargs)


def test_a_refused_resume_leaves_the_recipe(axial, test_recipe, run, tmp_path):
    before = recipe_of(run)
    other = write_genes(tmp_path / "other.fasta", count=50, seed=9)
    done = train(axial, test_recipe, run, other, "--set", "train.steps=20", check=False)
    assert done.returncode == 1 and "other data" in done.stderr
    assert recipe_of(run) == before


def test_overwrite_spares_the_run_when_the_data_are_missing(axial, test_recipe, run, tmp_path):
    before = sorted(p.name for p in run.rglob("*"))
    done = train(axial, test_recipe, run, tmp_path / "none.fasta", "--overwrite", check=False)
    assert done.returncode == 1
    assert sorted(p.name for p in run.rglob("*")) == before


def test_fewer_steps_than_done_change_nothing(axial, test_recipe, finished, run):
    before = recipe_of(run)
    done = train(axial, test_recipe, run, finished[1], "--set", "train.steps=5")
    assert "step 10" in done.stderr + done.stdout
    assert "10/5" not in done.stderr + done.stdout
    assert recipe_of(run) == before


def test_more_steps_go_on_and_say_that_the_schedule_bends(axial, test_recipe, finished, run):
    done = train(axial, test_recipe, run, finished[1], "--set", "train.steps=14")
    assert "learning rate" in done.stderr and "10" in done.stderr and "14" in done.stderr
    assert "steps: 14" in recipe_of(run)
    assert (run / "checkpoints" / "step_00000014").exists()
    done = train(axial, test_recipe, run, finished[1], "--set", "train.steps=14")
    assert "learning rate" not in done.stderr


def test_a_constant_schedule_does_not_bend(axial, test_recipe, finished, tmp_path):
    constant = ["--set", "train.schedule.kind=constant"]
    run = tmp_path / "run"
    train(axial, test_recipe, run, finished[1], *constant, "--set", "train.steps=4")
    done = train(axial, test_recipe, run, finished[1], *constant, "--set", "train.steps=6")
    assert "learning rate" not in done.stderr


def test_a_misspelt_model_key_comes_before_any_data_is_read(axial, test_recipe, genes, tmp_path):
    cache = tmp_path / "cache"
    for wrong, said in [("model.hidden_sise=32", "hidden_size"), ("model.max_positions=64", "max_positions")]:
        done = axial(
            "train", test_recipe, "--data", genes, "--out", tmp_path / "run",
            "--set", wrong, "--set", f"data.cache={cache}", check=False,
        )  # fmt: skip
        assert done.returncode == 1 and said in done.stderr
        assert not cache.exists()
        assert not (tmp_path / "run").exists()


def test_another_run_in_the_folder_is_seen_before_any_data_is_read(
    axial, test_recipe, finished, run, tmp_path
):
    cache = tmp_path / "cache"
    done = train(
        axial,
        test_recipe,
        run,
        finished[1],
        "--set",
        "train.seed=7",
        "--set",
        f"data.cache={cache}",
        check=False,
    )
    assert done.returncode == 1 and "train.seed" in done.stderr
    assert not cache.exists()


def test_the_saved_recipe_finds_its_data_from_any_folder(axial, test_recipe, finished, tmp_path):
    home, away = tmp_path / "ho[m]e", tmp_path / "away"  # a folder with pattern characters in its name
    home.mkdir()
    away.mkdir()
    shutil.copy(finished[1], home / "genes.fasta")
    for spelling in ["genes.fasta", "gen*.fasta", "."]:
        run = tmp_path / f"run_{len(spelling)}"
        steps = ["--set", "train.steps=2"]
        train(axial, test_recipe, run, spelling, *steps, cwd=home)
        saved = recipe_of(run)
        assert str(home).replace("[", "\\[") in saved.replace("\\\\", "\\") or str(home) in saved
        axial("eval", run, "--max-order", "2", "--threads", "1", cwd=away)
        train(axial, test_recipe, run, spelling, *steps, cwd=home)  # the relative spelling is the same run
        assert recipe_of(run) == saved


def test_a_mixture_may_be_spelt_relatively_again(axial, test_recipe, finished, tmp_path):
    shutil.copy(finished[1], tmp_path / "a.fasta")
    write_genes(tmp_path / "b.fasta", count=40, seed=3)
    text = test_recipe.read_text().replace(
        "data:\n", "data:\n  mixture: [{files: [a.fasta], weight: 2}, {files: [b.fasta], weight: 1}]\n"
    )
    recipe = tmp_path / "mixture.yaml"
    recipe.write_text(text)
    arguments = ["train", recipe, "--out", tmp_path / "run", *ONE_THREAD]
    axial(*arguments, "--set", "train.steps=2", cwd=tmp_path)
    assert str(tmp_path / "b.fasta") in recipe_of(tmp_path / "run")
    axial(*arguments, "--set", "train.steps=3", cwd=tmp_path)
    done = axial(*arguments, "--set", "data.mixture.0.weight=3", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "mixture" in done.stderr
    # --data stands for the mixture too
    axial(
        "train",
        recipe,
        "--data",
        "a.fasta",
        "--out",
        tmp_path / "one",
        "--set",
        "train.steps=1",
        cwd=tmp_path,
    )
    assert "b.fasta" not in recipe_of(tmp_path / "one")


def test_keys_include_the_models(axial):
    listed = axial("train", "--keys").stdout
    model = listed[listed.index("model:") : listed.index("\ndata:")]
    for key in [
        "type:",
        "preset:",
        "genslm_25m",
        "hidden_size:",
        "rotary:",
        "fraction:",
        "residual_dropout:",
    ]:
        assert key in model, key
