# SPDX-License-Identifier: Apache-2.0
"""axial eval: the table as JSON, its model row against axial score, its baselines against counting here."""

import collections
import json
import math

import pytest
from reference import VOCABULARY, encode, read_fasta


@pytest.fixture(scope="module")
def report(axial, trained, other_genes, tmp_path_factory):
    """Report that judges other_genes, with baselines fitted on the genes of the run."""
    run, fasta = trained
    out = tmp_path_factory.mktemp("eval") / "eval.json"
    axial("eval", run, "--data", fasta, "--validation-data", other_genes, "--json", out)
    return json.loads(out.read_text())


def rows_of(report) -> dict[str, dict]:
    return {row["name"]: row for row in report["rows"]}


def test_keys(report):
    assert set(report) == {"source", "tokens", "rows"}
    rows = rows_of(report)
    assert {"uniform", "unigram", "model", "2-gram Kneser-Ney", "6-gram Pitman-Yor"} <= set(rows)
    for row in report["rows"]:
        assert set(row) == {"name", "perplexity", "nats", "bits", "tokens"}
        assert row["tokens"] == report["tokens"]
        assert row["perplexity"] == pytest.approx(math.exp(row["nats"]))
        assert row["bits"] == pytest.approx(row["nats"] / math.log(2))


def test_model_equals_score(report, scored, read_scores):
    scores = read_scores(scored)
    tokens = sum(row[1] for row in scores)
    assert report["tokens"] == tokens
    mean = -sum(row[2] for row in scores) / tokens
    # The same fp32 mathematics on rows that are packed otherwise: about 1e-6 per token.
    assert rows_of(report)["model"]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)


def test_uniform_is_the_vocabulary(report):
    assert rows_of(report)["uniform"]["perplexity"] == pytest.approx(VOCABULARY)


def test_unigram_equals_counting(report, trained, other_genes):
    """Add-one estimate over the predicted tokens of the training records."""
    counts = collections.Counter()
    for _, sequence in read_fasta(trained[1]):
        counts.update(encode(sequence)[1:])
    total = sum(counts.values()) + VOCABULARY
    judged = [token for _, sequence in read_fasta(other_genes) for token in encode(sequence)[1:]]
    nats = -sum(math.log((counts[token] + 1) / total) for token in judged) / len(judged)
    assert rows_of(report)["unigram"]["nats"] == pytest.approx(nats)


def test_nothing_to_judge_is_an_error(axial, trained):
    done = axial("eval", trained[0], "--validation-fraction", 0, check=False)
    assert done.returncode == 1 and "--validation-data" in done.stderr
