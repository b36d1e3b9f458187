# SPDX-License-Identifier: Apache-2.0
"""Small random genes for tests: ATG, biased codons, a stop."""

import pathlib
import random

STOPS = ("TAA", "TAG", "TGA")
CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in STOPS]


def write_genes(path: pathlib.Path, count: int = 60, seed: int = 0, length: int = 40) -> pathlib.Path:
    """Write coding sequences ATG ... stop with a biased codon usage; returns the path."""
    rng = random.Random(seed)
    weights = [rng.random() ** 3 + 0.01 for _ in CODONS]
    with open(path, "w") as out:
        for i in range(count):
            body = rng.choices(CODONS, weights, k=length + rng.randrange(length))
            out.write(f">gene{i} simulated\n" + "ATG" + "".join(body) + rng.choice(STOPS) + "\n")
    return path
