# SPDX-License-Identifier: Apache-2.0
"""Outputs of commands on the short run `trained`, made once for all tests that read them."""

import csv
import pathlib

import pytest
from random_genes import write_genes
from reference import read_fasta, run_in_transformers


@pytest.fixture(scope="session")
def read_scores():
    """Rows of a TSV of `axial score` as (id, tokens, log-likelihood)."""

    def read(path: pathlib.Path) -> list[tuple[str, int, float]]:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return [(row["id"], int(row["tokens"]), float(row["log_likelihood"])) for row in rows]

    return read


@pytest.fixture(scope="session")
def other_genes(tmp_path_factory) -> pathlib.Path:
    """Genes that the run `trained` did not see."""
    return write_genes(tmp_path_factory.mktemp("other") / "other.fasta", count=12, seed=5)


@pytest.fixture(scope="session")
def scored(axial, trained, other_genes, tmp_path_factory) -> pathlib.Path:
    """TSV of `axial score` over other_genes."""
    out = tmp_path_factory.mktemp("scored") / "scores.tsv"
    axial("score", trained[0], "--data", other_genes, "--out", out)
    return out


@pytest.fixture(scope="session")
def exported(axial, trained, tmp_path_factory) -> pathlib.Path:
    """The run as a Hugging Face folder."""
    out = tmp_path_factory.mktemp("exported") / "hf"
    axial("export", trained[0], "--out", out)
    return out


@pytest.fixture(scope="session")
def by_transformers(exported, other_genes):
    """(log-likelihood, mean hidden state) of each of other_genes."""
    pytest.importorskip("transformers", reason="the reference is computed by transformers")
    return run_in_transformers(exported, [sequence for _, sequence in read_fasta(other_genes)])
