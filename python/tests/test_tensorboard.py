# SPDX-License-Identifier: Apache-2.0
"""TensorBoard itself reads the event files that axial/train/metrics writes."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = pathlib.Path(os.environ.get("AXIAL_TEST_PROGRAMS", ROOT / "build/release/bin")) / "axial_train_tests"

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.mark.skipif(
    not TESTS.parent.exists(), reason=f"{TESTS.parent} is not built (or set AXIAL_TEST_PROGRAMS)"
)
def test_tensorboard_reads_scalars_and_hides_purged_steps(tmp_path):
    subprocess.run(
        [TESTS, "--gtest_filter=EventFile.WritesAFolderForTensorBoard"],
        env={**os.environ, "AXIAL_EVENT_FOLDER": str(tmp_path)},
        check=True,
    )
    events = accumulator.EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0})
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss/train", "loss/validation", "lr"]
    loss = events.Scalars("loss/train")
    assert [e.step for e in loss] == list(range(152)), "steps from 151 on were purged by the resume"
    assert loss[50].value == pytest.approx(3.5, abs=1e-6)
    assert loss[151].value == 7.0
    (validation,) = events.Scalars("loss/validation")
    assert (validation.step, validation.value, validation.wall_time) == (1 << 40, -1.5, 1e9)
