# SPDX-License-Identifier: Apache-2.0
"""Judge the demo's eval.json: the model must beat counting single tokens and must not beat the truth."""

import json
import sys


def judge(report: dict) -> list[str]:
    """Return what is wrong with the rows of an eval report; empty when all is well."""
    perplexity = {row["name"]: row["perplexity"] for row in report["rows"]}
    faults = []
    if not perplexity["model"] < perplexity["unigram"]:
        faults.append(f"model {perplexity['model']:.3f} is not below unigram {perplexity['unigram']:.3f}")
    if "truth" in perplexity and not perplexity["model"] >= perplexity["truth"]:
        faults.append(f"model {perplexity['model']:.3f} is below the truth {perplexity['truth']:.3f}: a leak")
    return faults


def main() -> int:
    with open(sys.argv[1]) as file:
        report = json.load(file)
    faults = judge(report)
    for fault in faults:
        print(f"demo failed: {fault}", file=sys.stderr)
    if not faults:
        print("demo passed: the model is below the unigram", end="")
        print(" and not below the truth" if any(r["name"] == "truth" for r in report["rows"]) else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
