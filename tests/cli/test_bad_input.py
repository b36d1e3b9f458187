# SPDX-License-Identifier: Apache-2.0
"""What a person can get wrong: each is a clear error or a counted warning, and nothing is lost."""

import json
import os
import pathlib
import resource
import shutil

import pytest
from random_genes import write_genes

GENE = "ATG" + "GCTAAAGAA" * 12 + "TAA"
PROTEIN = "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTF"


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.write_text(text)
    return path


def many(count: int = 40) -> str:
    return "".join(f">g{i}\n{GENE[: 3 + 9 * (i % 9 + 3)]}TAA\n" for i in range(count))


# name, content of the file (None: do not make it; "dir": a folder), words the error must hold
REFUSED = [
    ("missing", None, ["bad.fasta", "No such file"]),
    ("directory", "dir", ["bad.fasta", "no FASTA file"]),
    ("empty file", "", ["bad.fasta", "no record"]),
    ("binary", "\x01\x02\x03\x7f" * 50, ["bad.fasta"]),
    ("text that is no sequence", ">a\nThis is a letter to my aunt!\n", ["bad.fasta", ":2"]),
    ("protein", f">p\n{PROTEIN}\n>q\n{PROTEIN}\n", ["protein"]),
    ("no header", GENE + "\n", ["bad.fasta", ":1"]),
    ("only records shorter than a codon", ">a\nAT\n>b\nC\n", ["shorter than one token"]),
]


@pytest.mark.parametrize("name,content,words", REFUSED, ids=[r[0] for r in REFUSED])
def test_refused_with_the_reason(axial, test_recipe, tmp_path, name, content, words):
    path = tmp_path / "bad.fasta"
    if content == "dir":
        path.mkdir()
    elif content is not None:
        write(path, content)
    done = axial("train", test_recipe, "--data", path, "--out", tmp_path / "run", check=False)
    assert done.returncode not in (0, -6, -11), done.stderr
    for word in words:
        assert word.lower() in done.stderr.lower(), done.stderr
    assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr


# name, text added to a good file, words of the warning
COUNTED = [
    ("empty record", ">empty\n", ["1 record (empty)", "without a sequence"]),
    ("length not a multiple of 3", f">odd\n{GENE}A\n", ["1 record", "multiple of 3"]),
    ("record shorter than a codon", ">short\nAT\n", ["1 record (short)", "shorter"]),
    ("ambiguous bases", f">n\nATGNNN{GENE}\n", ["unknown"]),
]


@pytest.mark.parametrize("name,extra,words", COUNTED, ids=[c[0] for c in COUNTED])
def test_counted_and_said(axial, test_recipe, tmp_path, name, extra, words):
    path = write(tmp_path / "genes.fasta", many() + extra)
    done = axial("train", test_recipe, "--data", path, "--out", tmp_path / "run", "--set", "train.steps=2")
    said = (done.stderr + done.stdout).lower()
    for word in words:
        assert word in said, said


def test_misspelt_key_names_the_line_and_the_nearest(axial, test_recipe, tmp_path, genes):
    text = test_recipe.read_text().replace("steps:", "stepz:", 1)
    recipe = write(tmp_path / "r.yaml", text)
    line = 1 + text.split("\n").index(next(row for row in text.split("\n") if "stepz:" in row))
    done = axial("train", recipe, "--data", genes, "--out", tmp_path / "run", check=False)
    assert done.returncode == 1
    assert f"r.yaml:{line}" in done.stderr and "'steps'" in done.stderr
    done = axial(
        "train",
        test_recipe,
        "--data",
        genes,
        "--out",
        tmp_path / "run",
        "--set",
        "train.stepz=3",
        check=False,
    )
    assert done.returncode == 1 and "'steps'" in done.stderr


def test_a_refused_value_names_who_gave_it(axial, test_recipe, tmp_path, genes):
    text = test_recipe.read_text().replace("num_heads: 2", "num_heads: 3")
    recipe = write(tmp_path / "r.yaml", text)
    line = 1 + text[: text.index("num_heads")].count("\n")
    train = ["train", recipe, "--data", genes, "--out", tmp_path / "run"]
    error = axial(*train, check=False).stderr
    assert f"r.yaml:{line}: model.num_heads: " in error and "hidden_size 32, got 3" in error
    error = axial(*train, "--set", "train.steps=-3", check=False).stderr
    assert "error: --set train.steps=-3: train.steps: " in error and "r.yaml" not in error
    error = axial(*train, "--set", "model.num_heads=5", check=False).stderr
    assert "error: --set model.num_heads=5: model.num_heads: " in error and "r.yaml" not in error


