# SPDX-License-Identifier: Apache-2.0
"""axial export: the folder is a model like the run it came from."""

import json


def test_the_folder_scores_like_the_run(axial, exported, other_genes, scored, tmp_path):
    out = tmp_path / "s.tsv"
    axial("score", exported, "--data", other_genes, "--out", out)
    assert out.read_text() == scored.read_text()


def test_files(exported):
    assert {"config.json", "model.safetensors", "axial_tokenizer.json"} == {
        p.name for p in exported.iterdir()
    }
    config = json.loads((exported / "config.json").read_text())
    assert config["vocab_size"] == 69 and config["hidden_size"] == 32


def test_an_existing_folder_is_kept_unless_asked(axial, trained, exported):
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    done = axial("export", trained[0], "--out", exported, check=False)
    assert done.returncode == 1 and "overwrite" in done.stderr
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
    axial("export", trained[0], "--out", exported, "--overwrite")
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before


def test_shards(axial, trained, exported, other_genes, scored, tmp_path):
    """Several weight files with an index are the same model."""
    axial("export", trained[0], "--out", tmp_path / "hf", "--shard-bytes", "20000")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1 and all((tmp_path / "hf" / shard).exists() for shard in shards)
    axial("score", tmp_path / "hf", "--data", other_genes, "--out", tmp_path / "s.tsv")
    assert (tmp_path / "s.tsv").read_text() == scored.read_text()
