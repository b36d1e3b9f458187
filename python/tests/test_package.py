# SPDX-License-Identifier: Apache-2.0
"""The Python package loads the operators, knows its version, and refuses a torch it does not fit."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch

import axial

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_version_is_that_of_the_build():
    stated = re.search(r"project\(axial VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())
    assert axial.__version__ == stated.group(1)


def test_every_op_folder_is_an_operator():
    folders = {p.parent.name for p in (ROOT / "axial" / "ops").glob("*/CMakeLists.txt")}
    folders = {f for f in folders if "REGISTER" in (ROOT / "axial/ops" / f / "CMakeLists.txt").read_text()}
    names = axial.operators()
    assert folders, "no op folder registers anything"
    missing = [f for f in sorted(folders) if not any(n.startswith(f) or f in n for n in names)]
    assert not missing, f"operators: {names}"


def test_a_call_and_its_gradient_match_plain_torch():
    x = torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(16, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 5, 16, dtype=torch.float64)
    ours = axial.ops.layer_norm(x, weight, bias, 1e-5)
    ours_grads = torch.autograd.grad(ours, (x, weight, bias), grad)
    theirs = torch.nn.functional.layer_norm(x, (16,), weight, bias, 1e-5)
    theirs_grads = torch.autograd.grad(theirs, (x, weight, bias), grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours_grads, theirs_grads, rtol=1e-12, atol=1e-12)


def test_shapes_are_known_without_data():
    x = torch.empty(2, 3, 8, device="meta")
    one = torch.empty(8, device="meta")
    assert axial.ops.layer_norm(x, one, one, 1e-5).shape == (2, 3, 8)


def test_bad_arguments_are_python_exceptions():
    with pytest.raises((RuntimeError, ValueError), match="layer_norm"):
        axial.ops.layer_norm(torch.randn(2, 8), torch.randn(7), torch.randn(7), 1e-5)


def test_another_torch_is_refused():
    code = "import torch; torch.__version__ = '1.0'; import axial"
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "was built with torch" in done.stderr and "found 1.0" in done.stderr


def test_the_program_belongs_to_the_package(tmp_path):
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "axial", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert axial.program_path().is_file()
    assert done.returncode == 0 and axial.__version__ in done.stdout
