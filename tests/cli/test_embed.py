# SPDX-License-Identifier: Apache-2.0
"""axial embed: the .npy, its ids, and values equal to transformers' mean-pooled hidden states."""

import pytest
from reference import read_fasta

np = pytest.importorskip("numpy", reason="reads .npy")


@pytest.fixture(scope="module")
def embedded(axial, trained, other_genes, tmp_path_factory):
    """(rows, ids) of other_genes."""
    out = tmp_path_factory.mktemp("embed") / "genes.npy"
    axial("embed", trained[0], "--data", other_genes, "--out", out)
    return np.load(out), (out.parent / "genes.ids.txt").read_text().splitlines()


def test_shape_dtype_and_ids(embedded, other_genes):
    rows, ids = embedded
    genes = read_fasta(other_genes)
    assert rows.shape == (len(genes), 32) and rows.dtype == np.float32
    assert ids == [header.split()[0] for header, _ in genes]
    assert np.isfinite(rows).all() and len(np.unique(rows, axis=0)) == len(genes)


def test_values_equal_transformers(embedded, by_transformers):
    for row, (_, hidden) in zip(embedded[0], by_transformers, strict=True):
        # fp32 after a norm (values of about 1) against fp64: a few hundred roundings of 6e-8.
        np.testing.assert_allclose(row, hidden, atol=2e-5, rtol=0)