def test_an_unknown_key_is_answered_with_known_ones(axial, test_recipe, tmp_path, genes):
    train = ["train", test_recipe, "--data", genes, "--out", tmp_path / "run"]
    error = axial(*train, "--set", "model.hidden=64", check=False).stderr
    assert "did you mean 'hidden_size'?" in error
    error = axial(*train, "--set", "model.width=64", check=False).stderr
    assert "expected one of" in error and "hidden_size" in error and "num_layers" in error


def test_misspelt_command_and_option(axial):
    done = axial("trian", check=False)
    assert done.returncode == 2 and "'train'" in done.stderr
    assert axial("train", "--nonsense", check=False).returncode == 2


def unwritable_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder that takes no file; root writes into any but those of the kernel."""
    if os.geteuid() == 0:
        return pathlib.Path("/proc/self")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    return locked


def test_unwritable_folder(axial, test_recipe, trained, tmp_path):
    locked = unwritable_folder(tmp_path)
    run, fasta = trained
    for arguments in (
        ["train", test_recipe, "--data", fasta, "--out", locked / "run"],
        ["score", run, "--data", fasta, "--out", locked / "scores.tsv"],
    ):
        done = axial(*arguments, check=False)
        assert done.returncode == 1, done.stderr
        assert str(locked) in done.stderr and done.stderr.startswith("error: "), done.stderr


def test_folder_that_cannot_be_made(axial, test_recipe, genes, tmp_path):
    write(tmp_path / "file", "x")
    done = axial("train", test_recipe, "--data", genes, "--out", tmp_path / "file" / "run", check=False)
    assert done.returncode == 1 and "file" in done.stderr


def test_full_disk_keeps_the_old_checkpoint(axial, test_recipe, genes, tmp_path):
    run = tmp_path / "run"
    axial("train", test_recipe, "--data", genes, "--out", run, "--set", "train.steps=4")
    before = {p.name: p.read_bytes() for p in (run / "checkpoints").rglob("*") if p.is_file()}

    def small_files():  # a file may not grow past 20 kB: the write fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = axial(
        "train",
        test_recipe,
        "--data",
        genes,
        "--out",
        run,
        "--set",
        "train.steps=8",
        check=False,
        preexec_fn=small_files,
    )
    assert done.returncode not in (0, -6, -11), done.stderr
    after = {p.name: p.read_bytes() for p in (run / "checkpoints").rglob("*") if p.is_file()}
    assert before == after
    axial("train", test_recipe, "--data", genes, "--out", run, "--set", "train.steps=8")


def test_tampered_checkpoint_is_refused_by_name(axial, trained, genes, tmp_path):
    run, _ = trained
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    checkpoint = sorted(p for p in (copy / "checkpoints").iterdir() if p.is_dir())[-1]
    index = json.loads((checkpoint / "index.json").read_text())
    index["format_version"] = 999
    (checkpoint / "index.json").write_text(json.dumps(index))
    done = axial("score", checkpoint, "--data", genes, "--out", tmp_path / "s.tsv", check=False)
    assert done.returncode == 1 and "index.json" in done.stderr
    assert not (tmp_path / "s.tsv").exists()


def test_checkpoint_of_another_architecture(axial, test_recipe, trained):
    run, fasta = trained
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    done = axial(
        "train", test_recipe, "--data", fasta, "--out", run, "--set", "model.hidden_size=48", check=False
    )
    assert done.returncode == 1 and "hidden_size" in done.stderr
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("command", ["eval", "score", "generate", "embed", "export", "info"])
def test_not_a_checkpoint(axial, command, genes, tmp_path):
    arguments = {
        "eval": ["--data", genes],
        "score": ["--data", genes, "--out", tmp_path / "o"],
        "generate": ["--out", tmp_path / "o"],
        "embed": ["--data", genes, "--out", tmp_path / "o"],
        "export": ["--out", tmp_path / "o"],
        "info": [],
    }[command]
    done = axial(command, tmp_path, *arguments, check=False)
    assert done.returncode == 1
    assert "run folder" in done.stderr and "config.json" in done.stderr


def test_mismatched_genes_are_kept_apart(axial, test_recipe, tmp_path):
    """A second run into the same folder with other settings does not overwrite the first."""
    path = write_genes(tmp_path / "g.fasta")
    run = tmp_path / "run"
    axial("train", test_recipe, "--data", path, "--out", run, "--set", "train.steps=3")
    done = axial("train", test_recipe, "--data", path, "--out", run, "--set", "train.seed=99", check=False)
    assert done.returncode == 1 and "train.seed" in done.stderr
