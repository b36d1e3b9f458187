# SPDX-License-Identifier: Apache-2.0
"""axial score: columns, order, and values equal to a sum of log-softmax by transformers."""

import math
import re

import pytest
from reference import encode, read_fasta


def test_columns_ids_and_tokens(scored, read_scores, other_genes):
    assert scored.read_text().splitlines()[0] == "id\ttokens\tlog_likelihood"
    genes = read_fasta(other_genes)
    rows = read_scores(scored)
    assert [row[0] for row in rows] == [header.split()[0] for header, _ in genes]
    # Every codon and the end is predicted, the begin token is not.
    assert [row[1] for row in rows] == [len(sequence) // 3 + 1 for _, sequence in genes]


def test_values_equal_transformers(scored, read_scores, by_transformers):
    for (_, tokens, value), (reference, _) in zip(read_scores(scored), by_transformers, strict=True):
        # fp32 against fp64: a logit of a few hundred terms is off by about 1e-6, a token's log-softmax too.
        assert value == pytest.approx(reference, abs=tokens * 1e-5)


def test_printed_perplexity_is_that_of_the_rows(axial, trained, other_genes, read_scores, tmp_path):
    out = tmp_path / "s.tsv"
    said = axial("score", trained[0], "--data", other_genes, "--out", out).stdout
    rows = read_scores(out)
    perplexity = math.exp(-sum(r[2] for r in rows) / sum(r[1] for r in rows))
    found = re.search(r"(\d+) records, (\d+) tokens, perplexity ([\d.]+)", said)
    assert found, said
    assert int(found[1]) == len(rows) and int(found[2]) == sum(r[1] for r in rows)
    assert float(found[3]) == pytest.approx(perplexity, abs=1e-4)


def test_one_record_at_a_time_scores_the_same(axial, trained, other_genes, scored, read_scores, tmp_path):
    """What runs together in a batch does not matter."""
    out = tmp_path / "s.tsv"
    axial("score", trained[0], "--data", other_genes, "--out", out, "--batch-tokens", 1)
    for alone, together in zip(read_scores(out), read_scores(scored), strict=True):
        assert alone[:2] == together[:2]
        assert alone[2] == pytest.approx(together[2], abs=alone[1] * 1e-5)


def test_a_long_record_is_scored_in_windows(axial, trained, read_scores, tmp_path):
    """No token of a record longer than the model's 128 positions is lost."""
    sequence = "ATG" + "GCTAAAGAA" * 100 + "TAA"
    genes = tmp_path / "long.fasta"
    genes.write_text(f">long\n{sequence}\n")
    out = tmp_path / "s.tsv"
    axial("score", trained[0], "--data", genes, "--out", out)
    ((name, tokens, value),) = read_scores(out)
    assert (name, tokens) == ("long", len(encode(sequence)) - 1)
    assert math.isfinite(value) and value < 0
