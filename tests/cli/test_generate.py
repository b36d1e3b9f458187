# SPDX-License-Identifier: Apache-2.0
"""axial generate: valid FASTA that stops at a stop codon and depends on the seed alone."""

import re

import pytest
from random_genes import STOPS
from reference import read_fasta

COUNT = 8


@pytest.fixture(scope="module")
def generate(axial, trained, tmp_path_factory):
    """Run the command with the given options; returns the path of the FASTA."""
    folder = tmp_path_factory.mktemp("generate")

    def run(*options, max_tokens=100):
        out = folder / f"{len(list(folder.iterdir()))}.fasta"
        fixed = ["--count", COUNT, "--prompt", "ATG", "--max-tokens", max_tokens, "--out", out]
        axial("generate", trained[0], *fixed, *options)
        return out

    return run


@pytest.fixture(scope="module")
def drawn(generate):
    return generate("--seed", 3)


def test_records_are_genes(drawn):
    lines = drawn.read_text().splitlines()
    assert all(re.fullmatch(r"[ACGTN]{1,80}", line) for line in lines if not line.startswith(">"))
    records = read_fasta(drawn)
    assert len(records) == COUNT
    reasons = set()
    for index, (header, sequence) in enumerate(records):
        found = re.fullmatch(
            r"generated_(\d+) tokens=(\d+) log_likelihood=(-[\d.]+) stopped_by=(\w+)", header
        )
        assert found and int(found[1]) == index, header
        assert sequence.startswith("ATG") and len(sequence) % 3 == 0
        codons = [sequence[i : i + 3] for i in range(0, len(sequence), 3)]
        assert not any(codon in STOPS for codon in codons[:-1]), "went on after a stop codon"
        assert (codons[-1] in STOPS) == (found[4] == "stop_codon")
        assert int(found[2]) == len(codons) - 1  # the prompt's codon is not counted, nor the end
        reasons.add(found[4])
    assert "stop_codon" in reasons, "20 steps teach that genes end; draw with another seed"


def test_the_seed_decides(generate, drawn):
    assert generate("--seed", 3).read_bytes() == drawn.read_bytes()
    assert generate("--seed", 4).read_bytes() != drawn.read_bytes()


def test_temperature_zero_is_the_most_likely_token(generate):
    cold = generate("--temperature", 0, max_tokens=20)
    one = generate("--top-k", 1, "--seed", 9, max_tokens=20)
    sequences = [sequence for _, sequence in read_fasta(cold)]
    assert sequences == [sequence for _, sequence in read_fasta(one)]
    assert len(set(sequences)) == 1


def test_limits_of_length(generate):
    records = read_fasta(generate("--min-tokens", 5, max_tokens=5))
    assert all("tokens=5 " in header and len(sequence) == 3 + 15 for header, sequence in records)


def test_refusals(axial, trained, tmp_path):
    arguments = ["generate", trained[0], "--out", tmp_path / "o.fasta"]
    done = axial(*arguments, "--temperature", -1, check=False)
    assert done.returncode == 1 and "temperature" in done.stderr
    done = axial(*arguments, "--prompt", "ATGA", check=False)
    assert done.returncode == 1 and "multiple of 3" in done.stderr
    assert not (tmp_path / "o.fasta").exists()
