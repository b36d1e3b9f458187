# SPDX-License-Identifier: Apache-2.0
"""What the outputs of commands are compared with: GenSLM's codon ids and a model run by transformers."""

import pathlib

# ids 5 to 68, as in the tokenizer that GenSLM published
CODONS = [
    "GGC", "GCC", "ATC", "GAC", "GAA", "ATG", "GTG", "CTG", "GTC", "GCG", "GAT", "AAA", "GGT", "AAG", "GAG",
    "ACC", "AAC", "GTT", "ATT", "GCA", "CTC", "CGC", "GCT", "CAG", "CCG", "TTC", "GTA", "TCG", "GGA", "AAT",
    "TAC", "CTT", "TTG", "ACG", "TCC", "GGG", "AGC", "CCC", "ACA", "ACT", "TCT", "TTA", "CGT", "TAT", "CAA",
    "CGG", "TTT", "CAC", "CCT", "CCA", "TGG", "ATA", "TCA", "TGC", "AGT", "AGA", "CAT", "TGT", "CTA", "AGG",
    "TAA", "CGA", "TGA", "TAG",
]  # fmt: skip
VOCABULARY = 5 + len(CODONS)
BEGIN, END = 1, 2


def read_fasta(path: pathlib.Path) -> list[tuple[str, str]]:
    """(header without '>', sequence) of every record."""
    records: list[tuple[str, str]] = []
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            records.append((line[1:], ""))
        else:
            records[-1] = (records[-1][0], records[-1][1] + line)
    return records


def encode(sequence: str) -> list[int]:
    """Begin, codons, end."""
    codons = [sequence[i : i + 3] for i in range(0, len(sequence), 3)]
    return [BEGIN, *(5 + CODONS.index(codon) for codon in codons), END]


def run_in_transformers(folder: pathlib.Path, sequences: list[str]):
    """Per sequence (log-likelihood, mean last hidden state of its codons) in double precision."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    results = []
    for sequence in sequences:
        ids = torch.tensor([encode(sequence)])
        with torch.no_grad():
            out = model(ids, output_hidden_states=True)
        predicted = out.logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        results.append((predicted.sum().item(), out.hidden_states[-1][0, 1:-1].mean(0).numpy()))
    return results
