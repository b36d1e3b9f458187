# SPDX-License-Identifier: Apache-2.0
"""axial train: what a run leaves behind."""

import json
import math


def test_metrics_hold_one_object_per_line(trained):
    run, _ = trained
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(isinstance(row["step"], int) and math.isfinite(row["loss"]) for row in rows)
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 21))  # log_every: 1
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [10, 20]  # validate_every: 10
    assert train[0]["loss"] < math.log(69) + 0.5, "a fresh model is near the uniform one"
    assert train[-1]["loss"] < train[0]["loss"]


def test_checkpoints_and_the_resolved_recipe(trained):
    run, _ = trained
    assert {"step_00000010", "step_00000020"} <= {p.name for p in (run / "checkpoints").iterdir()}
    assert "steps: 20" in (run / "recipe.yaml").read_text()
