# SPDX-License-Identifier: Apache-2.0
"""Shared by the cross-layer tests: the built program, small genomes, a runner that shows what went wrong."""

import os
import pathlib
import subprocess

import pytest
from random_genes import write_genes

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def axial_program() -> pathlib.Path:
    """Path of the program under test (AXIAL_BIN, else build/bin/axial)."""
    path = pathlib.Path(os.environ.get("AXIAL_BIN", ROOT / "build" / "bin" / "axial"))
    assert path.exists(), f"{path} is missing: run `make build`"
    return path


@pytest.fixture(scope="session")
def axial(axial_program):
    """Run the program: axial("train", ...) returns the completed process; check=True asserts success."""

    def run(*arguments, check=True, timeout=300, **kwargs):
        command = [str(axial_program), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **kwargs
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def genes(tmp_path) -> pathlib.Path:
    """A small FASTA of random genes."""
    return write_genes(tmp_path / "genes.fasta")


@pytest.fixture(scope="session")
def test_recipe() -> pathlib.Path:
    """The recipe of a model that trains a step in milliseconds."""
    return ROOT / "recipes" / "genome_test.yaml"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, axial, test_recipe):
    """A short finished run and the FASTA it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    fasta = write_genes(folder / "genes.fasta", count=80)
    axial("train", test_recipe, "--data", fasta, "--out", folder / "run", "--set", "train.steps=20")
    return folder / "run", fasta
