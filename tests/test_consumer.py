# SPDX-License-Identifier: Apache-2.0
"""An outside project finds the installed package, compiles against its headers and runs."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "release"
SOURCE = ROOT / "tests" / "consumer"


def run(*command: object, **kwargs) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> pathlib.Path:
    assert (BUILD / "build.ninja").exists(), f"{BUILD} is missing: run `make build`"
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


def test_a_project_builds_against_the_installed_tree(prefix, tmp_path):
    run(
        "cmake", "-S", SOURCE, "-B", tmp_path, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_PREFIX_PATH={prefix}", f"-DAXIAL_PYTHON={sys.executable}",
    )  # fmt: skip
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "consumer_core") == "steps 42\n"
    assert "gradient defined" in run(tmp_path / "consumer")


def test_the_installed_program_runs_by_itself(prefix):
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    assert "Usage" in run(prefix / "bin" / "axial", "--help", env=environment)


def test_installed_headers_leave_the_test_helpers_out(prefix):
    headers = [p.relative_to(prefix).as_posix() for p in prefix.rglob("*.h")]
    assert "include/axial/core/recipe/recipe.h" in headers
    assert not [h for h in headers if "/testing/" in h]


def test_a_foreign_torch_is_refused_in_words(prefix, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho '/nowhere;1.0.0;1'\n")
    fake.chmod(0o755)
    done = subprocess.run(
        ["cmake", "-S", SOURCE, "-B", tmp_path / "b", "-G", "Ninja",
         f"-DCMAKE_PREFIX_PATH={prefix}", f"-DAXIAL_PYTHON={fake}"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode != 0
    assert "found 1.0.0; set AXIAL_PYTHON" in " ".join(done.stderr.split())
