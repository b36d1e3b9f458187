# SPDX-License-Identifier: Apache-2.0
"""Where results go: never over their input, a run or someone's folder; to stdout where asked; FASTA that is FASTA."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fasta(text: str) -> list[str]:
    """Sequences of FASTA; fails where a line is neither a header of ours nor a line of symbols."""
    sequences = []
    for line in text.splitlines():
        if line.startswith(">"):
            assert re.fullmatch(r">generated_\d+ tokens=\d+ log_likelihood=-[\d.]+ stopped_by=\w+", line), (
                line
            )
            sequences.append("")
        else:
            assert re.fullmatch(r"[A-Z*-]+", line), line
            sequences[-1] += line
    return sequences


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def exported(axial, trained, tmp_path):
    """A Hugging Face folder of the trained run."""
    axial("export", trained[0], "--out", tmp_path / "hf")
    return tmp_path / "hf"


def test_export_overwrites_exports_alone(axial, trained, exported, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for folder in (run, mine):
        before = files_of(folder)
        done = axial("export", trained[0], "--out", folder, "--overwrite", check=False)
        assert done.returncode == 1 and "no export wrote" in done.stderr
        assert files_of(folder) == before
    for model in (run, exported):
        before = files_of(model)
        done = axial("export", model, "--out", model, "--overwrite", check=False)
        assert done.returncode == 1 and "the model that is exported" in done.stderr
        assert files_of(model) == before
    axial("export", run, "--out", exported, "--overwrite", "--precision", "bf16")
    assert json.loads((exported / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_no_run_in_an_export(axial, test_recipe, genes, exported):
    before = files_of(exported)
    done = axial("train", test_recipe, "--data", genes, "--out", exported, check=False)
    assert done.returncode == 1 and "Hugging Face" in done.stderr and "new folder" in done.stderr
    assert files_of(exported) == before


def test_results_go_to_stdout_alone(axial, trained, tmp_path):
    run, genes = trained
    axial("score", run, "--data", genes, "--out", tmp_path / "s.tsv")
    done = axial("score", run, "--data", genes, "--out", "-", cwd=tmp_path)
    assert done.stdout == (tmp_path / "s.tsv").read_text()
    assert "perplexity" in done.stderr
    done = axial("generate", run, "--count", "3", "--prompt", "ATG", "--out", "-", cwd=tmp_path)
    assert len(fasta(done.stdout)) == 3
    assert sorted(os.listdir(tmp_path)) == ["s.tsv"]
    done = axial("embed", run, "--data", genes, "--out", "-", check=False, cwd=tmp_path)
    assert done.returncode == 1 and "name of a file" in done.stderr


def test_pipes_and_links_stay(axial, trained, tmp_path):
    run, genes = trained
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_text()), daemon=True)
    reader.start()
    axial("score", run, "--data", genes, "--out", tmp_path / "link")
    reader.join(timeout=60)
    assert got and got[0].startswith("id\ttokens\tlog_likelihood\n")
    assert (tmp_path / "fifo").is_fifo() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("command", ["score", "embed", "eval"])
def test_input_is_never_overwritten(axial, command, trained, genes, tmp_path):
    before = genes.read_bytes()
    (tmp_path / "other_name").symlink_to(genes)
    option = "--json" if command == "eval" else "--out"
    for out in (genes, tmp_path / "other_name"):
        done = axial(command, trained[0], "--data", tmp_path / "*.fasta", option, out, check=False)
        assert done.returncode == 1 and "one of the data files" in done.stderr
        assert genes.read_bytes() == before


@pytest.mark.parametrize("kind", ["byte", "nucleotide", "codon"])
def test_generated_fasta_is_fasta(axial, kind, test_recipe, genes, tmp_path):
    """A model of one step draws nearly every id, so any that FASTA cannot hold would show."""
    run, out = tmp_path / "run", tmp_path / "new.fasta"
    settings = ["--set", f"data.tokenizer.kind={kind}", "--set", "train.steps=1"]
    axial("train", test_recipe, "--data", genes, "--out", run, *settings)
    axial("generate", run, "--count", "20", "--prompt", "ATG", "--max-tokens", "100", "--out", out)
    text = out.read_text()
    sequences = fasta(text)
    assert len(sequences) == 20 and all(s.startswith("ATG") for s in sequences)
    if kind != "byte":
        assert set("".join(sequences)) <= set("ACGT")
    axial("score", run, "--data", out, "--out", tmp_path / "s.tsv")
    done = axial("generate", run, "--prompt", "AT>", "--out", out, check=False)
    assert done.returncode == 1 and "prompt" in done.stderr
    assert out.read_text() == text


def test_default_length_fits_the_model(axial, trained, tmp_path):
    out = tmp_path / "g.fasta"  # the model has 128 positions
    axial("generate", trained[0], "--count", "3", "--prompt", "ATG", "--through-stops", "--out", out)
    assert all(len(s) <= 3 * 127 for s in fasta(out.read_text()))
    done = axial("generate", trained[0], "--max-tokens", "200", "--out", out, check=False)
    assert done.returncode == 1 and "128 positions" in done.stderr


def test_foreign_folder_takes_a_tokenizer(axial, trained, exported, tmp_path):
    _, genes = trained
    data = ["--data", genes]
    axial("score", exported, *data, "--out", tmp_path / "own.tsv")
    done = axial("score", exported, *data, "--tokenizer", "byte", "--out", tmp_path / "o", check=False)
    assert done.returncode == 1 and "expected no --tokenizer or 'codon'" in done.stderr
    (exported / "axial_tokenizer.json").unlink()
    done = axial("score", exported, *data, "--out", tmp_path / "o", check=False)
    assert done.returncode == 1 and "--tokenizer codon" in done.stderr
    done = axial("score", exported, *data, "--tokenizer", "byte", "--out", tmp_path / "o", check=False)
    assert done.returncode == 1 and "261 ids" in done.stderr and "the 69 of the model" in done.stderr
    codon = [exported, "--tokenizer", "codon"]
    axial("score", *codon, *data, "--out", tmp_path / "said.tsv")
    assert (tmp_path / "said.tsv").read_text() == (tmp_path / "own.tsv").read_text()
    axial("embed", *codon, *data, "--out", tmp_path / "e.npy")
    axial("eval", *codon, *data, "--validation-fraction", "0.2")
    axial("generate", *codon, "--out", tmp_path / "g.fasta")
    # a model with more ids than the tokenizer: none of the others is drawn
    axial("generate", exported, "--tokenizer", "nucleotide", "--count", "5", "--out", tmp_path / "n.fasta")
    assert set("".join(fasta((tmp_path / "n.fasta").read_text()))) <= set("ACGT")


def test_export_names_the_special_ids(exported):
    config = json.loads((exported / "config.json").read_text())
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 2, 3]


def test_help_and_ranges(axial):
    done = axial("score", "x", "--data", "y", "--out", "z", "--threads", "-1", check=False)
    assert done.returncode == 2 and "4096" in done.stderr and len(done.stderr) < 200
    text = axial("simulate", "genomes", "--help").stdout
    assert re.search(r"--out .*REQUIRED", text) and "axial simulate genomes --out" in text
    assert "axial train recipes" not in text
    assert axial("simulate", "genomes", "--keys").stdout
    assert "CLS" in axial("embed", "--help").stdout


def test_demo_removes_only_its_own(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [ROOT / "tools" / "demo"],
        env={**os.environ, "DEMO_OUT": str(tmp_path), "DATA": "none.fasta"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "no demo made it" in done.stderr
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("command", ["score", "embed", "generate", "eval"])
def test_a_folder_is_no_name_for_results(axial, command, trained, tmp_path):
    (tmp_path / "folder").mkdir()
    for out in [tmp_path / "folder", f"{tmp_path}/folder/", ".", ""]:
        data = [] if command == "generate" else ["--data", trained[1]]
        done = axial(command, trained[0], *data, "--json" if command == "eval" else "--out", out, check=False)
        if command == "eval" and out == "":
            continue  # as if it had not been given
        assert done.returncode != 0 and ("expected the name of a file" in done.stderr or out == ""), (
            done.stderr
        )
        assert "eval:" not in done.stderr and "perplexity" not in done.stdout  # before the work
    assert not list(tmp_path.rglob("*.tmp*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_nothing(axial_program, trained, tmp_path, number):
    log = tmp_path / "log"
    command = [axial_program, "generate", trained[0], "--out", tmp_path / "g.fasta", "--count", "1000000"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        while "generate:" not in log.read_text() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) != 0
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_results_do_not_replace_parts_of_the_model(axial, trained):
    before = files_of(trained[0])
    for name in ["recipe.yaml", "metrics.jsonl", "loss.svg"]:
        done = axial("generate", trained[0], "--count", "1", "--out", trained[0] / name, check=False)
        assert done.returncode != 0 and "belongs to the model" in done.stderr
        done = axial("eval", trained[0], "--json", trained[0] / name, check=False)
        assert done.returncode != 0 and "belongs to the model" in done.stderr
    assert files_of(trained[0]) == before


def test_seeds_out_of_range_are_refused(axial, trained, tmp_path):
    for seed in ["-1", "99999999999999999999", "1.5", "x"]:
        done = axial("generate", trained[0], "--out", tmp_path / "g", "--seed", seed, check=False)
        assert done.returncode != 0 and "expected 0 to 9223372036854775807" in done.stderr


def test_overwriting_waits_until_the_new_run_can_be_built(
    axial_program, axial, trained, test_recipe, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    before = files_of(run)
    huge = ["--set", "model.vocab_size=1000000000"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 8000000; exec "$@"', "-", axial_program, "train", test_recipe, "--data", trained[1],
         "--out", run, "--overwrite", *huge], capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode != 0
    assert {k: v for k, v in files_of(run).items() if "lock" not in k} == {
        k: v for k, v in before.items() if "lock" not in k
    }


def test_sizes_that_no_machine_has_are_refused(axial, trained, test_recipe, tmp_path):
    for key, value in [("train.threads", 100000), ("train.batch", 10**12)]:
        done = axial("train", test_recipe, "--data", trained[1], "--out", tmp_path / "run", "--set", f"{key}={value}",
                     check=False)  # fmt: skip
        assert done.returncode == 1 and "expected at most" in done.stderr and f"--set {key}" in done.stderr


def test_a_damaged_log_does_not_stop_a_run(axial, trained, test_recipe, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines[:3], "garbage\n", *lines[3:]]))
    done = axial("train", test_recipe, "--data", trained[1], "--out", run, "--set", "train.steps=22")
    assert "metrics.jsonl.damaged" in done.stderr
    assert "garbage" in (run / "metrics.jsonl.damaged").read_text()
    after = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert after[: len(lines)] == lines and json.loads(after[-1])["step"] == 22


def test_a_link_to_nothing_is_told_as_one(axial, trained, tmp_path):
    (tmp_path / "link.fasta").symlink_to("nowhere.fasta")
    done = axial("score", trained[0], "--data", tmp_path / "link.fasta", "--out", tmp_path / "s", check=False)
    assert done.returncode != 0 and "symbolic link to 'nowhere.fasta'" in done.stderr
